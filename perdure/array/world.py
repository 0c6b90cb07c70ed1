"""What every mount and creation stands on: the world they act in, what they leave behind, and how they insist."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from perdure import RELEASE
from perdure.array.commands import Authority
from perdure.array.genesis import Genesis
from perdure.array.places import Spread
from perdure.array.ports import Channel, Runtime, Verifier
from perdure.array.roster import NO_PROGRAM, Program, Roster
from perdure.array.session import Session
from perdure.errors import BadEvidence, Disconnected, DiskLost, PerdureError, Refused

RETRY_MS = 100
TRIES = 3
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class World:
    """What every mount and creation needs. `dead_after_ms` bounds how long a silent disk is waited for."""

    authority: Authority
    verifier: Verifier
    runtime: Runtime
    dead_after_ms: int
    spread: Spread | None = None
    """How members must be spread over failure domains; None asks for nothing."""
    release: int = RELEASE
    """Of this program; an array that a newer one has mounted is not mounted by it."""
    program: Program = NO_PROGRAM
    """What its developers signed; an array refuses older ones, and others of the same version."""
    has_chains: bool = False
    """Whether FLUSHes may rest on acknowledgement chains; weaker than evidence (docs/threat-model.md, section 4)."""
    freezes: bool = False
    """Whether an array that is served waits, as long as it takes, when silence would leave fewer than k disks."""

    on_change: Callable[[], None] = lambda: None
    """Called when a disk's health has changed."""

    def session(self, channel: Channel) -> Session:
        """A new session over `channel`."""
        return Session(
            channel,
            self.authority,
            self.verifier,
            self.runtime,
            self.dead_after_ms,
            has_chain=self.has_chains,
            on_change=self.on_change,
        )


@dataclass(frozen=True, slots=True)
class Stray:
    """A disk that was named but is not used, and why."""

    address: str
    why: PerdureError


@dataclass(frozen=True, slots=True)
class Opened:
    """An array that this main program owns: the roster is in force, the journal is empty."""

    genesis: Genesis
    epoch: bytes
    roster: Roster
    sessions: dict[bytes, Session]
    """By instance; exactly the members."""
    last: int
    """The number of the last journal entry; it is applied everywhere."""
    strays: tuple[Stray, ...]


def new_epoch(runtime: Runtime, above: bytes) -> bytes:
    """A counter one above that of `above`, then 64 random bits, so that two mounts never share one."""
    return (int.from_bytes(above[:8], "big") + 1).to_bytes(8, "big") + runtime.random(8)


async def persistently(world: World, ask: Callable[[], Awaitable[_T]]) -> _T:
    """What `ask` returns; silence is borne for `dead_after_ms`, refusals and bad evidence `TRIES` times.

    A host that flips a bit now and then must not cost us a disk. Raises DiskLost, Refused or BadEvidence.
    """
    give_up_ms = world.runtime.now_ms() + world.dead_after_ms
    tries = TRIES
    while True:
        try:
            return await ask()
        except Disconnected as silence:
            if world.runtime.now_ms() >= give_up_ms:
                raise DiskLost(f"it does not answer: {silence}") from silence
        except (Refused, BadEvidence):
            tries -= 1
            if not tries:
                raise
        await world.runtime.sleep(RETRY_MS)
