"""Erase receipts: judged with nothing but themselves, and refused when anything in them is not as it was."""

from __future__ import annotations

import dataclasses
import json
from itertools import combinations

import pytest

from perdure.array.commands import Authority
from perdure.array.erasing import Erasure
from perdure.array.erasure import Code
from perdure.array.geometry import SECTOR_BYTES, TAG_BYTES, Run
from perdure.array.join import Progress
from perdure.array.ports import Attested, Lane
from perdure.array.receipt import Erased, Exchange, Receipt, judge, plan
from perdure.array.roster import Departed
from perdure.array.sealing import Keys, unseal
from perdure.errors import BadEvidence, Corrupt, Misuse, PerdureError, WrongCommitment
from perdure.sim.disks import FastEvidence, SimAttested
from tests.array.world import KEY, SimArray, outcome, sector


def attest(document: bytes, commitment: bytes) -> Attested:
    """As a third party does it: with nothing that the array's run left behind."""
    try:
        FastEvidence().verify(document, commitment).send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it never waits")


def _array(k: int = 2, n: int = 3) -> SimArray:
    sim = SimArray(k=k, n=n, sectors=64, dead_after_ms=200)
    sim.create()
    sim.write(8, 77, count=8)
    sim.settle()
    return sim


def _erase(sim: SimArray, first: int = 8, count: int = 8) -> Erased:
    assert sim.array is not None
    return sim.run(sim.array.erase(first * SECTOR_BYTES, count * SECTOR_BYTES))


def test_a_receipt_is_checked_offline_from_its_json_alone() -> None:
    sim = _array()
    generation = sim.array.committer.last  # type: ignore[union-attr]
    erased = _erase(sim)
    receipt = Receipt.from_json(json.loads(json.dumps(erased.receipt.to_json())))
    again = judge(receipt, attest)
    assert again == erased
    assert (receipt.array_id, receipt.offset, receipt.length) == (sim.array_id, 8 * SECTOR_BYTES, 8 * SECTOR_BYTES)
    assert receipt.oldest == generation
    assert receipt.entry > generation
    assert [witness.seat for witness in again.witnesses] == [0, 1, 2]
    assert (again.departed, again.exposed_seats, again.is_beyond_recall) == ((), frozenset(), True)


def test_the_dead_who_may_hold_what_was_erased_are_counted_and_those_who_left_before_are_not() -> None:
    sim = _array(k=3, n=5)
    sim.kill(4)
    sim.flush()
    sim.write(20, 5)
    sim.settle()
    sim.kill(0)
    old, young = _erase(sim), _erase(sim, 20, 1)
    assert [witness.seat for witness in old.witnesses] == [1, 2, 3]
    assert {gone.seat for gone in old.departed} == {0, 4}
    assert old.exposed_seats == {0, 4}
    assert young.exposed_seats == {0}, "disk 4 was voted off before the sector was written"
    assert old.is_beyond_recall, "two seats of the three that it takes"


def test_three_exposed_seats_of_three_are_not_beyond_recall() -> None:
    erased = _erase(_array(k=3, n=5))
    gone = tuple(erased.receipt.genesis.instances[:3])
    exposed = dataclasses.replace(erased, departed=tuple(Departed(seat, 9, gone[seat]) for seat in range(3)))
    assert not exposed.is_beyond_recall
    assert dataclasses.replace(exposed, departed=exposed.departed[:2]).is_beyond_recall


def test_nothing_was_there_so_nobody_can_hold_it() -> None:
    sim = _array()
    sim.kill(2)
    sim.flush()
    erased = _erase(sim, 40, 2)
    assert erased.receipt.oldest == 0
    assert erased.exposed_seats == frozenset()


@pytest.mark.parametrize(("offset", "length"), [(1, 4096), (0, 4095), (0, 0), (64 * 4096, 4096), (0, 65 * 4096)])
def test_only_whole_sectors_within_the_array_can_be_erased(offset: int, length: int) -> None:
    sim = _array()
    assert sim.array is not None
    assert isinstance(sim.run(outcome(sim.array.erase(offset, length))), Misuse)
    assert sim.read(8) == sector(77)


