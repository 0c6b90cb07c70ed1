"""A session with acknowledgement chains: when a link is asked for, what it proves, and that doubt ends in evidence."""

from __future__ import annotations

from collections import Counter

import pytest

from perdure.array.chain import CHAIN_ASK_MS_MAX
from perdure.array.ports import Lane
from perdure.array.session import Health, Session
from perdure.disk import wire
from perdure.disk.wire import LINK_BYTES, LINKS, Reason, Wants
from perdure.errors import Disconnected, Fenced, LeakedSecret, Rollback
from perdure.sim.disks import SimDisk
from tests.array.world import SimArray, outcome

FIRST = b"\0" * 7 + b"\1" + b"a" * 8
LATER = b"\0" * 7 + b"\2" + b"b" * 8
OPS = [wire.OP.pack(wire.OpKind.WRITE, 0, 1, 0)]
DATA = (b"d" * 64,)


class Pair:
    """A disk, and a session with a chain that has opened it."""

    def __init__(self, *, has_chains: bool = True) -> None:
        self.sim = SimArray(k=2, n=3, sectors=4, dead_after_ms=1000, has_chains=has_chains)
        self.channel = self.sim.new_channels()[0]
        self.session = self.sim.world().session(self.channel)
        self.sim.run(self.session.open(self.disk.instance, FIRST))

    @property
    def disk(self) -> SimDisk:
        disk = self.sim.disks[0]
        assert disk is not None
        return disk

    def prove(self, *, evidence: bool = True, may_link: bool = True) -> object:
        async def run() -> None:
            await self.session.execute(OPS, DATA, evidence=evidence, may_link=may_link)

        return self.sim.run(outcome(run()))

    def wanted(self) -> list[int]:
        """What the EXECUTEs wanted that reached the disk."""
        commands = [command for command in self.disk.commands if command[65] == wire.Opcode.EXECUTE]
        return [command[66] for command in commands]

    def once(self, reply: bytes | None) -> None:
        """The next answer is another."""

        def tamper(lane: Lane, command: bytes, true: bytes) -> bytes | None:
            self.channel.tamper = None
            return reply

        self.channel.tamper = tamper

    def hellos(self) -> int:
        return sum(command[65] == wire.Opcode.HELLO for command in self.disk.commands)


@pytest.fixture
def pair() -> Pair:
    return Pair()


def answer(session: Session, disk: SimDisk, seq: int, link: bytes) -> bytes:
    result = wire.RESULT.pack(session.instance, session.epoch, seq, disk.core.size) + link
    return wire.REPLY_HEADER.pack(wire.ANSWER, len(result)) + result


def test_the_first_proof_is_evidence_and_brings_a_chain_whose_links_prove_the_next(pair: Pair) -> None:
    for _ in range(4):
        assert pair.prove() is None
    assert pair.wanted() == [Wants.CHAIN, Wants.LINK, Wants.LINK, Wants.LINK]
    assert (pair.session.proved_seq, pair.session.linked_seq) == (1, 4)
    assert pair.hellos() == 0


def test_without_chains_every_proof_is_evidence() -> None:
    pair = Pair(has_chains=False)
    for _ in range(3):
        pair.prove()
    assert pair.wanted() == [Wants.EVIDENCE] * 3
    assert not pair.disk.shown


def test_whoever_needs_evidence_gets_it_and_a_new_chain_with_it(pair: Pair) -> None:
    pair.prove()
    assert pair.prove(may_link=False) is None
    assert pair.wanted() == [Wants.CHAIN, Wants.CHAIN]
    assert pair.session.proved_seq == 2
    pair.prove()
    assert pair.wanted()[-1] == Wants.LINK


def test_what_wants_no_proof_gets_none_and_skips_its_link(pair: Pair) -> None:
    pair.prove()
    pair.prove(evidence=False)
    assert pair.session.linked_seq == 1
    pair.prove()
    assert pair.wanted() == [Wants.CHAIN, Wants.NOTHING, Wants.LINK]
    assert pair.session.linked_seq == 3


