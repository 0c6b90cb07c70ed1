"""The code: any k of n fragments give the data back, many sectors in one call are the same as each alone."""

from __future__ import annotations

import random
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.array.erasure import Code

SHAPES = [(2, 3), (3, 5), (4, 6), (4, 7), (5, 9), (7, 12), (2, 2), (3, 3), (9, 16), (16, 16)]
PARITY_SHAPES = [(k, n) for k, n in SHAPES if n > k]


def some_bytes(count: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(count)


@pytest.mark.parametrize(("k", "n"), [shape for shape in SHAPES if shape[1] <= 12])
def test_every_choice_of_k_fragments_gives_the_data_back(k: int, n: int) -> None:
    code = Code(k, n)
    data = some_bytes(k * 64)
    columns = code.encode(data)
    assert len(columns) == n
    for seats in combinations(range(n), k):
        decoded = code.decode({seat: columns[seat] for seat in seats})
        assert b"".join(decoded) == data, seats


@pytest.mark.parametrize(("k", "n"), SHAPES)
def test_the_first_k_fragments_are_the_data_itself_without_any_header(k: int, n: int) -> None:
    data = some_bytes(k * 128)
    columns = Code(k, n).encode(data)
    assert [len(column) for column in columns] == [128] * n
    assert b"".join(columns[:k]) == data


@pytest.mark.parametrize(("k", "n"), PARITY_SHAPES)
def test_more_than_k_fragments_do_no_harm_in_any_order(k: int, n: int) -> None:
    code = Code(k, n)
    data = some_bytes(k * 64)
    columns = code.encode(data)
    seats = list(range(1, n))
    random.Random(n).shuffle(seats)
    assert b"".join(code.decode({seat: columns[seat] for seat in seats})) == data


@pytest.mark.parametrize(("k", "n"), SHAPES)
def test_fewer_than_k_fragments_are_refused(k: int, n: int) -> None:
    code = Code(k, n)
    columns = code.encode(some_bytes(k * 64))
    with pytest.raises(ValueError, match=f"^{k - 1} columns of {k}$"):
        code.decode(dict(enumerate(columns[n - k + 1 :], n - k + 1)))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(SHAPES),
    st.integers(1, 20),
    st.integers(1, 4).map(lambda count: 64 * count),
    st.integers(0, 1 << 30),
)
def test_many_sectors_in_one_call_are_coded_as_each_would_be_alone(
    shape: tuple[int, int], sectors: int, width: int, seed: int
) -> None:
    k, n = shape
    code = Code(k, n)
    fragments = [[some_bytes(width, seed + sector * k + seat) for seat in range(k)] for sector in range(sectors)]
    together = code.encode(b"".join(fragments[sector][seat] for seat in range(k) for sector in range(sectors)))
    for sector in range(sectors):
        alone = code.encode(b"".join(fragments[sector]))
        place = slice(sector * width, (sector + 1) * width)
        assert [bytes(column[place]) for column in together] == [bytes(column) for column in alone]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(PARITY_SHAPES), st.integers(0, 1 << 30))
def test_the_parity_of_a_sum_is_the_sum_of_the_parities(shape: tuple[int, int], seed: int) -> None:
    k, n = shape
    code = Code(k, n)
    left, right = some_bytes(64 * k, seed), some_bytes(64 * k, seed + 1)
    total = bytes(a ^ b for a, b in zip(left, right, strict=True))
    for one, other, both in zip(code.encode(left), code.encode(right), code.encode(total), strict=True):
        assert bytes(a ^ b for a, b in zip(one, other, strict=True)) == both


@pytest.mark.parametrize(("k", "n"), PARITY_SHAPES)
def test_every_fragment_depends_on_every_data_fragment(k: int, n: int) -> None:
    code = Code(k, n)
    for seat in range(k):
        data = bytearray(k * 64)
        data[seat * 64] = 1
        assert all(any(parity) for parity in code.encode(bytes(data))[k:])


def test_no_sectors_have_empty_fragments() -> None:
    code = Code(2, 3)
    assert [bytes(column) for column in code.encode(b"")] == [b"", b"", b""]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_fragments_may_be_any_kind_of_bytes(kind: type) -> None:
    code = Code(3, 5)
    data = some_bytes(3 * 64)
    columns = code.encode(data)
    assert b"".join(code.decode({seat: kind(bytes(columns[seat])) for seat in (0, 3, 4)})) == data


def test_one_code_decodes_columns_of_different_lengths_one_after_another() -> None:
    code = Code(2, 3)
    for count in (64, 128, 64, 2048 * 256):
        data = some_bytes(2 * count)
        columns = code.encode(data)
        assert b"".join(code.decode({1: columns[1], 2: columns[2]})) == data


@pytest.mark.parametrize(("k", "n"), PARITY_SHAPES)
def test_a_wrong_fragment_gives_wrong_data_of_the_right_length(k: int, n: int) -> None:
    """The code detects nothing: that is the tags' part. It must not fail in a way of its own either."""
    code = Code(k, n)
    data = some_bytes(k * 64)
    columns = {seat: bytes(column) for seat, column in enumerate(code.encode(data)) if seat}
    columns[n - 1] = some_bytes(64, seed=99)
    few = {seat: columns[seat] for seat in [*range(1, k), n - 1]}
    decoded = b"".join(code.decode(few))
    assert len(decoded) == len(data)
    assert decoded != data