def test_a_range_that_is_written_again_meanwhile_gets_no_receipt_and_loses_nothing() -> None:
    outcomes = []
    for moment in range(1, 40, 3):
        sim = _array()
        assert sim.array is not None
        erasing = sim.spawn(outcome(sim.array.erase(8 * SECTOR_BYTES, 8 * SECTOR_BYTES)))
        sim.loop.run_for(moment / 10)
        sim.run(sim.array.pwrite(9 * SECTOR_BYTES, sector(78), fua=True))
        while not erasing.done:
            sim.run(sim.array.flush())

        async def result(erasing: object = erasing) -> object:
            return await erasing  # type: ignore[misc]

        outcomes.append(sim.run(result()))
        assert sim.read(8, 3) == bytes(SECTOR_BYTES) + sector(78) + bytes(SECTOR_BYTES)
    refused = [found for found in outcomes if isinstance(found, Misuse)]
    assert refused
    assert all("written again" in str(found) for found in refused)
    assert all(isinstance(found, Misuse | Erased) for found in outcomes)


def test_a_member_that_dies_while_it_is_asked_is_voted_off_and_the_others_show_it_again() -> None:
    for moment in range(0, 60, 4):
        sim = _array(k=3, n=5)
        assert sim.array is not None
        erasing = sim.spawn(outcome(sim.array.erase(8 * SECTOR_BYTES, 8 * SECTOR_BYTES)))
        sim.loop.run_for(moment / 10)
        sim.kill(1)
        while not erasing.done:
            sim.loop.run_for(10)

        async def result(erasing: object = erasing) -> object:
            return await erasing  # type: ignore[misc]

        erased = sim.run(result())
        assert isinstance(erased, Erased)
        assert judge(erased.receipt, attest) == erased
        assert len(erased.witnesses) == 5 - len(erased.departed)
        assert erased.exposed_seats <= {1}


def test_a_disk_that_still_holds_something_gets_no_receipt() -> None:
    """No honest disk does: this one's memory is written behind its back, after the trim."""
    sim = _array()
    assert sim.array is not None
    array = sim.array
    disk = sim.disks[1]
    assert disk is not None
    sim.run(array.trim(8 * SECTOR_BYTES, 8 * SECTOR_BYTES))
    sim.settle()
    disk.memory[sim.geometry.fragment_start(9) * 64] = 1
    erasure = Erasure(sim.world(), array.opened.genesis, array.members, array.cache, array.reader, array.committer)
    result = sim.run(outcome(erasure.witnessed(Run(8, 8), 1)))
    assert isinstance(result, Corrupt)
    assert disk.instance.hex()[:16] in str(result)


# Forged receipts ------------------------------------------------------------------------------------------


def _signed(receipt: Receipt, **changes: object) -> Receipt:
    """What somebody with the authority's key could sign: so nothing but the evidence is in the way."""
    fields = {name: getattr(receipt, name) for name in ("genesis", "entry", "oldest", "proofs")} | changes
    run = fields.pop("run", receipt.run)
    return Receipt.signed(Authority(KEY), fields["genesis"], run, fields["entry"], fields["oldest"], fields["proofs"])


def _refused(receipt: Receipt, kind: type[PerdureError] | tuple[type[PerdureError], ...] = Corrupt) -> str:
    with pytest.raises(kind) as caught:
        judge(receipt, attest)
    return str(caught.value)


@pytest.mark.parametrize("field", ["offset", "length", "entry", "oldest"])
def test_no_number_of_a_signed_receipt_can_be_changed(field: str) -> None:
    receipt = _erase(_array()).receipt
    step = SECTOR_BYTES if field in ("offset", "length") else 1
    changed = dataclasses.replace(receipt, **{field: getattr(receipt, field) - step})
    assert "did not sign" in _refused(changed)


@pytest.mark.parametrize("signature", [b"", bytes(64), b"\xff" * 64, b"\x01" * 63])
def test_no_other_signature_is_taken(signature: bytes) -> None:
    receipt = _erase(_array()).receipt
    assert "did not sign" in _refused(dataclasses.replace(receipt, signature=signature))


