import base64
import csv
import json
from dataclasses import replace
from pathlib import Path

import coincurve
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import Misuse, NotAuthorised
from perdure.manifest import signatures
from perdure.manifest.developers import Developer, Developers, KeyKind
from perdure.manifest.signatures import SIGNATURE_BYTES_MAX, SIGNATURES_MAX, verify

from .support import ALICE, BOB, CAROL, DAVE, LIST, MALLORY, MANIFEST, SIGNED, Curve, developers

EACH = {"alice": ALICE.sign(), "bob": BOB.sign(), "carol": CAROL.bip340(), "dave": DAVE.bitcoin()}
NEXT = replace(MANIFEST, version=8).to_json()
OF_THE_NEXT = {
    "alice": ALICE.sign(NEXT),
    "bob": BOB.sign(NEXT),
    "carol": CAROL.bip340(NEXT),
    "dave": DAVE.bitcoin(NEXT),
}


def file(kind, signature):
    return json.dumps({"kind": kind, "signature": signature}).encode()


def wallets(first, numbers):
    return base64.b64encode(bytes([first]) + numbers).decode()


def test_developers_sign_in_four_ways_and_are_named():
    assert verify(developers(4), SIGNED, [*EACH.values()][::-1]) == ("alice", "bob", "carol", "dave")


@pytest.mark.parametrize("threshold", [1, 2, 3, 4])
def test_one_signature_fewer_than_the_threshold_is_not_enough(threshold):
    given = [*EACH.values()]
    assert len(verify(developers(threshold), SIGNED, given[:threshold])) == threshold
    with pytest.raises(NotAuthorised, match=f"{threshold - 1} of the {threshold} developers that are needed .* 1 more"):
        verify(developers(threshold), SIGNED, given[: threshold - 1])


@pytest.mark.parametrize("removed", EACH)
def test_a_removed_developers_signature_counts_for_nothing(removed):
    rest = developers(2, *(name for name in EACH if name != removed))
    other = next(name for name in EACH if name != removed)
    with pytest.raises(NotAuthorised, match=r"1 more must; signature 2 is .*listed"):
        verify(rest, SIGNED, [EACH[other], EACH[removed]])


def test_a_stranger_counts_for_nothing():
    strangers = [MALLORY.sign(), Curve(b"mallory").bip340(), Curve(b"mallory").bitcoin()]
    with pytest.raises(NotAuthorised, match=r"^0 of the 1 .* signature 1 .* signature 2 .* signature 3 "):
        verify(developers(1), SIGNED, strangers)


@pytest.mark.parametrize("name", EACH)
def test_one_developer_twice_counts_once(name):
    with pytest.raises(
        NotAuthorised, match=rf"^1 of the 2 .*\({name}\); 1 more must; signature 2 is another one by {name}"
    ):
        verify(developers(2), SIGNED, [EACH[name], EACH[name]])


def test_two_different_signatures_of_one_developer_count_once():
    """By a fresh nonce, another hash, another address of the same wallet."""
    for one, other in (
        (CAROL.bip340(), CAROL.bip340()),
        (ALICE.sign(), ALICE.sign(hash_name=b"sha256")),
        (DAVE.bitcoin(), DAVE.bitcoin(first=39)),
    ):
        assert one != other
        with pytest.raises(NotAuthorised, match="who counts once"):
            verify(developers(2), SIGNED, [one, other])


@pytest.mark.parametrize("name", EACH)
def test_a_signature_of_another_manifest_counts_for_nothing(name):
    assert verify(developers(1), NEXT, [OF_THE_NEXT[name]]) == (name,)
    with pytest.raises(NotAuthorised, match="another manifest"):
        verify(developers(1), SIGNED, [OF_THE_NEXT[name]])


def test_a_signature_for_another_namespace_counts_for_nothing():
    with pytest.raises(NotAuthorised, match="signature 1 is for the namespace b'git'"):
        verify(developers(1), SIGNED, [ALICE.sign(namespace=b"git")])


def test_a_security_key_that_nobody_touched_counts_for_nothing():
    with pytest.raises(NotAuthorised, match="signature 1 was made by a security key that nobody touched"):
        verify(developers(1), SIGNED, [BOB.sign(flags=0)])


def test_one_of_no_use_does_no_harm_beside_enough():
    useless = [b"", b"x", MALLORY.sign(), EACH["alice"], OF_THE_NEXT["carol"]]
    assert verify(developers(2), SIGNED, [*useless, EACH["bob"], EACH["alice"]]) == ("alice", "bob")


def test_a_key_listed_for_one_form_signs_in_no_other():
    other = Developers(1, (replace(LIST[3], kind=KeyKind.BIP340, key=DAVE.point[1:]),))
    assert verify(other, SIGNED, [DAVE.bip340()]) == ("dave",)
    with pytest.raises(NotAuthorised):
        verify(other, SIGNED, [DAVE.bitcoin()])


def test_the_error_is_one_sentence_with_what_is_safe():
    with pytest.raises(NotAuthorised) as error:
        verify(developers(3), SIGNED, [EACH["alice"], b"{}"])
    assert str(error.value) == (
        "1 of the 3 developers that are needed signed this manifest (alice); 2 more must; signature 2 is neither an "
        "SSH signature nor one in JSON (The signature lacks the key 'kind'). Nothing was run, and no key was given out."
    )


