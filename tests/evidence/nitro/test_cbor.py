import math

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import MalformedEvidence
from perdure.evidence.nitro import cbor

scalars = st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=300) | st.text(max_size=50)
keys = st.integers(0, 2**64 - 1) | st.text(max_size=10) | st.binary(max_size=10)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5), max_leaves=20
)


def is_deep(value, left=cbor.DEPTH_MAX):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return inner is not None and (left == 0 or any(is_deep(item, left - 1) for item in inner))


@given(values)
def test_reads_what_an_independent_encoder_writes(value):
    if not is_deep(value):
        assert cbor.decode(cbor2.dumps(value)) == value
        assert cbor.decode(cbor2.dumps(value, indefinite_containers=True)) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_malformed(data):
    try:
        cbor.decode(data)
    except MalformedEvidence:
        return


@given(values, st.data())
def test_a_cut_value_is_malformed(value, data):
    encoded = cbor2.dumps(value)
    with pytest.raises(MalformedEvidence):
        cbor.decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))])


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ("a2616101616102", "twice"),
        ("bf616101616102ff", "twice"),
        ("a201010101", "twice"),
        ("a1f501", "map key"),
        ("a1f601", "map key"),
        ("a18001", "map key"),
        ("a1c10101", "map key"),
        ("0000", "1 bytes after"),
        ("5f4101ff", "indefinite"),
        ("7f6161ff", "indefinite"),
        ("1f", "indefinite"),
        ("df00", "indefinite"),
        ("ff", "indefinite"),
        ("1c", "reserved"),
        ("61ff", "UTF-8"),
        ("81" * 9 + "00", "deep"),
        ("c1" * 2000 + "00", "deep"),
        ("9f" * 2000, "deep"),
        ("a1" * 2000, "deep"),
        ("a101" * 2000, "deep"),
        ("81" * 6 + "a18001", "map key"),  # the array in it is the eighth
        ("81" * 7 + "a18001", "deep"),
        ("81ff", "indefinite"),
        ("8201ff", "indefinite"),
        ("a1ff", "indefinite"),
        ("a101ff", "indefinite"),
        ("bbffffffffffffffff", "short"),
        ("5bffffffffffffffff00", "short"),
        ("1901", "short"),
        ("9b00", "short"),
        ("", "short"),
    ],
)
def test_refuses(data, what):
    with pytest.raises(MalformedEvidence, match=what):
        cbor.decode(bytes.fromhex(data))


@pytest.mark.parametrize(("start", "end"), [("81", ""), ("9f", "ff"), ("a101", ""), ("bf01", "ff"), ("c1", "")])
def test_eight_levels_are_read_and_nine_are_not(start, end):
    cbor.decode(bytes.fromhex(start * 8 + "00" + end * 8))
    with pytest.raises(MalformedEvidence, match="more than 8 deep"):
        cbor.decode(bytes.fromhex(start * 9 + "00" + end * 9))


@pytest.mark.parametrize("number", [0, 23, 24, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**64 - 1])
def test_a_number_of_any_size_is_read(number):
    assert cbor.decode(cbor2.dumps([number, -1 - number, 0])) == [number, -1 - number, 0]


@pytest.mark.parametrize("length", [0, 23, 24, 255, 256, 65_535, 65_536])
def test_a_string_of_any_length_is_read(length):
    assert cbor.decode(cbor2.dumps([bytes(length), "x" * length])) == [bytes(length), "x" * length]


@pytest.mark.parametrize("value", [math.pi, cbor2.CBORTag(1, 0), cbor2.CBORSimpleValue(99), cbor2.undefined])
def test_values_without_meaning_here_are_opaque_and_equal_nothing_else(value):
    assert cbor.decode(cbor2.dumps([value, 7])) == [cbor.OPAQUE, 7]
    assert not isinstance(cbor.OPAQUE, int | str | bytes | list | dict)


def test_a_big_number_in_a_tag_does_not_pass_for_an_integer():
    assert cbor.decode(bytes.fromhex("c24101")) is cbor.OPAQUE
