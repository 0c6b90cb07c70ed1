"""The key store on a simulated array: what it keeps, hands out, erases and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from perdure.array.commands import Authority
from perdure.array.create import create
from perdure.array.engine import Array
from perdure.array.geometry import SECTOR_BYTES
from perdure.array.ports import Lane
from perdure.disk import wire
from perdure.disk.wire import Opcode
from perdure.errors import Corrupt, Fenced, Misuse, PerdureError, Unavailable
from perdure.keystore import slots, store
from perdure.keystore.receipt import KeyReceipt, judge
from perdure.keystore.slots import SLOT_BYTES, SLOTS_MAX, State
from perdure.keystore.store import KeyStore
from tests.array.world import KEY, POLICY, SimArray, outcome, sector
from tests.keystore.world import OFFSET, SLOTS, SimStore, attest, key


@pytest.fixture
def world() -> SimStore:
    return SimStore()


def test_a_new_region_holds_empty_slots_and_nothing_else_of_the_array_is_touched(world: SimStore) -> None:
    world.sim.write(7, 5)
    world.sim.write(8 + 2 * SLOTS, 6)
    assert world.store.count == SLOTS
    for slot in range(SLOTS):
        found = world.run(world.store.get(slot))
        assert (found.state, found.version, found.public_key) == (State.EMPTY, 0, b"")
        world.put(slot, slot)
        world.run(world.store.erase(slot))
    assert world.sim.read(7) == sector(5)
    assert world.sim.read(8 + 2 * SLOTS) == sector(6)


def test_a_key_that_was_put_is_there_after_the_main_program_has_died(world: SimStore) -> None:
    assert world.put(2, 1) == 1
    world.sim.crash()
    world.mount()
    found = world.run(world.store.get(2))
    assert (found.state, found.version, found.public_key) == (State.HELD, 1, key(1)[1])
    assert world.secret(2) == key(1)[0]
    assert world.run(world.store.get(1)).state is State.EMPTY


def test_an_erased_slot_says_what_it_held_but_not_the_secret(world: SimStore) -> None:
    world.put(0, 1)
    world.run(world.store.erase(0))
    for again in (False, True):
        keys = world.mount() if again else world.store
        found = world.run(keys.get(0))
        assert (found.state, found.version, found.public_key) == (State.ERASED, 1, key(1)[1])
        refused = world.run(outcome(keys.use(0, bytes)))
        assert isinstance(refused, Misuse)
        assert f"version 1, of the public key {key(1)[1].hex()}, was erased" in str(refused)


def test_versions_of_a_slot_rise_with_every_put_also_after_erasures_and_mounts(world: SimStore) -> None:
    for version in range(1, 6):
        assert world.put(1, version) == version
        receipt = world.run(world.store.erase(1)).receipt
        assert (receipt.version, receipt.public_key) == (version, key(version)[1])
        world.mount()
    assert world.put(3, 9) == 1, "slots count for themselves"


def test_a_put_over_a_key_is_refused_since_what_is_overwritten_has_no_receipt(world: SimStore) -> None:
    world.put(0, 1)
    with pytest.raises(Misuse, match=r"Slot 0 holds version 1.* Erase it first"):
        world.put(0, 2)
    assert world.secret(0) == key(1)[0]


def test_a_key_does_not_come_back_into_its_slot_since_a_receipt_speaks_of_its_last_stay_alone(world: SimStore) -> None:
    world.put(0, 1)
    world.run(world.store.erase(0))
    with pytest.raises(Misuse, match=r"this very key before.* Draw another"):
        world.put(0, 1)
    assert world.run(world.store.get(0)).state is State.ERASED
    assert world.put(0, 2) == 2


def test_a_key_whose_put_was_cut_off_is_not_put_again(world: SimStore) -> None:
    """The attack: disks that left between the two puts hold the same secret, and no receipt names them."""
    array = world.sim.array
    assert array is not None
    true = array.pwrite

    async def cut_off(offset: int, data: bytes, *, fua: bool = False) -> None:
        await true(offset, data, fua=fua)
        raise Unavailable("too few disks")

    array.pwrite = cut_off  # type: ignore[method-assign, assignment]
    assert isinstance(world.run(outcome(world.store.put(0, *key(1)))), Unavailable)
    array.pwrite = true  # type: ignore[method-assign]
    with pytest.raises(Misuse, match=r"this very key before.* Draw another"):
        world.put(0, 1)
    assert world.put(0, 2) == 2
    assert world.secret(0) == key(2)[0]


def test_the_secret_that_was_lent_is_wiped_also_when_its_user_fails(world: SimStore) -> None:
    world.put(0, 1)
    seen: list[bytearray] = []

    def fail(secret: bytearray) -> None:
        assert bytes(secret) == key(1)[0]
        seen.append(secret)
        raise ZeroDivisionError

    assert world.run(world.store.use(0, lambda secret: (seen.append(secret), len(secret))[1])) == 32
    assert isinstance(world.run(outcome(world.store.use(0, fail))), ZeroDivisionError)
    assert seen == [bytearray(32)] * 2


def test_a_main_program_that_was_overtaken_uses_no_key_even_if_hosts_show_it_the_fragments_that_they_recorded() -> None:
    """The successor has erased the key; the links were recorded, and the first main program still has its key."""
    world = SimStore()
    world.put(0, 1)
    world.sim.settle()
    first, array = world.store, world.sim.array
    assert array is not None
    recorded = [bytes(disk.memory) for disk in world.sim.disks if disk]
    channels = world.sim.channels
    world.run(world.mount().erase(0))
    for seat, session in array.members:
        channels[seat].tamper = _replaying(recorded[seat], session.instance, array.opened.epoch)
    used: list[bytes] = []
    refused = world.run(outcome(first.use(0, lambda secret: used.append(bytes(secret)))))
    assert isinstance(refused, Fenced)
    assert used == []


def test_a_use_that_a_host_stops_after_its_proof_goes_on_after_the_erasure(world: SimStore) -> None:
    """A limit (docs/statechains.md): no receipt speaks of it, so what is done with a key is to be noted before."""
    world.put(0, 1)
    secret = world.run(world.store.lend(0))
    erased = world.run(world.mount().erase(0))
    assert judge(erased.receipt, attest).is_beyond_recall
    assert bytes(secret) == key(1)[0]


def _replaying(memory: bytes, instance: bytes, epoch: bytes) -> Callable[[Lane, bytes, bytes], bytes]:
    """A host's answers to plain READs, from what it recorded; anybody can make them, since replies are not signed."""

    def answered(_lane: Lane, command: bytes, reply: bytes) -> bytes:
        payload = command[wire.SIGNATURE_BYTES :]
        if payload[1] != Opcode.READ or payload[2]:
            return reply
        runs = wire.RUN.iter_unpack(payload[wire.COMMAND_HEADER.size + wire.COUNT.size :])
        data = b"".join(memory[start * 64 : (start + count) * 64] for start, count in runs)
        result = wire.RESULT.pack(instance, epoch, 0, len(memory) // 64) + data
        return wire.REPLY_HEADER.pack(wire.ANSWER, len(result)) + result

    return answered


def test_one_step_at_a_time(world: SimStore) -> None:
    world.put(0, 1)
    inner: list[object] = []

    def again(_: bytearray) -> None:
        work = world.store.erase(0)
        try:
            work.send(None)
        except Misuse as refused:
            inner.append(refused)

    world.run(world.store.use(0, again))
    assert "Let callers take turns" in str(inner[0])
    assert world.secret(0) == key(1)[0]


def test_the_receipt_of_an_erasure_can_be_had_again_and_says_no_less(world: SimStore) -> None:
    """The main program died with the first in its hands."""
    world.put(0, 1)
    world.sim.settle()
    world.sim.kill(4)
    world.sim.flush()
    first = world.run(world.store.erase(0))
    world.sim.crash()
    world.mount()
    again = world.run(world.store.erase(0))
    assert first.receipt.erasure.oldest
    assert not again.receipt.erasure.oldest
    for one in (first, again):
        assert (one.receipt.version, one.receipt.public_key) == (1, key(1)[1])
        assert judge(one.receipt, attest) == one
        assert ([gone.seat for gone in one.holders], one.exposed_seats) == ([4], {4})
        assert one.is_beyond_recall


def test_those_who_left_before_a_key_came_are_no_holders_of_it(world: SimStore) -> None:
    world.sim.kill(4)
    world.sim.flush()
    world.put(0, 1)
    world.sim.settle()
    world.sim.kill(0)
    world.sim.flush()
    erased = world.run(world.store.erase(0))
    assert {gone.seat for gone in erased.erased.departed} == {0, 4}
    assert [gone.seat for gone in erased.holders] == [0]


# What is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("secret", "public_key"),
    [
        (key(1)[0], key(2)[1]),
        (key(1)[0][:31], key(1)[1]),
        (bytes(32), key(1)[1]),
        (b"\xff" * 32, key(1)[1]),
        (b"", b""),
        (key(1)[0], b""),
    ],
)
def test_only_a_private_key_with_its_own_public_key_is_stored(
    world: SimStore, secret: bytes, public_key: bytes
) -> None:
    with pytest.raises(Misuse, match="not such a pair, and nothing was stored"):
        world.run(world.store.put(0, secret, public_key))
    assert world.run(world.store.get(0)).state is State.EMPTY