def test_a_chain_is_used_up_and_then_renewed(pair: Pair) -> None:
    for _ in range(2 * LINKS + 2):
        pair.prove()
    assert pair.wanted() == [Wants.CHAIN, *[Wants.LINK] * LINKS] * 2
    assert pair.session.proved_seq == LINKS + 2


def test_an_old_chain_is_not_used(pair: Pair) -> None:
    pair.prove()
    pair.sim.loop.run_for(CHAIN_ASK_MS_MAX - 5)
    pair.prove()
    pair.sim.loop.run_for(10)
    pair.prove()
    assert pair.wanted() == [Wants.CHAIN, Wants.LINK, Wants.CHAIN]


def test_while_a_chain_is_on_its_way_proofs_are_evidence(pair: Pair) -> None:
    async def pipeline() -> None:
        await pair.sim.loop.gather(
            *(pair.session.execute(OPS, DATA, evidence=True, may_link=True) for _ in range(3)),
        )

    pair.sim.run(pipeline())
    assert pair.wanted() == [Wants.CHAIN, Wants.EVIDENCE, Wants.EVIDENCE]
    pair.prove()
    assert pair.wanted()[-1] == Wants.LINK
    assert pair.session.linked_seq == 4


def test_links_are_pipelined_with_all_else(pair: Pair) -> None:
    pair.prove()

    async def pipeline() -> list[object]:
        kinds = [(True, True), (True, True), (False, False), (True, True), (True, False), (True, True), (False, False)]
        return await pair.sim.loop.gather(
            *(pair.session.execute(OPS, DATA, evidence=evidence, may_link=may) for evidence, may in kinds)
        )

    assert pair.sim.run(pipeline()) == [None] * 7
    expected = [Wants.LINK, Wants.LINK, Wants.NOTHING, Wants.LINK, Wants.CHAIN, Wants.EVIDENCE, Wants.NOTHING]
    assert pair.wanted()[1:] == expected
    assert pair.hellos() == 0
    assert pair.session.proved_seq == 7


FORGED = {
    "zeros": lambda shown: bytes(LINK_BYTES),
    "the last link": lambda shown: shown[-1],
    "the anchor": lambda shown: shown[0],
    "the hash of the anchor": lambda shown: wire.hashed_link(shown[0]),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED.keys())
def test_a_forged_link_proves_nothing_and_hello_decides(pair: Pair, forge: object) -> None:
    """A3: the command is dropped and acknowledged; evidence shows that, and it is sent again."""
    pair.prove()
    pair.prove()
    dropped: list[bytes] = []

    def drop(lane: Lane, command: bytes) -> bytes:
        pair.channel.intercept = None
        dropped.append(command)
        assert pair.disk.core.seq == 2
        return answer(pair.session, pair.disk, 3, forge(pair.disk.shown))  # type: ignore[operator]

    pair.channel.intercept = drop
    assert pair.prove() is None
    assert pair.disk.commands[-1] == dropped[0], "the very same signed bytes"
    assert (pair.disk.core.seq, pair.hellos()) == (3, 1)
    pair.prove()
    assert pair.wanted() == [Wants.CHAIN, Wants.LINK, Wants.LINK, Wants.CHAIN], "in doubt, evidence"


@pytest.mark.parametrize("bit", [0, 100, 255])
def test_a_flipped_link_is_asked_about_and_costs_nothing(pair: Pair, bit: int) -> None:
    pair.prove()

    def flip(lane: Lane, command: bytes, reply: bytes) -> bytes:
        pair.channel.tamper = None
        at = len(reply) - 1 - bit // 8
        return reply[:at] + bytes([reply[at] ^ 1 << bit % 8]) + reply[at + 1 :]

    pair.channel.tamper = flip
    assert pair.prove() is None
    assert (pair.session.proved_seq, pair.hellos()) == (2, 1), "HELLO proves that it was carried out"


