"""Versions that only rise: on an array that is cut at every effect, and on an ordinary file."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from perdure.errors import Conflict, Misuse, Unavailable
from perdure.kv.database import on_array, on_file
from perdure.kv.store import KEY_BYTES_MAX, VALUE_BYTES_MAX, Change, Item, Store
from perdure.volume.volume import Volume
from tests.volume.recorded import Recorded

SECTORS = 4096


@pytest.fixture(params=["array", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    place = on_file(tmp_path / "kv") if request.param == "file" else on_array(Recorded(SECTORS), "kv.db")
    with place as database:
        yield Store(database)


def test_a_put_needs_the_version_that_it_replaces(store: Store) -> None:
    assert store.get(b"k") is None
    assert store.put(b"k", b"one", expected=0) == 1
    for wrong in (0, 2):
        with pytest.raises(Conflict) as caught:
            store.put(b"k", b"two", expected=wrong)
        assert caught.value.found == 1
    assert store.put(b"k", b"", expected=1) == 2
    assert store.get(b"k") == Item(b"", 2)


def test_a_deleted_key_goes_on_where_it_was(store: Store) -> None:
    store.put(b"nonce", b"x", expected=0)
    assert store.delete(b"nonce", expected=1) == 2
    assert store.get(b"nonce") is None
    assert store.version(b"nonce") == 2
    assert store.keys() == []
    with pytest.raises(Conflict) as caught:
        store.put(b"nonce", b"used again", expected=0)
    assert caught.value.found == 2
    assert store.put(b"nonce", b"y", expected=2) == 3


def test_to_delete_what_was_never_there_leaves_nothing(store: Store) -> None:
    assert store.delete(b"k", expected=0) == 0
    assert store.version(b"k") == 0
    with pytest.raises(Conflict):
        store.delete(b"k", expected=1)


def test_a_transaction_is_all_or_nothing(store: Store) -> None:
    assert store.transaction([Change(b"a", b"1", 0), Change(b"b", b"1", 0)]) == [1, 1]
    with pytest.raises(Conflict) as caught:
        store.transaction([Change(b"a", b"2", 1), Change(b"c", b"2", 0), Change(b"b", None, 7)])
    assert caught.value.found == 1
    assert [store.get(key) for key in (b"a", b"b", b"c")] == [Item(b"1", 1), Item(b"1", 1), None]
    assert store.transaction([Change(b"a", None, 1), Change(b"c", b"2", 0)]) == [2, 1]


def test_what_is_too_large_or_twice_is_refused(store: Store) -> None:
    store.put(b"k" * KEY_BYTES_MAX, bytes(VALUE_BYTES_MAX), expected=0)
    for key, value, expected in (
        (b"", b"", 0),
        (b"k" * (KEY_BYTES_MAX + 1), b"", 0),
        (b"k", bytes(VALUE_BYTES_MAX + 1), 0),
        (b"k", b"", -1),
    ):
        with pytest.raises(Misuse, match="Nothing was changed"):
            store.put(key, value, expected=expected)
    for changes in (
        [Change(b"k", b"", 0)] * 2,
        [Change(b"%d" % at, b"", 0) for at in range(1001)],
        [Change(b"%d" % at, bytes(VALUE_BYTES_MAX), 0) for at in range(17)],
    ):
        with pytest.raises(Misuse, match="Nothing was changed"):
            store.transaction(changes)
    with pytest.raises(Misuse):
        store.keys(count_max=0)
    assert len(store.keys()) == 1


def test_keys_come_in_order_by_prefix_and_in_pages(store: Store) -> None:
    names = [b"a", b"b", b"b\x00", b"b\xff", b"b\xff\xff", b"c"]
    store.transaction([Change(name, b"", 0) for name in reversed(names)])
    assert store.keys(b"b") == [(name, 1) for name in names[1:5]]
    found, page = [], store.keys(count_max=2)
    while page:
        found += [key for key, _ in page]
        page = store.keys(after=found[-1], count_max=2)
    assert found == names


def test_of_many_who_want_the_same_version_one_gets_it(store: Store) -> None:
    won = []

    def race(name: bytes) -> None:
        for version in range(10):
            try:
                store.put(b"k", name, expected=version)
            except Conflict:
                continue
            won.append(version)

    threads = [threading.Thread(target=race, args=(b"%d" % at,)) for at in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == sorted(set(won))
    assert store.version(b"k") == len(won)


def test_a_full_array_refuses_and_goes_on_with_what_it_has() -> None:
    with on_array(Recorded(SECTORS), "kv.db") as database:
        store = Store(database)
        with pytest.raises(Unavailable, match="full"):
            for at in range(100):
                store.put(b"%d" % at, bytes(VALUE_BYTES_MAX), expected=0)
        assert 3 <= at < 16
        assert store.get(b"0") == Item(bytes(VALUE_BYTES_MAX), 1)
        assert store.version(b"%d" % at) == 0
        store.delete(b"0", expected=1)
        store.put(b"0", b"small", expected=2)
        assert store.get(b"0") == Item(b"small", 3)


def test_an_array_that_failed_ends_the_store_and_keeps_what_was_answered() -> None:
    array = Recorded(SECTORS)
    with pytest.raises(Exception, match="array failed"), on_array(array, "kv.db") as database:
        store = Store(database)
        store.put(b"k", b"one", expected=0)
        array.fails_after = len(array.effects)
        with pytest.raises(Unavailable):
            store.put(b"k", b"two", expected=1)
        with pytest.raises(Unavailable):
            store.get(b"k")
        raise OSError("the array failed")
    array.fails_after = None
    with on_array(array, "kv.db") as database:
        assert Store(database).get(b"k") == Item(b"one", 1)


def test_an_array_that_is_too_small_is_refused() -> None:
    with pytest.raises(Misuse, match="too small"), on_array(Recorded(400), "kv.db"):
        pass


def test_a_second_database_on_the_same_array_is_refused_and_the_first_goes_on() -> None:
    """Each would take the other's sectors for free ones."""
    array = Recorded(SECTORS)
    with on_array(array, "kv.db") as database:
        with pytest.raises(Misuse, match="open as a volume already"), on_array(array, "other.db"):
            pass
        with pytest.raises(Misuse, match="open as a volume already"):
            Volume(array)
        Store(database).put(b"k", b"one", expected=0)
    with on_array(array, "kv.db") as database:
        assert Store(database).get(b"k") == Item(b"one", 1)


