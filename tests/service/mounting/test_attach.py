"""Which way in is chosen, from what is here; what nbd-client is told."""

from dataclasses import replace
from pathlib import Path

import pytest

from perdure.errors import Misuse
from perdure.service.mounting import attach, tools
from perdure.service.mounting.attach import Here, Way

EVERYTHING = Here(is_root=True, has_nbd=True, has_fuse=True, has_loop=True, tools=frozenset(tools.PACKAGES))


def without(*names):
    return frozenset(tools.PACKAGES) - set(names)


@pytest.mark.parametrize(
    ("here", "way"),
    [
        (EVERYTHING, Way.NBD),
        (replace(EVERYTHING, has_nbd=False), Way.LOOP),
        (replace(EVERYTHING, tools=without("nbd-client")), Way.LOOP),
        (replace(EVERYTHING, has_nbd=False, has_loop=False), Way.FUSE2FS),
        (replace(EVERYTHING, is_root=False), Way.FUSE2FS),
        (replace(EVERYTHING, has_fuse=False), Way.NBD),
    ],
)
def test_the_first_way_that_works_here_is_chosen(here, way):
    assert attach.choose(here, None) is way


def test_what_is_asked_for_is_chosen():
    assert attach.choose(EVERYTHING, Way.FUSE2FS) is Way.FUSE2FS


@pytest.mark.parametrize(
    ("here", "asked", "said"),
    [
        (replace(EVERYTHING, tools=without("nbd-client")), Way.NBD, "nbd-client (Debian package nbd-client)"),
        (replace(EVERYTHING, is_root=False), Way.LOOP, "The way in `loop` needs root"),
        (replace(EVERYTHING, has_nbd=False), Way.NBD, "/dev/nbd0 (`modprobe nbd`)"),
        (
            replace(EVERYTHING, has_nbd=False, tools=without("nbdfuse")),
            None,
            "`loop`, needs nbdfuse (Debian package libnbd-bin (Debian 12) or nbdfuse (later))",
        ),
        (
            replace(EVERYTHING, is_root=False, tools=without("fuse2fs", "fusermount3")),
            None,
            "needs fuse2fs (Debian package fuse2fs), fusermount3 (Debian package fuse3)",
        ),
    ],
)
def test_what_is_missing_is_named_with_its_package(here, asked, said):
    with pytest.raises(Misuse) as caught:
        attach.choose(here, asked)
    assert said in str(caught.value)
    assert "nothing was changed" in str(caught.value)


def test_nbd_client_is_told_the_socket_or_the_host_and_the_export():
    device = Path("/dev/nbd3")
    unix = attach.client_words("nbd+unix:///perdure?socket=/a%20b/nbd.sock", device)
    assert unix == ["-unix", "/a b/nbd.sock", "/dev/nbd3", "-name", "perdure"]
    tcp = attach.client_words("nbd://127.0.0.1:10809/perdure", device)
    assert tcp == ["127.0.0.1", "10809", "/dev/nbd3", "-name", "perdure"]
