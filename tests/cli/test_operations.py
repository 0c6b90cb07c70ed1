"""docs/operations.md: its alarms are raised on simulated disks, and its lines typed; then the array is healthy.

Alarms of hostile hosts are in tests/cli/test_operations_hostile.py, drills in tests/cli/test_drills.py. Each section
has the test of its name, and no test is without a section.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import perdure as package
from perdure.array.geometry import HISTORY_SECTORS, Geometry
from perdure.service.site import artefacts, config
from perdure.service.status import VERSION
from tests.cli.console import blocks
from tests.cli.operations import (
    LEADS,
    SIZE,
    follow,
    name_of_test,
    prepare,
    require_healthy,
    sections,
    up,
    wait_for_event,
)
from tests.cli.rig import Rig, perdure
from tests.cli.test_repair import disk_at, spoil

FILES = ("test_operations.py", "test_operations_hostile.py", "test_drills.py")
ABOUT_THE_DOCUMENT = "test_the_document_"
DATA = b"channel state 42" * 256


# The document ---------------------------------------------------------------------------------------------


def names_of_tests() -> set[str]:
    trees = [ast.parse((Path(__file__).parent / name).read_text()) for name in FILES]
    names = {node.name for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)}
    return {name for name in names if name.startswith("test_") and not name.startswith(ABOUT_THE_DOCUMENT)}


def test_the_document_has_a_test_for_each_section_and_a_section_for_each_test():
    titles = [*sections("Alarms"), *sections("Drills")]
    assert {name_of_test(title) for title in titles} == names_of_tests()


def test_the_document_says_of_each_alarm_the_same_things_in_the_same_order():
    for title, text in sections("Alarms").items():
        leads = [line.split(":**")[0].removeprefix("**") for line in text.splitlines() if line.startswith("**")]
        assert tuple(leads) == LEADS, title
        assert blocks(text), f"{title} has nothing to type"
        assert text.index("**Do:**") < text.index("```console"), title


# An array for one alarm after another ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def standing(tmp_path_factory):
    with Rig(tmp_path_factory.mktemp("ops")) as rig:
        prepare(rig)
        up(rig)
        rig.write(0, DATA)
        yield rig


@pytest.fixture
def rig(standing):
    """Healthy before and after, with what was flushed on it."""
    require_healthy(standing)
    yield standing
    require_healthy(standing)
    assert standing.read(0, len(DATA)) == DATA


@pytest.fixture
def own(tmp_path):
    """A directory for an array of the test's own."""
    with Rig(tmp_path) as rig:
        yield rig


def in_state(state, seat=2):
    return lambda status: status["disks"][seat]["state"] == state


# Disks ----------------------------------------------------------------------------------------------------


def test_suspect_a_disk_is_silent(rig):
    rig.pause_disk(2)
    try:
        seen = rig.wait_for(in_state("suspect"))
    finally:
        rig.resume_disk(2)
    assert (seen["state"], seen["exit_code"], seen["losses_survived"]) == ("degraded", 1, 1)
    rig.wait_for(in_state("online"))
    follow(rig, "SUSPECT: a disk is silent")


def test_dead_a_disk_was_voted_off(rig):
    rig.pause_disk(2)
    rig.wait_for(in_state("dead"))
    rig.write(len(DATA), DATA)
    assert "`perdure rejoin 2` is faster" in rig.status()["action"]
    rig.resume_disk(2)
    follow(rig, "DEAD: a disk was voted off", 0)
    require_healthy(rig)
    rig.kill_disk(2)
    rig.wait_for(in_state("dead"))
    follow(rig, "DEAD: a disk was voted off", 1)


def test_blank_a_disk_was_restarted(rig):
    with disk_at(rig, "again.sock"):
        rig.kill_disk(2)
        os.rename(rig.directory / "again.sock", rig.directory / "disk-2.sock")  # before it is voted off
        rig.wait_for(in_state("blank"))
        assert "it is blank, and what it held is gone" in rig.status()["disks"][2]["reason"]
        follow(rig, "BLANK: a disk was restarted")
        require_healthy(rig)
    rig.run("replace", 2)  # the test's own disk has ended with its block


def test_offline_a_disk_was_taken_out_of_use(rig):
    rig.run("offline", 2)
    rig.wait_for(in_state("offline"))
    assert "`perdure online 2` takes the disk of seat 2 back" in rig.status()["action"]
    wait_for_event(rig, "asked for: offline of seat 2")
    follow(rig, "OFFLINE: a disk was taken out of use")


def test_cksum_wrong_fragments_were_found(rig):
    rig.down()  # everything is home, and nothing is cached
    up(rig)
    shape = Geometry.for_size(3, 5, config.parse_size(SIZE), HISTORY_SECTORS)
    spoil(rig, 2, shape.fragment_start(0))
    assert "Wrong fragments or tags came from seat 2: 1" in rig.run("scrub").out
    assert rig.status()["disks"][2]["errors"]["checksum"] == 1
    follow(rig, "CKSUM: wrong fragments were found")


# The array ------------------------------------------------------------------------------------------------


def test_degraded_no_more_loss_is_survived(rig):
    rig.kill_disk(2)
    rig.kill_disk(4)
    rig.wait_for(lambda status: status["summary"] == "[UU_U_]")
    assert "one more loss closes the array for good" in rig.status()["action"]
    follow(rig, "DEGRADED: no more loss is survived", codes=(0, 1))