def test_another_authority_cannot_sign_it() -> None:
    receipt = _erase(_array()).receipt
    stranger = Authority(b"\x05" * 32)
    forged = Receipt.signed(stranger, receipt.genesis, receipt.run, receipt.entry, receipt.oldest, receipt.proofs)
    assert "did not sign" in _refused(forged)


def test_every_member_must_be_there_once_and_nobody_else() -> None:
    receipt = _erase(_array()).receipt
    proofs = receipt.proofs
    assert "exactly the members" in _refused(_signed(receipt, proofs=proofs[:2]))
    assert "exactly the members" in _refused(_signed(receipt, proofs=(*proofs[:2], proofs[0])))
    assert "exactly the members" in _refused(_signed(receipt, proofs=(*proofs, proofs[0])))
    assert "no disk's proof" in _refused(_signed(receipt, proofs=()))


def test_an_answer_to_another_question_proves_nothing() -> None:
    sim = _array()
    first, second = _erase(sim, 8, 2).receipt, _erase(sim, 30, 2).receipt
    assert "another question" in _refused(_signed(first, run=second.run))
    mixed = tuple((a[0], *b[1:]) for a, b in zip(first.proofs, second.proofs, strict=True))
    assert "another question" in _refused(_signed(first, proofs=mixed))
    short = tuple(proof[:1] for proof in first.proofs)
    assert "does not hold the answers" in _refused(_signed(first, proofs=short))
    swapped = (((first.proofs[0][0], *first.proofs[1][1:])), *first.proofs[1:])
    assert "another question" in _refused(_signed(first, proofs=swapped))


def test_the_answer_of_another_disk_does_not_fit() -> None:
    receipt = _erase(_array()).receipt
    a, b = receipt.proofs[0], receipt.proofs[1]
    mixed = (Exchange(a[0].command, b[0].reply), *a[1:])
    forged = _signed(receipt, proofs=(mixed, *receipt.proofs[1:]))
    _refused(forged, (WrongCommitment, BadEvidence))
    with pytest.raises(WrongCommitment):  # not even if its hardware vouches for it
        judge(forged, lambda _document, _commitment: SimAttested())