def test_the_error_without_any_signature_says_how_many_are_needed():
    with pytest.raises(NotAuthorised) as error:
        verify(developers(3), SIGNED, [])
    assert str(error.value) == (
        "0 of the 3 developers that are needed signed this manifest; 3 more must. Nothing was run, and no key was "
        "given out."
    )


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"{", "neither an SSH signature nor one in JSON"),
        (file("ssh", ""), "kind is one of bip340, bitcoin"),
        (file("bip340", "00"), "is not 64 bytes in lower-case hexadecimal"),
        (file("bip340", 1), "is not 64 bytes in lower-case hexadecimal"),
        (file("bip340", "ff" * 64), "by nobody who is listed"),
        (file("bitcoin", 1), "not the base64 of a Bitcoin wallet's 65 bytes"),
        (file("bitcoin", "\u00e9"), "not the base64"),
        (file("bitcoin", "A*"), "not the base64"),
        (file("bitcoin", wallets(26, bytes(64))), "not the base64"),
        (file("bitcoin", wallets(43, bytes(64))), "not the base64"),
        (file("bitcoin", wallets(31, bytes(63))), "not the base64"),
        (file("bitcoin", wallets(31, bytes(64))), "by nobody who is listed"),
        (file("bitcoin", wallets(31, b"\xff" * 64)), "by nobody who is listed"),
        (b"x" * (SIGNATURE_BYTES_MAX + 1), "has more than 8192 bytes"),
    ],
)
def test_a_malformed_file_counts_for_nothing_and_is_named(data, said):
    with pytest.raises(NotAuthorised, match=f"signature 2 .*{said}"):
        verify(developers(2), SIGNED, [EACH["alice"], data])


def test_the_size_of_a_file_is_bounded_for_every_kind():
    for name, data in EACH.items():
        assert verify(developers(1), SIGNED, [data.ljust(SIGNATURE_BYTES_MAX)]) == (name,)
        with pytest.raises(NotAuthorised, match="signature 1 has more than 8192 bytes"):
            verify(developers(1), SIGNED, [data.ljust(SIGNATURE_BYTES_MAX + 1)])


def test_a_wallets_base64_has_no_other_characters():
    good = json.loads(EACH["dave"])["signature"]
    with pytest.raises(NotAuthorised, match="not the base64"):
        verify(developers(1), SIGNED, [file("bitcoin", good[:40] + "*" + good[40:])])


def test_the_number_of_signatures_is_bounded():
    assert verify(developers(1), SIGNED, [EACH["alice"]] * SIGNATURES_MAX) == ("alice",)
    with pytest.raises(Misuse, match="more than 64 signatures"):
        verify(developers(1), SIGNED, [EACH["alice"]] * (SIGNATURES_MAX + 1))


@given(st.lists(st.binary(max_size=200), max_size=3), st.binary(max_size=100))
def test_whatever_bytes_come_nobody_has_signed(given, signed):
    with pytest.raises(NotAuthorised):
        verify(developers(1), signed, given)


@given(st.sampled_from(("bip340", "bitcoin")), st.binary(min_size=64, max_size=64), st.integers(27, 42))
def test_whatever_numbers_a_signature_holds_nobody_has_signed(kind, numbers, first):
    text = numbers.hex() if kind == "bip340" else wallets(first, numbers)
    with pytest.raises(NotAuthorised, match="by nobody who is listed"):
        verify(developers(1), SIGNED, [file(kind, text)])


# Files as they are made -----------------------------------------------------------------------------------


def test_the_files_that_are_made_are_those_that_count():
    digest = MANIFEST.digest()
    bip340 = signatures.bip340_file(CAROL.key.sign_schnorr(digest))
    bitcoin = signatures.bitcoin_file(DAVE.compact(signatures.text_to_sign(digest)) + "\n")
    assert verify(developers(2), SIGNED, [bip340, bitcoin]) == ("carol", "dave")


@pytest.mark.parametrize("first", [27, 31, 35, 39])
def test_wallets_of_every_kind_of_address_are_understood(first):
    assert verify(developers(1), SIGNED, [DAVE.bitcoin(first=first)]) == ("dave",)


# Vectors of others ----------------------------------------------------------------------------------------

# Rows 0, 1, 4, 6, 7, 8, 11 and 13 of bip-0340/test-vectors.csv in bitcoin/bips.
BIP340 = [*csv.DictReader((Path(__file__).parent / "bip340.csv").open())]


@pytest.mark.parametrize("row", BIP340, ids=lambda row: row["signature"][:8])
def test_bip340s_own_vectors(monkeypatch, row):
    """Their messages stand in the place of a manifest's digest."""
    digest = bytes.fromhex(row["message"])
    monkeypatch.setattr(signatures, "digest_of", lambda _: digest)
    listed = Developers(1, (Developer("vector", KeyKind.BIP340, bytes.fromhex(row["public key"])),))
    data = signatures.bip340_file(bytes.fromhex(row["signature"]))
    if row["verification result"] == "TRUE":
        assert verify(listed, b"", [data]) == ("vector",)
    else:
        with pytest.raises(NotAuthorised, match="by nobody who is listed"):
            verify(listed, b"", [data])


def test_bip340s_vectors_have_both_results():
    assert {row["verification result"] for row in BIP340} == {"TRUE", "FALSE"}


def test_bitcoin_cores_own_signed_message():
    """test/functional/rpc_signmessagewithprivkey.py of bitcoin/bitcoin: private key, message and signature."""
    private_key = bytes.fromhex("d2b8a0116d641fe7d3036f8464628fb595b480414c13a301b3d4038c811c28b0")
    signature = "INbVnW4e6PeRmsv2Qgu8NuopvrVjkcxob+sX8OcZG0SALhWybUjzMLPdAsXI46YZGb0KQTRii+wWIQzRpG/U+S0="
    found = signatures.recover("This is just a test message", signature)
    assert found == coincurve.PrivateKey(private_key).public_key.format()
    assert signatures.recover("This is just a test massage", signature) != found