def test_unusable_too_few_disks(rig):
    stop_by_silence(rig)
    follow(rig, "UNUSABLE: too few disks", codes=(0, 2))
    shown = rig.run("events", "--json").json["events"]
    assert any(event["message"].startswith("THE ARRAY HAS STOPPED (unusable)") for event in shown[-8:])


def test_suspended_everything_waits_for_disks(own):
    prepare(own, serve='when-too-few-disks = "freeze"')
    up(own)
    for seat in (0, 2, 3):
        own.pause_disk(seat)
    wait_for_event(own, "THE ARRAY IS SUSPENDED")
    for seat in (0, 2, 3):
        own.resume_disk(seat)
    own.wait_for(lambda status: status["state"] == "online")
    follow(own, "SUSPENDED: everything waits for disks")
    require_healthy(own)


def test_events_are_not_kept(rig):
    stop_by_silence(rig)
    # The event is told before it is tried to keep it; what could not be kept is in the file a moment later.
    rig.wait_for(lambda _: (rig.directory / artefacts.UNKEPT_FILE).exists())
    follow(rig, "Events are not kept")
    assert "events are not kept in the array any more" in (rig.directory / "main.log").read_text()
    saved = json.loads((rig.directory.parent / "events.json").read_text())["events"]
    assert saved[-1]["level"] == "critical"
    rig.run("down", code=2)
    up(rig)
    assert rig.run("events").err == ""


def stop_by_silence(rig):
    for seat in (0, 2, 3):
        rig.pause_disk(seat)
    try:
        # By the status: events of an earlier stop are in the history too.
        rig.wait_for(lambda status: status["failure"] is not None)
        wait_for_event(rig, "THE ARRAY HAS STOPPED (unusable)")
    finally:
        for seat in (0, 2, 3):
            rig.resume_disk(seat)


def test_the_main_program_is_gone(rig):
    rig.kill_main()
    assert "The main program does not run" in rig.run("status", code=2).sentence
    follow(rig, "The main program is gone")


# Mending --------------------------------------------------------------------------------------------------


def test_the_commands_are_of_another_release(own, tmp_path):
    """A real one: the package is installed anew under a main program that runs."""
    place = tmp_path / "installed" / "perdure"
    shutil.copytree(Path(package.__file__).parent, place, ignore=shutil.ignore_patterns("__pycache__"))
    own.env["PYTHONPATH"] = str(place.parent)
    form = place / "service" / "status.py"
    now = form.read_text()
    form.write_text(now.replace(f"VERSION: Final = {VERSION}\n", f"VERSION: Final = {VERSION - 1}\n"))
    assert form.read_text() != now
    prepare(own)
    assert perdure("up", env=own.env, cwd=tmp_path).code == 0  # not here, where Python finds this checkout first
    own.write(0, DATA)
    form.write_text(now)
    seen = "The main program serves on, but it is of another release than this command."
    for verb in ("status", "up", "top"):
        assert own.run(verb, code=2).sentence.startswith(seen)
    assert seen.rstrip(".") in own.run("doctor", code=2).out
    follow(own, "The commands are of another release")
    require_healthy(own)
    assert own.read(0, len(DATA)) == DATA


def test_a_repair_has_failed(rig):
    rig.kill_disk(2)
    rig.wait_for(in_state("dead"))
    assert "Seat 2 stays empty" in rig.run("replace", 2, "--address", "unix:nobody.sock", code=2).sentence
    wait_for_event(rig, " has failed: Seat 2 stays empty")
    follow(rig, "A repair has failed", codes=(0, 1))


def test_a_stray_disk(rig):
    path = rig.directory / config.NAME
    with disk_at(rig, "stray.sock"):
        text = path.read_text()
        path.write_text(text.replace('    "unix:disk-4.sock",\n', '    "unix:disk-4.sock",\n    "unix:stray.sock",\n'))
        rig.down()
        up(rig)
        assert [stray["address"] for stray in rig.status()["strays"]] == [f"unix:{rig.directory}/stray.sock"]
        follow(rig, "A stray disk", STRAY="unix:stray.sock", codes=(0, 1))
    assert path.read_text() == text


def test_a_spare_is_no_good(own):
    prepare(own, spares=1)
    up(own)
    os.kill(own.process("spare-0").pid, signal.SIGKILL)
    own.kill_disk(2)
    wait_for_event(own, f"the spare at unix:{own.directory}/spare-0.sock takes seat 2, whose disk is dead")
    wait_for_event(own, f"replace of seat 2 (unix:{own.directory}/spare-0.sock) has failed: ")
    follow(own, "A spare is no good")
    require_healthy(own)


# Telling --------------------------------------------------------------------------------------------------


class Refusing(BaseHTTPRequestHandler):
    """A server that is not well, until it is."""

    status = 503
    got: list[dict[str, object]]

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).got += [json.loads(body)] if self.status == 204 else []
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_the_webhook_does_not_take_events(own):
    handler = type("Handler", (Refusing,), {"got": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/hook"
    try:
        prepare(own, tell=f'webhook = "{url}"')
        assert tomllib.loads((own.directory / config.NAME).read_text())["tell"]["webhook"] == url
        up(own)
        log = own.directory / "main.log"
        own.wait_for(lambda _: "the webhook did not take an event: 4 tries have failed" in log.read_text())
        assert "503" in follow(own, "The webhook does not take events", URL=url)
        handler.status = 204
        own.run("clear")
        own.wait_for(lambda _: any(event.get("message") == "asked for: clear" for event in handler.got))
        require_healthy(own)
    finally:
        server.shutdown()
        server.server_close()
