"""Disks taken out and back, asked for evidence, replaced by a spare; and what is remembered of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import tomllib

import pytest

from perdure.errors import Misuse
from perdure.service.control import ask
from perdure.service.site import config
from tests.cli.rig import Rig


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    with Rig(tmp_path_factory.mktemp("upkeep")) as rig:
        rig.up()
        rig.write(0, b"state" * 1000)
        yield rig


def online(status):
    return all(disk["state"] == "online" for disk in status["disks"])


def events(rig, *words):
    return rig.run("events", "--json", *words).json["events"]


def test_a_disk_is_taken_offline_and_online_again_with_what_it_missed(rig):
    before = events(rig)[-1]["number"]
    assert "is offline" in rig.run("offline", 2).out
    status = rig.status()
    assert (status["summary"], status["disks"][2]["state"]) == ("[UU_UU]", "offline")
    assert "was taken offline by an operator" in status["disks"][2]["reason"]
    rig.write(4096, b"missed")
    shown = rig.run("online", 2).out
    assert "Seat 2 has its disk back" in shown
    rig.wait_for(online)
    told = [(event["kind"], event["state"]) for event in events(rig, "--since", before) if event["seat"] == 2]
    assert told[0] == ("command", None)
    assert [state for kind, state in told if kind == "disk"] == ["offline", "rebuilding", "online"]
    assert rig.read(4096, 6) == b"missed"


def test_no_disk_is_taken_offline_that_is_needed(rig):
    rig.run("offline", 0)
    refused = rig.run("offline", 3, code=2).sentence
    assert "without the disk in seat 3 no other could be lost any more: 3 would be left and 3 are needed" in refused
    assert "seat 9 has no disk" in rig.run("offline", 9, code=2).sentence
    assert rig.status()["summary"] == "[_UUUU]"
    rig.run("online", 0)
    rig.wait_for(online)


def test_every_disk_proves_itself_anew_when_asked(rig):
    report = rig.run("verify", "--json").json
    assert (report["verified"], report["empty_seats"]) == (True, 0)
    assert [disk["seat"] for disk in report["disks"]] == [0, 1, 2, 3, 4]
    assert len({disk["roster_version"] for disk in report["disks"]}) == 1
    assert all(disk["platform"] == "simulated" and disk["measurement"]["pcr0"] for disk in report["disks"])
    text = rig.run("verify").out
    assert "5 of 5 seats have a disk that has just proved itself" in text


def test_a_disk_that_does_not_answer_is_not_verified(rig):
    rig.pause_disk(4)
    try:
        done = rig.run("verify", code=1)
        assert "seat 4  NOT VERIFIED" in done.out
        assert "4 of 5 seats" in done.out
    finally:
        rig.resume_disk(4)
    rig.run("rejoin", 4)
    rig.wait_for(online)


def test_counters_are_cleared_and_events_are_not(rig):
    assert any(sum(disk["errors"].values()) for disk in rig.status()["disks"])
    count = len(events(rig))
    rig.run("clear", 0)
    assert any(sum(disk["errors"].values()) for disk in rig.status()["disks"])
    rig.run("clear")
    status = rig.status()
    assert not any(sum(disk["errors"].values()) for disk in status["disks"])
    assert status["repairs"] == []
    assert "all arrays are healthy" in rig.run("status", "-x").out
    assert len(events(rig)) == count + 2


def test_what_was_asked_for_and_refused_is_remembered_as_refused(rig):
    before = events(rig)[-1]["number"]
    for verb in ("replace", "rejoin", "offline", "clear"):
        assert "seat 99" in rig.run(verb, 99, code=2).sentence
    rig.run("clear", 0)
    told = [event["message"] for event in events(rig, "--since", before) if event["kind"] == "command"]
    assert told[::2] == [f"asked for: {verb} of seat 99" for verb in ("replace", "rejoin", "offline", "clear")] + [
        "asked for: clear of seat 0"
    ]
    assert all(message.startswith("refused: ") and "seat 99" in message for message in told[1::2])
    assert len(told) == 9


def test_an_erasure_without_a_receipt_is_remembered_as_one(rig):
    with pytest.raises(Misuse):
        ask(rig.directory / "control.sock", "erase", offset=0, length=4096, receipt="/none/receipt")
    told = [event["message"] for event in events(rig)[-2:]]
    assert told[0] == "asked for: erase"
    assert told[1].startswith("erase gave no receipt: The receipt cannot be written")


def test_what_happened_is_remembered_by_the_array_after_the_main_program_was_killed(rig):
    before = events(rig)
    rig.kill_main()
    rig.up()
    after = events(rig)
    assert after[: len(before)] == before
    assert "is mounted and served" in after[-1]["message"]
    assert after[-1]["evidence_seats"] == [0, 1, 2, 3, 4]
    asked = rig.run("history").out
    assert "asked for: offline of seat 2" in asked
    assert "  disk     " not in asked


def test_the_evidence_of_an_event_is_judged_by_the_policy(rig):
    number = next(event["number"] for event in reversed(events(rig)) if event["evidence_seats"])
    shown = rig.run("events", "--evidence", number, "--json").json
    assert [one["seat"] for one in shown["evidence"]] == [0, 1, 2, 3, 4]
    instances = [disk["instance"] for disk in rig.status()["disks"]]
    assert [one["instance"] for one in shown["evidence"]] == instances
    path = rig.directory / "policy.json"
    policy = path.read_text()
    try:
        path.write_text(policy.replace(json.loads(policy)["measurements"][0]["pcr0"], "00" * 48))
        done = rig.run("events", "--evidence", number, code=None)
        assert done.code != 0
        assert "the evidence does not hold" in done.out
    finally:
        path.write_text(policy)


def test_what_an_array_that_has_stopped_could_not_keep_is_shown_while_no_main_program_runs(rig):
    for seat in (0, 2, 3):
        rig.pause_disk(seat)
    rig.wait_for(lambda _: any("THE ARRAY HAS STOPPED" in event["message"] for event in events(rig)))
    for seat in (0, 2, 3):
        rig.resume_disk(seat)
    (stopped,) = (event for event in events(rig) if "THE ARRAY HAS STOPPED" in event["message"])
    rig.kill_main()
    done = rig.run("events", "--json")
    assert stopped in done.json["events"]
    assert "The main program does not run" in done.err
    assert rig.run("events", "--evidence", stopped["number"], "--json").json["event"] == stopped
    rig.up()
    rig.wait_for(lambda _: any(event["message"] == stopped["message"] for event in events(rig)))


def test_events_are_followed_as_they_happen(rig):
    command = [
        sys.executable,
        "-m",
        "perdure.cli.main",
        "events",
        "-f",
        "--json",
        "--since",
        str(events(rig)[-1]["number"]),
    ]
    with subprocess.Popen(command, env=rig.env, stdout=subprocess.PIPE, text=True) as follower:
        rig.run("clear", 1)
        assert follower.stdout is not None
        assert json.loads(follower.stdout.readline())["message"] == "asked for: clear of seat 1"
        follower.terminate()


def test_iostat_shows_rates_between_two_looks(rig):
    rig.write(0, bytes(4096))
    command = [sys.executable, "-m", "perdure.cli.main", "iostat", "--json", "0.5", "2"]
    with subprocess.Popen(command, env=rig.env, stdout=subprocess.PIPE, text=True) as looker:
        assert looker.stdout is not None
        first = json.loads(looker.stdout.readline())
        assert first["write"]["bytes_per_s"] > 0
        rig.write(8192, bytes(40_960))
        second = json.loads(looker.stdout.readline())
    assert second["write"]["ops_per_s"] > 0
    assert second["evidence"]["p99_us"] is not None
    assert {name for name in second if name.startswith("seat")} == {f"seat {at}" for at in range(5)}
    assert "seat 3" in rig.run("iostat", "-v", 1, 1).out


def test_status_again_and_again(rig):
    lines = rig.run("status", "--json", 0.1, 3).out.splitlines()
    assert [json.loads(line)["state"] for line in lines] == ["online"] * 3


def test_a_spare_takes_the_seat_of_a_lost_disk_by_itself_and_is_none_any_more(tmp_path):
    with Rig(tmp_path) as rig:
        rig.up("--spares", 1)
        rig.write(0, b"kept")
        assert len(rig.status()["spares"]) == 1
        rig.run("disk", "lose", 3)
        rig.wait_for(lambda status: status["disks"][3]["address"].endswith("spare-0.sock") and online(status))
        path = rig.directory / config.NAME
        rig.wait_for(lambda _: "spare-0.sock" in str(tomllib.loads(path.read_text())["disks"]["addresses"]))
        assert tomllib.loads(path.read_text())["disks"]["spares"] == []
        messages = [event["message"] for event in events(rig)]
        assert any("the spare at" in message and "takes seat 3, whose disk is dead" in message for message in messages)
        assert not any("cannot be" in message for message in messages)
        rig.down()
        rig.up()
        rig.run("disk", "lose", 0, 1)
        assert rig.read(0, 4) == b"kept"


def test_a_scrub_comes_by_itself(tmp_path):
    with Rig(tmp_path, disks=3, threshold=2) as rig:
        rig.up(size="1M")
        rig.down()
        path = rig.directory / config.NAME
        path.write_text(path.read_text().replace('# scrub-every = "30d" ', 'scrub-every = "1s"'))
        rig.up(size="1M")
        scrubbed = rig.wait_for(lambda status: status["scrubbed_unix_ms"])["scrubbed_unix_ms"]
        assert abs(scrubbed - time.time() * 1000) < 60_000
        assert any(event["state"] == "scrubbed" for event in events(rig))


def test_losing_more_than_the_array_survives_is_refused(tmp_path):
    with Rig(tmp_path, disks=3, threshold=2) as rig:
        rig.up(size="1M")
        refused = rig.run("disk", "lose", 0, 1, code=2).sentence
        assert "3 disks run and 2 must: losing 2 would end the array for good; none was touched" in refused
        assert "No simulated disk runs for a seat 7" in rig.run("disk", "lose", 7, code=2).sentence
        assert rig.status()["summary"] == "[UUU]"


def test_the_log_is_json_where_that_is_asked_for(tmp_path):
    with Rig(tmp_path, disks=3, threshold=2) as rig:
        rig.up(size="1M")
        rig.down()
        path = rig.directory / config.NAME
        path.write_text(path.read_text().replace('log = "human"', 'log = "json"'))
        before = len((rig.directory / "main.log").read_text().splitlines())
        rig.up(size="1M")
        rig.run("offline", 9, code=2)
        rig.down()
        lines = [json.loads(line) for line in (rig.directory / "main.log").read_text().splitlines()[before:]]
        told = [line for line in lines if "event" in line]
        assert told[0]["event"]["kind"] == "array"
        assert all({"time", "level", "message"} <= line.keys() for line in lines)


def test_no_key_is_ever_in_the_log_or_the_events(tmp_path):
    with Rig(tmp_path, disks=3, threshold=2) as rig:
        rig.up(size="1M")
        key = (rig.directory / "authority.key").read_text().strip()
        rig.write(0, b"secret plaintext of a client")
        rig.run("scrub")
        rig.run("disk", "lose", 1)
        rig.wait_for(lambda status: status["disks"][1]["state"] == "dead")
        rig.run("rejoin", 1, code=None)
        told = json.dumps(events(rig)) + json.dumps(rig.status())
        rig.kill_main()
        rig.up(size="1M", code=1)
        rig.down()
        told += "".join(path.read_text(errors="replace") for path in rig.directory.glob("*.log"))
        assert "scrub" in told
        assert key not in told.lower()
        assert bytes.fromhex(key).decode("latin-1") not in told
        assert "secret plaintext" not in told
