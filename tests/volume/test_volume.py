"""Volumes: files by name, and every change done or not done after a crash at any effect."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.array.geometry import SECTOR_BYTES, Run
from perdure.errors import Corrupt, Misuse
from perdure.volume.record import DATA_START, EXTENTS_MAX, FILES_MAX, NAME_BYTES_MAX
from perdure.volume.volume import Volume
from tests.volume.look import content, reopened, require_clean
from tests.volume.recorded import Recorded


def made(sectors: int = 320) -> tuple[Recorded, Volume]:
    array = Recorded(sectors)
    return array, Volume(array)


# Files ----------------------------------------------------------------------------------------------------


def test_files_are_read_back_by_the_next_main_program():
    array, volume = made()
    first, second = volume.create("first"), volume.create("second")
    volume.write(first, 0, b"one" * 5000)
    volume.write(second, 10, b"two")
    volume.write(first, 3, b"ONE")
    volume.close()
    assert reopened(array) == {"first": b"oneONE" + b"one" * 4998, "second": bytes(10) + b"two"}


def test_a_file_ends_where_it_ends():
    _, volume = made()
    file = volume.create("a")
    assert volume.read(file, 0, 10) == b""
    volume.write(file, 0, b"abc")
    assert volume.read(file, 1, 10) == b"bc"
    assert volume.read(file, 3, 10) == b""
    assert volume.read(file, 99, 10) == b""
    volume.write(file, 9, b"")
    assert file.size == 3


def test_what_a_file_lost_is_zeros_when_it_grows_again():
    array, volume = made()
    file = volume.create("a")
    volume.write(file, 0, b"x" * 9000)
    volume.truncate(file, 5000)
    volume.sync()
    require_clean(array)
    volume.truncate(file, 12000)
    assert volume.read(file, 0, 12000) == b"x" * 5000 + bytes(7000)
    volume.truncate(file, 12000)
    assert file.size == 12000


def test_deleted_is_wiped_at_once_and_its_sectors_serve_again():
    array, volume = made()
    free = volume.free_bytes
    for _ in range(100):
        file = volume.create("secret")
        volume.write(file, 0, b"secret" * 2000)
        volume.delete("secret")
        assert b"secret" not in array.data
    assert volume.free_bytes == free
    assert volume.names == []


def test_a_deleted_file_is_gone_for_who_still_has_it():
    _, volume = made()
    file = volume.create("a")
    volume.delete("a")
    again = volume.create("a")
    volume.write(again, 0, b"new")
    for use in (lambda: volume.read(file, 0, 1), lambda: volume.write(file, 0, b"x"), lambda: volume.truncate(file, 9)):
        with pytest.raises(Misuse, match="was deleted"):
            use()
    assert content(volume) == {"a": b"new"}


def test_a_file_in_many_runs_reads_as_one():
    _, volume = made(DATA_START + 64)
    small = [volume.create(f"small-{at}") for at in range(32)]
    for file in small:
        volume.write(file, 0, b"s" * SECTOR_BYTES)
    for file in small[::2]:
        volume.delete(file.name)
    large, expected = volume.create("large"), bytes(range(256)) * 16 * 40
    volume.write(large, 0, expected)
    assert len(large.extents) > 2
    assert volume.read(large, 0, len(expected)) == expected
    assert volume.read(large, 5000, 70_000) == expected[5000:75_000]


# What is refused ------------------------------------------------------------------------------------------


def test_a_full_volume_refuses_and_changes_nothing():
    array, volume = made(DATA_START + 20)
    file = volume.create("a")
    volume.write(file, 0, b"x" * 10 * SECTOR_BYTES)
    other = volume.create("b")
    volume.write(other, 0, b"y")
    before = content(volume)
    with pytest.raises(Misuse, match="is full"):
        volume.write(file, 10 * SECTOR_BYTES, b"z" * 10 * SECTOR_BYTES)
    with pytest.raises(Misuse, match="is full"):
        volume.truncate(other, 1 << 40)
    assert content(volume) == before
    volume.write(file, 10 * SECTOR_BYTES, b"z" * 9 * SECTOR_BYTES)  # what files had ahead was given back for this
    assert volume.free_bytes == 0
    volume.close()
    assert reopened(array)["a"] == b"x" * 10 * SECTOR_BYTES + b"z" * 9 * SECTOR_BYTES


def test_a_file_has_a_bounded_number_of_runs():
    _, volume = made(DATA_START + 1100)
    large, space = volume.create("large"), volume._store._space
    space.take(space.count, 0)
    for index in range(DATA_START, DATA_START + 1000, 2):  # what years of files beside it might leave
        space.give(Run(index, 1))
    with pytest.raises(Misuse, match="at most 480 runs"):
        volume.write(large, 0, bytes(485 * SECTOR_BYTES))
    assert volume.free_bytes == 500 * SECTOR_BYTES
    volume.write(large, 0, bytes(480 * SECTOR_BYTES))
    assert len(large.extents) == EXTENTS_MAX


@pytest.mark.parametrize("name", ["", "x" * (NAME_BYTES_MAX + 1), "é" * 121, "a\0b", "\udc80"])
def test_a_name_that_does_not_fit_is_refused(name: str):
    array, volume = made()
    with pytest.raises(Misuse, match="A file's name"):
        volume.create(name)
    volume.close()
    assert reopened(array) == {}


def test_the_longest_name_and_the_most_files_fit():
    array, volume = made()
    names = [f"{at:03}".ljust(NAME_BYTES_MAX, "x") for at in range(FILES_MAX)]
    for name in names:
        volume.create(name)
    with pytest.raises(Misuse, match="255 files"):
        volume.create("one more")
    with pytest.raises(Misuse, match="already"):
        volume.create(names[0])
    volume.close()
    assert sorted(reopened(array)) == names


def test_no_such_file_and_no_such_range():
    _, volume = made()
    with pytest.raises(Misuse, match="no file 'a'"):
        volume.file("a")
    file = volume.create("a")
    for offset, length in ((-1, 1), (0, -1)):
        with pytest.raises(Misuse, match="not in any file"):
            volume.read(file, offset, length)


@pytest.mark.parametrize("at", [0, 510, SECTOR_BYTES, 64 << 10, 320 * SECTOR_BYTES - 1])
def test_it_is_not_made_over_what_something_else_has_written(at: int):
    """ext4 and LUKS show in the first sector, btrfs and ZFS do not."""
    array = Recorded()
    array.pwrite(at, b"x")
    before = bytes(array.data)
    with pytest.raises(Misuse, match="not a volume"):
        Volume(array)
    assert array.data == before
    array.trim(0, array.size)
    assert reopened(array) == {}


def test_an_array_without_room_for_data_is_refused():
    with pytest.raises(Misuse, match="larger array"):
        Volume(Recorded(DATA_START))
    Volume(Recorded(DATA_START + 1))


def test_one_array_is_one_volume_at_a_time():
    array, volume = made()
    with pytest.raises(Misuse, match="already"):
        Volume(array)
    volume.close()
    volume.close()
    with Volume(array) as again:
        assert again.names == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data.__setitem__(slice(4096, 4100), b"XXXX"),  # magic
        lambda data: data.__setitem__(4100, 9),  # state
        lambda data: data.__setitem__(4101, 0),  # no name
        lambda data: data.__setitem__(4101, 241),  # too long a name
        lambda data: data.__setitem__(4112, 0xFF),  # not UTF-8
        lambda data: data.__setitem__(4102, 0xFF),  # too many runs
        lambda data: data.__setitem__(4103, 0),  # fewer sectors than the size takes
        lambda data: data.__setitem__(slice(4352, 4356), bytes(4)),  # a run in the records
        lambda data: data.__setitem__(slice(4356, 4360), b"\0\1\0\0"),  # a run beyond the end
        lambda data: data.__setitem__(8191, 1),  # something behind it
        lambda data: data.__setitem__(slice(4104, 4112), b"\xff" * 8),  # a size beyond its sectors
        lambda data: data.__setitem__(slice(4100, 4112), b"\2\1\0\1" + b"\xff" * 8),  # the same of a growing file
        lambda data: data.__setitem__(slice(8192, 12288), data[4096:8192]),  # two of one name and of one sector
    ],
)
def test_a_record_that_something_else_wrote_over_is_corrupt_and_nothing_is_changed(spoil):
    array, volume = made()
    volume.write(volume.create("a"), 0, b"x")
    volume.close()
    spoil(array.data)
    before = bytes(array.data)
    with pytest.raises(Corrupt, match="othing was changed"):
        Volume(array)
    assert array.data == before


def test_two_files_of_one_name_are_corrupt():
    array, volume = made()
    volume.create("a")
    volume.close()
    array.data[8192:12288] = array.data[4096:8192]
    with pytest.raises(Corrupt, match="two files of the name 'a'"):
        Volume(array)


# Failures -------------------------------------------------------------------------------------------------


def test_a_change_that_fails_half_way_ends_the_volume_and_opening_anew_finishes_it():
    array, volume = made()
    file = volume.create("a")
    volume.write(file, 0, b"x" * 9000)
    volume.sync()
    for fails_after in range(5):
        array.fails_after = len(array.effects) + fails_after
        with pytest.raises(OSError, match="the array failed"):
            volume.delete("a")
            volume.create("a")
            volume.write(volume.file("a"), 0, b"y" * 9000)
        with pytest.raises(Misuse, match=r"not open any more: a change failed half-way \(the array failed\)"):
            assert volume.names
        array.fails_after = None
        found = reopened(array)
        assert found in ({"a": b"x" * 9000}, {}, {"a": b""}, {"a": b"y" * 9000})
        volume = Volume(array)
        if "a" not in volume:
            volume.create("a")
        volume.write(volume.file("a"), 0, b"x" * 9000)
    volume.close()


def test_an_interrupt_half_way_ends_it_and_has_a_name():
    array, volume = made()
    volume.create("a")

    def interrupt() -> None:
        array.before_effect = None
        raise KeyboardInterrupt

    array.before_effect = interrupt
    with pytest.raises(KeyboardInterrupt):
        volume.sync()
    with pytest.raises(Misuse, match=r"half-way \(KeyboardInterrupt\)"):
        volume.sync()
    assert reopened(array) in ({}, {"a": b""})


def test_a_block_that_fails_leaves_it_to_the_next_to_settle():
    array = Recorded()
    with pytest.raises(ZeroDivisionError), Volume(array) as volume:
        volume.write(volume.create("a"), 0, b"x")
        volume.sync()
        volume.write(volume.file("a"), 1, b"y")
        raise ZeroDivisionError
    with pytest.raises(Misuse, match="what used it failed"):
        volume.sync()
    assert reopened(array) == {"a": b"x"}


def test_a_block_that_fails_waits_for_a_thread_that_is_in_the_middle_of_a_change():
    """Else the next volume on this array and that thread would both take sectors for free ones."""
    array, volume = made()
    file = volume.create("a")
    inside, may_go_on, order = threading.Event(), threading.Event(), []

    def stop_once() -> None:
        array.before_effect = None
        inside.set()
        assert may_go_on.wait(60)
        order.append("changed")

    def leave() -> None:
        with pytest.raises(ZeroDivisionError), volume:
            raise ZeroDivisionError
        order.append("left")

    array.before_effect = stop_once
    threads = [threading.Thread(target=volume.write, args=(file, 0, b"x" * 9000)), threading.Thread(target=leave)]
    threads[0].start()
    assert inside.wait(60)
    threads[1].start()
    threads[1].join(0.2)  # where it does not wait it has ended by then
    may_go_on.set()
    for thread in threads:
        thread.join()
    assert order == ["changed", "left"]


@pytest.mark.parametrize("call", ["write", "delete", "read", "sync", "close"])
def test_who_calls_it_from_within_itself_is_refused_and_nothing_is_lost(call):
    """A signal's handler, or a file object that was thrown away and is written out by the garbage collector."""
    array, volume = made()
    outer, inner = volume.create("outer"), volume.create("inner")
    calls = {
        "write": lambda: volume.write(inner, 0, b"inner"),
        "delete": lambda: volume.delete("inner"),
        "read": lambda: volume.read(inner, 0, 1),
        "sync": volume.sync,
        "close": volume.close,
    }
    refused = []

    def handler() -> None:
        array.before_effect = None
        with pytest.raises(Misuse, match="from within itself") as caught:
            calls[call]()
        refused.append(caught)

    array.before_effect = handler
    volume.write(outer, 0, b"outer")
    volume.write(inner, 0, b"later")
    volume.sync()
    assert len(refused) == 1
    _, crashed = list(array.cuts())[-1]
    assert reopened(crashed) == {"outer": b"outer", "inner": b"later"}


