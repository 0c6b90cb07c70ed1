"""Simulated machines: the real disk core behind a network that can lose, delay and lie.

A `SimDisk` is one launch of the disk program; killing it and launching again gives another instance, blank. A
`SimChannel` is a main program's way to an address, at which any disk, or none, may stand.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from perdure.array.ports import Buffer, Lane
from perdure.disk import wire
from perdure.disk.core import DiskCore, Refusal
from perdure.errors import Disconnected, MalformedEvidence, WrongCommitment
from perdure.sim.loop import Future, Loop

_HARDWARE_KEY = b"the simulated hardware's secret, which no simulated adversary knows"
_OUT = memoryview(bytearray(wire.READ_BYTES_MAX))
_Waiting = tuple[Future[memoryview], float]
"""An exchange under way, and when it will have waited for too long."""


@dataclass(frozen=True, slots=True)
class SimAttested:
    """What the fast evidence says."""

    platform: str = "simulated"
    root: str = "fast"
    module_id: str = "i-0-enc0"
    time_ms: int | None = 0

    @property
    def host(self) -> str:
        """As on Nitro."""
        return self.module_id.partition("-enc")[0]

    @property
    def measurement(self) -> Mapping[str, bytes]:
        """Nothing runs there."""
        return {}


class FastEvidence:
    """Evidence at the price of a hash: a MAC under a key that only the simulated hardware has.

    Stands for documents where millions of them are needed; some stories have the real format
    (`perdure.sim.hardware`).
    """

    def attest(self, report_data: bytes) -> bytes:
        """A document over 64 bytes."""
        return report_data + hmac.digest(_HARDWARE_KEY, report_data, "sha256")

    async def verify(self, document: bytes, commitment: bytes) -> SimAttested:
        """Raises MalformedEvidence, WrongCommitment."""
        if len(document) != 96 or hmac.digest(_HARDWARE_KEY, document[:64], "sha256") != document[64:]:
            raise MalformedEvidence("forged evidence")
        if document[:64] != commitment:
            raise WrongCommitment("evidence for something else")
        return SimAttested()


class Evidence(Protocol):
    """What stands for a disk's hardware, and for whoever checks what it signs."""

    def attest(self, report_data: bytes) -> bytes:
        """A document over 64 bytes."""

    async def verify(self, document: bytes, commitment: bytes) -> SimAttested:
        """What the document proves. Raises BadEvidence."""


class SimDisk:
    """One launch of the disk program. `core` may be a cheaper disk (`perdure.sim.signatures`)."""

    def __init__(
        self,
        loop: Loop,
        authority: bytes,
        size_bytes: int,
        core: Callable[..., DiskCore] = DiskCore,
        evidence: Evidence | None = None,
    ) -> None:
        self.memory = bytearray(size_bytes)
        self.core = core(memoryview(self.memory), loop.random(32), authority, loop.random)
        self.is_alive = True
        self.commands: list[bytes] = []
        self.proofs: dict[bytes, bytes] = {}
        """What a host recorded: by command, the reply that carried evidence."""
        self.shown: list[bytes] = []
        """Anchors and links, in the order in which they were shown."""
        self.link_count = 0
        self._evidence: Evidence = evidence or FastEvidence()

    @property
    def instance(self) -> bytes:
        """Which launch this is."""
        return self.core.instance

    def secret_link(self, seq: int) -> bytes | None:
        """What nobody outside of the disk can know: the link that it would show for a seq to come, if there is one."""
        chain, size = self.core._chain, wire.LINK_BYTES
        at = seq - chain.seqs.start
        return bytes(chain._links[at * size : (at + 1) * size]) if seq in chain.seqs else None

    def reply(self, command: bytes) -> bytes:
        """What the disk answers, evidence included."""
        self.commands.append(command)
        return self.core_reply(command)

    def core_reply(self, command: bytes) -> bytes:
        """The same to a command that is not new, and so not recorded again."""
        try:
            answer = self.core.handle(memoryview(command), _OUT)
        except Refusal as refused:
            return wire.REPLY_HEADER.pack(wire.REFUSAL, refused.reason)
        result = answer.head + answer.data
        if command[wire.SIGNATURE_BYTES + 2] >= wire.Wants.CHAIN:
            self.shown.append(bytes(answer.data))
            self.link_count += command[wire.SIGNATURE_BYTES + 2] == wire.Wants.LINK
        reply = wire.REPLY_HEADER.pack(wire.ANSWER, len(result)) + result
        if answer.leaf is not None:
            reply += wire.PATH_HEADER.pack(0, 1) + self._evidence.attest(answer.leaf)
            self.proofs.setdefault(command, reply)
        return reply


