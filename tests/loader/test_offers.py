"""What a loader's evidence commits to, and that what is sealed in answer to one offer opens for that one alone."""

from __future__ import annotations

import hmac
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from perdure.array.roster import Program
from perdure.errors import Corrupt, Misuse
from perdure.evidence.policy import Policy, TrustedRoot
from perdure.loader.offer import NO_KEY, Offer, Purpose
from perdure.loader.sealed import Recipient, Secret, seal

LOADERS = Policy((TrustedRoot.builtin("aws-nitro-g1"),), ())
SECRET = Secret(b"k" * 32, b"a" * 32, LOADERS)
OFFER = Offer(Purpose.CEREMONY, b"n" * 32, b"p" * 32, Program(7, b"m" * 32))


def offered() -> tuple[Recipient, Offer]:
    recipient = Recipient()
    return recipient, replace(OFFER, public_key=recipient.public_key)


def test_every_field_of_an_offer_is_in_its_commitment() -> None:
    others = [
        replace(OFFER, purpose=Purpose.SUCCESSION),
        replace(OFFER, purpose=Purpose.IDENTITY),
        replace(OFFER, nonce=b"N" * 32),
        replace(OFFER, public_key=NO_KEY),
        replace(OFFER, program=Program(8, b"m" * 32)),
        replace(OFFER, program=Program(7, b"M" * 32)),
    ]
    commitments = {one.commitment() for one in (OFFER, *others)}
    assert len(commitments) == 7
    assert {len(one) for one in commitments} == {64}


@pytest.mark.parametrize("wrong", [{"nonce": b""}, {"public_key": b"p" * 33}, {"program": Program(7, b"m" * 31)}])
def test_fields_of_an_offer_have_one_length(wrong: dict[str, object]) -> None:
    with pytest.raises(Misuse, match="32 bytes each"):
        replace(OFFER, **wrong)


def test_what_is_sealed_to_an_offer_opens_for_it() -> None:
    recipient, offer = offered()
    found = recipient.open(seal(SECRET, offer), offer)
    assert (found.private_key, found.array_id, found.loaders) == (b"k" * 32, b"a" * 32, LOADERS)


def test_the_private_key_is_in_no_representation() -> None:
    assert "k" * 32 not in repr(SECRET) + str(SECRET)
    assert (b"k" * 32).hex() not in repr(SECRET)
    assert "private key withheld" in repr(SECRET)


def test_what_is_sealed_to_one_offer_opens_for_no_other() -> None:
    recipient, offer = offered()
    given_to_us = seal(SECRET, offer)
    for other in (replace(offer, nonce=b"N" * 32), replace(offer, program=Program(8, b"m" * 32))):
        with pytest.raises(Corrupt, match="not sealed to this loader's key in answer to this offer"):
            recipient.open(given_to_us, other)
    with pytest.raises(Corrupt, match="not sealed to this loader's key"):
        Recipient().open(given_to_us, offer)


@given(st.binary(max_size=400), st.integers(0, 399))
def test_whatever_comes_instead_is_refused_in_one_sentence(noise: bytes, at: int) -> None:
    recipient, offer = offered()
    true = bytearray(seal(SECRET, offer))
    true[at % len(true)] ^= 1
    for data in (noise, bytes(true), bytes(true[:at])):
        with pytest.raises(Corrupt):
            recipient.open(data, offer)


def test_a_payload_that_is_no_secret_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    recipient, offer = offered()
    monkeypatch.setattr(Secret, "encode", lambda _: b"k" * 64 + b"no policy")
    data = seal(SECRET, offer)
    with pytest.raises(Corrupt, match="not what it waits for"):
        recipient.open(data, offer)


def test_nothing_is_sealed_to_what_is_no_key() -> None:
    with pytest.raises(Misuse, match="not one to which anything can be sealed"):
        seal(SECRET, replace(OFFER, public_key=NO_KEY))


# HPKE by its own text -------------------------------------------------------------------------------------


def _extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    """LabeledExtract of RFC 9180, section 4."""
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + ikm, "sha256")


def _expand(suite: bytes, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    """LabeledExpand."""
    labelled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return HKDFExpand(SHA256(), length, labelled).derive(prk)


def opened(private: X25519PrivateKey, data: bytes, info: bytes, aad: bytes) -> bytes:
    """OpenBase of RFC 9180 for DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and ChaCha20Poly1305."""
    enc, ciphertext = data[:32], data[32:]
    kem, suite = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\x00\x03"
    shared = private.exchange(X25519PublicKey.from_public_bytes(enc))
    context = enc + private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    secret = _expand(kem, _extract(kem, b"", b"eae_prk", shared), b"shared_secret", context, 32)
    hashes = _extract(suite, b"", b"psk_id_hash", b"") + _extract(suite, b"", b"info_hash", info)
    root = _extract(suite, secret, b"secret", b"")
    key, nonce = (
        _expand(suite, root, label, b"\0" + hashes, size) for label, size in ((b"key", 32), (b"base_nonce", 12))
    )
    return ChaCha20Poly1305(key).decrypt(nonce, ciphertext, aad)


def test_what_opens_it_here_is_rfc_9180() -> None:
    """Appendix A.2.1, base mode, sequence 0."""
    private = "8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb"
    enc = "1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a"
    ciphertext = "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28"
    key = X25519PrivateKey.from_private_bytes(bytes.fromhex(private))
    found = opened(key, bytes.fromhex(enc + ciphertext), b"Ode on a Grecian Urn", b"Count-0")
    assert found == b"Beauty is truth, truth beauty"


def test_what_a_loader_is_sent_is_rfc_9180() -> None:
    """So anybody can write the operator's side."""
    recipient, offer = offered()
    assert opened(recipient._key, seal(SECRET, offer), offer.commitment(), b"") == SECRET.encode()
