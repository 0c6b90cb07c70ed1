"""One disk as a mount sees it: what is believed, what is sent again, and when it is given up."""

from __future__ import annotations

import hashlib

import pytest

from perdure.array.geometry import Run
from perdure.array.ports import Lane
from perdure.array.session import Greeting, Health, Session
from perdure.disk import wire
from perdure.disk.wire import Opcode, Reason
from perdure.errors import (
    Clone,
    Disconnected,
    DiskLost,
    Fenced,
    Fork,
    MalformedEvidence,
    Refused,
    Rollback,
    WrongCommitment,
)
from perdure.sim.disks import SimChannel
from perdure.sim.loop import Future
from tests.array.world import SimArray, outcome

FIRST = b"\0" * 7 + b"\1" + b"a" * 8
LATER = b"\0" * 7 + b"\2" + b"b" * 8


class Pair:
    """A disk, and a session that has opened it."""

    def __init__(self) -> None:
        self.sim = SimArray(k=2, n=3, sectors=4, dead_after_ms=1000)
        self.disk = self.sim.disks[0]
        assert self.disk is not None
        self.channel = self.sim.new_channels()[0]
        self.session = self.new_session(self.channel)
        self.sim.run(self.session.open(self.disk.instance, FIRST))

    def new_session(self, channel: SimChannel) -> Session:
        return self.sim.world().session(channel)

    def execute(self, value: int = 1, *, evidence: bool = True) -> object:
        ops = [wire.OP.pack(wire.OpKind.WRITE, 0, 1, 0)]

        async def run() -> None:
            await self.session.execute(ops, (bytes([value]) * 64,), evidence=evidence)

        return self.sim.run(outcome(run()))

    def probe(self) -> object:
        return self.sim.run(outcome(self.session.probe()))


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_hello_says_where_the_disk_stands(pair: Pair) -> None:
    pair.execute()
    greeting = pair.sim.run(pair.session.hello())
    assert isinstance(greeting, Greeting)
    assert (greeting.instance, greeting.epoch, greeting.seq) == (pair.disk.instance, FIRST, 1)  # type: ignore[union-attr]
    assert pair.session.attested is greeting.attested


def test_an_execute_with_evidence_is_proved_and_one_without_is_not(pair: Pair) -> None:
    assert pair.execute(evidence=False) is None
    assert pair.session.proved_seq == 0
    assert pair.execute(evidence=True) is None
    assert pair.session.proved_seq == 2


@pytest.mark.parametrize("reason", list(Reason))
def test_a_forged_refusal_decides_nothing(pair: Pair, reason: Reason) -> None:
    """The command is sent again once HELLO shows that it did not land, or is done once HELLO shows that it did."""
    refusal = wire.REPLY_HEADER.pack(wire.REFUSAL, reason)

    def once(lane: Lane, command: bytes, reply: bytes) -> bytes:
        pair.channel.tamper = None
        return refusal

    pair.channel.tamper = once
    assert pair.execute() is None
    assert pair.disk.core.seq == 1  # type: ignore[union-attr]
    assert pair.session.health is Health.ONLINE


@pytest.mark.parametrize("evidence", [True, False])
def test_a_reply_of_any_other_shape_is_asked_about(pair: Pair, evidence: bool) -> None:
    for forged in (b"", b"\1", b"\1\0\0\0\0", b"\3" + bytes(80), bytes(200)):

        def once(lane: Lane, command: bytes, reply: bytes, forged: bytes = forged) -> bytes:
            pair.channel.tamper = None
            return forged

        pair.channel.tamper = once
        assert pair.execute(evidence=evidence) is None
    assert pair.disk.core.seq == 5  # type: ignore[union-attr]


def test_refusals_without_end_cost_the_disk_after_the_bound(pair: Pair) -> None:
    pair.channel.intercept = lambda lane, command: (
        wire.REPLY_HEADER.pack(wire.REFUSAL, Reason.WRONG_SEQ) if command[65] == Opcode.EXECUTE else None
    )
    start = pair.sim.loop.now_ms()
    verdict = pair.execute()
    assert isinstance(verdict, DiskLost)
    assert 1000 <= pair.sim.loop.now_ms() - start < 3000
    assert pair.session.health is Health.LOST
    assert pair.execute() is verdict, "and stays lost"


