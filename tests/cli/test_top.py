"""`top`: a frame of what is, at any width, and the live view on a real terminal."""

import os
import pty
import select
import subprocess
import sys
import time

import pytest
from rich.console import Console

from perdure.cli.frame import Look, frame
from perdure.cli.output import plain
from perdure.service.status import DiskState, RepairState, State, Verb
from perdure.service.telling.events import Event, Kind, Level
from tests.cli.rig import Rig
from tests.service import statuses

WAIT_S = 30
EVENTS = [
    Event(number, 1_790_000_000_000, Kind.DISK, level, f"event {number}") for number, level in enumerate(Level, 1)
]


def shown(look, width=80):
    """The lines of a frame, as a terminal of that width has them."""
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file:
        console.print(frame(look))
        return console.export_text().splitlines()


def test_every_line_fits_into_80_columns_and_no_figure_is_cut():
    repairs = (
        statuses.repair(seat=2),
        statuses.repair(Verb.SCRUB, None, RepairState.FAILED, error={"message": "x" * 200}),
    )
    status = statuses.whole(
        DiskState.ONLINE, DiskState.DEAD, DiskState.REBUILDING, repairs=repairs, state=State.DEGRADED
    )
    status = statuses.with_disk(status, 3, address="tcp:" + "a" * 90, domain="a-domain-with-a-long-name")
    lines = shown(Look(status, None, EVENTS))
    assert max(len(line) for line in lines) <= 80
    head = next(line for line in lines if line.startswith("SEAT"))
    row = next(line for line in lines if line.strip().startswith("3  ONLINE"))
    assert [row[head.index(word) :].split()[0] for word in ("STATE", "DOMAIN")] == ["ONLINE", "a-domain-with-"]
    assert " 1.5 s " in row
    assert row.rstrip().endswith("…"), "the address is what gives way"
    assert any("16 MiB of 64 MiB, 25 %, 00:00:24 to go, 2 MiB/s" in line for line in lines)


def test_an_array_in_the_clear_is_shown_as_one():
    clear, sealed = (shown(Look(statuses.whole(is_sealed=is_sealed), None, [])) for is_sealed in (False, True))
    assert [line for line in clear if "sealing: NONE; hosts read whatever" in line]
    assert not [line for line in sealed if "sealing" in line]


def test_rates_and_percentiles_are_those_between_two_looks():
    before = statuses.whole(
        uptime_ms=50_000, requests=dict.fromkeys(("read", "write", "flush", "trim"), statuses.meter())
    )
    lines = shown(Look(statuses.whole(), before, []))
    assert next(line.split() for line in lines if line.startswith("flush")) == [
        "flush",
        "0.2",
        "0.00",
        "20",
        "ms",
        "500",
        "ms",
        "0",
    ]
    assert next(line.split() for line in lines if line.startswith("read"))[-1] == "1", "failures stay in sight"


def test_the_newest_event_comes_first():
    lines = shown(Look(statuses.whole(), None, EVENTS))
    assert [line.split()[-1] for line in lines if " event " in line] == ["3", "2", "1"]


def test_a_clone_is_the_first_thing_that_one_reads():
    status = statuses.with_disk(
        statuses.whole(DiskState.CLONE, state=State.DEGRADED, exit_code=3, losses_survived=1), 0, reason="another disk"
    )
    lines = shown(Look(status, None, []))
    assert lines[0].startswith("!!! SEAT 0 IS CLONE: another disk")
    assert lines[1].startswith("DEGRADED [UUUUU]  1 more loss is survived")


def test_silence_is_said_and_what_was_known_stays():
    lines = shown(Look(statuses.whole(), None, [], "The main program does not run."))
    assert lines[0] == "OLD: The main program does not run."
    assert lines[1].startswith("ONLINE [UUUUU]  2 more losses are survived; any 3 of 5 disks hold 64 MiB")


def test_a_host_cannot_move_the_cursor():
    assert plain("a\x1b[2Jb\rc\u202ed") == "a?[2Jb?c?d"
    status = statuses.with_disk(statuses.whole(), 0, address="tcp:\x1b[2J:1", domain="\x1b]0;x\x07")
    events = [Event(1, 0, Kind.DISK, Level.INFO, "\x1b[31mred")]
    assert not any("\x1b" in line or "\x07" in line for line in shown(Look(status, None, events), 160))


# The verb -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    with Rig(tmp_path_factory.mktemp("top"), disks=3, threshold=2) as rig:
        rig.up()
        rig.write(0, b"state")
        yield rig


def test_once_prints_one_frame_at_the_width_that_there_is(rig):
    rig.env["COLUMNS"] = "80"
    lines = rig.run("top", "--once").out.splitlines()
    assert lines[0].startswith("ONLINE [UUU]  1 more loss is survived; any 2 of 3 disks hold 16 MiB")
    assert sum(" ONLINE " in line for line in lines) == 3
    assert " info     array " in lines[-1]
    assert max(map(len, lines)) <= 80


def test_json_has_status_rates_and_events(rig):
    value = rig.run("top", "--json").json
    assert value["status"]["summary"] == "[UUU]"
    assert value["rates"]["write"]["ops_per_s"] >= 0
    assert value["events"][0]["number"] == 1


def test_where_no_terminal_is_it_ends_by_itself_and_where_no_main_program_is_it_says_so(rig, tmp_path):
    assert rig.run("top").out.startswith("ONLINE")
    with Rig(tmp_path, disks=3, threshold=2) as other:
        other.up()
        other.down()
        assert "The main program does not run" in other.run("top", code=2).sentence


@pytest.mark.parametrize("end", [b"q", b"\x03"])
def test_on_a_terminal_it_goes_on_until_q_or_an_interrupt_and_gives_the_terminal_back(rig, end):
    ours, theirs = pty.openpty()
    command = ["setsid", "--ctty", sys.executable, "-m", "perdure.cli.main", "top"]  # so that ^C is an interrupt
    env = {**rig.env, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env) as top:
        os.close(theirs)
        seen = read_until(ours, lambda text: text.count(b"ONLINE [UUU]") >= 2)
        assert b"\x1b[?1049h" in seen, "a screen of its own"
        os.write(ours, end)
        seen = read_until(ours, lambda text: b"\x1b[?1049l" in text)
        assert top.wait(WAIT_S) == 0
    os.close(ours)


def read_until(fd, what):
    seen, give_up = b"", time.monotonic() + WAIT_S
    while not what(seen):
        ready, _, _ = select.select([fd], [], [], max(0, give_up - time.monotonic()))
        assert ready, seen
        seen += os.read(fd, 1 << 16)
    return seen