def test_a_read_is_proved_after_it_was_made() -> None:
    array = Recorded(SECTORS)
    with on_array(array, "kv.db") as database:
        store = Store(database)
        store.put(b"k", b"one", expected=0)
        before = len(array.flushes)
        store.get(b"k")
        assert len(array.flushes) == before + 1
        store.put(b"k", b"two", expected=1)
        assert len(array.flushes) == before + 2, "one flush for each change"


def test_no_version_comes_twice_wherever_it_is_cut() -> None:
    array = Recorded(SECTORS)
    answered: list[tuple[int, dict[bytes, int]]] = []
    with on_array(array, "kv.db") as database:
        store = Store(database)
        versions = {b"a": 0, b"b": 0}
        for at in range(14):
            value = None if at % 3 == 2 else b"%d" % at * 500
            made = store.transaction([Change(key, value, version) for key, version in versions.items()])
            versions = dict(zip(versions, made, strict=True))
            answered.append((array.flushes[-1], dict(versions)))
    last = answered[-1][1]
    for count, cut in array.cuts(answered[0][0]):
        with on_array(cut, "kv.db") as database:
            store = Store(database)
            told = [versions for at, versions in answered if at <= count][-1]
            found = {key: store.version(key) for key in told}
            assert found[b"a"] == found[b"b"], "a transaction is whole"
            assert told[b"a"] <= found[b"a"] <= told[b"a"] + 1
            assert found[b"a"] <= last[b"a"]


class Model(RuleBasedStateMachine):
    """Against a dictionary, with remounts in between."""

    def __init__(self) -> None:
        super().__init__()
        self.array = Recorded(SECTORS)
        self.model: dict[bytes, tuple[bytes | None, int]] = {}
        self.open()

    def open(self) -> None:
        self.block = on_array(self.array, "kv.db")
        self.store = Store(self.block.__enter__())

    @rule()
    def remount(self) -> None:
        self.block.__exit__(None, None, None)
        self.open()

    @rule(
        key=st.sampled_from([b"a", b"b", b"ab"]),
        value=st.none() | st.binary(max_size=50),
        off=st.sampled_from([0, 0, 0, 1]),
    )
    def change(self, key: bytes, value: bytes | None, off: int) -> None:
        version = self.model.get(key, (None, 0))[1]
        if off:
            with pytest.raises(Conflict):
                self.store.transaction([Change(key, value, version + off)])
            return
        made = self.store.transaction([Change(key, value, version)])[0]
        if version or value is not None:
            assert made == version + 1
            self.model[key] = value, made

    @invariant()
    def same(self) -> None:
        there = {key: Item(value, version) for key, (value, version) in self.model.items() if value is not None}
        assert {key: self.store.get(key) for key in (b"a", b"b", b"ab") if self.store.get(key)} == there
        assert self.store.keys() == sorted((key, item.version) for key, item in there.items())
        assert all(self.store.version(key) == version for key, (_, version) in self.model.items())

    def teardown(self) -> None:
        self.block.__exit__(None, None, None)


def test_any_sequence_of_changes_and_remounts_is_as_a_dictionary_has_it() -> None:
    run_state_machine_as_test(Model, settings=settings(max_examples=25, stateful_step_count=15, deadline=None))
