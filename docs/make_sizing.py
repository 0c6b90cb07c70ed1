"""Keeps the figures of docs/sizing.md right: each stands between `<!-- name -->` and `<!-- end -->`.

    python -m docs.make_sizing           write the tables and the plot anew
    python -m docs.make_sizing --check   exit with 1 if they are not what would be written

Sizes come from the program's own geometry, measured figures from docs/benchmarks.md, chances from the two formulas
that the page names.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from perdure.array.geometry import INDEX_BYTES, SECTOR_BYTES, TAG_BYTES, Geometry

FOLDER = Path(__file__).parent
PAGE = FOLDER / "sizing.md"
PLOT = FOLDER / "sizing" / "loss.svg"
BENCHMARKS = FOLDER / "benchmarks.md"

SHAPES = ((2, 3), (3, 5), (4, 6), (4, 7), (5, 8), (5, 9), (6, 9), (8, 12), (9, 16))
"""(k, n) that are worth a look."""
GIB, MIB = 1 << 30, 1 << 20
SIZES_GIB = (1, 16, 100)
ZONES = (2, 3, 4, 5, 6)
LIVES_DAYS = (30, 180)
MENDED_H = (1, 24)
YEAR_H = 365 * 24
BELIEVED = 1e-7
"""Chances below this are not told apart: what the model leaves out is likelier by far."""
PLOTTED = ((2, 3), (3, 5), (4, 6), (4, 7), (5, 9))
MODES = ("perdure", "perdure, 5.7 ms", "perdure, chains", "perdure, chains, 5.7 ms")


# Formulas -------------------------------------------------------------------------------------------------


def chance_at_once(k: int, n: int, p: float) -> float:
    """That more than n - k of n disks are lost, each with chance `p` and independently: the binomial's tail."""
    return math.fsum(math.comb(n, lost) * p**lost * (1 - p) ** (n - lost) for lost in range(n - k + 1, n + 1))


def hours_to_loss(k: int, n: int, life_h: float, mend_h: float) -> float:
    """Mean time until more than n - k disks are gone at once (MTTDL), mended one at a time.

    A chain of states by how many are gone: from i one more goes at the rate (n - i) / life, one comes back at 1 / mend.
    Of such a chain the mean time from i to i + 1 is (1 + back * the time from i - 1 to i) / (rate from i to i + 1).
    """
    total = before = 0.0
    for gone in range(n - k + 1):
        back = 1 / mend_h if gone else 0.0
        before = (1 + back * before) * life_h / (n - gone)
        total += before
    return total


def chance_in_a_year(k: int, n: int, life_h: float, mend_h: float) -> float:
    """Of such a loss within a year: the time to it is nearly exponential while mending is much faster than dying."""
    return -math.expm1(-YEAR_H / hours_to_loss(k, n, life_h, mend_h))


