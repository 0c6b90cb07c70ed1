"""How repair is written for people: the line while it runs, and the sentence that says what was done."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from perdure.array.geometry import SECTOR_BYTES
from perdure.service.status import Repair, RepairState, Verb

_UNITS: Final = (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10))
_NAMES: Final = {Verb.REPLACE: "rebuild", Verb.REJOIN: "rejoin", Verb.SCRUB: "scrub"}


def amount(count_bytes: int) -> str:
    """`12.4 GiB`, cut down to a tenth, so that nothing is called done before it is; `16 GiB` where that is exact."""
    for unit, power in _UNITS:
        if count_bytes >= 1 << power:
            whole, tenth = divmod(count_bytes * 10 >> power, 10)
            is_whole = count_bytes % (1 << power) == 0
            return f"{whole} {unit}" if is_whole else f"{whole}.{tenth} {unit}"
    return f"{count_bytes} bytes"


def clock(seconds: int) -> str:
    """`00:00:41`; hours go on beyond 99."""
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def name(repair: Repair) -> str:
    """`rebuild of seat 2`, `scrub`."""
    return _NAMES[repair.verb] if repair.seat is None else f"{_NAMES[repair.verb]} of seat {repair.seat}"


def progress_text(repair: Repair) -> str:
    """`12.4 GiB of 16 GiB, 81 %, 00:00:41 to go`; the end is left out while nobody can tell it."""
    if repair.state is RepairState.WAITING:
        return "waits until another seat is rebuilt"
    share = repair.done_bytes * 100 // repair.total_bytes
    left = "" if not repair.left_s else f", {clock(repair.left_s)} to go"
    return f"{amount(repair.done_bytes)} of {amount(repair.total_bytes)}, {share} %{left}"


def line(repair: Repair) -> str:
    """One line of `status`: where it stands, or how it ended and when."""
    if not repair.state.is_over:
        return f"{name(repair)}: {progress_text(repair)}"
    ended = datetime.fromtimestamp((repair.started_unix_ms + repair.duration_ms) // 1000, UTC)
    what = {RepairState.DONE: "done", RepairState.FAILED: "failed"}.get(repair.state, "stopped")
    return f"{name(repair)}, {what} {ended:%Y-%m-%d %H:%M:%S} UTC: {sentence(repair)}"


def sentence(repair: Repair) -> str:
    """What was done, or why it was not."""
    if repair.error is not None:
        return str(repair.error["message"])
    if repair.state is not RepairState.DONE:
        return f"Not ended: it stood at {progress_text(repair)}."
    took, mended = clock(-(-repair.duration_ms // 1000)), _sectors(repair.mended_sectors)
    match repair.verb:
        case Verb.REPLACE:
            text = f"Seat {repair.seat} was rebuilt on the disk at {repair.address} in {took}: {mended} sent."
        case Verb.REJOIN:
            text = f"Seat {repair.seat} has its disk back after {took}: {mended} that it had missed sent."
        case Verb.SCRUB:
            text = f"{amount(repair.total_bytes)} read from every disk in {took}: {_wrong(repair)}"
    return text if repair.note is None else f"{text} {repair.note}"


def _sectors(count: int) -> str:
    return f"{count:,} sector{'' if count == 1 else 's'} ({amount(count * SECTOR_BYTES)})"


def _wrong(repair: Repair) -> str:
    blamed = [f"seat {seat}: {count:,}" for seat, count in enumerate(repair.wrong_by_seat) if count]
    whose = f" Wrong fragments or tags came from {', '.join(blamed)}." if blamed else ""
    if not repair.mended_sectors:
        return f"nothing had to be mended.{whose}"
    return f"{_sectors(repair.mended_sectors)} mended.{whose}"
