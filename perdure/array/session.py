"""One disk as one mount sees it: commands in strict order, trouble bounded, and nothing believed without evidence.

EXECUTEs are pipelined. A plain answer to one is only a hint that it was carried out; evidence for seq S proves it and
all before it. So does a link of the disk's chain (`perdure.array.chain`), as long as the disk keeps its secret: it is
asked for only where the caller says that it may be, and never satisfies who asked for evidence.

When anything goes wrong (connection, refusal, bad evidence, a link that is none) the disk is SUSPECT: HELLO asks for
evidence of where it stands, what is missing is sent again (the same signed bytes, so at most once), and only when
that fails for `dead_after_ms`, and the array can spare it, is the disk LOST. Refusals are unsigned, so they never
decide anything: HELLO does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from perdure.array import commands
from perdure.array.chain import Chain
from perdure.array.commands import Answer, Authority, Command
from perdure.array.geometry import Run
from perdure.array.ports import Attested, Buffer, Channel, Event, Lane, Runtime, Verifier
from perdure.disk import wire
from perdure.disk.wire import DISK_SECTOR_BYTES, Opcode, Wants
from perdure.errors import (
    BadEvidence,
    Blank,
    Clone,
    Disconnected,
    DiskLost,
    Fenced,
    Fork,
    LeakedSecret,
    MalformedEvidence,
    PerdureError,
    Refused,
    Rollback,
    WrongCommitment,
)

RETRY_MS = 100
Trouble = (Disconnected, Refused, BadEvidence)


class Health(Enum):
    """What `status` shows of a disk."""

    ONLINE = "online"
    SUSPECT = "suspect"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Greeting:
    """Where a disk stands, proved by evidence over our nonce."""

    instance: bytes
    epoch: bytes
    seq: int
    size: int
    attested: Attested


@dataclass(frozen=True, slots=True)
class Proof:
    """A question and its answer with evidence, as they were sent and received: whoever has the policy can judge it."""

    question: bytes
    answer: bytes


@dataclass(frozen=True, slots=True)
class Testimony:
    """What a disk answered to a READ, by evidence; the frames as they were sent and received."""

    command: Command
    reply: memoryview
    answer: Answer
    attested: Attested


@dataclass(slots=True, eq=False)
class _Pending:
    seq: int
    command: Command
    may_link: bool
    """Whether links prove enough for whoever waits for it."""
    chain: Chain | None
    """Whose link it asks for."""
    asked_ms: int
    reply: Awaitable[memoryview] | None = None


class Session:
    """One disk in one mount. `dead_after_ms` bounds how long it may be silent before it is given up.

    `has_chain`: whether acknowledgements may rest on a chain at all. `on_change` is called when `health` has changed.
    """

    def __init__(
        self,
        channel: Channel,
        authority: Authority,
        verifier: Verifier,
        runtime: Runtime,
        dead_after_ms: int,
        *,
        has_chain: bool = False,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.channel = channel
        self.instance = wire.NO_INSTANCE
        self.epoch = wire.NO_EPOCH
        self.seq = 0
        self.proved_seq = 0
        """The last that evidence proves."""
        self.linked_seq = 0
        """The last that evidence or a link proves."""
        self.health = Health.ONLINE
        self.lost: PerdureError | None = None
        self.attested: Attested | None = None
        self.attested_ms = 0
        self.proof: Proof | None = None
        """The last HELLO that was answered with good evidence: who it is and where it stands."""
        self.online_since_ms = runtime.now_ms()
        """When it was first known, or last came back from being SUSPECT."""
        self.can_be_spared: Callable[[], bool] = lambda: True
        """Whether it may be given up through silence now (`Members.can_spare`)."""
        self.read_slow_ms: int | None = None
        """When a read last went wrong or took too long; such a disk is asked last for a while."""
        self._authority = authority
        self._verifier = verifier
        self._runtime = runtime
        self._dead_after_ms = dead_after_ms
        self._has_chain = has_chain
        self._on_change = on_change
        self._chain: Chain | None = None
        self._answered_seq = 0
        self._pending: list[_Pending] = []
        self._recovery: Event | None = None
        self._trouble_since_ms: int | None = None

    @property
    def silent_since_ms(self) -> int:
        """When the trouble began that it is in; now, when there is none."""
        return self._runtime.now_ms() if self._trouble_since_ms is None else self._trouble_since_ms

    def has_been_there(self, since_ms: int) -> bool:
        """Whether it was not suspect for as long as a disk may be silent, and has given evidence after `since_ms`."""
        has_stayed = self._runtime.now_ms() - self.online_since_ms > self._dead_after_ms
        return self.health is Health.ONLINE and has_stayed and self.attested_ms >= since_ms

    # Commands ---------------------------------------------------------------------------------------------

    async def hello(self) -> Greeting:
        """Ask the disk who it is and where it stands. Raises Disconnected, Refused, BadEvidence."""
        command = self._command(Opcode.HELLO, wants=Wants.EVIDENCE)
        reply = await self.channel.exchange(Lane.WRITE, command.parts)
        answer, attested = await self._prove(command, reply)
        self.proof = Proof(b"".join(command.parts), bytes(reply))
        return Greeting(answer.instance, answer.epoch, answer.seq, answer.size, attested)

    async def peek(self, greeting: Greeting, runs: Sequence[Run]) -> memoryview:
        """READ with evidence at the epoch that the disk has now, before this mount takes it over."""
        self.instance, self.epoch = greeting.instance, greeting.epoch
        return await self.read(runs, evidence=True)

    async def open(self, instance: bytes, epoch: bytes) -> None:
        """Take the disk over: from here on it refuses every earlier epoch. Raises what `hello` does, or Fenced."""
        self.instance, self.epoch, self._chain = instance, epoch, None
        self.seq = self.proved_seq = self.linked_seq = self._answered_seq = 0
        command = self._command(Opcode.OPEN, wants=Wants.EVIDENCE)
        try:
            answer, _ = await self._prove(command, await self.channel.exchange(Lane.WRITE, command.parts))
            self._require_ours(answer)
        except Trouble:
            greeting = await self.hello()  # it may have landed all the same
            if greeting.epoch > epoch:
                raise self._fenced() from None
            if (greeting.instance, greeting.epoch, greeting.seq) != (instance, epoch, 0):
                raise

    def execute(
        self, ops: Sequence[bytes], data: Sequence[Buffer] = (), *, evidence: bool, may_link: bool = False
    ) -> Awaitable[None]:
        """Send one EXECUTE at once; the awaitable returns when the disk has it (with evidence: provably).

        With `may_link` a link of the disk's chain is as good as evidence, if it has a chain. The awaitable raises what
        made the disk LOST: DiskLost, Clone, Rollback, or Fenced.
        """
        self.seq += 1
        now_ms = self._runtime.now_ms()
        body = (wire.COUNT.pack(len(ops)) + b"".join(ops), *data)
        wants = self._wants(now_ms, evidence=evidence, may_link=may_link)
        command = self._command(Opcode.EXECUTE, seq=self.seq, body=body, wants=wants)
        chain = self._chain if wants is Wants.LINK else None
        pending = _Pending(self.seq, command, may_link or not evidence, chain, now_ms)
        if wants is Wants.CHAIN:
            self._chain = None  # the disk forgets it
        self._pending.append(pending)
        if self.health is Health.ONLINE:
            pending.reply = self.channel.exchange(Lane.WRITE, pending.command.parts)
        return self._complete(pending)

    def _wants(self, now_ms: int, *, evidence: bool, may_link: bool) -> Wants:
        if not evidence:
            return Wants.NOTHING
        if may_link and self._chain is not None and self._chain.reaches(self.seq, now_ms):
            return Wants.LINK
        is_renewing = any(pending.command.wants is Wants.CHAIN for pending in self._pending)
        return Wants.CHAIN if self._has_chain and not is_renewing else Wants.EVIDENCE

    async def read(self, runs: Sequence[Run], *, evidence: bool) -> memoryview:
        """The bytes of `runs` (in disk sectors), end to end; without evidence they prove nothing.

        Raises Disconnected, Refused, BadEvidence, Fenced, Rollback.
        """
        if evidence:
            return (await self.testify(runs)).answer.data
        command = self._read_command(runs, evidence=False)
        return commands.parse_reply(command, await self.channel.exchange(Lane.READ, command.parts)).data

    async def testify(self, runs: Sequence[Run]) -> Testimony:
        """The same with evidence, whole: question, answer and what the evidence says, for others to check."""
        answered = self._answered_seq
        command = self._read_command(runs, evidence=True)
        reply = await self.channel.exchange(Lane.READ, command.parts)
        answer, attested = await self._prove(command, reply)
        self._require_ours(answer)
        if answer.seq < answered:
            raise self._rolled_back(answer.seq, answered)
        return Testimony(command, reply, answer, attested)

    def _read_command(self, runs: Sequence[Run], *, evidence: bool) -> Command:
        total = sum(run.count for run in runs) * DISK_SECTOR_BYTES
        body = wire.COUNT.pack(len(runs)) + b"".join(wire.RUN.pack(run.start, run.count) for run in runs)
        return self._command(
            Opcode.READ, body=(body,), data_bytes=total, wants=Wants.EVIDENCE if evidence else Wants.NOTHING
        )

    def give_up(self, verdict: PerdureError) -> None:
        """Have nothing more to do with the disk; everything under way on it fails with `verdict`."""
        if self.lost is None:
            self._lose(verdict)

    async def probe(self) -> None:
        """Find out whether the disk is still ours. Raises what made it LOST."""
        await self._recover(None)

    # Evidence ---------------------------------------------------------------------------------------------

    def _command(
        self, opcode: Opcode, *, seq: int = 0, body: Sequence[Buffer] = (), data_bytes: int = 0, wants: Wants
    ) -> Command:
        nonce = self._runtime.random(32) if wants in (Wants.EVIDENCE, Wants.CHAIN) else None
        if opcode is Opcode.HELLO:
            return commands.build(self._authority, opcode, nonce=nonce)
        return commands.build(
            self._authority,
            opcode,
            instance=self.instance,
            epoch=self.epoch,
            seq=seq,
            nonce=nonce,
            body=body,
            data_bytes=data_bytes,
            wants=wants,
        )

    async def _prove(self, command: Command, reply: memoryview) -> tuple[Answer, Attested]:
        answer = commands.parse_reply(command, reply)
        assert answer.commitment is not None, "a command with a nonce has no other answer"
        attested = await self._verifier.verify(answer.document, answer.commitment)
        if self.instance in (answer.instance, wire.NO_INSTANCE):
            self.attested, self.attested_ms = attested, self._runtime.now_ms()
        return answer, attested

    def _require_ours(self, answer: Answer) -> None:
        """An attested answer must be by this instance in this epoch; else a host put another one in its place."""
        if answer.instance != self.instance:
            raise WrongCommitment("the answer is another disk's; a host put it in place of the one that was asked")
        if answer.epoch > self.epoch:
            raise self._fenced()
        if answer.epoch != self.epoch:
            raise WrongCommitment("the answer is of an earlier epoch")

    def _fenced(self) -> Fenced:
        return Fenced(
            "another main program has mounted the array; this one has lost it, and acknowledges nothing more. What it "
            "acknowledged before is safe there. Stop this one."
        )

    def _rolled_back(self, has_seq: int, answered_seq: int) -> Rollback:
        if has_seq < self.linked_seq:
            return LeakedSecret(
                f"disk {self.channel.address} proves that it carried out {has_seq} commands, but links of its chain "
                f"came for {self.linked_seq}: the chain's secret has leaked, and its host forged acknowledgements. "
                "What a FLUSH covered since the last evidence is safe only if no more than n - k disks do this."
            )
        return Rollback(
            f"disk {self.channel.address} proves that it carried out {has_seq} commands, but answers came for "
            f"{answered_seq}: its host forged acknowledgements. Nothing that a FLUSH covered is affected."
        )

    # Pipeline and recovery --------------------------------------------------------------------------------

    async def _complete(self, pending: _Pending) -> None:
        try:
            while pending.seq > (self.linked_seq if pending.may_link else self.proved_seq):
                reply = pending.reply
                try:
                    if reply is None:
                        raise Disconnected("the disk is suspect")
                    await self._accept(pending, await reply)
                    break
                except Trouble as trouble:
                    if pending.reply is reply:  # else it has been sent again meanwhile
                        await self._recover(trouble)
            self._answered_seq = max(self._answered_seq, pending.seq)
        finally:
            self._pending.remove(pending)  # also when the disk is lost: it holds what may be erased later

    async def _accept(self, pending: _Pending, reply: memoryview) -> None:
        if pending.command.nonce is None:
            answer = commands.parse_reply(pending.command, reply)
        else:
            answer, _ = await self._prove(pending.command, reply)
            self._require_ours(answer)
            self._has_proved(min(answer.seq, pending.seq))
        if (answer.instance, answer.epoch, answer.seq) != (self.instance, self.epoch, pending.seq):
            raise MalformedEvidence("the disk answered another command")
        if pending.chain is not None:
            pending.chain.accept(pending.seq, bytes(answer.data), self._runtime.now_ms())
            self.linked_seq = max(self.linked_seq, pending.seq)
        elif pending.command.wants is Wants.CHAIN:
            self._chain = Chain(bytes(answer.data), pending.seq, pending.asked_ms)
        self._trouble_since_ms = None

    def _has_proved(self, seq: int) -> None:
        self.proved_seq = max(self.proved_seq, seq)
        self.linked_seq = max(self.linked_seq, seq)

    async def _recover(self, trouble: PerdureError | None) -> None:
        """Ask until the disk says where it stands, then send again what it lacks; one recovery serves all who wait."""
        if self.lost is None and self._recovery is not None:
            await self._recovery.wait()
        elif self.lost is None:
            self._recovery = self._runtime.event()
            try:
                await self._ask_until_known(trouble)
            finally:
                self._recovery.set()
                self._recovery = None
        if self.lost is not None:
            raise self.lost

    async def _ask_until_known(self, trouble: PerdureError | None) -> None:
        if trouble is not None:
            self._chain = None  # in doubt about anything, evidence and another chain
            self._has_become(Health.SUSPECT)
            if self._trouble_since_ms is not None:  # HELLO alone did not help the last time: no storm
                await self._runtime.sleep(RETRY_MS)
        while True:
            now = self._runtime.now_ms()
            if trouble is not None and self._trouble_since_ms is None:
                self._trouble_since_ms = now
            if self._is_silent_for_too_long(now) and self.can_be_spared():
                self._lose(DiskLost(f"disk {self.channel.address} is given up: {trouble}."))
                return
            answered = max(self._answered_seq, self.proved_seq)  # as of before the question
            try:
                self._resume(await self.hello(), answered)
                return
            except Trouble as again:
                trouble = again
                self._has_become(Health.SUSPECT)
                await self._runtime.sleep(RETRY_MS)

    def _is_silent_for_too_long(self, now: int) -> bool:
        return self._trouble_since_ms is not None and now - self._trouble_since_ms > self._dead_after_ms

    def _resume(self, greeting: Greeting, answered: int) -> None:
        """Go on from where the disk proves to stand, or lose it when it is not the one we opened."""
        verdict = self._judge(greeting, answered)
        if verdict is not None:
            self._lose(verdict)
            return
        if greeting.seq > self.proved_seq or not self._pending:
            self._trouble_since_ms = None
        self._has_proved(greeting.seq)
        was_suspect = self.health is Health.SUSPECT
        if was_suspect:
            self.online_since_ms = self._runtime.now_ms()
        self._has_become(Health.ONLINE)
        for pending in self._pending:
            if pending.seq > greeting.seq and (was_suspect or pending.reply is None):
                pending.reply = self.channel.exchange(Lane.WRITE, pending.command.parts)

    def _judge(self, greeting: Greeting, answered: int) -> PerdureError | None:
        if greeting.instance != self.instance:
            if greeting.epoch == wire.NO_EPOCH:
                return Blank(f"disk {self.channel.address} was restarted: it is blank, and what it held is gone.")
            return Clone(f"another disk answers at {self.channel.address} in the place of the one the array knows")
        if greeting.epoch > self.epoch:
            return self._fenced()
        if greeting.epoch < self.epoch or greeting.seq > self.seq:
            return Fork(f"disk {self.channel.address} proves a history that this main program did not write")
        return self._rolled_back(greeting.seq, answered) if greeting.seq < answered else None

    def _lose(self, verdict: PerdureError) -> None:
        self.lost = verdict
        self._has_become(Health.LOST)
        self.channel.close()

    def _has_become(self, health: Health) -> None:
        if self.health is not health:
            self.health = health
            self._on_change()
