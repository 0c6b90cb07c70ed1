"""Asking a disk for evidence outside of a mount, as `perdure evidence ask` and `doctor` do."""

import asyncio

import pytest

from perdure import api
from perdure.array.commands import Authority
from perdure.errors import Disconnected, Misuse, Refused
from perdure.service import asking
from perdure.service.site import artefacts, local
from tests.service.furnished import Site

STRANGER = Authority(b"\x01" * 32)


def ask(address, authority, count=1):
    return asyncio.run(asking.ask(address, authority, count=count, answer_ms_max=1000))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = Site(tmp_path_factory.mktemp("site"))
    yield site
    site.end()


def test_each_question_has_an_answer_of_its_own_and_changes_nothing(site):
    authority = artefacts.read_key(site.directory / local.AUTHORITY_FILE)
    answers = ask(site.found.addresses[0], authority, 3)
    assert len({one.commitment for one in answers}) == 3
    assert {(one.answer.epoch, one.answer.seq) for one in answers} == {(bytes(16), 0)}
    assert len({one.answer.instance for one in answers}) == 1
    assert all(one.took_ms > 0 for one in answers)


def test_whoever_has_another_key_is_refused(site):
    with pytest.raises(Refused, match="obeys another authority"):
        ask(site.found.addresses[0], STRANGER)


@pytest.mark.parametrize(
    ("address", "kind", "sentence"),
    [("nowhere", Misuse, "nothing was asked"), ("unix:/nowhere/disk.sock", Disconnected, "Nothing is proved")],
)
def test_where_no_disk_can_be_asked_the_sentence_says_so(address, kind, sentence):
    with pytest.raises(kind, match=sentence):
        ask(address, STRANGER)


def test_one_answer_may_take_as_long_as_a_main_program_allows():
    assert asking.ANSWER_MS_MAX == api.ANSWER_MS_MAX