def test_a_link_of_another_disk_is_not_taken(pair: Pair) -> None:
    """A9: both disks have chains, and the host swaps the answers."""
    other = Pair()
    for each in (pair, other):
        each.prove()
        each.prove()
    pair.once(answer(pair.session, pair.disk, 3, other.disk.shown[-1]))
    assert pair.prove() is None
    assert pair.hellos() == 1


def test_a_link_of_an_earlier_epoch_is_not_taken(pair: Pair) -> None:
    pair.prove()
    pair.prove()
    old = pair.disk.shown[-1]
    pair.sim.run(pair.session.open(pair.disk.instance, LATER))
    assert pair.prove() is None
    assert pair.wanted()[-1] == Wants.CHAIN, "the disk has forgotten its chain, and so have we"
    pair.once(answer(pair.session, pair.disk, 2, old))
    assert pair.prove() is None
    assert pair.hellos() == 1


def test_reordered_links_are_asked_about(pair: Pair) -> None:
    """A6: the answers to two commands, the second first."""
    pair.prove()
    replies: list[bytes] = []

    def swap(lane: Lane, command: bytes, reply: bytes) -> bytes:
        replies.append(reply)
        if len(replies) == 2:
            pair.channel.tamper = None
            return replies[0]
        core = pair.disk.core
        link = pair.disk.secret_link(core.seq + 1)
        assert link is not None
        return answer(pair.session, pair.disk, core.seq + 1, link)

    pair.channel.tamper = swap

    async def both() -> list[object]:
        executes = [pair.session.execute(OPS, DATA, evidence=True, may_link=True) for _ in range(2)]
        return await pair.sim.loop.gather(*executes)

    assert pair.sim.run(both()) == [None, None]
    assert pair.disk.core.seq == 3
    assert pair.hellos() >= 1


def test_an_anchor_whose_answer_was_lost_is_never_used(pair: Pair) -> None:
    """The disk has a chain that we do not know: its evidence never came. The next proof is evidence, and a new one."""

    def cut(lane: Lane, command: bytes, reply: bytes) -> None:
        pair.channel.tamper = None
        pair.channel.close()

    pair.channel.tamper = cut
    assert pair.prove() is None
    assert (pair.session.proved_seq, pair.disk.core.seq) == (1, 1)
    assert pair.prove() is None
    assert pair.wanted() == [Wants.CHAIN, Wants.CHAIN]
    pair.prove()
    assert pair.wanted()[-1] == Wants.LINK


def test_an_altered_anchor_is_not_believed(pair: Pair) -> None:
    """The evidence covers it."""

    def alter(lane: Lane, command: bytes, reply: bytes) -> bytes:
        pair.channel.tamper = None
        at = wire.REPLY_HEADER.size + wire.RESULT.size
        return reply[:at] + wire.hashed_link(b"the host's own".ljust(32)) + reply[at + LINK_BYTES :]

    pair.channel.tamper = alter
    assert pair.prove() is None
    assert pair.hellos() == 1
    assert pair.session._chain is None


def test_a_forged_refusal_of_a_link_decides_nothing(pair: Pair) -> None:
    pair.prove()
    pair.once(wire.REPLY_HEADER.pack(wire.REFUSAL, Reason.NO_LINK))
    assert pair.prove() is None
    assert pair.session.health is Health.ONLINE
    assert (pair.disk.core.seq, pair.hellos()) == (2, 1)


def test_a_withheld_link_is_silence_like_any_other(pair: Pair) -> None:
    pair.prove()
    pair.once(None)
    assert pair.prove() is None
    assert pair.session.proved_seq == 2


