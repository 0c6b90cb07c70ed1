"""The history: append-only, unbroken, in the array, and out of clients' reach."""

from __future__ import annotations

import pytest

from perdure.array import cache, history
from perdure.array.genesis import Genesis
from perdure.array.geometry import SECTOR_BYTES, Geometry, Run
from perdure.array.history import BODY_BYTES_MAX, History
from perdure.errors import Corrupt, Misuse
from tests.array.world import SimArray

RING = 64


def sim(**given: int) -> SimArray:
    made = SimArray(**given)
    made.geometry = Geometry(3, 5, 16 + RING, RING)
    made.disks = [made.new_disk() for _ in range(5)]
    return made


def loaded(made: SimArray) -> History:
    assert made.array is not None
    found = History(made.array)
    made.run(found.load())
    return found


def bodies(made: SimArray, found: History) -> list[bytes]:
    return [made.run(found.read(number)) for number in found.numbers]


def test_records_are_read_back_in_order_by_the_next_main_program():
    made = sim()
    made.create()
    found = loaded(made)
    assert list(found.numbers) == []
    assert [made.run(found.append(bytes([at]) * at)) for at in range(1, 6)] == [1, 2, 3, 4, 5]
    made.crash()
    made.mount()
    assert bodies(made, loaded(made)) == [bytes([at]) * at for at in range(1, 6)]


def test_a_record_is_durable_when_append_returns():
    made = sim()
    made.create()
    made.run(loaded(made).append(b"kept"))
    made.crash()
    made.kill(0, 3)
    made.mount()
    assert bodies(made, loaded(made)) == [b"kept"]


def test_records_of_many_sectors_go_round_the_ring_and_the_oldest_make_room():
    made = sim()
    made.create()
    found = loaded(made)
    for number in range(1, 90):
        made.run(found.append(bytes([number]) * (number * 977 % 20_000)))
        kept = list(found.numbers)
        assert kept == list(range(kept[0], number + 1))
        assert bodies(made, found)[-1] == bytes([number]) * (number * 977 % 20_000)
        again = loaded(made)
        assert again.numbers[-1] == number
        assert set(found.numbers) >= set(again.numbers)
    assert kept[0] > 40, "the ring never came round"


@pytest.mark.parametrize("cut", range(1, 6))
def test_a_record_that_a_crash_left_unfinished_does_not_count(cut):
    made = sim()
    array = made.create()
    found = loaded(made)
    made.run(found.append(b"whole"))
    data, _ = history._encode(2, found._places[1].digest, b"x" * 5 * 4080)
    made.run(array.write_sectors(array.geometry.history.start + 1, data[: cut * SECTOR_BYTES]))
    made.run(array.flush())
    again = loaded(made)
    assert list(again.numbers) == [1]
    assert made.run(again.append(b"next")) == 2
    assert bodies(made, loaded(made)) == [b"whole", b"next"]


@pytest.mark.parametrize("ring", [17, 49])
def test_a_ring_in_which_an_unfinished_record_could_overwrite_the_newest_is_refused(ring):
    """Found by seed 53 of the simulator: the crash left neither of the two."""
    made = SimArray()
    made.geometry = Geometry(3, 5, 16 + ring, ring)
    made.disks = [made.new_disk() for _ in range(5)]
    made.create()
    with pytest.raises(Misuse, match="a shorter one than 50 sectors"):
        made.run(loaded(made).append(b"x"))


def test_no_record_overwrites_the_one_before_it_in_the_shortest_ring():
    made = SimArray()
    made.geometry = Geometry(3, 5, 16 + 50, 50)
    made.disks = [made.new_disk() for _ in range(5)]
    made.create()
    found = loaded(made)
    for number in range(1, 90):
        made.run(found.append(bytes(number * 7919 % (BODY_BYTES_MAX + 1))))
        assert number == 1 or found.numbers[-2:] == range(number - 1, number + 1)


def test_a_record_that_does_not_name_the_one_before_breaks_the_run():
    made = sim()
    array = made.create()
    found = loaded(made)
    made.run(found.append(b"one"))
    forged, _ = history._encode(2, b"\1" * 32, b"two")
    made.run(array.write_sectors(array.geometry.history.start + 1, forged))
    assert list(loaded(made).numbers) == [2]


