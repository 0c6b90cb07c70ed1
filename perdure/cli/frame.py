"""One frame of `top`: the array, its disks, what passes, what is mended, and the last events. It does no I/O.

The same as the page shows. What a host may have written (addresses, reasons) is shown without control characters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from perdure.cli import scan
from perdure.cli.iostat import Rate, rates
from perdure.cli.layout import IN_THE_CLEAR, count
from perdure.cli.output import human_size, plain
from perdure.service.status import ArrayStatus, DiskState, DiskStatus, Repair, State
from perdure.service.telling.events import Event, Level

_GOOD, _WARN, _BAD, _BUSY, _SOFT = "green", "yellow", "bold red", "cyan", "dim"
_DISKS: Final = {
    DiskState.ONLINE: _GOOD,
    DiskState.SUSPECT: _WARN,
    DiskState.OFFLINE: _WARN,
    DiskState.REBUILDING: _BUSY,
}
_ARRAY: Final = {State.ONLINE: _GOOD, State.DEGRADED: _WARN, State.SUSPENDED: _WARN}
_LEVELS: Final = {Level.INFO: _SOFT, Level.WARNING: _WARN, Level.CRITICAL: _BAD}
_KINDS: Final = ("read", "write", "flush", "trim", "evidence")


@dataclass(frozen=True, slots=True)
class Look:
    """What a frame is made of. Rates are between `before` and `now`; `silence` is why nothing newer is known."""

    now: ArrayStatus
    before: ArrayStatus | None
    events: Sequence[Event]
    silence: str | None = None


def frame(look: Look) -> RenderableType:
    """The whole frame, newest events first, so that what does not fit on a screen is what is oldest."""
    rate = rates(look.before, look.now)
    parts: list[RenderableType] = [
        *_head(look),
        Text(),
        _disks(look.now, rate),
        Text(),
        _requests(look.now, rate),
        Text(),
    ]
    if look.now.repairs:
        parts += [*_repairs(look.now.repairs), Text()]
    return Group(*parts, *(_event(event) for event in reversed(look.events)))


# The array ------------------------------------------------------------------------------------------------


def _head(look: Look) -> list[RenderableType]:
    status = look.now
    style = _BAD if status.exit_code == 3 else _ARRAY.get(status.state, _BAD)
    survived = status.losses_survived
    losses = "1 more loss is survived" if survived == 1 else f"{survived} more losses are survived"
    state = Text.assemble(
        (f"{status.state.upper()} {status.summary}", f"bold {style}"),
        "  ",
        (losses, "" if survived else _BAD),
        f"; any {status.k} of {status.n} disks hold {human_size(status.size_bytes)}",
    )
    lines: list[RenderableType] = []
    if look.silence is not None:
        lines.append(Text(f"OLD: {plain(look.silence)}", style="black on yellow"))
    lines += [_alarm(disk) for disk in status.disks if disk.is_fork]
    lines += [state, Text(plain(_told(status)), style="" if status.state is State.ONLINE else style), _facts(status)]
    lines += [] if status.is_sealed else [Text(IN_THE_CLEAR, style=_WARN)]
    return lines


def _alarm(disk: DiskStatus) -> Text:
    return Text(f"!!! SEAT {disk.seat} IS {disk.state.upper()}: {plain(disk.reason or '')}", style="bold white on red")


def _told(status: ArrayStatus) -> str:
    if status.state is State.ONLINE:
        return "Serving; every disk is in its seat."
    return status.action if status.failure is None else f"{status.failure['message']} {status.action}"


def _facts(status: ArrayStatus) -> Text:
    evidence = "no evidence yet" if status.evidence_age_ms is None else f"evidence {_age(status.evidence_age_ms)} old"
    parts = [status.name, status.array_id[:12], evidence, f"{count(status.dirty_sectors, 'sector')} not yet home"]
    return Text(plain("  ".join([*parts, f"up {scan.clock(status.uptime_ms // 1000)}"])), style=_SOFT)


def _age(ms: int) -> str:
    return f"{ms / 1000:.1f} s" if ms < 60_000 else scan.clock(ms // 1000)


# Tables ---------------------------------------------------------------------------------------------------


def _table(*columns: str) -> Table:
    """Columns whose names begin with `<` are text; the last one takes what room is left."""
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    for index, name in enumerate(columns):
        ratio = 1 if index == len(columns) - 1 else None
        justify: Literal["left", "right"] = "left" if name.startswith("<") else "right"
        table.add_column(name.removeprefix("<"), justify=justify, no_wrap=True, ratio=ratio, overflow="ellipsis")
    return table


def _disks(status: ArrayStatus, rate: Mapping[str, Rate]) -> Table:
    table = _table("SEAT", "<STATE", "<DOMAIN", "EVIDENCE", "P50 ≤", "P99 ≤", "ERRORS", "<ADDRESS")
    for disk in status.disks:
        now = rate.get(f"seat {disk.seat}")
        table.add_row(
            str(disk.seat),
            Text(disk.state.upper(), style=_DISKS.get(disk.state, _BAD)),
            plain(disk.domain or "-")[:14],
            "-" if disk.evidence_age_ms is None else _age(disk.evidence_age_ms),
            *_percentiles(now),
            Text(str(sum(disk.errors.values())), style=_BAD if sum(disk.errors.values()) else ""),
            _from_the_end(plain(disk.address or "-")),
        )
    return table


def _from_the_end(address: str) -> str:
    """Of a socket's path the name alone: its directory is every disk's."""
    return f"unix:../{address.rpartition('/')[2]}" if address.startswith("unix:") else address


def _requests(status: ArrayStatus, rate: Mapping[str, Rate]) -> Table:
    table = _table("<", "OPS/S", "MiB/S", "P50 ≤", "P99 ≤", "FAILED", "<")
    for kind in _KINDS:
        one = rate.get(kind)
        if one is None:
            continue
        failed = (status.evidence if kind == "evidence" else status.requests[kind])["failed"]
        failures = Text(str(failed), style=_BAD if failed else "")
        table.add_row(
            kind, f"{one.ops_per_s:,.1f}", f"{one.bytes_per_s / (1 << 20):,.2f}", *_percentiles(one), failures
        )
    return table


def _percentiles(rate: Rate | None) -> tuple[str, str]:
    """Upper bounds, as the counters' buckets have them."""
    return ("-", "-") if rate is None else (_ms(rate.p50_us), _ms(rate.p99_us))


