"""A payload's limits, to the byte: the largest legal field is taken, one byte or one item more is not."""

from __future__ import annotations

import cbor2
import pytest

from perdure.errors import MalformedEvidence
from perdure.evidence.nitro import document
from tests.evidence.support import fields, leaf


def parse(**changes):
    return document.parse(cbor2.dumps({**fields(leaf()), **changes}))


LIMITS = {
    "certificate": (1, 1024, bytes),
    "public_key": (0, 4096, bytes),
    "user_data": (0, 4096, bytes),
    "nonce": (0, 4096, bytes),
    "cabundle": (1, 8, lambda count: [b"c"] * count),
    "timestamp": (1, 253_402_300_799_999, int),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_field_may_have_its_least_and_its_largest_size(name):
    smallest, largest, make = LIMITS[name]
    taken = {"timestamp": "time_ms"}.get(name, name)
    for size in (smallest, largest):
        value = getattr(parse(**{name: make(size)}), taken)
        assert value == (tuple(make(size)) if name == "cabundle" else make(size))
    with pytest.raises(MalformedEvidence, match=f"field {name} "):
        parse(**{name: make(largest + 1)})
    if smallest:
        with pytest.raises(MalformedEvidence, match=f"field {name} "):
            parse(**{name: make(smallest - 1)})


def test_a_certificate_of_the_chain_may_be_as_long_as_the_leafs():
    assert parse(cabundle=[bytes(1024)]).cabundle == (bytes(1024),)
    for wrong in (bytes(1025), b""):
        with pytest.raises(MalformedEvidence, match="field cabundle "):
            parse(cabundle=[wrong])


def test_pcrs_are_numbered_0_to_31_and_have_48_bytes_and_the_first_three_must_be_there():
    every = {index: bytes([index]) * 48 for index in range(32)}
    assert parse(pcrs=every).pcrs == every
    first = {index: every[index] for index in range(3)}
    assert parse(pcrs=first).pcrs == first
    wrong = [{**first, 32: bytes(48)}, {**first, -1: bytes(48)}, {**first, 3: bytes(47)}, {**first, 3: bytes(49)}]
    wrong += [{index: pcr for index, pcr in every.items() if index != missing} for missing in range(3)]
    for pcrs in wrong:
        with pytest.raises(MalformedEvidence, match="field pcrs "):
            parse(pcrs=pcrs)


@pytest.mark.parametrize("name", ["public_key", "user_data", "nonce"])
def test_what_is_optional_may_be_null_or_absent(name):
    assert getattr(parse(**{name: None}), name) is None
    payload = {key: value for key, value in fields(leaf()).items() if key != name}
    assert getattr(document.parse(cbor2.dumps(payload)), name) is None
