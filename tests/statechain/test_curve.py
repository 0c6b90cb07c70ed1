"""Scalars and points by the library, against Python's own numbers."""

from __future__ import annotations

import pytest
from coincurve import PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from examples.statechain import curve, transport

N = int.from_bytes(curve.ORDER, "big")
SCALARS = st.integers(1, N - 1)


def scalar(number: int) -> bytes:
    return (number % N).to_bytes(32, "big")


@given(SCALARS, SCALARS)
def test_scalars_are_numbers_modulo_the_order(left: int, right: int) -> None:
    assert curve.multiply(scalar(left), scalar(right)) == scalar(left * right)
    assert curve.negate(scalar(left)) == scalar(-left)
    if (left + right) % N:
        assert curve.add(scalar(left), scalar(right)) == scalar(left + right)
    if left != right:
        assert curve.subtract(scalar(left), scalar(right)) == scalar(left - right)


@given(SCALARS, SCALARS)
def test_points_follow_their_scalars(left: int, right: int) -> None:
    a, b = scalar(left), scalar(right)
    assert curve.times(curve.point(a), b) == curve.point(curve.multiply(a, b))
    if (left + right) % N:
        assert curve.sum_of(curve.point(a), curve.point(b)) == curve.point(curve.add(a, b))


def test_a_scalar_is_within_the_group() -> None:
    assert curve.is_scalar(scalar(1))
    assert curve.is_scalar(scalar(N - 1))
    for bad in (bytes(32), curve.ORDER, b"\xff" * 32, bytes(31) + b"", b""):
        assert not curve.is_scalar(bad)
    with pytest.raises(ValueError):
        curve.add(scalar(1), scalar(N - 1))


def test_signatures_of_the_library_verify_and_no_others() -> None:
    key, message = PrivateKey(scalar(7)), bytes(range(32))
    signature = key.sign_schnorr(message)
    assert curve.verify(curve.point(scalar(7)), message, signature)
    assert not curve.verify(curve.point(scalar(8)), message, signature)
    assert not curve.verify(curve.point(scalar(7)), bytes(32), signature)
    assert not curve.verify(bytes(33), message, signature)


def test_what_is_sealed_opens_for_its_key_alone_and_unaltered() -> None:
    sealed = transport.seal(curve.point(scalar(5)), b"difference", scalar(6))
    assert transport.open_sealed(scalar(5), sealed) == b"difference"
    assert b"difference" not in sealed
    for secret, data in ((scalar(9), sealed), (scalar(5), sealed[:-1]), (scalar(5), b""), (scalar(5), bytes(60))):
        with pytest.raises(ValueError):
            transport.open_sealed(secret, data)
