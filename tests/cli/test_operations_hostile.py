"""docs/operations.md: the alarms of hostile hosts, put on as in tests/lying_host; then its lines are typed.

One array of three disks takes one alarm after another. A fresh disk that takes a seat gets a proxy of its own, so that
the next alarm finds a host that can lie.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from pathlib import Path

import pytest

from tests.cli.operations import follow, require_healthy, wait_for_event
from tests.cli.rig import is_running
from tests.lying_host.crooked import turncoat
from tests.lying_host.host import SECTOR, LyingHost, data_of
from tests.lying_host.test_replays import forge_plain_answers, write_much
from tests.system.proxy import Proxy, unchanged

NUMBERS = itertools.count()


class Hosts(LyingHost):
    """The same, with fresh disks on hosts of their own; `fresh` may be in seat 2 soon, behind its proxy."""

    hosts: contextlib.ExitStack

    def fresh(self) -> str:
        disk = self.new_disk(f"fresh-{next(NUMBERS)}")
        self.proxies[2] = self.hosts.enter_context(Proxy.before(disk))
        return f"unix:{disk}"


@pytest.fixture(scope="module")
def standing(tmp_path_factory):
    with Hosts(tmp_path_factory.mktemp("hosts")) as host, contextlib.ExitStack() as host.hosts:
        host.mount()
        host.write(0, data_of(1))
        yield host


@pytest.fixture
def host(standing):
    """Healthy before and after, with what was flushed on it."""
    require_healthy(standing)
    yield standing
    require_healthy(standing)
    assert standing.read(0, SECTOR) == data_of(1)


def seat_2_is(state):
    return lambda status: status["disks"][2]["state"] == state


def saved(host, name):
    return json.loads((host.directory.parent / name).read_text())


# A fork of one disk ---------------------------------------------------------------------------------------


def test_clone_another_disk_stands_in_a_members_place(host):
    stranger = host.new_disk(f"stranger-{next(NUMBERS)}")
    host.take_over(stranger)
    host.proxies[2].present(stranger)
    host.wait_for(seat_2_is("clone"))
    assert "EVIDENCE OF ROLLBACK, CLONING OR A SECOND OWNER: seat 2" in host.run("status", code=3).out
    title = "CLONE: another disk stands in a member's place"
    follow(host, title, 0)
    evidence = saved(host, "evidence.json")
    assert evidence["event"]["state"] == "clone"
    assert [one["instance"] for one in evidence["evidence"]] == [host.greet(stranger).instance.hex()]
    follow(host, title, 1, FRESH=host.fresh())


def test_rollback_a_disk_lacks_what_was_acknowledged_in_its_name(host):
    liar = host.proxies[2]
    assert forge(host, [2]) is not None
    host.wait_for(seat_2_is("rollback"))
    assert "its host forged acknowledgements" in host.status()["disks"][2]["reason"]
    follow(host, "ROLLBACK: a disk lacks what was acknowledged in its name", FRESH=host.fresh())
    liar.alter = unchanged
    evidence = saved(host, "evidence.json")
    assert (evidence["event"]["state"], evidence["event"]["level"]) == ("rollback", "critical")
    assert [one["error"] for one in evidence["evidence"]] == [None]


def forge(host, seats):
    """Have hosts drop what is not flushed and acknowledge it all the same; then flush. What was dropped."""
    dropped = forge_plain_answers(host, seats)
    write_much(host, 2)
    with contextlib.suppress(OSError):
        host.write(2 * SECTOR, data_of(3))
    assert dropped
    return dropped


# The whole array ------------------------------------------------------------------------------------------


def test_forked_the_disks_are_of_another_history(host):
    forge(host, range(host.n))
    wait_for_event(host, "THE ARRAY HAS STOPPED (forked)")
    for proxy in host.proxies:
        proxy.alter = unchanged
    follow(host, "FORKED: the disks are of another history", codes=(0, 3))
    left = saved(host, "unkept-events.json")["events"]
    assert "forked" in [event["state"] for event in left]
    assert not (host.directory / "unkept-events.json").exists()
    shown = json.loads(host.run("events", "--json").out)["events"]
    proved = {event["message"]: event for event in shown if event["state"] == "rollback" and event["evidence_seats"]}
    for event in left:
        if event["evidence"]:
            number = proved[event["message"]]["number"]
            judged = json.loads(host.run("events", "--evidence", number, "--json").out)["evidence"]
            assert [(one["answer"], one["error"]) for one in judged] == [(event["evidence"][0]["answer"], None)]
    assert [event["state"] for event in shown if event["message"].startswith("THE ARRAY HAS STOPPED")] == ["forked"]
    assert "THE ARRAY HAS STOPPED" in (host.directory.parent / "main.log").read_text()


def test_fenced_another_main_program_has_the_array(host, tmp_path):
    other = host.elsewhere(tmp_path / "other")
    other.mount()
    with pytest.raises(OSError):
        host.write(0, data_of(4))
    host.wait_for(lambda status: status["state"] == "fenced")
    title = "FENCED: another main program has the array"
    follow(host, title, 0, codes=(3,))
    assert not is_running(host)
    require_healthy(other)
    assert other.read(0, SECTOR) == data_of(1)
    other.unmount()
    follow(host, title, 1)


# Evidence -------------------------------------------------------------------------------------------------


def test_evidence_is_refused_another_program(host):
    (wrong,) = host.new_disks([f"wrong-{next(NUMBERS)}"], image=turncoat(host.authority.public_key))
    lead_seat_2_to(host, wrong, "The evidence is genuine but speaks for")
    said = follow(
        host,
        "Evidence is refused: another program",
        ADDRESS=f"unix:{host.proxies[2].front}",
        FRESH=host.fresh(),
        codes=(0, 2),
    )
    assert "The evidence is genuine but speaks for" in said
    assert (host.directory.parent / "evidence.bin").stat().st_size > 1000


def test_evidence_is_refused_it_has_expired(host):
    image = Path(host.directory / "disk.eif").read_bytes()
    (late,) = host.new_disks([f"late-{next(NUMBERS)}"], image=image, crooked="expired")
    lead_seat_2_to(host, late, "certificates ended")
    title = "Evidence is refused: it has expired"
    follow(host, title, 0, codes=(0, 1))
    follow(host, title, 1, FRESH=host.fresh())


def lead_seat_2_to(host, disk, says):
    host.proxies[2].present(disk)
    status = host.wait_for(seat_2_is("dead"))
    assert says in status["disks"][2]["reason"]
    wait_for_event(host, says)