def _ms(us: int | None) -> str:
    return "-" if us is None else f"{us / 1000:g} ms"


# Repairs and events ---------------------------------------------------------------------------------------


def _repairs(repairs: Sequence[Repair]) -> list[RenderableType]:
    bars = Table.grid(padding=(0, 2), expand=True)
    bars.add_column(no_wrap=True)
    bars.add_column(ratio=1)
    bars.add_column(no_wrap=True)
    for repair in repairs:
        if not repair.state.is_over:
            bar = ProgressBar(total=max(1, repair.total_bytes), completed=repair.done_bytes, complete_style=_BUSY)
            bars.add_row(scan.name(repair), bar, f"{scan.progress_text(repair)}{_speed(repair)}")
    ended = [_one_line(Text(plain(scan.line(repair)), style=_SOFT)) for repair in repairs if repair.state.is_over]
    return [*([bars] if bars.row_count else []), *ended]


def _one_line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _speed(repair: Repair) -> str:
    return "" if repair.bytes_per_s is None else f", {scan.amount(repair.bytes_per_s)}/s"


def _event(event: Event) -> Text:
    when = datetime.fromtimestamp(event.unix_ms / 1000, UTC)
    level = (f"{event.level:8} ", _LEVELS[event.level])
    return _one_line(Text.assemble((f"{when:%H:%M:%S} ", _SOFT), level, plain(event.message)))