@pytest.mark.parametrize("slot", [-1, SLOTS])
def test_there_are_no_other_slots(world: SimStore, slot: int) -> None:
    for work in (world.store.get, world.store.erase, lambda at: world.store.use(at, bytes)):
        with pytest.raises(Misuse, match=rf"There is no slot {slot}"):
            world.run(work(slot))
    with pytest.raises(Misuse, match=rf"There is no slot {slot}"):
        world.put(slot, 1)


def test_a_slot_that_never_held_a_key_gives_neither_key_nor_receipt(world: SimStore) -> None:
    assert "it never held one" in str(world.run(outcome(world.store.use(0, bytes))))
    assert "never held a key" in str(world.run(outcome(world.store.erase(0))))


@pytest.mark.parametrize(
    ("offset", "count"),
    [(1, 1), (-4096, 1), (0, 0), (0, 33), (62 * 4096 + 4096, 1), (64 * 4096, 1), (0, SLOTS_MAX + 1)],
)
def test_a_region_is_whole_sectors_within_the_array(world: SimStore, offset: int, count: int) -> None:
    with pytest.raises(Misuse, match="not whole sectors within the array"):
        world.open(offset, count)


def test_an_array_in_the_clear_is_refused() -> None:
    sim = SimArray(k=2, n=3)
    opened = sim.run(create(sim.world(), sim.new_channels(), sim.geometry, POLICY, is_sealed=False))
    with pytest.raises(Misuse, match="in the clear"):
        KeyStore(Array(sim.world(), opened), Authority(KEY), 0, 1)


