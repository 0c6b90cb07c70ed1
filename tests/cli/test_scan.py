"""How progress and results are written."""

import pytest

from perdure.cli import scan
from perdure.service.status import Repair, RepairState, Verb

GIB = 1 << 30


def repair(verb=Verb.REPLACE, state=RepairState.RUNNING, **changes):
    values = {
        "id": "ab",
        "verb": verb,
        "seat": None if verb is Verb.SCRUB else 2,
        "address": None if verb is Verb.SCRUB else "tcp:h:1",
        "state": state,
        "total_bytes": 16 * GIB,
        "done_bytes": 0,
        "mended_sectors": 0,
        "bytes_per_s_max": None,
        "bytes_per_s": None,
        "left_s": None,
        "started_unix_ms": 1_700_000_000_000,
        "duration_ms": 41_000,
    }
    return Repair(**{**values, **changes})


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (1025, "1.0 KiB"),
        ((1 << 20) - 1, "1023.9 KiB"),
        (5 << 20, "5 MiB"),
        (GIB - 1, "1023.9 MiB"),
        (int(12.45 * GIB), "12.4 GiB"),
        (16 * GIB, "16 GiB"),
        (3 << 40, "3 TiB"),
        ((5000 << 40) + 1, "5000.0 TiB"),
    ],
)
def test_amounts(count, text):
    assert scan.amount(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "00:00:00"), (41, "00:00:41"), (3661, "01:01:01"), (360_000 * 10 + 59, "1000:00:59")]
)
def test_times(seconds, text):
    assert scan.clock(seconds) == text


def test_progress_is_one_line():
    running = repair(done_bytes=int(0.816 * 16 * GIB), left_s=41)
    assert scan.line(running) == "rebuild of seat 2: 13.0 GiB of 16 GiB, 81 %, 00:00:41 to go"
    assert scan.progress_text(repair()) == "0 bytes of 16 GiB, 0 %"
    assert scan.progress_text(repair(done_bytes=16 * GIB - 1)) == "15.9 GiB of 16 GiB, 99 %"
    assert scan.progress_text(repair(done_bytes=16 * GIB, left_s=0)) == "16 GiB of 16 GiB, 100 %"
    assert scan.line(repair(state=RepairState.WAITING)) == "rebuild of seat 2: waits until another seat is rebuilt"


@pytest.mark.parametrize(
    ("verb", "changes", "text"),
    [
        (
            Verb.REPLACE,
            {"mended_sectors": 4096},
            "Seat 2 was rebuilt on the disk at tcp:h:1 in 00:00:41: 4,096 sectors (16 MiB) sent.",
        ),
        (
            Verb.REJOIN,
            {"mended_sectors": 1, "duration_ms": 1},
            "Seat 2 has its disk back after 00:00:01: 1 sector (4 KiB) that it had missed sent.",
        ),
        (Verb.SCRUB, {}, "16 GiB read from every disk in 00:00:41: nothing had to be mended."),
        (
            Verb.SCRUB,
            {"mended_sectors": 3, "wrong_by_seat": (0, 2, 0, 1)},
            "16 GiB read from every disk in 00:00:41: 3 sectors (12 KiB) mended. Wrong fragments or tags came from "
            "seat 1: 2, seat 3: 1.",
        ),
        (
            Verb.SCRUB,
            {"wrong_by_seat": (0, 2)},
            "16 GiB read from every disk in 00:00:41: nothing had to be mended. Wrong fragments or tags came from "
            "seat 1: 2.",
        ),
        (
            Verb.REPLACE,
            {"note": "Write it yourself."},
            "Seat 2 was rebuilt on the disk at tcp:h:1 in 00:00:41: 0 sectors (0 bytes) sent. Write it yourself.",
        ),
    ],
)
def test_what_was_done_is_one_sentence(verb, changes, text):
    assert scan.sentence(repair(verb, RepairState.DONE, **changes)) == text


def test_how_it_ended_and_when():
    assert scan.line(repair(Verb.SCRUB, RepairState.DONE)).startswith(
        "scrub, done 2023-11-14 22:14:01 UTC: 16 GiB read"
    )
    failed = repair(state=RepairState.FAILED, error={"message": "Seat 2 stays empty: why."})
    assert scan.line(failed) == "rebuild of seat 2, failed 2023-11-14 22:14:01 UTC: Seat 2 stays empty: why."
    stopped = repair(state=RepairState.STOPPED, done_bytes=GIB)
    assert scan.sentence(stopped) == "Not ended: it stood at 1 GiB of 16 GiB, 6 %."