def test_threads_share_a_volume():
    _, volume = made(DATA_START + 400)
    failures = []

    def work(name: str) -> None:
        try:
            for turn in range(20):
                file = volume.create(name)
                for at in range(20):
                    volume.write(file, at * 1000, name.encode() * 1000)
                assert volume.read(file, 0, 99_999) == name.encode() * 20_000
                volume.sync()
                if turn < 19:
                    volume.delete(name)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert content(volume) == {name: name.encode() * 20_000 for name in "abcd"}


# Crashes --------------------------------------------------------------------------------------------------


class Model:
    """Files as a dict of bytes, and every state that a crash may leave, in order."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.states: list[dict[str, bytes]] = [{}]

    def set(self, name: str, data: bytes | None) -> None:
        if data is None:
            del self.files[name]
        else:
            self.files[name] = data
        self.states.append(dict(self.files))

    def write(self, name: str, offset: int, data: bytes) -> None:
        """In place sector by sector; what is behind the end comes all at once."""
        size = len(self.files[name])
        while data and offset < size:
            part = data[: min(SECTOR_BYTES - offset % SECTOR_BYTES, size - offset)]
            self.set(name, _put(self.files[name], offset, part))
            offset, data = offset + len(part), data[len(part) :]
        if data:
            self.set(name, _put(self.files[name], offset, data))


def _put(old: bytes, offset: int, data: bytes) -> bytes:
    return old[:offset].ljust(offset, b"\0") + data + old[offset + len(data) :]


NAMES = st.sampled_from(["a", "b", "c"])
PLACES = st.one_of(st.integers(0, 20_000), st.integers(0, 6).map(lambda sector: sector * SECTOR_BYTES))
STEPS = st.one_of(
    st.tuples(st.just("write"), NAMES, PLACES, st.integers(1, 20_000)),
    st.tuples(st.just("append"), NAMES, st.integers(1, 9_000)),
    st.tuples(st.just("truncate"), NAMES, PLACES),
    st.tuples(st.just("delete"), NAMES),
    st.tuples(st.just("sync")),
)


def apply(step: tuple, value: int, volume: Volume, model: Model) -> None:
    if step[0] == "sync":
        volume.sync()
        return
    name = step[1]
    if name not in volume:
        volume.create(name)
        model.set(name, b"")
    file = volume.file(name)
    match step:
        case ("delete", _):
            volume.delete(name)
            model.set(name, None)
        case ("truncate", _, size):
            volume.truncate(file, size)
            model.set(name, model.files[name][:size].ljust(size, b"\0"))
        case ("append", _, length):
            apply(("write", name, len(model.files[name]), length), value, volume, model)
        case ("write", _, offset, length):
            data = bytes([value]) * length
            volume.write(file, offset, data)
            model.write(name, offset, data)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, min_size=1, max_size=14))
def test_any_story_cut_at_any_effect_leaves_a_prefix_of_it(steps):
    array, model = Recorded(), Model()
    volume = Volume(array)
    done = [(len(array.effects), 0, 0)]  # effects, of them flushed, states
    for value, step in enumerate(steps, 1):
        apply(step, value, volume, model)
        assert content(volume) == model.files
        if step[0] == "sync":
            done.append((len(array.effects), array.flushes[-1], len(model.states) - 1))
    volume.close()
    done.append((len(array.effects), array.flushes[-1], len(model.states) - 1))
    least = 0
    for count, crashed in array.cuts(start=1):
        synced = max(states for _, flushed, states in done if flushed <= count)
        least = max(least, synced)
        found = reopened(crashed)
        assert found in model.states[least:], f"cut after effect {count} of {len(array.effects)}"
        least += model.states[least:].index(found)
        before = len(crashed.effects)
        assert reopened(crashed) == found
        assert len(crashed.effects) == before, "what was finished once is not done again"
    assert least == len(model.states) - 1 or model.states[least] == model.files


def test_finishing_after_a_crash_may_be_cut_short_too():
    array, volume = made()
    file = volume.create("a")
    volume.write(file, 0, b"a" * 30_000)
    volume.write(volume.create("b"), 0, b"b" * 30_000)
    volume.truncate(file, 5_000)
    volume.delete("b")
    tried = 0
    for count, crashed in array.cuts(start=1):
        found = None
        Volume(crashed)._end("it was only to finish")
        for again, twice in crashed.cuts():
            files = reopened(twice)
            found = files if found is None else found
            assert files == found, f"cut after effect {count}, then after {again}"
            tried += 1
    assert tried > 30