def test_another_private_key_than_the_arrays_is_refused(world: SimStore) -> None:
    assert world.sim.array is not None
    with pytest.raises(Misuse, match="not the private key of the array's authority"):
        KeyStore(world.sim.array, Authority(b"\x05" * 32), 0, 1)


def test_a_region_that_is_given_wrongly_is_noticed_and_left_alone(world: SimStore) -> None:
    world.put(0, 1)
    moved = world.open(OFFSET - SLOT_BYTES)
    assert world.run(moved.get(0)).state is State.EMPTY
    for work in (moved.get(1), moved.erase(1), moved.put(1, *key(2)), moved.use(1, bytes)):
        refused = world.run(outcome(work))
        assert isinstance(refused, Corrupt)
        assert "the region is given wrongly" in str(refused)
    half = world.open(OFFSET - SECTOR_BYTES)
    assert isinstance(world.run(outcome(half.get(0))), Corrupt)
    assert world.secret(0) == key(1)[0]


def test_a_use_that_cannot_prove_ownership_wipes_what_it_read(world: SimStore, monkeypatch: pytest.MonkeyPatch) -> None:
    world.put(0, 1)
    world.sim.settle()
    read: list[bytearray] = []
    monkeypatch.setattr(store, "secret_of", lambda sectors: read.append(slots.secret_of(sectors)) or read[-1])
    world.sim.kill(0, 1)
    for channel in world.sim.channels:
        channel.intercept = lambda _lane, command: b"" if command[65] == Opcode.EXECUTE else None
    failed = world.run(outcome(world.store.use(0, bytes)))
    assert isinstance(failed, PerdureError)
    assert read == [bytearray(32)]


def test_a_receipt_goes_through_json() -> None:
    world = SimStore()
    world.put(0, 1)
    erased = world.run(world.store.erase(0))
    again = KeyReceipt.from_json(json.loads(json.dumps(erased.receipt.to_json())))
    assert judge(again, attest) == erased