def test_no_byte_of_an_answer_can_be_changed() -> None:
    receipt = _erase(_array(), 8, 1).receipt
    for number, one in enumerate(receipt.proofs[0]):
        command, reply = one.frames()
        for at in range(0, len(reply), max(1, len(reply) // 60)):
            forged = bytearray(reply)
            forged[at] ^= 1
            proof = list(receipt.proofs[0])
            proof[number] = Exchange.of(command, forged)
            _refused(_signed(receipt, proofs=(tuple(proof), *receipt.proofs[1:])), PerdureError)


def _proof_now(sim: SimArray, run: Run) -> tuple[tuple[Exchange, ...], ...]:
    """What the members say of `run` at this moment, whatever that is."""
    assert sim.array is not None
    proofs = []
    for _, session in sim.array.members:
        said = [sim.run(session.testify(runs)) for runs in plan(sim.geometry, run)]
        proofs.append(tuple(Exchange.of(b"".join(one.command.parts), one.reply) for one in said))
    return tuple(proofs)


def test_true_evidence_of_data_that_is_still_there_is_refused() -> None:
    sim = _array()
    receipt = _erase(sim, 30, 2).receipt
    with_data = _signed(receipt, run=Run(8, 8), proofs=_proof_now(sim, Run(8, 8)))
    assert "still holds something" in _refused(with_data)


def test_true_evidence_from_before_the_erasure_was_carried_out_is_refused() -> None:
    sim = _array()
    assert sim.array is not None
    receipt = _erase(sim, 30, 2).receipt
    ahead = _signed(receipt, entry=receipt.entry + 1)
    assert "had not carried out" in _refused(ahead)
    sim.run(sim.array.pwrite(50 * SECTOR_BYTES, sector(9), fua=True))  # proved, and not yet home
    judge(_signed(receipt, proofs=_proof_now(sim, Run(30, 2))), attest)
    assert "had not carried out" in _refused(
        _signed(receipt, proofs=_proof_now(sim, Run(30, 2)), entry=sim.array.committer.last)
    )


def test_true_evidence_of_a_ring_that_was_not_wiped_is_refused() -> None:
    sim = _array()
    assert sim.array is not None
    sim.run(sim.array.pwrite(50 * SECTOR_BYTES, sector(9), fua=True))
    disk, shape, last = sim.disks[0], sim.geometry, sim.array.committer.last
    assert disk is not None
    entry = bytes(disk.memory[shape.slot_start(last) * 64 :][:64])
    receipt = _erase(sim, 30, 2).receipt
    place = shape.slot_start(last) * 64
    disk.memory[place : place + 64] = entry
    assert "journal slot" in _refused(_signed(receipt, proofs=_proof_now(sim, Run(30, 2))))


def test_disks_of_two_rosters_or_of_another_array_do_not_make_a_receipt() -> None:
    sim = _array(k=3, n=5)
    before = _erase(sim, 30, 2).receipt
    sim.kill(4)
    sim.flush()
    after = _erase(sim, 30, 2).receipt
    mixed = (*after.proofs[:3], before.proofs[3])
    assert "one roster" in _refused(_signed(before, proofs=mixed, entry=before.entry))
    other = SimArray(k=3, n=5, sectors=64, seed=9)
    other.create()
    foreign = _erase(other, 30, 2).receipt
    forged = _signed(before, proofs=foreign.proofs, entry=foreign.entry)
    assert "another array" in _refused(forged)


@pytest.mark.parametrize(
    "change",
    [
        {"offset": "0"},
        {"entry": -1},
        {"oldest": True},
        {"length": 1 << 63},
        {"genesis": "zz"},
        {"genesis": 5},
        {"proofs": [[["!", ""]]]},
        {"proofs": [[[1, 2]]]},
        {"proofs": [[["aGFsbG8="]]]},
        {"proofs": 3},
        {"signature": None},
        {"more": 1},
    ],
)
def test_a_damaged_file_is_refused_with_one_sentence(change: dict[str, object]) -> None:
    value = _erase(_array()).receipt.to_json()
    with pytest.raises(Corrupt, match="receipt is damaged"):
        Receipt.from_json({**value, **change})


@pytest.mark.parametrize("value", [None, [], {}, {"format": "perdure-erase-receipt-2"}])
def test_what_is_no_receipt_is_refused(value: object) -> None:
    with pytest.raises(Misuse, match="not an erase receipt"):
        Receipt.from_json(value)


@pytest.mark.parametrize("data", [b"", b"no zlib", Exchange.of(b"a" * 100, b"").command[:-1]])
def test_a_frame_that_does_not_expand_is_refused(data: bytes) -> None:
    receipt = _erase(_array()).receipt
    proof = (Exchange(data, data), *receipt.proofs[0][1:])
    assert "does not expand" in _refused(_signed(receipt, proofs=(proof, *receipt.proofs[1:])))


def test_a_frame_never_expands_without_bound() -> None:
    bomb = Exchange.of(bytes(64 << 20), b"")
    with pytest.raises(Corrupt, match="does not expand"):
        bomb.frames()


@pytest.mark.parametrize("command", [b"", bytes(200), bytes(66) + b"\xff" * 200])
def test_a_recorded_command_that_is_no_read_is_refused(command: bytes) -> None:
    receipt = _erase(_array()).receipt
    proof = (Exchange.of(command, b""), *receipt.proofs[0][1:])
    assert "recorded command" in _refused(_signed(receipt, proofs=(proof, *receipt.proofs[1:])))


def test_a_long_range_is_asked_in_parts_that_a_disk_answers() -> None:
    sim = SimArray(k=2, n=3, sectors=3000)
    sim.create()
    sim.write(0, 5, count=200)
    sim.flush()
    erased = _erase(sim, 0, 3000)
    assert judge(erased.receipt, attest) == erased
    assert len(json.dumps(erased.receipt.to_json())) < 200_000, "zeros are not carried along"


# What it is for -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "n"), [(2, 3), (3, 5), (4, 6)])
def test_k_minus_1_withheld_disks_and_the_key_give_nothing_back_and_k_do(k: int, n: int) -> None:
    """The owner of the hosts kept copies of some disks' memories from before, has the private key and all tags."""
    sim = _array(k=k, n=n)
    before = [bytes(disk.memory) for disk in sim.disks if disk is not None]
    _erase(sim)
    after = [bytes(disk.memory) for disk in sim.disks if disk is not None]
    for withheld in combinations(range(n), k - 1):
        assert not _opened(sim, {seat: before[seat] for seat in withheld}, after)
    for withheld in combinations(range(n), k):
        assert _opened(sim, {seat: before[seat] for seat in withheld}, after) == {sector(77)}


def _opened(sim: SimArray, withheld: dict[int, bytes], live: list[bytes]) -> set[bytes]:
    """All that any choice of k old or present fragments of sector 8 opens to, under any tag that is to be had."""
    shape, keys = sim.geometry, Keys.derive(KEY, sim.array_id)
    code = Code(shape.k, shape.n)
    tags = {memory[shape.tag_start(8) * 64 :][:TAG_BYTES] for memory in (*withheld.values(), *live)}
    place = slice(shape.fragment_start(8) * 64, shape.fragment_start(8) * 64 + shape.fragment_bytes)
    fragments = {seat: memory[place] for seat, memory in enumerate(live)}
    fragments |= {seat: memory[place] for seat, memory in withheld.items()}
    found = set()
    for seats in combinations(fragments, shape.k):
        data = b"".join(bytes(part) for part in code.decode({seat: fragments[seat] for seat in seats}))
        for tag in tags - {bytes(TAG_BYTES)}:
            try:
                out = unseal(keys, 8, tag, memoryview(data)[:SECTOR_BYTES])
            except Corrupt:
                continue
            found.add(bytes(out))
    return found


def test_the_lane_of_testimonies_is_the_one_for_reads() -> None:
    """So that a receipt for a large range never holds up a FLUSH."""
    sim = _array()
    assert sim.array is not None
    lanes = []
    sim.channels[0].intercept = lambda lane, command: lanes.append((lane, command[65])) or None  # type: ignore[func-returns-value]
    _erase(sim)
    assert {lane for lane, opcode in lanes if opcode == 4} == {Lane.READ}


def test_an_erasure_beside_the_naming_of_a_joiner_gives_a_receipt() -> None:
    """A proposal that has reached some disks only says nothing against any of them."""
    for step in range(0, 300, 5):
        sim = SimArray(k=3, n=5, sectors=8, dead_after_ms=400, seed=step)
        array = sim.create()
        sim.kill(4)
        sim.flush()
        sim.write(2, 9)
        sim.settle()
        sim.disks[4] = sim.new_disk()
        for channel in sim.channels:
            channel.lane_delay_ms[Lane.READ] = 10
        sim.channels[0].lane_delay_ms[Lane.WRITE] = 50
        erasing = sim.spawn(array.erase(2 * SECTOR_BYTES, SECTOR_BYTES))
        sim.loop.run_for(step)
        sim.spawn(outcome(array.join(sim.new_channels()[4], 4, Progress(8))))
        sim.loop.run_for(6000)
        assert erasing.done
        assert erasing.error is None


def test_when_others_never_cease_to_write_there_is_no_receipt_and_no_disk_is_blamed() -> None:
    sim = _array()
    array = sim.array
    assert array is not None
    erasure = Erasure(sim.world(), array.opened.genesis, array.members, array.cache, array.reader, array.committer)
    sim.run(array.trim(8 * SECTOR_BYTES, SECTOR_BYTES))
    asked, ask = [], erasure._receipt

    async def overtaken(run: Run, oldest: int) -> Receipt:
        asked.append(run)
        receipt = await ask(run, oldest)
        return dataclasses.replace(receipt, entry=receipt.entry - 1)

    erasure._receipt = overtaken  # type: ignore[method-assign]
    result = sim.run(outcome(erasure.witnessed(Run(8, 1), 0)))
    assert isinstance(result, Misuse)
    assert len(asked) == 3