def test_bodies_cannot_pass_for_records():
    made = sim()
    array = made.create()
    found = loaded(made)
    inner, _ = history._encode(9, bytes(32), b"fake")
    offset = 4096 - 16 - 68 - 16  # so that the fake one begins where a sector would, were parts not headed
    made.run(found.append(bytes(offset) + inner * 2))
    assert list(loaded(made).numbers) == [1]
    assert array.geometry.history == Run(16, RING)


def test_clients_cannot_reach_it():
    made = sim()
    array = made.create()
    made.run(loaded(made).append(b"kept"))
    assert array.size_bytes == 16 * SECTOR_BYTES
    for work in (array.pread, array.trim, array.erase):
        with pytest.raises(Misuse, match="not all within"):
            made.run(work(16 * SECTOR_BYTES, SECTOR_BYTES))
    with pytest.raises(Misuse, match="not all within"):
        made.run(array.pwrite(16 * SECTOR_BYTES, b"x"))
    made.run(array.trim(0, array.size_bytes))
    assert bodies(made, loaded(made)) == [b"kept"]


def test_what_is_too_long_or_has_no_place_is_refused():
    made = sim()
    made.create()
    found = loaded(made)
    with pytest.raises(Misuse, match="at most"):
        made.run(found.append(bytes(BODY_BYTES_MAX + 1)))
    assert made.run(found.append(bytes(BODY_BYTES_MAX))) == 1
    with pytest.raises(Misuse, match="has no record 7; it has 1 to 1"):
        made.run(found.read(7))
    plain = SimArray()
    plain.create()
    with pytest.raises(Misuse, match="without a history"):
        plain.run(loaded(plain).append(b"x"))


def test_a_record_that_made_room_after_it_was_found_is_not_mistaken_for_another():
    made = sim()
    array = made.create()
    found = loaded(made)
    made.run(found.append(b"one"))
    other, _ = history._encode(40, bytes(32), b"other")
    made.run(array.write_sectors(array.geometry.history.start, other))
    with pytest.raises(Misuse, match="made room"):
        made.run(found.read(1))


def test_the_genesis_record_says_how_much_is_kept_for_it():
    genesis = Genesis(Geometry(3, 5, 48, 32), b"\2" + bytes(32), bytes(32), tuple(bytes([at]) * 32 for at in range(5)))
    assert Genesis.decode(genesis.encode()).geometry.history == Run(16, 32)
    assert genesis.encode()[12:16] == (32).to_bytes(4, "big")
    with pytest.raises(Misuse, match="history"):
        Geometry(3, 5, 32, 32)
    damaged = bytearray(genesis.encode())
    damaged[11] = 1
    with pytest.raises(Corrupt):
        Genesis.decode(bytes(damaged))


def test_records_that_lie_across_what_is_read_at_once_are_found(monkeypatch):
    monkeypatch.setattr(history, "_CHUNK", 4)
    made = sim()
    made.create()
    found = loaded(made)
    written = [bytes([number]) * (number * 5000 % 20_000) for number in range(1, 8)]
    for body in written:
        made.run(found.append(body))
    again = loaded(made)
    assert again.numbers == found.numbers
    assert bodies(made, again) == written[found.numbers[0] - 1 :]


def test_a_record_whose_body_is_not_what_was_written_does_not_count():
    made = sim()
    array = made.create()
    found = loaded(made)
    made.run(found.append(b"one"))
    data, _ = history._encode(2, found._places[1].digest, b"two")
    made.run(array.write_sectors(array.geometry.history.start + 1, data[:-4000] + b"\1" + data[-3999:]))
    assert list(loaded(made).numbers) == [1, 2], "what stands behind the body is not looked at"
    damaged = bytearray(data)
    damaged[data.index(b"two")] ^= 1
    made.run(array.write_sectors(array.geometry.history.start + 1, damaged))
    assert list(loaded(made).numbers) == [1]


def test_many_sectors_written_at_once_wait_for_room(monkeypatch):
    monkeypatch.setattr(cache, "BATCHES_MAX", 2)
    made = SimArray()
    made.geometry = Geometry(3, 5, 16 + 1200, 1200)
    made.disks = [made.new_disk() for _ in range(5)]
    array = made.create()
    made.run(array.write_sectors(16, bytes([7]) * 1200 * SECTOR_BYTES))
    assert made.run(array.read_sectors(Run(16, 1200))) == bytes([7]) * 1200 * SECTOR_BYTES
