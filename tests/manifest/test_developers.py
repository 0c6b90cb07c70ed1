import base64
import json
from dataclasses import replace

import coincurve
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import Misuse
from perdure.manifest.developers import DEVELOPERS_BYTES_MAX, Developer, Developers, KeyKind

from .support import ALICE, BOB, CAROL, DAVE, LIST, Curve, Ssh, developers, string


def test_the_list_survives_a_round_trip_and_is_sorted():
    data = developers(3).to_json()
    assert Developers.from_json(data) == developers(3)
    assert Developers(3, LIST[::-1]).to_json() == data
    assert Developers.from_json(json.dumps(json.loads(data), indent=2).encode()).to_json() == data
    assert data.startswith(b'{"developers":[{"key":"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5')
    assert data.endswith(b'"kind":"bitcoin","name":"dave"}],"format":1,"threshold":3}')


@pytest.mark.parametrize("threshold", [0, -1, 5, True, "2", None])
def test_the_threshold_is_from_one_to_their_number(threshold):
    with pytest.raises(Misuse, match="threshold is not a whole number from 1 to 4"):
        developers(threshold)


def test_there_are_one_to_thirty_two():
    with pytest.raises(Misuse, match="has 1 to 32, not 0"):
        Developers(1, ())
    many = tuple(Developer(f"d{at}", KeyKind.SSH, Ssh(bytes([at])).blob) for at in range(33))
    with pytest.raises(Misuse, match="has 1 to 32, not 33"):
        Developers(1, many)
    assert len(Developers.from_json(Developers(32, many[:32]).to_json()).keys) == 32


def test_two_of_one_name_are_refused():
    with pytest.raises(Misuse, match="two of the name alice"):
        Developers(1, (LIST[0], replace(LIST[1], name="alice")))


def negative(point):
    return bytes([point[0] ^ 1]) + point[1:]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((KeyKind.SSH, ALICE.blob), (KeyKind.SSH, ALICE.blob)),
        ((KeyKind.SSH, ALICE.blob), (KeyKind.SSH, Ssh(b"alice", application=b"ssh:").blob)),
        ((KeyKind.SSH, BOB.blob), (KeyKind.SSH, Ssh(b"bob", application=b"ssh:other").blob)),
        ((KeyKind.SSH, ALICE.blob), (KeyKind.SSH, ALICE.blob[:-1] + bytes([ALICE.blob[-1] ^ 0x80]))),
        ((KeyKind.BIP340, CAROL.point[1:]), (KeyKind.BITCOIN, CAROL.point)),
        ((KeyKind.BIP340, CAROL.point[1:]), (KeyKind.BITCOIN, negative(CAROL.point))),
        ((KeyKind.BITCOIN, DAVE.point), (KeyKind.BITCOIN, negative(DAVE.point))),
    ],
)
def test_one_developer_cannot_be_listed_twice_in_any_form(one, other):
    with pytest.raises(Misuse, match="a and b have the same key: one developer counts once"):
        Developers(1, (Developer("a", *one), Developer("b", *other)))


@pytest.mark.parametrize(
    ("kind", "key", "said"),
    [
        ("bip340", "ab" * 33, "not 32 bytes"),
        ("bip340", "ff" * 32, "no bip340 key"),
        ("bip340", "", "not 32 bytes"),
        ("bitcoin", "ab" * 32, "not 33 bytes"),
        ("bitcoin", "05" + "ab" * 32, "no bitcoin key"),
        ("bitcoin", "04" + CAROL.key.public_key.format(compressed=False).hex(), "not 33 bytes"),
        ("ssh", "", "not a line of an OpenSSH public key file"),
        ("ssh", "ssh-ed25519", "not a line of an OpenSSH public key file"),
        ("ssh", "ssh-ed25519 AA*A", "not a line of an OpenSSH public key file"),
        ("ssh", ALICE.line("").replace("AAAAC3", "AAAA*C3"), "not a line of an OpenSSH public key file"),
        ("ssh", "ssh-ed25519 \u00e9", "not a line of an OpenSSH public key file"),
        ("ssh", "sk-ssh-ed25519@openssh.com " + ALICE.line("").split()[1], "of another type"),
        ("ssh", "ssh-ed25519 " + base64.b64encode(ALICE.blob + b"\0").decode(), "malformed"),
        ("ssh", "ssh-ed25519 " + base64.b64encode(string(b"ssh-ed25519") + string(b"x" * 31)).decode(), "32 bytes"),
        ("ssh", "ssh-rsa " + base64.b64encode(string(b"ssh-rsa") + string(b"x")).decode(), "not b'ssh-rsa'"),
        ("pgp", "x", "is one of ssh, bip340, bitcoin"),
    ],
)
def test_what_is_no_key_of_its_kind_is_refused(kind, key, said):
    with pytest.raises(Misuse, match=said):
        Developer.of("eve", kind, key)