class SimChannel:
    """A `perdure.array.ports.Channel` to whatever `standing` says is at the address now."""

    def __init__(
        self, loop: Loop, address: str, standing: Callable[[], SimDisk | None], rng: Random | None = None
    ) -> None:
        self._loop = loop
        self._address = address
        self._standing = standing
        self._rng = rng or loop.rng
        self._arrives_ms = [0.0 for _ in Lane]
        self._waiting: list[list[_Waiting]] = [[] for _ in Lane]
        self._is_watched = [False for _ in Lane]
        self.latency_ms: tuple[float, float] = (0.05, 0.2)
        self.lane_delay_ms = [0.0 for _ in Lane]
        """How much slower one of the connections is than the other."""
        self.is_silent = False
        self.answer_ms_max = 500.0
        self.tamper: Callable[[Lane, bytes, bytes], bytes | None] | None = None
        """Sees a command and its reply; gives the reply to deliver, or None for silence."""
        self.intercept: Callable[[Lane, bytes], bytes | None] | None = None
        """Sees a command before the disk does; a reply of its own keeps it from the disk."""
        self.may_leave: Callable[[bytes], bool] | None = None
        """Sees a command before the network does; False when the process died before it could send it."""
        self.exchange_count = 0
        self.sent_bytes = 0
        self._is_cut = False

    @property
    def address(self) -> str:
        """Its name."""
        return self._address

    def exchange(self, lane: Lane, parts: Sequence[Buffer]) -> Future[memoryview]:
        """Send one frame; see `perdure.array.ports.Channel`."""
        command = b"".join(parts)
        self.exchange_count += 1
        self.sent_bytes += len(command) + wire.FRAME_HEADER.size
        future: Future[memoryview] = Future(self._loop)
        self._waiting[lane].append((future, self._loop.time_ms + self.answer_ms_max))
        if self.may_leave is None or self.may_leave(command):
            self._loop.call_later(self._delay(lane), lambda: self._arrive(lane, command, future))
        if not self._is_watched[lane]:
            self._is_watched[lane] = True
            self._loop.call_later(self.answer_ms_max, lambda: self._watch(lane))
        return future

    def close(self) -> None:
        """Drop the connections: exchanges under way fail."""
        for lane in Lane:
            self._break(lane, "closed")

    def cut(self) -> None:
        """Lose what is on its way to the disk, for good: the sender is dead, and so are its buffers."""
        self._is_cut = True

    def _delay(self, lane: Lane) -> float:
        """Later than everything sent before on this lane: streams keep order."""
        now = self._loop.time_ms
        low, high = self.latency_ms
        arrives = now + low + (high - low) * self._rng.random() + self.lane_delay_ms[lane]
        self._arrives_ms[lane] = arrives = max(arrives, self._arrives_ms[lane])
        return arrives - now

    def _arrive(self, lane: Lane, command: bytes, future: Future[memoryview]) -> None:
        if self.is_silent or self._is_cut or future.done:
            return
        disk = self._standing()
        if disk is None or not disk.is_alive:
            self._break(lane, "connection refused")
            return
        own = self.intercept(lane, command) if self.intercept else None
        if not disk.is_alive:
            self._break(lane, "connection reset")
            return
        reply: bytes | None = own if own is not None else disk.reply(command)
        if own is None and self.tamper is not None and reply is not None:
            reply = self.tamper(lane, command, reply)
        if reply is not None:
            answer = reply
            self._loop.call_later(self._delay(lane), lambda: self._answer(lane, future, answer))

    def _answer(self, lane: Lane, future: Future[memoryview], reply: bytes) -> None:
        if future.done or self.is_silent:
            return
        if self._waiting[lane][0][0] is not future:
            self._break(lane, "an answer is missing")
            return
        self._waiting[lane].pop(0)
        future.set_result(memoryview(reply))

    def _watch(self, lane: Lane) -> None:
        """Give up on a lane whose oldest command has waited for too long; look again when the next one will have."""
        self._is_watched[lane] = bool(self._waiting[lane])
        if self._waiting[lane]:
            left_ms = self._waiting[lane][0][1] - self._loop.time_ms
            if left_ms <= 0:
                self._break(lane, "no answer in time")
                self._is_watched[lane] = False
            else:
                self._loop.call_later(left_ms + 0.001, lambda: self._watch(lane))

    def _break(self, lane: Lane, why: str) -> None:
        waiting, self._waiting[lane] = self._waiting[lane], []
        for future, _ in waiting:
            future.set_error(Disconnected(why))