def test_a_later_mount_is_believed_only_with_evidence(pair: Pair) -> None:
    """A9: a plain answer that names a later epoch is only a reason to ask."""
    fields = (pair.session.instance, LATER, 1, pair.disk.core.size)  # type: ignore[union-attr]
    result = wire.RESULT.pack(*fields)

    def once(lane: Lane, command: bytes, reply: bytes) -> bytes:
        pair.channel.tamper = None
        return wire.REPLY_HEADER.pack(wire.ANSWER, len(result)) + result

    pair.channel.tamper = once
    assert pair.execute(evidence=False) is None
    other = pair.new_session(pair.sim.new_channels()[0])
    pair.sim.run(other.open(pair.session.instance, LATER))
    assert isinstance(pair.execute(), Fenced)


def test_reading_with_evidence_notices_a_later_mount(pair: Pair) -> None:
    pair.sim.run(pair.session.read([Run(0, 1)], evidence=True))
    other = pair.new_session(pair.sim.new_channels()[0])
    pair.sim.run(other.open(pair.session.instance, LATER))
    verdict = pair.sim.run(outcome(pair.session.read([Run(0, 1)], evidence=True)))
    assert isinstance(verdict, Refused)
    assert isinstance(pair.probe(), Fenced)


def test_opening_below_a_later_epoch_is_fenced(pair: Pair) -> None:
    other = pair.new_session(pair.sim.new_channels()[0])
    pair.sim.run(other.open(pair.session.instance, LATER))
    late = pair.new_session(pair.sim.new_channels()[0])
    assert isinstance(pair.sim.run(outcome(late.open(pair.session.instance, FIRST))), Fenced)


def test_an_open_whose_answer_was_lost_has_landed(pair: Pair) -> None:
    session = pair.new_session(pair.channel)

    def once(lane: Lane, command: bytes, reply: bytes) -> bytes:
        pair.channel.tamper = None
        return wire.REPLY_HEADER.pack(wire.REFUSAL, Reason.NO_EVIDENCE)

    pair.channel.tamper = once
    pair.sim.run(session.open(pair.session.instance, LATER))
    assert pair.disk.core.epoch == LATER  # type: ignore[union-attr]


def test_an_open_that_did_not_land_is_an_error(pair: Pair) -> None:
    session = pair.new_session(pair.channel)
    pair.channel.intercept = lambda lane, command: (
        wire.REPLY_HEADER.pack(wire.REFUSAL, Reason.MALFORMED) if command[65] == Opcode.OPEN else None
    )
    assert isinstance(pair.sim.run(outcome(session.open(pair.session.instance, LATER))), Refused)


def _answer_by_another(pair: Pair) -> None:
    """A9: the host passes our commands to a second disk of ours and its good evidence back."""
    other = pair.sim.disks[1]
    assert other is not None
    opener = pair.new_session(pair.sim.new_channels()[1])
    pair.sim.run(opener.open(other.instance, FIRST))


def test_an_answer_by_another_disk_is_not_taken(pair: Pair) -> None:
    _answer_by_another(pair)
    pair.sim.disks[0] = pair.sim.disks[1]
    assert isinstance(pair.sim.run(outcome(pair.session.read([Run(0, 1)], evidence=True))), Refused)
    verdict = pair.probe()
    assert isinstance(verdict, Clone)
    assert verdict.exit_code == 3


def test_attested_answers_must_name_our_instance_and_epoch(pair: Pair) -> None:
    answer = pair.sim.run(outcome(_attested(pair, pair.session.instance, LATER)))
    assert isinstance(answer, Fenced)
    answer = pair.sim.run(outcome(_attested(pair, b"\7" * 32, FIRST)))
    assert isinstance(answer, WrongCommitment)
    answer = pair.sim.run(outcome(_attested(pair, pair.session.instance, b"\0" * 8 + b"z" * 8)))
    assert isinstance(answer, WrongCommitment)


async def _attested(pair: Pair, instance: bytes, epoch: bytes) -> None:
    """A READ answered by hardware that runs our image, but as another instance or at another epoch."""
    disk = pair.disk
    assert disk is not None

    def forge(lane: Lane, command: bytes) -> bytes:
        result = wire.RESULT.pack(instance, epoch, 0, disk.core.size) + bytes(64)
        nonce = wire.COMMAND_HEADER.unpack_from(command, 64)[6]
        digest = wire.command_digest(command[64:])
        own = wire.leaf(instance, epoch, 0, nonce, digest, hashlib.sha256(result).digest())
        head = wire.REPLY_HEADER.pack(wire.ANSWER, len(result)) + result
        return head + wire.PATH_HEADER.pack(0, 1) + disk._evidence.attest(own)

    pair.channel.intercept = forge
    try:
        await pair.session.read([Run(0, 1)], evidence=True)
    finally:
        pair.channel.intercept = None


