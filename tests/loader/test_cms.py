"""The one form of message that KMS sends is read in BER and DER; by another algorithm or recipient it is refused."""

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from perdure.loader.kms import cms
from tests.loader import envelopes
from tests.loader.envelopes import Parts, der, padded, streamed

KEY = rsa.generate_private_key(public_exponent=65_537, key_size=2048)


def parts():
    return Parts(KEY.public_key(), padded(b"s" * 32))


@pytest.mark.parametrize("make", [der, streamed])
@pytest.mark.parametrize("pieces", [0, 1, 2, 48])
@pytest.mark.parametrize("null", [b"", envelopes.NULL], ids=["OpenSSL's parameters", "KMS's parameters"])
def test_a_message_is_read_whatever_its_lengths_and_pieces(make, pieces, null):
    sent = parts()
    sent.pieces, sent.parameters = pieces, envelopes.oaep_parameters(null=null)
    read = cms.parse(sent.message(make))
    assert (read.encrypted_key, read.iv, read.ciphertext) == (sent.encrypted_key, sent.iv, sent.ciphertext)


OTHERS = {
    "not enveloped data": {"kind": envelopes.DATA},
    "not data in it": {"content_kind": envelopes.ENVELOPED_DATA},
    "version 0": {"version": 0},
    "version 3": {"version": 3},
    "recipient of version 0": {"recipient_version": 0},
    "recipient by issuer and number": {"recipient": der(0x30, der(0x30), der(2, b"\1"))},
    "no recipient": {"recipients": 0},
    "two recipients": {"recipients": 2},
    "PKCS #1 v1.5": {"key_algorithm": envelopes.RSA_PKCS1, "parameters": envelopes.NULL},
    "PKCS #1 v1.5 with parameters": {"key_algorithm": envelopes.RSA_PKCS1},
    "OAEP's defaults": {"parameters": der(0x30)},
    "SHA-1": {"parameters": envelopes.oaep_parameters(digest=envelopes.SHA_1)},
    "SHA-1 in the mask": {"parameters": envelopes.oaep_parameters(mask=envelopes.SHA_1)},
    "a label": {"parameters": envelopes.oaep_parameters(label=b"label")},
    "another mask": {"parameters": envelopes.oaep_parameters().replace(envelopes.MGF1, envelopes.P_SPECIFIED)},
    "AES-256-GCM": {"content_algorithm": envelopes.AES_256_GCM},
    "attributes behind it": {"after": der(0xA1, der(0x30))},
}


@pytest.mark.parametrize("make", [der, streamed])
@pytest.mark.parametrize("changes", OTHERS.values(), ids=OTHERS)
def test_any_other_form_is_refused(changes, make):
    sent = parts()
    for name, value in changes.items():
        assert getattr(sent, name) != value
        setattr(sent, name, value)
    with pytest.raises(ValueError):
        cms.parse(sent.message(make))


@pytest.mark.parametrize("make", [der, streamed])
def test_every_truncation_and_extension_is_refused(make):
    message = parts().message(make)
    for at in range(len(message)):
        with pytest.raises(ValueError):
            cms.parse(message[:at])
    with pytest.raises(ValueError):
        cms.parse(message + b"\0")


GOOD = {make: parts().message(make) for make in (der, streamed)}


@given(st.sampled_from((der, streamed)), st.integers(0, 470), st.binary(max_size=8), st.integers(0, 8))
def test_whatever_is_changed_the_parts_are_bytes_of_the_message_or_it_is_refused(make, at, instead, skipped):
    message = GOOD[make][:at] + instead + GOOD[make][at + skipped :]
    try:
        read = cms.parse(message)
    except ValueError:
        return
    assert read.encrypted_key in message
    assert read.iv in message
    assert len(read.ciphertext) < len(message)
