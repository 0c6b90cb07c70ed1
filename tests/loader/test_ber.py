"""BER becomes DER without a change of meaning, and whatever is no BER is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.loader.kms import ber
from tests.loader.envelopes import der, streamed


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (der(4, b"abc"), der(4, b"abc")),
        (b"\x04\x81\x03abc", der(4, b"abc")),
        (b"\x04\x84\0\0\0\x03abc", der(4, b"abc")),
        (der(4, bytes(128)), b"\x04\x81\x80" + bytes(128)),
        (der(4, bytes(300)), b"\x04\x82\x01\x2c" + bytes(300)),
        (streamed(0x30), der(0x30)),
        (streamed(0x30, der(4, b"a"), streamed(0x31, der(5))), der(0x30, der(4, b"a"), der(0x31, der(5)))),
        (streamed(0xA0, der(4, b"abc"), der(4, b"d")), der(0x80, b"abcd")),
        (der(0xA0, der(4, b"abc")), der(0x80, b"abc")),
        (streamed(0xA0, der(0x30, der(4, b"abc"))), der(0xA0, der(0x30, der(4, b"abc")))),
        (streamed(0xA0, der(4, b"abc"), der(5)), der(0xA0, der(4, b"abc"), der(5))),
        (streamed(0xA1, der(4, b"abc")), der(0xA1, der(4, b"abc"))),
        (streamed(0xA0), der(0xA0)),
    ],
)
def test_the_same_value_in_der(data, expected):
    assert ber.to_der(data) == expected


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x04",
        b"\x04\x02a",
        b"\x04\x80a\0\0",
        b"\x04\x85\0\0\0\0\x01a",
        b"\x04\x82\x01",
        b"\x04\xffa",
        b"\x1f\x81\x01\x01a",
        b"\x30\x80\x04\x01a",
        b"\x30\x80\x04\x01a\0",
        b"\x30\x03\x04\x02a",
        der(4, b"a") + b"\0",
        streamed(0x30) + b"\0\0",
    ],
    ids=bytes.hex,
)
def test_what_is_not_one_whole_element_is_refused(data):
    with pytest.raises(ValueError):
        ber.to_der(data)


@pytest.mark.parametrize("make", [der, streamed])
def test_nesting_has_a_bound(make):
    data = b"\x05\0"
    for _ in range(ber.DEPTH_MAX):
        data = make(0x30, data)
    ber.to_der(data)
    with pytest.raises(ValueError):
        ber.to_der(make(0x30, data))


def test_a_million_openings_end_early():
    with pytest.raises(ValueError):
        ber.to_der(b"\x30\x80" * 1_000_000)


TREES = st.recursive(
    st.binary(max_size=200).map(lambda content: (4, content)),
    lambda inner: st.tuples(st.sampled_from((0x30, 0x31, 0xA1)), st.lists(inner, max_size=4)),
    max_leaves=12,
)


def encoded(tree, choose):
    tag, content = tree
    return der(tag, content) if tag == 4 else choose()(tag, *(encoded(part, choose) for part in content))


@given(TREES, st.data())
def test_any_choice_of_lengths_leads_to_the_one_der(tree, data):
    def either():
        return data.draw(st.sampled_from((der, streamed)))

    assert ber.to_der(encoded(tree, either)) == encoded(tree, lambda: der)


@given(st.binary(max_size=100))
def test_any_bytes_lead_to_bytes_or_to_a_value_error(data):
    try:
        once = ber.to_der(data)
    except ValueError:
        return
    assert ber.to_der(once) == once
