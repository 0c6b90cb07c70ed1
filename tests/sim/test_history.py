"""The checker of histories itself: it accepts what an array that never lies can show, and nothing else."""

from __future__ import annotations

from random import Random

import pytest

from perdure.sim.history import ZERO, Call, History, Owner, Violation


def opened(history: History, epoch: int) -> Owner:
    return history.opened(epoch.to_bytes(16, "big"))


def put(history: History, owner: Owner, index: int, number: int) -> Call:
    """A write of a whole sector that is acknowledged at once."""
    call = history.called(owner)
    owner.under_way.add(number)
    history.entered(owner, index, (number, number))
    history.wrote(call, index, number)
    return call


def flush(history: History, owner: Owner) -> None:
    call = history.called(owner)
    history.flushed(call, call.start)


def see(history: History, owner: Owner, index: int, number: int) -> None:
    history.read(history.called(owner), index, (number, number))


def test_a_read_returns_the_last_write() -> None:
    history = History(2)
    owner = opened(history, 1)
    put(history, owner, 0, 1)
    put(history, owner, 0, 2)
    see(history, owner, 0, 2)
    see(history, owner, 1, 0)
    with pytest.raises(Violation, match="read"):
        see(history, owner, 0, 1)


def test_a_read_may_return_what_was_written_meanwhile_but_nothing_older_afterwards() -> None:
    history = History(1)
    owner = opened(history, 1)
    put(history, owner, 0, 1)
    early, late = history.called(owner), history.called(owner)
    put(history, owner, 0, 2)
    history.read(late, 0, (2, 2))
    history.read(early, 0, (1, 1))
    with pytest.raises(Violation):
        see(history, owner, 0, 1)


def test_a_write_that_is_acknowledged_without_being_kept_is_found() -> None:
    history = History(1)
    owner = opened(history, 1)
    call = history.called(owner)
    with pytest.raises(Violation, match="did not keep"):
        history.wrote(call, 0, 1)


def test_halves_are_merged_with_what_is_there_at_that_moment() -> None:
    history = History(1)
    owner = opened(history, 1)
    put(history, owner, 0, 1)
    owner.under_way.add(2)
    history.entered(owner, 0, (2, 1))
    owner.under_way.add(3)
    with pytest.raises(Violation, match="something newer is lost"):
        history.entered(owner, 0, (1, 3))  # the first half was 2 already


def test_content_that_nobody_wrote_is_found() -> None:
    history = History(1)
    with pytest.raises(Violation, match="nobody wrote"):
        history.entered(opened(history, 1), 0, (9, 9))


def test_a_crash_leaves_a_prefix() -> None:
    for found, is_prefix in (([0, 0], True), ([1, 0], True), ([1, 2], True), ([0, 2], False)):
        history = History(2)
        first = opened(history, 1)
        put(history, first, 0, 1)
        put(history, first, 1, 2)
        second = opened(history, 2)
        see(history, second, 0, found[0])
        if is_prefix:
            see(history, second, 1, found[1])
        else:
            with pytest.raises(Violation):
                see(history, second, 1, found[1])


def test_what_a_mount_found_stays_so_for_the_next() -> None:
    history = History(2)
    put(history, opened(history, 1), 0, 1)
    see(history, opened(history, 2), 0, 1)
    third = opened(history, 3)
    with pytest.raises(Violation):
        see(history, third, 0, 0)


def test_no_flushed_write_is_lost() -> None:
    history = History(2)
    first = opened(history, 1)
    put(history, first, 0, 1)
    flush(history, first)
    put(history, first, 1, 2)
    second = opened(history, 2)
    see(history, second, 1, 0)
    with pytest.raises(Violation):
        see(history, second, 0, 0)


def test_a_flush_that_returns_late_binds_a_mount_that_has_returned_already() -> None:
    history = History(1)
    first = opened(history, 1)
    put(history, first, 0, 1)
    call = history.called(first)
    second = opened(history, 2)
    see(history, second, 0, 0)  # so the later mount lacks the write
    with pytest.raises(Violation, match="lacks some"):
        history.flushed(call, 1)


def test_no_flush_that_is_called_after_a_later_mount_returns() -> None:
    history = History(1)
    first = opened(history, 1)
    opened(history, 2)
    call = history.called(first)
    with pytest.raises(Violation, match="had returned"):
        history.flushed(call, 0)


def test_two_mounts_never_share_an_epoch() -> None:
    history = History(1)
    opened(history, 1)
    with pytest.raises(Violation, match="epoch"):
        opened(history, 1)


def test_what_an_earlier_main_writes_after_a_later_mount_is_never_seen_by_it() -> None:
    history = History(1)
    first = opened(history, 1)
    second = opened(history, 2)
    put(history, first, 0, 1)
    with pytest.raises(Violation):
        see(history, second, 0, 1)


class Register:
    """A disk that keeps every promise: what is written, a durable prefix, and crashes at any point after that."""

    def __init__(self, rng: Random, sectors: int) -> None:
        self.rng = rng
        self.sectors = [0] * sectors
        self.log: list[tuple[int, int]] = []
        self.durable = 0
        self.start = list(self.sectors)

    def crash(self) -> None:
        kept = self.rng.randint(self.durable, len(self.log))
        self.sectors = list(self.start)
        for index, number in self.log[:kept]:
            self.sectors[index] = number
        self.start, self.log, self.durable = list(self.sectors), [], 0


@pytest.mark.parametrize("spoil", [False, True])
def test_an_honest_disk_is_always_believed_and_one_changed_answer_never_twice(spoil: bool) -> None:
    """Random histories of a disk that keeps its promises pass; spoilt, with one read of an overwritten value, fail."""
    for seed in range(200):
        rng = Random(seed)
        disk, history = Register(rng, 3), History(3)
        owner, number, old = opened(history, 1), 0, dict[int, int]()
        for step in range(60):
            index = rng.randrange(3)
            match rng.randrange(5):
                case 0 | 1:
                    number += 1
                    if disk.sectors[index]:
                        old[index] = disk.sectors[index]
                    put(history, owner, index, number)
                    disk.sectors[index] = number
                    disk.log.append((index, number))
                case 2:
                    see(history, owner, index, disk.sectors[index])
                case 3:
                    flush(history, owner)
                    disk.durable = len(disk.log)
                case _:
                    disk.crash()
                    owner = opened(history, step + 2)
                    for at in range(3):
                        see(history, owner, at, disk.sectors[at])
        stale = {index: value for index, value in old.items() if value != disk.sectors[index]}
        if spoil and stale:
            index, value = stale.popitem()
            with pytest.raises(Violation):
                see(history, owner, index, value)


def test_zero_is_what_was_never_written() -> None:
    history = History(1)
    owner = opened(history, 1)
    put(history, owner, 0, 1)
    history.trimmed(owner, 0)
    assert owner.last(0) == ZERO
    see(history, owner, 0, 0)
    with pytest.raises(Violation):
        see(history, owner, 0, 1)
