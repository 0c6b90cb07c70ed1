"""Free sectors, against a plain set of them."""

from hypothesis import given
from hypothesis import strategies as st

from perdure.array.geometry import Run
from perdure.volume.space import Space

COUNT = 200


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.integers(0, COUNT)), max_size=60))
def test_what_is_taken_was_free_and_what_is_given_is_free_again(steps):
    space, free, held = Space(Run(0, COUNT)), set(range(COUNT)), []
    for is_taking, count, where in steps:
        if is_taking and count <= len(free):
            runs = space.take(count, where)
            got = [index for run in runs for index in range(run.start, run.end)]
            assert len(got) == count
            assert set(got) <= free
            if count and where in free and where - 1 not in free:
                assert got[0] == where, "it grows in place while it can"
            free -= set(got)
            held += runs
        elif held:
            run = held.pop(where % len(held))
            space.give(run)
            free |= set(range(run.start, run.end))
        assert space.count == len(free)
        assert {index for run in space._free for index in range(run.start, run.end)} == free
        assert all(one.end < two.start for one, two in zip(space._free, space._free[1:], strict=False))


def test_a_claim_takes_exactly_what_is_free():
    space = Space(Run(10, 10))
    assert space.claim(Run(12, 3))
    assert not space.claim(Run(14, 1))
    assert not space.claim(Run(14, 3))
    assert not space.claim(Run(5, 2))
    assert not space.claim(Run(19, 2))
    assert space.claim(Run(10, 2))
    assert space.claim(Run(15, 5))
    assert space.count == 0


def test_a_new_file_leaves_room_in_front_of_it():
    space = Space(Run(0, 100))
    assert space.take(10, 0) == [Run(0, 10)]
    assert space.take(1, 0) == [Run(55, 1)]  # the middle of 10 to 99
    assert space.take(1, 10) == [Run(10, 1)]
    assert space.take(44, 0) == [Run(11, 44)]  # all of the largest
    assert space.take(44, 0) == [Run(56, 44)]
    assert space.count == 0
