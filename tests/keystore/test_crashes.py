"""The main program dies before any of its messages of a put or an erasure: the next one finds the old state or the new.

Counted in commands that leave the main program; the run ends when the step was done before the crash.
"""

from __future__ import annotations

import pytest

from perdure.keystore.receipt import ErasedKey, judge
from perdure.keystore.slots import State
from tests.array.world import SimArray, outcome
from tests.keystore.world import SimStore, attest, key


class Crash:
    """Lets `count` commands leave, then the process dies: no later one does."""

    def __init__(self, sim: SimArray, count: int) -> None:
        self._left = count
        for channel in sim.channels:
            channel.may_leave = self._may_leave

    def _may_leave(self, _command: bytes) -> bool:
        self._left -= 1
        return self._left >= 0

    @property
    def has_come(self) -> bool:
        return self._left < 0


def crashed_at(world: SimStore, count: int, work: object) -> object | None:
    """What `work` returned before the main program died after `count` commands; None if it did not return."""
    crash = Crash(world.sim, count)
    task = world.sim.spawn(outcome(work))  # type: ignore[arg-type]
    for _ in range(200):
        if task.done or crash.has_come:
            break
        world.sim.loop.run_for(0.5)
    world.sim.loop.run_for(1)  # what was sent arrives
    returned = task._result if task.done and task.error is None else None
    world.sim.crash()
    return None if isinstance(returned, Exception) else returned


@pytest.mark.parametrize("seed", range(3))
def test_a_put_that_was_cut_off_leaves_the_old_state_or_the_new_and_no_version_comes_twice(seed: int) -> None:
    seen = set()
    for count in range(400):
        world = SimStore(k=2, n=3, seed=seed)
        world.put(0, 1)
        world.run(world.store.erase(0))
        version = crashed_at(world, count, world.store.put(0, *key(2)))
        world.mount()
        found = world.run(world.store.get(0))
        after = (found.state, found.version, found.public_key)
        assert after in ((State.ERASED, 1, key(1)[1]), (State.HELD, 2, key(2)[1]))
        seen.add((version, found.state, found.last_version))
        if found.state is State.HELD:
            assert world.secret(0) == key(2)[0]
            world.run(world.store.erase(0))
        assert version in (None, 2)
        if version is not None:
            assert found.state is State.HELD, "a put that returned stays"
        again = world.put(0, 3)
        assert again == found.last_version + 1
        assert world.secret(0) == key(3)[0]
        if version is not None:
            break
    assert version == 2, "it never came to its end"
    assert {(None, State.ERASED, 1), (None, State.HELD, 2)} <= seen


@pytest.mark.parametrize("seed", range(3))
def test_an_erasure_that_was_cut_off_leaves_the_old_state_or_the_new_and_one_that_returned_stays(seed: int) -> None:
    seen = set()
    for count in range(400):
        world = SimStore(k=2, n=3, seed=seed)
        world.put(0, 1)
        erased = crashed_at(world, count, world.store.erase(0))
        world.mount()
        found = world.run(world.store.get(0))
        seen.add((erased is not None, found.state))
        assert (found.version, found.public_key) == (1, key(1)[1])
        if found.state is State.HELD:
            assert erased is None, "an erasure that returned stays"
            assert world.secret(0) == key(1)[0]
        again = world.run(world.store.erase(0))
        assert judge(again.receipt, attest) == again
        assert world.put(0, 2) == 2
        if erased is not None:
            assert isinstance(erased, ErasedKey)
            break
    assert seen == {(False, State.HELD), (False, State.ERASED), (True, State.ERASED)}


def test_a_secret_that_reached_the_array_without_its_label_uses_up_its_version() -> None:
    """The two sectors may go in two entries: here only the first of them became durable."""
    world = SimStore(k=2, n=3)
    world.put(0, 1)
    world.run(world.store.erase(0))
    array, written = world.sim.array, []
    assert array is not None
    true = array.pwrite

    async def cut_off(offset: int, data: bytes, *, fua: bool = False) -> None:
        assert not written, "the process died"
        written.append(offset)
        await true(offset, data, fua=fua)

    array.pwrite = cut_off  # type: ignore[method-assign, assignment]
    assert isinstance(world.run(outcome(world.store.put(0, *key(2)))), AssertionError)
    world.sim.settle()
    world.sim.crash()
    world.mount()
    found = world.run(world.store.get(0))
    assert (found.state, found.version, found.last_version) == (State.ERASED, 1, 2)
    erased = world.run(world.store.erase(0))
    assert (erased.receipt.version, erased.receipt.public_key) == (1, key(1)[1])
    assert world.put(0, 3) == 3, "also when its remains were erased"
    assert world.secret(0) == key(3)[0]
