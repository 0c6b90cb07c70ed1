"""Derived keys: always the same, apart by purpose, label and secret, and nothing from what is no secret."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.array.commands import Authority
from perdure.array.derivation import Purpose, authority, derive, fingerprint, first_authority, luks_passphrase
from perdure.errors import Misuse

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
SECRET = bytes(range(32))
SECRETS = st.binary(min_size=16, max_size=64)
LABELS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=64)


@given(SECRETS, LABELS)
def test_the_same_secret_and_label_lead_to_the_same_authority(secret, label):
    found = authority(secret, label)
    assert found.public_key == authority(bytes(bytearray(secret)), label).public_key
    assert found.private_key == derive(secret, Purpose.AUTHORITY, label)


@given(st.lists(st.tuples(SECRETS, st.sampled_from(Purpose), LABELS, st.integers(0, 255)), unique=True, max_size=8))
def test_whatever_differs_leads_to_another_key(arguments):
    assert len({derive(*one) for one in arguments}) == len(arguments)


def test_a_shorter_secret_is_not_a_longer_one_with_zeros():
    assert authority(SECRET, "a").public_key != authority(SECRET + b"\0", "a").public_key


@pytest.mark.parametrize("length", [0, 15, 65])
def test_what_is_too_short_or_too_long_is_no_secret(length):
    with pytest.raises(Misuse, match=f"16 to 64 bytes, not {length}; nothing was derived"):
        authority(bytes(length), "a")


@pytest.mark.parametrize("label", ["", "a" * 65, "my node", "a\0", "\x7f", "kn\u00f6del", "line\n"])
def test_a_label_that_could_be_typed_in_two_ways_is_refused(label):
    with pytest.raises(Misuse, match="A label has 1 to 64"):
        authority(SECRET, label)


@pytest.mark.parametrize("bad", [bytes(32), ORDER.to_bytes(32, "big"), b"\xff" * 32])
def test_a_candidate_that_is_no_scalar_gives_way_to_the_next(bad):
    second = derive(SECRET, Purpose.AUTHORITY, "a", 1)
    assert first_authority([bad, second]).private_key == second
    with pytest.raises(Misuse, match="nothing was derived"):
        first_authority([bad])


def test_the_largest_and_the_smallest_scalar_are_candidates():
    for scalar in (1, ORDER - 1):
        assert first_authority([scalar.to_bytes(32, "big")]).private_key == scalar.to_bytes(32, "big")


def test_a_passphrase_is_digits_that_tell_no_key():
    owner = authority(SECRET, "a")
    passphrase = luks_passphrase(owner, "a")
    assert len(passphrase) == 64
    assert set(passphrase) <= set("0123456789abcdef")
    assert bytes.fromhex(passphrase) not in (owner.private_key, derive(owner.private_key, Purpose.AUTHORITY, "a"))
    assert luks_passphrase(owner, "b") != passphrase
    assert luks_passphrase(authority(SECRET, "b"), "a") != passphrase


def test_a_fingerprint_is_the_start_of_the_public_keys_hash():
    assert fingerprint(Authority(SECRET).public_key) == "4cd1a72eb0adfeff"
