"""Disks that answer, lie or are gone, as the examination sees them. Real disks, and sockets in their place."""

import socket
import threading
from dataclasses import replace

import pytest

from perdure.array.commands import Authority
from perdure.evidence.collateral import NONE
from perdure.service.doctor import disks
from perdure.service.doctor.disks import Trust
from perdure.service.doctor.finding import Level
from perdure.service.site import artefacts, local
from tests.service.furnished import Site


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = Site(tmp_path_factory.mktemp("site"))
    yield site
    site.end()


@pytest.fixture(scope="module")
def trust(site):
    policy = artefacts.read_policy(site.directory / local.POLICY_FILE)
    return Trust(artefacts.read_key(site.directory / local.AUTHORITY_FILE), policy, NONE)


def of_an_array(site):
    return replace(site.found, array=replace(site.found.array, array_id=b"\xab" * 32))


def levels(found):
    return [one.level.value for one in found]


def test_fresh_disks_are_as_they_should_be_before_there_is_an_array(site, trust):
    found = disks.findings(site.found, trust)
    assert levels(found) == ["ok"] * 4
    assert all("simulated, root simulated, instance " in one.found for one in found[:3])
    assert "3 of 3 disks" in found[3].found


def test_a_blank_disk_in_the_seat_of_an_array_is_no_member_of_it(site, trust):
    found = disks.findings(of_an_array(site), trust)
    assert levels(found) == ["warn"] * 3 + ["fail"]
    assert "`perdure replace 1`" in found[1].do


def test_without_a_key_it_is_only_tried_whether_somebody_listens(site):
    found = disks.findings(site.found, None)
    assert levels(found) == ["ok"] * 4
    assert "is open, after" in found[0].found


def test_an_address_where_nobody_listens_is_named(site, trust):
    for given in (trust, None):
        gone = replace(site.found, addresses=(*site.found.addresses[:2], f"unix:{site.directory}/gone.sock"))
        found = disks.findings(gone, given)
        assert levels(found) == ["ok", "ok", "warn", "fail"]
        assert "gone.sock does not answer" in found[2].found
        assert "created on all its disks" in found[3].why


def test_a_disk_that_obeys_another_key_is_a_failure(site, trust):
    found = disks.findings(site.found, replace(trust, authority=Authority(b"\x01" * 32)))
    assert levels(found) == ["fail"] * 4
    assert "Refused: At unix:" in found[0].found
    assert "obeys another authority" in found[0].found


def test_a_disk_of_a_program_that_the_policy_does_not_allow_is_a_failure(site, trust):
    other = replace(trust.policy, measurements=())
    found = disks.findings(site.found, replace(trust, policy=other))
    assert levels(found) == ["fail"] * 4
    assert "WrongMeasurement" in found[0].found


def test_one_who_accepts_and_says_nothing_is_not_waited_for_longer_than_the_bound(site, trust, monkeypatch):
    monkeypatch.setattr("perdure.service.asking.ANSWER_MS_MAX", 200)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(site.directory / "mute.sock"))
        mute.listen()
        silent = replace(site.found, addresses=(f"unix:{site.directory}/mute.sock",))
        found = disks.findings(silent, trust)
    assert found[0].level is Level.WARN
    assert "does not answer" in found[0].found


def test_one_who_answers_nonsense_is_a_failure_or_gone_but_no_defect(site, trust):
    with socket.socket(socket.AF_UNIX) as liar:
        liar.bind(str(site.directory / "liar.sock"))
        liar.listen()

        def lie():
            stream = liar.accept()[0]
            stream.recv(1)
            stream.sendall(b"\x00\x00\x00\x04nope")

        thread = threading.Thread(target=lie)
        thread.start()
        found = disks.findings(replace(site.found, addresses=(f"unix:{site.directory}/liar.sock",)), trust)
        thread.join(10)
    assert found[0].level is Level.FAIL
    assert "MalformedEvidence" in found[0].found


def test_an_address_that_can_be_no_hosts_name_does_not_hold_the_others_up(site, trust, monkeypatch):
    monkeypatch.setattr(disks, "ALL_MS_MAX", 500)
    for given in (trust, None):
        odd = replace(site.found, addresses=(f"tcp:{'a' * 64}.example:1", *site.found.addresses[:2]))
        assert levels(disks.findings(odd, given)) == ["warn", "ok", "ok", "fail"]


@pytest.mark.parametrize(("count", "level"), [(3, Level.OK), (2, Level.WARN), (1, Level.FAIL), (0, Level.FAIL)])
def test_too_few_disks_are_a_failure_and_fewer_than_all_a_weakness(site, count, level):
    assert disks.quorum(of_an_array(site), count).level is level