def test_a_read_that_is_older_than_what_was_answered_is_a_rollback(pair: Pair) -> None:
    """A3: plain answers were forged; evidence of a READ shows that the disk is behind."""
    core = pair.disk.core  # type: ignore[union-attr]
    result = wire.RESULT.pack(core.instance, FIRST, 1, core.size)
    pair.channel.intercept = lambda lane, command: (
        wire.REPLY_HEADER.pack(wire.ANSWER, len(result)) + result if command[65] == Opcode.EXECUTE else None
    )
    assert pair.execute(evidence=False) is None
    verdict = pair.sim.run(outcome(pair.session.read([Run(0, 1)], evidence=True)))
    assert isinstance(verdict, Rollback)
    assert isinstance(pair.probe(), Rollback)


def test_a_history_that_we_did_not_write_is_a_fork(pair: Pair) -> None:
    """Somebody else who has our key commands the disk at our epoch."""
    thief = pair.new_session(pair.sim.new_channels()[0])
    thief.instance, thief.epoch = pair.session.instance, FIRST
    ops = [wire.OP.pack(wire.OpKind.TRIM, 0, 1, 0)]

    async def steal() -> None:
        await thief.execute(ops, evidence=False)

    pair.sim.run(steal())
    verdict = pair.probe()
    assert type(verdict) is Fork


def test_evidence_that_was_not_asked_for_is_refused(pair: Pair) -> None:
    pair.channel.tamper = lambda lane, command, reply: reply + b"\0" * 100
    verdict = pair.sim.run(outcome(pair.session.read([Run(0, 1)], evidence=False)))
    assert isinstance(verdict, MalformedEvidence)


def test_a_broken_read_is_the_callers_to_ask_elsewhere(pair: Pair) -> None:
    pair.sim.kill(0)
    assert isinstance(pair.sim.run(outcome(pair.session.read([Run(0, 1)], evidence=False))), Disconnected)
    assert pair.session.health is Health.ONLINE


def test_one_recovery_serves_all_who_wait_and_keeps_their_order(pair: Pair) -> None:
    """Ten pipelined EXECUTEs, the stream cut in the middle: each lands once, in order."""
    sim = pair.sim
    count = 0

    def cut(lane: Lane, command: bytes, reply: bytes) -> bytes | None:
        nonlocal count
        count += 1
        if count == 5:
            pair.channel.close()
            return None
        return reply

    pair.channel.tamper = cut
    hellos = [c for c in pair.disk.commands if c[65] == Opcode.HELLO]  # type: ignore[union-attr]

    async def pipeline() -> list[object]:
        ops = [wire.OP.pack(wire.OpKind.WRITE, 0, 1, 0)]
        return await sim.loop.gather(
            *(pair.session.execute(ops, (bytes([v]) * 64,), evidence=v % 3 == 0) for v in range(10))
        )

    assert sim.run(pipeline()) == [None] * 10
    assert pair.disk.core.seq == 10  # type: ignore[union-attr]
    assert pair.disk.memory[:64] == bytes([9]) * 64  # type: ignore[union-attr]
    again = [c for c in pair.disk.commands if c[65] == Opcode.HELLO]  # type: ignore[union-attr]
    assert len(again) - len(hellos) == 1


def test_a_failure_of_what_has_been_sent_again_meanwhile_is_not_followed_up(pair: Pair) -> None:
    loop = pair.sim.loop
    first, second = Future(loop), Future(loop)
    pair.channel.exchange = lambda lane, parts: first  # type: ignore[method-assign,assignment]
    ops = [wire.OP.pack(wire.OpKind.TRIM, 0, 1, 0)]

    async def run() -> None:
        await pair.session.execute(ops, evidence=False)

    task = pair.sim.spawn(run())
    loop.run_for(1)
    (pending,) = pair.session._pending
    pending.reply = second
    command = b"".join(bytes(part) for part in pending.command.parts)
    first.set_error(Disconnected("late news"))
    second.set_result(memoryview(pair.disk.reply(command)))  # type: ignore[union-attr]
    loop.run_for(1)
    assert task.done
    assert pair.session.health is Health.ONLINE
