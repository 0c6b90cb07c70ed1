"""One value of a configuration is changed and everything else stays, or the user is told what to write."""

import tomllib

import pytest

from perdure.errors import Misuse
from perdure.service.site import template

ADDRESSES = ("unix:disk-0.sock", "tcp:[::1]:7001", "vsock:3:7000")
TEXT = template.render(disks=3, threshold=2, size="1M", addresses=ADDRESSES, listen="unix:nbd.sock", dead_after_ms=1000)


@pytest.mark.parametrize("seat", range(3))
def test_one_address_is_changed_and_every_comment_kept(seat):
    changed = template.with_address(TEXT, seat, "tcp:10.0.0.7:7001")
    wanted = list(ADDRESSES)
    wanted[seat] = "tcp:10.0.0.7:7001"
    assert tomllib.loads(changed)["disks"]["addresses"] == wanted
    assert changed == TEXT.replace(ADDRESSES[seat], "tcp:10.0.0.7:7001")


@pytest.mark.parametrize(
    "text",
    [
        'disks.addresses = ["a", "b"]',
        '[disks]\naddresses = ["a", "b"]',
        '[disks]\n  addresses = [ # the "first", as \'one\' says\n  \'a\', # not "b"\n  "b" ]\n[serve]\nx = "b"',
        '[disks]\naddresses = [\n"a", # it\'s odd\n"b",\n]',
    ],
)
def test_however_the_list_is_written_it_is_right_or_refused(text):
    try:
        changed = template.with_address(text, 1, "c")
    except Misuse:
        assert text.startswith("disks.")
    else:
        assert tomllib.loads(changed)["disks"]["addresses"] == ["a", "c"]
        assert len(changed) == len(text)


@pytest.mark.parametrize(
    "text", ["", "x =", "[disks]", '[disks]\naddresses = "a"', '[disks]\naddresses = ["a"]\n[serve]\nx = "b"']
)
def test_what_cannot_be_changed_is_said(text):
    with pytest.raises(Misuse, match="The address c cannot be put into the configuration for seat 1; write it"):
        template.with_address(text, 1, "c")


SPARES = ("unix:spare-0.sock", "tcp:10.0.0.9:7001")


@pytest.mark.parametrize("index", range(2))
def test_a_spare_is_taken_out_and_every_comment_kept(index):
    text = template.render(
        disks=3, threshold=2, size="1M", addresses=ADDRESSES, listen="unix:nbd.sock", dead_after_ms=1000, spares=SPARES
    )
    changed = template.without_spare(text, index)
    assert tomllib.loads(changed)["disks"]["spares"] == [SPARES[1 - index]]
    assert [line for line in changed.splitlines() if line.startswith("#")] == [
        line for line in text.splitlines() if line.startswith("#")
    ]
    assert tomllib.loads(template.without_spare(changed, 0))["disks"]["spares"] == []


@pytest.mark.parametrize(
    "text", ["[disks]\n", "[disks]\nspares = []", 'disks = {spares = ["a"]}', "not toml", "[disks]\nspares = 3"]
)
def test_a_spare_that_cannot_be_taken_out_is_said(text):
    with pytest.raises(Misuse, match=r"remove it from \[disks\] yourself"):
        template.without_spare(text, 0)
