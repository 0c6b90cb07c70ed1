"""The modes of the array that take part, by name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from bench.model import Access, Kind, Result, Skip, Target, Work
from bench.ours.array import Mode, array
from bench.work import fio
from perdure.nbd.server import CONNECTIONS_MAX
from perdure.service.site.config import Acknowledgements

NITRO_MS = 5.7
"""What connecting, evidence and its verification take together on AWS Nitro, median of published measurements."""
PLAIN, CHAINS = "perdure", "perdure, chains"
_CHAINS = Acknowledgements.CHAINS
MODES = {
    PLAIN: (Mode(), "3 of 5 simulated disks, evidence with each flush"),
    "perdure, TCP": (Mode(tcp=True), "the same, its disks at TCP ports as the peers' parts are, not at Unix sockets"),
    f"perdure, {NITRO_MS} ms": (
        Mode(evidence_latency_ms=NITRO_MS),
        f"as the first, and each evidence takes {NITRO_MS} ms longer, as on AWS Nitro",
    ),
    "perdure, every read": (Mode(attest="every-read"), "as the first, with evidence of each read too"),
    CHAINS: (Mode(acknowledgements=_CHAINS), "acknowledgement chains in place of evidence with each flush: weaker"),
    f"perdure, chains, {NITRO_MS} ms": (
        Mode(acknowledgements=_CHAINS, evidence_latency_ms=NITRO_MS),
        f"with chains, and each evidence takes {NITRO_MS} ms longer",
    ),
}


def targets() -> dict[str, Callable[[], contextlib.AbstractContextManager[Target]]]:
    """Each mode's target, to be started."""
    return {name: _starter(name, mode, what) for name, (mode, what) in MODES.items()}


def _starter(name: str, mode: Mode, what: str) -> Callable[[], contextlib.AbstractContextManager[Target]]:
    @contextlib.contextmanager
    def start() -> Iterator[Target]:
        with array(mode) as running:

            def do(work: Work, seconds: float) -> Result:
                require_connections(work)
                return fio.run(running.place, work, seconds)

            fio.fill(running.place)
            takes = _takes_all if name == PLAIN else _takes_goals
            yield Target(name, what, do, running.processes, takes=takes, has_tcp=mode.tcp)

    return start


def require_connections(work: Work) -> None:
    """Raise Skip where each client is an NBD connection of its own and there are more than our server takes."""
    if work.fsync and work.depth > CONNECTIONS_MAX:
        raise Skip(f"{work.depth} clients are {work.depth} NBD connections, and the server takes {CONNECTIONS_MAX}")


def _takes_all(work: Work) -> bool:
    return work.kind is Kind.BLOCK


def _takes_goals(work: Work) -> bool:
    """Modes differ in evidence, which random work shows; the rest would be the same again."""
    return work.kind is Kind.BLOCK and work.goal and (not work.sequential or work.access is Access.READ)