def test_links_of_a_disk_that_another_has_opened_do_not_come(pair: Pair) -> None:
    """P4: whoever was fenced gets no link, since the disk has wiped them."""
    pair.prove()
    later = pair.sim.world().session(pair.sim.new_channels()[0])
    pair.sim.run(later.open(pair.disk.instance, LATER))
    assert isinstance(pair.prove(), Fenced)


def leak(pair: Pair) -> Counter[str]:
    """From now on the host knows the secret: it drops what asks for no evidence, and shows the right link."""
    forged: Counter[str] = Counter()

    def forge(lane: Lane, command: bytes) -> bytes | None:
        _, opcode, wants, _, _, seq, _ = wire.COMMAND_HEADER.unpack_from(command, 64)
        if opcode != wire.Opcode.EXECUTE or wants in (Wants.EVIDENCE, Wants.CHAIN):
            return None
        link = pair.disk.secret_link(seq) if wants == Wants.LINK else b""
        assert link is not None
        forged[Wants(wants).name] += 1
        return answer(pair.session, pair.disk, seq, link)

    pair.channel.intercept = forge
    return forged


@pytest.mark.parametrize("by", ["probe", "evidence", "renewal", "read"])
def test_a_leaked_secret_forges_until_the_next_evidence_which_finds_it_out(pair: Pair, by: str) -> None:
    pair.prove()
    forged = leak(pair)
    for _ in range(3):
        assert pair.prove() is None
    assert (forged["LINK"], pair.disk.core.seq, pair.session.linked_seq, pair.session.proved_seq) == (3, 1, 4, 1)
    if by == "probe":
        verdict = pair.sim.run(outcome(pair.session.probe()))
    elif by == "evidence":
        verdict = pair.prove(may_link=False)
    elif by == "renewal":
        pair.sim.loop.run_for(CHAIN_ASK_MS_MAX)
        verdict = pair.prove()
    else:
        verdict = pair.sim.run(outcome(pair.session.testify([])))
    assert type(verdict) is LeakedSecret
    assert isinstance(verdict, Rollback)
    assert verdict.exit_code == 3
    assert "secret has leaked" in str(verdict)


def test_a_leaked_secret_lasts_for_one_chain(pair: Pair) -> None:
    for _ in range(5):
        pair.prove()
    forged = leak(pair)
    count = 0
    while not isinstance(pair.prove(), Rollback):
        count += 1
    assert count == forged["LINK"] == LINKS - 4


def test_a_link_never_satisfies_who_needs_evidence(pair: Pair) -> None:
    """A roster change waits for evidence, even if a link of a later command is here already."""
    pair.prove()
    pair.channel.is_silent = True
    pair.session.linked_seq = 9

    async def run() -> None:
        await pair.session.execute(OPS, DATA, evidence=True, may_link=False)

    task = pair.sim.spawn(run())
    pair.sim.loop.run_for(50)
    assert not task.done


def test_ten_pipelined_links_and_a_broken_stream_land_once_and_in_order(pair: Pair) -> None:
    pair.prove()
    count = 0

    def cut(lane: Lane, command: bytes, reply: bytes) -> bytes | None:
        nonlocal count
        count += 1
        if count == 5:
            pair.channel.close()
            return None
        return reply

    pair.channel.tamper = cut

    async def pipeline() -> list[object]:
        return await pair.sim.loop.gather(
            *(pair.session.execute(OPS, (bytes([v]) * 64,), evidence=True, may_link=True) for v in range(10))
        )

    assert pair.sim.run(pipeline()) == [None] * 10
    assert pair.disk.core.seq == 11
    assert pair.disk.memory[:64] == bytes([9]) * 64
    assert pair.wanted()[:11] == [Wants.CHAIN, *[Wants.LINK] * 10]
    assert pair.session.linked_seq == 11


def test_a_silent_disk_is_given_up_as_ever(pair: Pair) -> None:
    pair.prove()
    pair.sim.kill(0)
    assert not isinstance(pair.prove(), Disconnected)
    assert pair.session.health is Health.LOST