def test_a_key_of_another_length_is_refused_when_made_by_hand():
    with pytest.raises(Misuse, match="no bitcoin key"):
        Developer("eve", KeyKind.BITCOIN, CAROL.key.public_key.format(compressed=False))


def test_a_key_is_read_as_people_write_it():
    assert Developer.of("alice", "ssh", ALICE.line()) == LIST[0]
    assert Developer.of("bob", "ssh", BOB.line("")) == LIST[1]
    assert Developer.of("carol", "bip340", CAROL.point[1:].hex().upper() + "\n") == LIST[2]


@pytest.mark.parametrize(("at", "bit"), [(-1, 0x01), (-1, 0x40), (-2, 0x01), (-32, 0x80)])
def test_keys_that_differ_in_more_than_their_sign_are_two_developers(at, bit):
    other = bytearray(ALICE.blob)
    other[at] ^= bit
    assert len(Developers(1, (LIST[0], Developer("eve", KeyKind.SSH, bytes(other)))).keys) == 2


def test_a_name_is_checked_also_when_made_by_hand():
    with pytest.raises(Misuse, match="developer's name is"):
        Developer("Alice", KeyKind.SSH, ALICE.blob)


@pytest.mark.parametrize("name", ["", "Alice", "a b", "alice\n", "\u0430lice"])
def test_a_name_has_no_characters_that_look_like_others(name):
    with pytest.raises(Misuse, match="developer's name is 1 to 64"):
        Developer.of(name, "ssh", ALICE.line())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "format is not a whole number from 1 to 1"),
        ({"more": 1}, "unknown key 'more'"),
        ({"developers": {}}, "not a list of at most 32"),
        ({"developers": [1]}, r"developers\[0\] is not a JSON object"),
        ({"developers": [{"key": "", "kind": "ssh"}]}, "lacks the key 'name'"),
        ({"developers": [{"key": 1, "kind": "ssh", "name": "a"}]}, r"developers\[0\].key is not text"),
        ({"developers": [{"key": "", "kind": 1, "name": "a"}]}, r"developers\[0\].kind is not text"),
        ({"developers": [{"key": "", "kind": "ssh", "name": "A"}]}, r"developers\[0\].name is 1 to 64"),
    ],
)
def test_a_list_of_another_form_is_misuse_that_names_the_place(change, said):
    with pytest.raises(Misuse, match=said):
        Developers.from_json(json.dumps({**json.loads(developers(1).to_json()), **change}).encode())


def test_a_large_file_is_no_list():
    with pytest.raises(Misuse, match="more than 65536 bytes"):
        Developers.from_json(developers(1).to_json().ljust(DEVELOPERS_BYTES_MAX + 1))


@given(st.sampled_from(KeyKind), st.binary(max_size=80))
def test_whatever_key_stands_there_only_misuse_is_raised(kind, key):
    try:
        made = Developer("eve", kind, key)
    except Misuse:
        return
    assert Developer.of("eve", kind, made.key_text()) == made


def test_the_sign_of_a_point_is_no_second_developer_because_its_owner_signs_for_both():
    """What `point` says of secp256k1: the private key n - d has the negative point."""
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    other = coincurve.PrivateKey((order - Curve(b"dave").key.to_int()).to_bytes(32, "big"))
    assert other.public_key.format() == negative(DAVE.point)
