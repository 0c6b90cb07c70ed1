"""SQLite's locks between connections: the five levels and who may have which beside whom."""

import itertools

import pytest

from perdure.sqlite.locks import Level, Locks

NONE, SHARED, RESERVED, PENDING, EXCLUSIVE = Level


def test_many_read_and_one_of_them_may_prepare_to_write():
    locks = Locks()
    assert locks.raise_to("a", SHARED)
    assert locks.raise_to("b", SHARED)
    assert not locks.is_reserved
    assert locks.raise_to("a", RESERVED)
    assert locks.is_reserved
    assert not locks.raise_to("b", RESERVED)
    assert locks.raise_to("c", SHARED)
    assert locks.level("b") is SHARED


def test_who_waits_to_write_lets_nobody_begin_to_read():
    locks = Locks()
    locks.raise_to("reader", SHARED)
    locks.raise_to("writer", SHARED)
    locks.raise_to("writer", RESERVED)
    assert not locks.raise_to("writer", EXCLUSIVE)
    assert locks.level("writer") is PENDING
    assert not locks.raise_to("new", SHARED)
    locks.lower_to("reader", NONE)
    assert locks.raise_to("writer", EXCLUSIVE)
    assert not locks.raise_to("new", SHARED)
    locks.lower_to("writer", SHARED)
    assert locks.raise_to("new", SHARED)


def test_a_lock_that_one_has_is_not_refused():
    locks = Locks()
    locks.raise_to("a", SHARED)
    assert locks.raise_to("a", EXCLUSIVE)
    assert locks.raise_to("a", SHARED)
    assert locks.level("a") is EXCLUSIVE


def test_two_who_find_a_hot_journal_do_not_both_roll_back():
    """From SHARED straight to EXCLUSIVE, as SQLite does it then: one waits for the other's SHARED and both have it."""
    locks = Locks()
    locks.raise_to("a", SHARED)
    locks.raise_to("b", SHARED)
    assert not locks.raise_to("a", EXCLUSIVE)
    assert not locks.raise_to("b", EXCLUSIVE)
    assert (locks.level("a"), locks.level("b")) == (PENDING, SHARED)
    locks.lower_to("b", NONE)
    assert locks.raise_to("a", EXCLUSIVE)


MOVES = [*((who, level) for who in "ab" for level in (SHARED, RESERVED, EXCLUSIVE)), ("a", NONE), ("b", NONE)]


@pytest.mark.parametrize("first", MOVES)
def test_no_order_of_moves_lets_one_write_beside_another(first):
    for moves in itertools.product(MOVES, repeat=4):
        locks = Locks()
        for who, level in (first, *moves):
            if level is NONE:
                locks.lower_to(who, NONE)
            elif level is SHARED or locks.level(who) is not NONE:  # SQLite always begins with SHARED
                locks.raise_to(who, level)
            held = sorted((locks.level("a"), locks.level("b")))
            assert held[1] is not EXCLUSIVE or held[0] is NONE, moves
            assert held[0] <= SHARED, moves
