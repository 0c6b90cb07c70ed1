import base64
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import Misuse, NotAuthorised
from perdure.manifest import sshsig

from .support import ALICE, BOB, SIGNED, Ssh, armour, needs_ssh_keygen, string


def check(data, message=SIGNED):
    sshsig.verify(sshsig.parse(data), message)


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path], check=True)
    return path


def keygen_sign(key_file, message, *options):
    words = ["ssh-keygen", "-Y", "sign", "-n", "perdure-manifest", "-f", key_file, *options]
    return subprocess.run(words, input=message, check=True, capture_output=True).stdout


@needs_ssh_keygen
@pytest.mark.parametrize("options", [(), ("-O", "hashalg=sha256")])
def test_what_ssh_keygen_signs_is_accepted_and_nothing_else(key_file, options):
    data = keygen_sign(key_file, SIGNED, *options)
    check(data)
    assert sshsig.parse(data).key == sshsig_blob(key_file)
    with pytest.raises(NotAuthorised, match="another manifest, or was altered"):
        check(data, SIGNED + b" ")


def sshsig_blob(key_file):
    return base64.b64decode(key_file.with_suffix(".pub").read_text().split()[1])


@needs_ssh_keygen
@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_keys_of_other_types_are_refused_by_name(tmp_path, kind):
    path = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", path], check=True)
    with pytest.raises(Misuse, match=r"not b'(ssh-rsa|ecdsa-sha2-nistp256)'"):
        check(keygen_sign(path, SIGNED))


@needs_ssh_keygen
@pytest.mark.parametrize("signer", [ALICE, BOB], ids=["file", "token"])
def test_ssh_keygen_accepts_what_the_tests_sign(tmp_path, signer):
    """So that the tests' token signs as OpenSSH understands tokens."""
    (tmp_path / "allowed").write_text(f"me {signer.line('')}\n")
    (tmp_path / "sig").write_bytes(signer.sign())
    words = ["ssh-keygen", "-Y", "verify", "-f", "allowed", "-I", "me", "-n", "perdure-manifest", "-s", "sig"]
    done = subprocess.run(words, input=SIGNED, cwd=tmp_path, capture_output=True, check=False)
    assert b"Good" in done.stdout, done.stderr


@pytest.mark.parametrize("flags", [0x01, 0x05, 0xFF])
def test_a_token_that_was_touched_has_signed(flags):
    check(BOB.sign(flags=flags))


@pytest.mark.parametrize("flags", [0x00, 0x04, 0xFE])
def test_a_token_that_nobody_touched_is_refused_though_its_signature_is_good(flags):
    with pytest.raises(NotAuthorised, match="by a security key that nobody touched"):
        check(BOB.sign(flags=flags))


def test_flags_and_counter_of_a_token_are_signed():
    blob = bytearray(BOB.envelope(flags=0))
    blob[-5] = 1
    with pytest.raises(NotAuthorised, match="does not verify"):
        check(armour(bytes(blob)))


def test_a_token_that_is_bound_to_another_application_is_another_key():
    signature = sshsig.parse(BOB.sign())
    with pytest.raises(NotAuthorised, match="does not verify"):
        sshsig.verify(replace(signature, key=Ssh(b"bob", application=b"ssh:else").blob), SIGNED)


@pytest.mark.parametrize("namespace", [b"git", b"file", b"", b"perdure-manifest2", b"\xff"])
def test_a_signature_for_another_namespace_is_refused(namespace):
    with pytest.raises(NotAuthorised, match=r"is for the namespace .*, not perdure-manifest"):
        check(ALICE.sign(namespace=namespace))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"reserved": b"x"}, "the reserved field is not empty"),
        ({"hash_name": b"sha1"}, "neither sha256 nor sha512"),
        ({"head": b"SSHSIG\0\0\0\2"}, "not version 1"),
        ({"head": b"SSHSIH\0\0\0\1"}, "not version 1"),
        ({"kind": b"ssh-rsa"}, "of another type than its key"),
        ({"tail": b"\0"}, "bytes are left at its end"),
    ],
)
def test_an_envelope_of_another_form_is_refused(how, said):
    with pytest.raises(NotAuthorised, match=f"malformed SSH signature .*{said}"):
        check(ALICE.sign(**how))


def test_bytes_behind_the_envelope_and_an_endless_one_are_refused():
    with pytest.raises(NotAuthorised, match="bytes are left at its end"):
        check(armour(ALICE.envelope() + b"\0"))
    with pytest.raises(NotAuthorised, match="it is too long"):
        check(armour(ALICE.envelope() + bytes(4096)))


def test_an_envelope_may_have_4096_bytes():
    def padded(size):
        rest = size - len(ALICE.envelope(namespace=b"n" * 100)) + 100
        return armour(ALICE.envelope(namespace=b"n" * rest))

    with pytest.raises(NotAuthorised, match="is for the namespace"):
        check(padded(4096))
    with pytest.raises(NotAuthorised, match="it is too long"):
        check(padded(4097))


def test_every_changed_byte_and_cut_of_a_signature_is_refused():
    for signer in (ALICE, BOB):
        blob = signer.envelope()
        for at in range(len(blob)):
            for bad in (blob[:at], blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]):
                with pytest.raises((NotAuthorised, Misuse)):
                    check(armour(bad))


@pytest.mark.parametrize("data", [b"", b"-----BEGIN SSH SIGNATURE-----", ALICE.sign()[:-8], b"x" + ALICE.sign(),
                                  ALICE.sign().replace(b"U1NI", b"U1*I"), ALICE.sign() * 2])  # fmt: skip
def test_damaged_armour_is_refused(data):
    with pytest.raises(NotAuthorised, match="malformed"):
        check(data)


def test_armour_may_have_the_line_ends_of_another_system():
    check(b"\r\n" + ALICE.sign().replace(b"\n", b"\r\n"))
    assert sshsig.is_armoured(b"\n" + ALICE.sign())


@pytest.mark.parametrize("length", [31, 33])
def test_a_point_has_32_bytes(length):
    with pytest.raises(Misuse, match="an Ed25519 key has 32 bytes"):
        sshsig.public_key(string(b"ssh-ed25519") + string(bytes(length)))


def test_a_signature_of_another_length_is_refused():
    signature = sshsig.parse(ALICE.sign())
    short = replace(signature, signature=string(b"ssh-ed25519") + string(bytes(63)))
    with pytest.raises(NotAuthorised):
        sshsig.verify(short, SIGNED)


@given(st.binary(max_size=300))
def test_whatever_the_armour_holds_only_our_errors_are_raised(blob):
    with pytest.raises((NotAuthorised, Misuse)):
        check(armour(blob))
