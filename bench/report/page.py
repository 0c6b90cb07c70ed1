"""docs/benchmarks.md, rendered from the document alone, with its plots. Only `write` touches files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench import floor
from bench.document import Document
from bench.model import K, N
from bench.report import sections
from bench.report.figures import number, table

PAGE, PLOTS = "benchmarks.md", "benchmarks"
REASONS = "performance.md"
_INTRO = f"""\
# Perdure: benchmarks

Perdure beside what one would use instead, on one machine, in one run. `make bench` measures everything anew and writes
this page from `build/bench.json`; `python -m bench --render` only writes the page. Every array here is {K}-of-{N}, of
simulated disks on this machine, with everything sealed and all evidence made and verified as on real hardware.

**Read the ratios.** This is one machine, which other work shares, so absolute figures drift by the minute. In every
round each target does the same work in turn, and nobody is always first; a ratio is taken within each round, and what
is shown is the median over the rounds. *perdure is x 2* means: twice as fast as the target in that row.
"""


def write(document: Document, docs: Path) -> Path:
    """Write the page and its plots into `docs`; the page's path."""
    from bench.report import plots  # noqa: PLC0415  (matplotlib is slow to load and only needed here)

    made = plots.write(document, docs / PLOTS)
    path = docs / PAGE
    path.write_text(render(document, made, has_reasons=(docs / REASONS).exists()))
    return path


def render(document: Document, plots: Sequence[str], *, has_reasons: bool) -> str:
    """The page's text. `plots` are the files that there are; `has_reasons`: docs/performance.md is there."""
    parts = [
        _INTRO.splitlines(),
        _machine(document),
        sections.goals(document, f"Where the time goes is in [`{REASONS}`]({REASONS})." if has_reasons else ""),
        _targets(document),
        sections.blocks(document, _plot(plots, "iops.svg"), _plot(plots, "latency.svg")),
        sections.modes(document),
        sections.commits(document),
        sections.sizes(document, _plot(plots, "size.svg")),
        sections.wire(document),
        sections.memory(document),
        _floor(document),
        _METHOD.splitlines(),
    ]
    return "\n".join(line for part in parts for line in [*part, ""]).replace("\n\n\n", "\n\n").rstrip() + "\n"


def _plot(plots: Sequence[str], name: str) -> list[str]:
    return [f"![{name.removesuffix('.svg')}]({PLOTS}/{name})", ""] if name in plots else []


def _machine(document: Document) -> list[str]:
    machine, settings = document["machine"], document["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return [
        f"Measured {settings['started']} in {document.get('duration_s', 0) / 60:.0f} minutes, at commit "
        f"`{machine['commit'] or 'unknown'}`: {settings['rounds']} rounds of {number(settings['seconds'])} s for each "
        f"figure. {machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / (1 << 30):.0f} GiB; Linux "
        f"{machine['kernel']} (TCP: {machine['tcp_congestion_control']}), Python {machine['python']}; {versions}. "
        f"Load before the start: {number(machine['load_at_start'])}.",
        "",
    ]


def _targets(document: Document) -> list[str]:
    found = ["## What ran", "", "| target | what it is |", "|---|---|"]
    found += [f"| {name} | {what} |" for name, what in document["targets"].items()]
    if document["skipped"]:
        found += ["", "Skipped, and why:", ""]
        found += [f"- {name}: {why}" for name, why in document["skipped"].items()]
    return [*found, ""]


def _floor(document: Document) -> list[str]:
    measured = document["floor"]
    if not measured:
        return []
    costs, sums, cores = measured["steps_us"], measured["medians"], document["machine"]["cores"]
    rows: list[tuple[str, ...]] = [
        (f"{step.name} ({step.where})", number(costs[step.name]), str(step.durable), str(step.chains), str(step.read))
        for step in floor.STEPS
    ]
    kinds = ("durable", "chains", "read")
    rows += [("**sum, us of processor time**", "", *(number(sums[f"{kind}_cpu_us"]) for kind in kinds))]
    rows += [(f"**on {cores} cores, us**", "", *(number(sums[f"{kind}_us"]) for kind in kinds))]
    heads = ("step", "us each", "durable write", "with chains", "read")
    return [
        "## The floor",
        "",
        "Processor time of what the promise needs for one 4 KiB write at depth 1, whoever keeps it: no copies, no",
        "system calls, no interpreter. Each step was measured with a process on every core at once, in the same rounds",
        "as the rest. The last line supposes that all of it can be done at the same time on all cores; it cannot.",
        "",
        *table(heads, rows),
    ]


_METHOD = """\
## How it was measured

- **fio** works on 96 MiB that were written before, so reads are of real ciphertext and all tags are known: engine `nbd`
  for NBD servers, `libaio` with O_DIRECT for a file on GlusterFS. *Depth* is how many operations are under way. With
  fsync it is how many clients there are, each of which waits for its write and then for its own fsync: how they are
  committed together is up to the target. Latency with fsync is the write's and the fsync's together; the percentiles of
  both are added, which says a little too much at the 99th.
- **etcd** is called over gRPC by a small client in Python, on one connection to the leader, with so many calls on the
  way as the depth says. Its time is in the latency; *client* shows how much of a processor it takes.
- **Processor time** is read from the kernel's clock of each process before and after. *main* is whom the client talks
  to: the main program, GlusterFS's FUSE client, the leader, the primary. *disks* are the programs that hold the data:
  disks, bricks, followers, standbys. *platform* is the simulated hardware, which signs documents. *client* is fio, or
  who else asks. What the kernel does in nobody's name, such as receiving on loopback, is not in it.
- **Links.** `perdure up` puts its disks at Unix sockets; the peers' parts speak TCP on loopback. *perdure, TCP* has its
  disks at TCP ports too. Bytes on the wire are the kernel's counts at the TCP sockets between the parts of a target,
  each byte once, without headers of IP and TCP; what the client sends is not in it.
- **SQLite** commits one row of 1,000 bytes at a time (`journal_mode=WAL`, `synchronous=FULL`). **pgbench** runs
  `simple-update` at scale 1, on a PostgreSQL whose files are on the mounted file system, and on one with files on tmpfs
  that waits for two synchronous standbys. The array is mounted by nbdfuse, a loop device and ext4.
- **Mount times** are from the main program's log: from its first word to a disk until it serves. A disk takes all its
  memory when it starts, and the five of a 16 GiB array would take 28 GiB. For mount times and for the memory of the
  main program, the disks' interpreters are told to take memory as it is touched (`MAP_POPULATE = 0`); image,
  measurement, evidence and program are the same, and what was never written reads as zeros either way.
- **Rebuild and scrub** are of a full array that nobody else uses; a disk is killed and `perdure replace` brings a fresh
  one. Speeds are in bytes of the array, as the main program's `status` counts them.
"""