def zones_survived(k: int, n: int, zones: int) -> int:
    """How many whole zones may be lost, whichever they are, with the disks spread as evenly as they go."""
    seats = [n // zones + (zone < n % zones) for zone in range(zones)]
    return max(count for count in range(zones + 1) if sum(seats[:count]) <= n - k)


# Measured figures -----------------------------------------------------------------------------------------


def measured(head: str) -> list[list[str]]:
    """The rows of the table of docs/benchmarks.md whose head begins with `head`."""
    lines = iter(BENCHMARKS.read_text().splitlines())
    for line in lines:
        if line.startswith(f"| {head} |"):
            next(lines)
            rows: list[list[str]] = []
            while (row := next(lines, "")).startswith("|"):
                rows.append([cell.strip() for cell in row.strip("|").split("|")])
            return rows
    raise SystemExit(f"docs/benchmarks.md has no table that begins with {head}")


def rebuild_mib_s() -> float:
    """The slowest rebuild that was measured, in MiB of the array a second."""
    return min(float(row[3]) for row in measured("array, MiB | sequential read, MiB/s"))


# Tables ---------------------------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join(['---', *['---:'] * (len(head) - 1)])}|"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _name(k: int, n: int) -> str:
    return f"{k} of {n}"


def shapes() -> Iterator[str]:
    """Losses, memory and bytes."""
    head = ("k of n", "losses", *(f"each disk, {size} GiB array" for size in SIZES_GIB), "all disks", "wire, bytes")
    rows = []
    for k, n in SHAPES:
        disks = [Geometry.for_size(k, n, size * GIB) for size in SIZES_GIB]
        each = [f"{one.disk_bytes / GIB:.2f} GiB" for one in disks]
        share = n * disks[-1].disk_bytes / disks[-1].size_bytes
        wire = n * (disks[0].fragment_bytes + TAG_BYTES + INDEX_BYTES)
        row = (_name(k, n), str(n - k), *each, f"x {share:.2f}", f"{wire:,} (x {wire / SECTOR_BYTES:.2f})")
        rows.append(row)
    return _table(head, rows)


def wire() -> Iterator[str]:
    """What was measured of the last column."""
    found = {row[0]: row[1:] for row in measured("work | bytes")}
    bytes_count, times = found["4 KiB random write + fsync, depth 32: perdure, TCP"]
    yield (
        f"Measured with 3 of 5, 32 clients that each flush, commands and evidence included: {bytes_count} bytes, "
        f'{times} of n/k ([`benchmarks.md`](benchmarks.md), "Bytes on the wire").'
    )


def latency() -> Iterator[str]:
    """Of 3-of-5, from the benchmark."""
    rows = {row[0]: row for row in measured("mode")}
    shown = [
        [mode, *(rows[mode][column].partition(", ")[2].replace(" us", "") for column in (1, 2, 4))] for mode in MODES
    ]
    return _table(("3 of 5", "write + FLUSH, alone, us", "the same, 32 clients, us", "read, us"), shown)


def zones() -> Iterator[str]:
    """Zones that may be lost."""
    rows = [(_name(k, n), *(_zones(k, n, count) for count in ZONES)) for k, n in SHAPES]
    return _table(("k of n", *(f"{count} zones" for count in ZONES)), rows)


def _zones(k: int, n: int, count: int) -> str:
    return str(zones_survived(k, n, count)) if count <= n else "-"


def chances() -> Iterator[str]:
    """Of loss within a year."""
    cases = [(days, hours) for days in LIVES_DAYS for hours in MENDED_H]
    head = ("k of n", *(f"life {days} d, mended in {hours} h" for days, hours in cases))
    rows = [(_name(k, n), *(_chance(chance_in_a_year(k, n, 24 * d, h)) for d, h in cases)) for k, n in SHAPES]
    return _table(head, rows)


def _chance(value: float) -> str:
    if value < BELIEVED:
        return f"less than 1 in {1 / BELIEVED:,.0f}"
    return f"{100 * value:.2g} %" if value >= 0.001 else f"1 in {_round(1 / value):,}"


def _round(value: float) -> int:
    """Two digits: the model is no better."""
    power = 10 ** (len(str(int(value))) - 2)
    return round(value / power) * power


def at_once() -> Iterator[str]:
    """Of losing too many within one reboot of everything, say."""
    parts = (0.01, 0.05, 0.1)
    rows = [(_name(k, n), *(_chance(chance_at_once(k, n, p)) for p in parts)) for k, n in SHAPES]
    return _table(("k of n", *(f"each with {p:.0%}" for p in parts)), rows)


def rebuild() -> Iterator[str]:
    """How long one takes."""
    speed = rebuild_mib_s()
    rows = [(f"{size} GiB", _duration(size * GIB / MIB / speed)) for size in SIZES_GIB]
    return _table(("array", f"one rebuild, at {speed:g} MiB/s"), rows)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "shapes": shapes,
    "wire": wire,
    "latency": latency,
    "zones": zones,
    "rebuild": rebuild,
    "chances": chances,
    "at-once": at_once,
}


def with_tables(text: str) -> str:
    """`text` with each table made anew."""
    for name, make in TABLES.items():
        before, begin, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not begin or not end:
            raise SystemExit(f"{PAGE} has no place for the table {name}")
        text = "".join([before, begin, "\n".join(make()), "\n", end, after])
    return text


# The plot -------------------------------------------------------------------------------------------------


def plot(path: Path) -> None:
    """Chance of loss within a year by the time until a disk is mended, for disks that live a month."""
    import matplotlib as mpl  # noqa: PLC0415  (needed by nobody else, and slow to load)
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    from bench.report.plots import COLORS, STYLE  # noqa: PLC0415

    hours = [10 ** (step / 20) for step in range(-20, 45)]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 4.2), layout="constrained")
        FigureCanvasSVG(figure)
        axis = figure.subplots()
        for (k, n), shade in zip(PLOTTED, COLORS, strict=False):
            chance = [chance_in_a_year(k, n, 24 * LIVES_DAYS[0], hour) for hour in hours]
            axis.plot(hours, chance, label=_name(k, n), color=shade)
        axis.set(xscale="log", yscale="log", ylim=(1e-12, 2), xlabel="hours until a lost disk is rebuilt")
        axis.set_ylabel(f"chance of loss within a year, disks live {LIVES_DAYS[0]} days")
        axis.set_xticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
        axis.legend(frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")


def main() -> None:
    """Write, or check."""
    text = PAGE.read_text()
    made = with_tables(text)
    if "--check" in sys.argv[1:]:
        sys.exit(0 if made == text else "docs/sizing.md is stale: run `make docs`")
    PAGE.write_text(made)
    plot(PLOT)


if __name__ == "__main__":
    main()
