import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import BadSignature, MalformedEvidence
from perdure.evidence.nitro import cose
from perdure.evidence.p384 import P384Key
from tests.evidence.support import leaf, sign


@given(st.binary(max_size=400) | st.integers(0, cose.PAYLOAD_BYTES_MAX).map(bytes))
def test_takes_apart_what_an_independent_encoder_puts_together(payload):
    parts = [bytes.fromhex("a1013822"), {}, payload, bytes(range(96))]
    for data in (cbor2.dumps(parts), cbor2.dumps(cbor2.CBORTag(18, parts))):
        assert cose.split(data) == cose.Sign1(payload, bytes(range(96)))
    assert cose.join(payload, bytes(range(96))) == cbor2.dumps(parts)
    assert cose.signed_bytes(payload) == cbor2.dumps(["Signature1", bytes.fromhex("a1013822"), b"", payload])


def test_the_largest_payload_has_16_kib():
    largest = bytes(16_384)
    for tag in (b"", b"\xd2"):
        assert cose.split(tag + cose.join(largest, bytes(96))).payload == largest
    with pytest.raises(MalformedEvidence, match="at most"):
        cose.split(b"\xd2" + cose.join(largest + b"\0", bytes(96)))
    with pytest.raises(MalformedEvidence):
        cose.split(cose.join(largest, bytes(96)) * 10)


def test_a_payload_of_one_byte_more_is_refused_without_a_tag_too():
    with pytest.raises(MalformedEvidence):
        cose.split(cose.join(bytes(16_385), bytes(96)))


@pytest.mark.parametrize("length", [0, 1, 23, 24, 25, 255, 256, 257])
def test_a_payload_has_the_shortest_head_for_its_length(length):
    document = cbor2.dumps([bytes.fromhex("a1013822"), {}, bytes(length), bytes(96)])
    assert cose.byte_string_head(length) + bytes(length) == cbor2.dumps(bytes(length))
    assert cose.join(bytes(length), bytes(96)) == document
    assert cose.split(document).payload == bytes(length)


P, S, ES384 = b"payload", bytes(96), bytes.fromhex("a1013822")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xd2",
        cbor2.dumps([ES384, {}, P]),
        cbor2.dumps([ES384, {}, P, S, S]),
        cbor2.dumps([ES384, {}, P, S[:-1]]),
        cbor2.dumps([ES384, {}, P, S + b"\0"]),
        cbor2.dumps([ES384, {1: -35}, P, S]),
        cbor2.dumps([ES384, {4: b"key"}, P, S]),
        cbor2.dumps([b"", {}, P, S]),
        cbor2.dumps([bytes.fromhex("a10126"), {}, P, S]),  # ES256
        cbor2.dumps([bytes.fromhex("a101390100"), {}, P, S]),
        cbor2.dumps([{1: -35}, {}, P, S]),
        cbor2.dumps([ES384, {}, None, S]),
        cbor2.dumps([ES384, {}, "payload", S]),
        cbor2.dumps([ES384, {}, P, S]) + b"\0",
        cbor2.dumps(cbor2.CBORTag(98, [ES384, {}, P, S])),
        cbor2.dumps(cbor2.CBORTag(18, cbor2.CBORTag(18, [ES384, {}, P, S]))),
        b"\xd8\x12" + cbor2.dumps([ES384, {}, P, S]),  # tag 18, not in its shortest form
        b"\x98\x04" + cbor2.dumps([ES384, {}, P, S])[1:],
        b"\x9f" + cbor2.dumps([ES384, {}, P, S])[1:] + b"\xff",
        b"\x84\x44" + ES384 + b"\xa0\x58\x07" + P + b"\x58\x60" + S,
        b"\x84\x44" + ES384 + b"\xa0\x59\x00\x07" + P + b"\x58\x60" + S,
        b"\x84\x44" + ES384 + b"\xa0\x5f\x47" + P + b"\xff\x58\x60" + S,
        b"\x84\x44" + ES384 + b"\xa0\x47" + P + b"\x59\x00\x60" + S,
        b"\x84\x44" + ES384 + b"\xbf\xff\x47" + P + b"\x58\x60" + S,
    ],
)
def test_refuses_every_other_outer_form(data):
    with pytest.raises(MalformedEvidence):
        cose.split(data)


def test_the_signature_covers_the_payload_and_belongs_to_the_key():
    key = leaf().key
    message = cose.split(sign(b"payload", key))
    message.verify(P384Key(key.public_key()))
    for other in (
        cose.Sign1(b"Payload", message.signature),
        cose.Sign1(b"payload", bytes(96)),
        cose.Sign1(P, b"\xff" * 96),
    ):
        with pytest.raises(BadSignature):
            other.verify(P384Key(key.public_key()))
    with pytest.raises(BadSignature):
        message.verify(P384Key(leaf("another").key.public_key()))
