"""What the array core asks of the world. A shell implements these over sockets, threads and the clock; a simulator
implements them in one thread with time and trouble as arguments.

Contract for all: an awaitable resumes in the order in which its cause happened; nothing here decides anything.
"""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from enum import IntEnum
from typing import Any, Protocol

Buffer = bytes | bytearray | memoryview


class Lane(IntEnum):
    """Each disk has two connections, so that a read never waits behind evidence for a write."""

    WRITE = 0
    READ = 1


class Channel(Protocol):
    """The way to one disk: frames out, replies back, in order per lane."""

    @property
    def address(self) -> str:
        """Where the host says the disk is: a hint for people, never trusted."""

    def exchange(self, lane: Lane, parts: Sequence[Buffer]) -> Awaitable[memoryview]:
        """Send one frame (the parts joined, without its length), at once and in call order; await its reply.

        Connects first if it must. Raises Disconnected when the connection breaks, or when no reply came in time; then
        every exchange under way on that lane has failed.
        """

    def close(self) -> None:
        """Drop both connections."""


class Event(Protocol):
    """Happens once; whoever awaits it resumes then, or at once if it has happened."""

    def set(self) -> None:
        """Let it happen."""

    async def wait(self) -> None:
        """Return when it has happened."""


class Runtime(Protocol):
    """Time, randomness and concurrency."""

    def now_ms(self) -> int:
        """Milliseconds on a clock that never goes back. Its zero means nothing."""

    def unix_ms(self) -> int:
        """Milliseconds since 1970, for the validity of evidence."""

    def random(self, count: int) -> bytes:
        """`count` bytes from the operating system's generator."""

    async def sleep(self, ms: float) -> None:
        """Return after `ms` milliseconds."""

    def event(self) -> Event:
        """A new event that has not happened."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` beside the caller. An exception that escapes it is a defect and must be made loud."""

    async def gather(self, *work: Awaitable[Any]) -> list[Any]:
        """Run all at once; their results in order, an exception standing in the place of its result."""


def results(outcomes: list[Any]) -> list[Any]:
    """What `Runtime.gather` gave, if nothing of it is an exception; else raise the first."""
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return outcomes


class Verifier(Protocol):
    """Checks a platform's document; the policy is inside."""

    async def verify(self, document: bytes, commitment: bytes) -> Attested:
        """What the document proves. Raises BadEvidence."""


class Attested(Protocol):
    """What a verified document says about the disk beside the commitment."""

    @property
    def platform(self) -> str:
        """For instance `nitro` or `simulated`."""

    @property
    def root(self) -> str:
        """The policy's name for the trust anchor."""

    @property
    def module_id(self) -> str:
        """The platform's own name for this launch of this machine."""

    @property
    def host(self) -> str | None:
        """The machine, as far as the platform tells."""

    @property
    def measurement(self) -> Mapping[str, bytes]:
        """The registers that say what runs there."""

    @property
    def time_ms(self) -> int | None:
        """When the platform says the document was made, Unix milliseconds; None where it says nothing of that."""
