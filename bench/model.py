"""What everything here speaks of: a piece of work, its result, and a target that can do it. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
K, N = 3, 5
"""The shape of every array here, and of the peer that codes too: any 3 of 5 hold the data."""


class Skip(Exception):
    """Something cannot run here, or cannot do this work; the message says why, for the output and the page."""


class Kind(StrEnum):
    """Who does the work: fio (or a client that does the same to a database), or a database of this name."""

    BLOCK = "block"
    SQLITE = "sqlite"
    PGBENCH = "pgbench"
    LMDB = "lmdb"
    ROCKSDB = "rocksdb"


class Access(StrEnum):
    """What is done to blocks. Random reads and writes may mix, 70 to 30."""

    READ = "read"
    WRITE = "write"
    MIXED = "mixed"


@dataclass(frozen=True, slots=True)
class Work:
    """One piece of work. With `fsync`, `depth` is the number of clients that each wait for write and fsync."""

    name: str
    title: str
    kind: Kind
    depth: int
    access: Access = Access.WRITE
    block_bytes: int = 4 * KIB
    fsync: bool = False
    sequential: bool = False
    goal: bool = False
    """Whether a goal is about it: then every mode of ours does it, and the quick run too."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one target did in one round. `client_cpu_s` is the processor time of whoever asked."""

    operations: int
    duration_s: float
    block_bytes: int
    p50_us: float
    p99_us: float
    client_cpu_s: float
    details: Mapping[str, float] = field(default_factory=dict)
    """Whatever else this kind of work shows, by name with unit."""


Values = dict[str, float]
"""One run, flat, as it is kept in JSON: `iops`, `mib_s`, `p50_us`, `p99_us`, `cpu_us.ROLE`, `wire_bytes` ..."""


class Target:
    """Something that runs and can be given work; made by a context manager that ends it."""

    def __init__(
        self,
        name: str,
        what: str,
        do: Callable[[Work, float], Result],
        processes: Callable[[], Mapping[str, Sequence[int]]],
        *,
        takes: Callable[[Work], bool] = lambda work: work.kind is Kind.BLOCK,
        has_tcp: bool = False,
    ) -> None:
        self.name = name
        self.what = what
        """One sentence for the page."""
        self.do = do
        """Do the work for so many seconds. Raises Skip when it cannot."""
        self.processes = processes
        """Process ids by role: `main` (whom the client talks to), `disks` (who holds the data), `platform`."""
        self.takes = takes
        """Whether this work is for this target at all."""
        self.has_tcp = has_tcp
        """Whether its parts speak over TCP, so that the kernel counts their bytes."""


def flat(result: Result, cpu_s: Mapping[str, float], wire_bytes: int | None) -> Values:
    """One run as it is kept: rates per second, latencies and processor time in microseconds per operation."""
    count = max(result.operations, 1)
    values = {
        "operations": float(result.operations),
        "iops": result.operations / result.duration_s,
        "mib_s": result.operations * result.block_bytes / MIB / result.duration_s,
        "p50_us": result.p50_us,
        "p99_us": result.p99_us,
        **result.details,
    }
    values |= {f"cpu_us.{role}": used * 1e6 / count for role, used in {**cpu_s, "client": result.client_cpu_s}.items()}
    if wire_bytes is not None:
        values["wire_bytes"] = wire_bytes / count
    return values
