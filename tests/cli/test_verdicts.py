"""What was found of a disk that is gone outlives the main program: it is among the array's own events."""

from __future__ import annotations

import json

import pytest

from perdure.service.control import ask
from tests.cli.operations import prepare, require_healthy, up
from tests.cli.rig import Rig
from tests.lying_host.host import SECTOR, LyingHost, data_of
from tests.lying_host.test_replays import forge_plain_answers, write_much
from tests.system.proxy import unchanged


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    with LyingHost(tmp_path_factory.mktemp("verdicts")) as host:
        host.mount()
        host.write(0, data_of(1))
        forge_plain_answers(host, [2])
        write_much(host, 2)
        host.write(2 * SECTOR, data_of(3))
        host.wait_for(lambda status: status["disks"][2]["state"] == "rollback")
        host.proxies[2].alter = unchanged
        host.settle()
        yield host


def seat_2(host):
    return host.status()["disks"][2]


def told(host):
    events = ask(host.directory / "control.sock", "events", since=0)["events"]
    return [event for event in events if (event["state"], event["level"]) == ("rollback", "critical")]


def test_evidence_of_a_rollback_outlives_kill_and_upgrade_and_so_does_its_advice(host):
    before, reason = host.status()["action"], seat_2(host)["reason"]
    for mounts in (1, 2):
        status = host.remount(code=3)
        disk = status["disks"][2]
        assert (disk["state"], disk["reason"], status["action"]) == ("rollback", reason, before)
        host.settle()
        assert len(told(host)) == 1 + mounts  # loud again, where the ring forgets it last
        shown = json.loads(host.run("events", "--evidence", told(host)[-1]["number"], "--json").out)
        assert [(one["instance"], one["error"]) for one in shown["evidence"]] == [(host.instance(2), None)]
    assert "EVIDENCE OF ROLLBACK" in host.run("status", code=3).out


def test_such_a_disk_comes_back_only_after_somebody_has_cleared_the_verdict(host):
    host.remount(code=3)
    host.settle()
    host.run("clear")  # counters, and not what evidence has shown
    refused = host.run("rejoin", 2, code=2).sentence
    assert "`perdure clear 2`" in refused
    assert "nothing was changed" in refused
    assert seat_2(host)["state"] == "rollback"
    host.run("clear", 2)
    assert (seat_2(host)["state"], host.status()["exit_code"]) == ("dead", 1)
    host.settle()
    assert host.remount(code=1)["disks"][2]["state"] == "dead"
    host.run("rejoin", 2)
    assert host.wait_for(lambda status: status["exit_code"] == 0)["summary"] == "[UUU]"
    assert host.read(0, SECTOR) == data_of(1)
    host.settle()
    host.remount()
    assert seat_2(host)["state"] == "online"


def test_a_spare_leaves_the_seat_alone_of_a_disk_that_was_offline_before_the_restart(tmp_path):
    with Rig(tmp_path) as rig:
        prepare(rig, spares=1)
        up(rig)
        rig.run("offline", 2)
        rig.run("down")
        up(rig, code=1)
        seen = rig.wait_for(lambda status: status["events_last"] > 0)
        assert (seen["disks"][2]["state"], len(seen["spares"]), seen["repairs"]) == ("offline", 1, [])
        assert "was taken offline by an operator" in seen["disks"][2]["reason"]
        rig.run("online", 2)
        require_healthy(rig)
        assert len(rig.status()["spares"]) == 1
