"""The simulated TPM platform: what its TPM shows of an image, who vouches for it, and that nothing is left over."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from coincurve import PrivateKey
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from perdure.disk import tpm as door
from perdure.disk.tpm import Tpm
from perdure.errors import BadEvidence, Misuse, UntrustedRoot, WrongMeasurement
from perdure.evidence.envelope import TPM, open_envelope
from perdure.evidence.policy import Measurement, Policy, TrustedRoot
from perdure.evidence.roots import Platform
from perdure.evidence.tpm import verifier
from perdure.evidence.verified import expect_report_data
from perdure.image import build, eif
from perdure.simtee import launch
from perdure.simtee import tpm as platform
from perdure.simtee.pki import SimulatedRoot
from perdure.simtee.tpm import SimulatedTpm, TpmRoot, expected_pcrs
from tests.disk import client
from tests.disk.client import Client

from .test_launch import IMAGE, REPORTER, is_gone, launched, left_over, line, now_ms, program, report

needs_swtpm = pytest.mark.skipif(
    shutil.which("swtpm") is None, reason="SIMULATED TPM NOT TESTED: the program swtpm is not installed"
)
needs_tpm2_tools = pytest.mark.skipif(
    shutil.which("tpm2_checkquote") is None, reason="QUOTES NOT CROSS-CHECKED: the program tpm2_checkquote is missing"
)

KEY = PrivateKey(b"\x33" * 32)
DATA = bytes(range(64))
PARTS = eif.parse(IMAGE)
ROOT = TpmRoot.create()


@pytest.fixture(scope="module")
def tpm() -> Iterator[SimulatedTpm]:
    with SimulatedTpm(ROOT, PARTS) as running:
        yield running


def registers(pcrs: bytes) -> dict[str, bytes]:
    return {f"pcr{number}": pcrs[32 * number : 32 * number + 32] for number in range(24)}


def attested(tpm: SimulatedTpm, data: bytes = DATA) -> tuple[bytes, ...]:
    envelope = open_envelope(Tpm(tpm.fileno()).attest(data))
    assert envelope.name == TPM
    return envelope.parts


# Measurements ---------------------------------------------------------------------------------------------


def extended(data: bytes) -> bytes:
    return hashlib.sha256(bytes(32) + hashlib.sha256(data).digest()).digest()


def test_the_registers_of_an_image_follow_the_documented_rule():
    parts = eif.Eif(b"kernel", b"line", (b"first", b"second", b"third"), b"{}")
    assert expected_pcrs(parts) == {
        "pcr0": extended(b"perdure simulated firmware, version 1"),
        "pcr2": extended(bytes(4)),
        "pcr4": extended(b"kernellinefirst"),
        "pcr9": extended(b"secondthird"),
    }


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        ({"kernel": b"k"}, {"pcr4"}),
        ({"cmdline": b"c"}, {"pcr4"}),
        ({"ramdisks": (PARTS.ramdisks[0] + b"\0", *PARTS.ramdisks[1:])}, {"pcr4"}),
        ({"ramdisks": (PARTS.ramdisks[0], b"another authority")}, {"pcr9"}),
        ({"metadata": b"{ }"}, set()),
    ],
)
def test_each_part_of_an_image_moves_its_register_alone(change, moved):
    before, after = expected_pcrs(PARTS), expected_pcrs(dataclasses.replace(PARTS, **change))
    assert {name for name in before if before[name] != after[name]} == moved


@needs_swtpm
def test_the_tpm_shows_what_is_expected_of_the_image_and_nothing_else(tpm):
    found = registers(attested(tpm)[2])
    untouched = {f"pcr{number}": (b"\xff" if 17 <= number <= 22 else b"\0") * 32 for number in range(24)}
    assert found == untouched | expected_pcrs(PARTS)


@needs_swtpm
def test_what_is_measured_later_shows_too(tpm):
    with SimulatedTpm(ROOT, PARTS) as other:
        opened = Tpm(other.fileno())
        before = registers(open_envelope(opened.attest(DATA)).parts[2])
        event = struct.pack(">I", 12) + door.EMPTY_PASSWORD + bytes.fromhex("00000001 000b") + b"e" * 32
        door.exchange(other.fileno(), door.SESSIONS, 0x182, event)
        after = registers(open_envelope(opened.attest(DATA)).parts[2])
    assert after == before | {"pcr12": hashlib.sha256(bytes(32) + b"e" * 32).digest()}


# Keys and certificates ------------------------------------------------------------------------------------


@needs_swtpm
def test_the_quote_is_signed_by_the_key_that_the_root_certifies(tpm):
    attest, signature, pcrs, der = attested(tpm)
    certificate = x509.load_der_x509_certificate(der)
    certificate.verify_directly_issued_by(ROOT.certificate)
    assert der == tpm.certificate
    head, r_size, r, s_size, s = struct.unpack(">4sH32sH32s", signature)
    assert (head, r_size, s_size) == (bytes.fromhex("0018 000b"), 32, 32)
    dss = encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(dss, attest, ec.ECDSA(SHA256()))  # raises if it is not good
    assert attest[:6] == bytes.fromhex("ff544347 8018")
    signer_end = 8 + int.from_bytes(attest[6:8], "big")
    assert attest[signer_end : signer_end + 34] == b"\0\x20" + DATA[:32]
    resets, restarts = struct.unpack_from(">II", attest, signer_end + 34 + 8)
    assert (resets, restarts) == (1, 0)
    assert attest[-44:] == bytes.fromhex("00000001 000b 03 ffffff 0020") + hashlib.sha256(pcrs).digest()


@needs_swtpm
def test_the_key_signs_quotes_alone_and_does_not_leave_the_tpm(tpm):
    handle = struct.pack(">I", door.ATTESTATION_KEY)
    public = door.exchange(tpm.fileno(), door.NO_SESSIONS, 0x173, handle)
    kind, name_by, attributes = struct.unpack_from(">HHI", public, 2)
    fixed_tpm, fixed_parent, own_randomness, with_auth, restricted, decrypt, sign = 1, 4, 5, 6, 16, 17, 18
    assert (kind, name_by) == (0x23, 0x0B)
    assert all(attributes >> bit & 1 for bit in (fixed_tpm, fixed_parent, own_randomness, with_auth, restricted, sign))
    assert not attributes >> decrypt & 1
    # TPM2_Sign of a digest that the TPM has not made itself: no ticket
    sign_it = handle + door.EMPTY_PASSWORD + b"\0\x20" + bytes(32) + bytes.fromhex("0010 8024 40000007 0000")
    with pytest.raises(OSError, match="0x15d with code 0x3e0"):  # TPM_RC_TICKET, third parameter
        door.exchange(tpm.fileno(), door.SESSIONS, 0x15D, sign_it)


@needs_swtpm
def test_nothing_but_the_persistent_key_stays_loaded(tpm):
    transient = struct.pack(">III", 1, 0x80000000, 10)  # TPM_CAP_HANDLES
    assert door.exchange(tpm.fileno(), door.NO_SESSIONS, 0x17A, transient) == bytes.fromhex("00 00000001 00000000")
    persistent = struct.pack(">III", 1, 0x81000000, 10)
    expected = bytes.fromhex("00 00000001 00000001 81000003")
    assert door.exchange(tpm.fileno(), door.NO_SESSIONS, 0x17A, persistent) == expected


@needs_swtpm
def test_two_machines_have_two_keys_and_show_the_same_image(tpm):
    with SimulatedTpm(ROOT, PARTS) as other:
        one, two = attested(tpm), attested(other)
    keys = [x509.load_der_x509_certificate(parts[3]).public_key() for parts in (one, two)]
    assert keys[0] != keys[1]
    assert one[2] == two[2]


@needs_swtpm
def test_the_keys_certificate_is_a_key_for_signatures_and_says_that_it_is_simulated(tpm):
    certificate = x509.load_der_x509_certificate(tpm.certificate)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert (usage.value.digital_signature, usage.value.key_cert_sign, usage.value.crl_sign) == (True, False, False)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca) == (True, False)
    for name in (certificate.subject, certificate.issuer):
        assert name.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)[0].value == "simulated"
    now = datetime.now(UTC)
    assert certificate.not_valid_before_utc < now < now + timedelta(days=364) < certificate.not_valid_after_utc


def test_the_root_is_an_authority_over_keys_alone_and_says_that_it_is_simulated():
    extensions = ROOT.certificate.extensions
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_cert_sign) == (False, True)
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    assert "simulated" in ROOT.certificate.subject.rfc4514_string()
    ROOT.certificate.verify_directly_issued_by(ROOT.certificate)


def test_a_root_is_made_once_and_is_not_that_of_the_other_platform(tmp_path):
    made, again = TpmRoot.load_or_create(tmp_path), TpmRoot.load_or_create(tmp_path)
    assert isinstance(again, TpmRoot)
    assert again.der == made.der
    assert again.key.private_numbers() == made.key.private_numbers()
    nitro = SimulatedRoot.load_or_create(tmp_path)
    assert nitro.der != made.der
    assert nitro.key.public_key() != made.key.public_key()
    assert TpmRoot.load_or_create(tmp_path).der == made.der


def test_a_key_with_leading_zeros_in_its_coordinates_is_read():
    assert platform._coordinate(b"\0\x1f" + b"\1" * 31 + b"\0\x20") == (int.from_bytes(b"\1" * 31, "big"), b"\0\x20")


# Other readers --------------------------------------------------------------------------------------------


@needs_swtpm
@needs_tpm2_tools
def test_tpm2_tools_find_the_quote_good(tpm, tmp_path):
    attest, signature, pcrs, der = attested(tpm)
    key = x509.load_der_x509_certificate(der).public_key()
    (tmp_path / "key").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    for name, data in (("attest", attest), ("signature", signature)):
        (tmp_path / name).write_bytes(data)

    # As `tpm2_quote` writes it, the layout of the C structures: TPML_PCR_SELECTION, then a count and TPML_DIGESTs.
    def write_pcrs(values: bytes) -> None:
        selection = struct.pack("<I", 1) + bytes.fromhex("0b00 03 ffffff 0000").ljust(128, b"\0")
        digests = [struct.pack("<H64s", 32, values[at : at + 32]) for at in range(0, len(values), 32)]
        lists = [struct.pack("<I", 8) + b"".join(digests[at : at + 8]) for at in (0, 8, 16)]
        (tmp_path / "pcrs").write_bytes(selection + struct.pack("<I", 3) + b"".join(lists))

    def check(qualification: bytes) -> int:
        command = ["tpm2_checkquote", "-u", "key", "-m", "attest", "-s", "signature", "-f", "pcrs", "-g", "sha256"]
        command += ["-q", qualification.hex()]
        done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, timeout=30)
        return done.returncode

    write_pcrs(pcrs)
    assert check(DATA[:32]) == 0
    assert check(bytes(32)) != 0
    write_pcrs(bytes(32) + pcrs[32:])
    assert check(DATA[:32]) != 0


def policy(root: TpmRoot, parts: eif.Eif = PARTS) -> Policy:
    trusted = TrustedRoot("simulated-tpm", Platform.TPM, root.der)
    return Policy((trusted,), (Measurement.of("simulated-tpm", expected_pcrs(parts)),))


def verified(parts: tuple[bytes, ...], rules: Policy):
    attest, signature, pcrs, certificate = parts
    return verifier.verify(verifier.Quote(attest, signature, pcrs), (certificate,), policy=rules, at_ms=now_ms())


@needs_swtpm
def test_a_policy_that_is_made_from_the_image_alone_accepts_it(tpm):
    found = verified(attested(tpm), policy(ROOT))
    expect_report_data(found, DATA)
    assert found.platform is Platform.TPM
    assert expected_pcrs(PARTS).items() <= found.measurement.items()


@needs_swtpm
def test_a_policy_for_another_image_or_another_root_does_not(tpm):
    parts = attested(tpm)
    other = dataclasses.replace(PARTS, ramdisks=(PARTS.ramdisks[0], build.authority_ramdisk(KEY.public_key.format())))
    with pytest.raises(WrongMeasurement):
        verified(parts, policy(ROOT, other))
    with pytest.raises(UntrustedRoot):
        verified(parts, policy(TpmRoot.create()))
    with pytest.raises(BadEvidence):
        verified((parts[0][:-1] + bytes([parts[0][-1] ^ 1]), *parts[1:]), policy(ROOT))


# Beginning and end ----------------------------------------------------------------------------------------


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """Where temporary directories are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@needs_swtpm
def test_the_state_is_the_owners_alone_and_goes_with_the_tpm(temporary):
    with SimulatedTpm(ROOT, PARTS) as tpm:
        (directory,) = temporary.iterdir()
        assert directory.stat().st_mode & 0o777 == 0o700
        pid, fd = tpm.pid, tpm.fileno()
    assert not psutil.pid_exists(pid)  # nor a zombie
    assert list(temporary.iterdir()) == []
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@needs_swtpm
def test_an_error_ends_the_tpm_too(temporary):
    class Interruption(BaseException):
        pass

    with pytest.raises(Interruption), SimulatedTpm(ROOT, PARTS) as tpm:
        raise Interruption
    assert is_gone(tpm.pid)
    assert list(temporary.iterdir()) == []


@needs_swtpm
def test_an_error_while_the_tpm_is_prepared_ends_it(temporary, monkeypatch):
    monkeypatch.setattr(TpmRoot, "certify", lambda *_: bytes(platform.CERTIFICATE_INDEX_BYTES + 1))
    tpm = SimulatedTpm(ROOT, PARTS)
    with pytest.raises(OSError, match="refuses command 0x137"):
        tpm.__enter__()
    assert is_gone(tpm.pid)
    assert list(temporary.iterdir()) == []


@needs_swtpm
def test_a_tpm_that_is_killed_gives_no_evidence():
    with SimulatedTpm(ROOT, PARTS) as tpm:
        opened = Tpm(tpm.fileno())
        os.kill(tpm.pid, signal.SIGKILL)
        assert is_gone(tpm.pid)
        with pytest.raises(OSError, match=r"gone|reset|Broken pipe"):
            opened.attest(DATA)


def test_a_program_that_is_no_tpm_is_told(temporary, monkeypatch):
    program = temporary / "swtpm"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(temporary), prepend=os.pathsep)
    with pytest.raises(OSError, match=r"gone|reset|Broken pipe"):
        SimulatedTpm(ROOT, PARTS).__enter__()
    assert list(temporary.iterdir()) == [program]


def test_a_program_that_never_answers_is_told(temporary, monkeypatch):
    program = temporary / "swtpm"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(temporary), prepend=os.pathsep)
    monkeypatch.setattr(platform, "REPLY_SECONDS_MAX", 1)
    tpm = SimulatedTpm(ROOT, PARTS)
    with pytest.raises(TimeoutError, match="does not answer"):
        tpm.__enter__()
    assert not psutil.pid_exists(tpm.pid)
    assert list(temporary.iterdir()) == [program]


@needs_swtpm
def test_the_disk_gets_a_socket_that_waits_as_long_as_it_takes(tpm):
    assert os.get_blocking(tpm.fileno())
    with socket.socket(fileno=os.dup(tpm.fileno())) as same:
        assert same.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16) == bytes(16)


def test_a_missing_program_is_named(temporary, monkeypatch):
    monkeypatch.setenv("PATH", str(temporary))
    with pytest.raises(Misuse, match="needs the program swtpm"):
        SimulatedTpm(ROOT, PARTS).__enter__()
    assert list(temporary.iterdir()) == []


HOLDER = """
import signal, sys
from perdure.image import eif
from perdure.simtee.tpm import SimulatedTpm, TpmRoot

with SimulatedTpm(TpmRoot.create(), eif.parse(open(sys.argv[1], "rb").read())) as tpm:
    print(tpm.pid, flush=True)
    signal.pause()
"""


@needs_swtpm
def test_the_tpm_dies_with_a_process_that_is_killed(tmp_path):
    (tmp_path / "image").write_bytes(IMAGE)
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "image")]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as holder:
        assert holder.stdout is not None
        pid = int(holder.stdout.readline())
        holder.kill()
    assert is_gone(pid)


# Launching ------------------------------------------------------------------------------------------------


def stop(launcher: subprocess.Popen[str]) -> None:
    launcher.terminate()
    assert launcher.wait(10) == 0


@needs_swtpm
def test_an_images_program_gets_a_tpm_that_has_measured_it(tmp_path):
    with launched(tmp_path, "wait", "--platform", "tpm") as launcher:
        said = report(launcher)
        stop(launcher)
    assert said["argv"][4] == "--evidence"
    assert said["argv"][5].startswith("tpm-fd:")
    for number, document in enumerate(said["documents"]):
        parts = open_envelope(bytes.fromhex(document)).parts
        found = verified(parts, policy(TpmRoot.load_or_create(tmp_path / "root")))
        expect_report_data(found, bytes([number]) * 64)


@needs_swtpm
def test_another_image_is_another_measurement(tmp_path):
    other = build.build_simulated(KEY.public_key.format(), program(REPORTER + "\n# changed\n"))
    with launched(tmp_path, "wait", "--platform", "tpm", image=other) as launcher:
        parts = open_envelope(bytes.fromhex(report(launcher)["documents"][0])).parts
        stop(launcher)
    root = TpmRoot.load_or_create(tmp_path / "root")
    with pytest.raises(WrongMeasurement):
        verified(parts, policy(root))
    assert verified(parts, policy(root, eif.parse(other)))


@needs_swtpm
def test_a_real_disk_answers_hello_with_a_quote(tmp_path):
    image = build.build_simulated(KEY.public_key.format())
    with launched(tmp_path, "tcp:127.0.0.1:0", "--platform", "tpm", image=image) as launcher:
        word, address = line(launcher).split()
        assert word == "listening"
        command = client.hello(KEY, b"n" * 32)
        with Client(address) as connection:
            result = connection.ask(command)
        stop(launcher)
    document, commitment = client.parse_evidence(result, command)
    found = verified(open_envelope(document).parts, policy(TpmRoot.load_or_create(tmp_path / "root"), eif.parse(image)))
    expect_report_data(found, commitment)
    assert left_over(tmp_path) == []


@needs_swtpm
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("listen", ["wait", "close"])
def test_a_signal_ends_program_and_tpm_cleanly(tmp_path, number, listen):
    with launched(tmp_path, listen, "--platform", "tpm") as launcher:
        report(launcher)
        started = psutil.Process(launcher.pid).children()
        assert len(started) == 2
        if listen == "close":
            assert line(launcher) == "closed\n"
        launcher.send_signal(number)
        assert launcher.wait(10) == 0
    assert all(is_gone(process.pid) for process in started)
    assert left_over(tmp_path) == []


@needs_swtpm
@pytest.mark.parametrize(("listen", "status"), [("exit:7", 7), ("crash", 128 + signal.SIGKILL)])
def test_the_launcher_ends_with_the_programs_status(tmp_path, listen, status):
    with launched(tmp_path, listen, "--platform", "tpm") as launcher:
        report(launcher)
        assert launcher.wait(10) == status
    assert left_over(tmp_path) == []


@needs_swtpm
def test_program_and_tpm_die_with_a_launcher_that_is_killed(tmp_path):
    with launched(tmp_path, "stubborn", "--platform", "tpm") as launcher:
        report(launcher)
        started = psutil.Process(launcher.pid).children()
        assert len(started) == 2
        launcher.send_signal(signal.SIGKILL)
        assert launcher.wait(10) == -signal.SIGKILL
        assert all(is_gone(process.pid) for process in started)


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ({"platform": Platform.TPM, "evidence_latency_ms": 1.0}, "no evidence latency"),
        ({"platform": Platform.TPM, "instance_id": "i-0123456789abcdef0"}, "no instance id"),
        ({"platform": Platform.NITRO}, "no simulated platform"),
    ],
)
def test_what_the_platform_cannot_do_is_refused(tmp_path, asked, what):
    assert threading.current_thread() is threading.main_thread()
    with pytest.raises(Misuse, match=what):
        launch.run(IMAGE, root_directory=tmp_path / "root", listen="wait", size_bytes=64, **asked)
    assert list(tmp_path.iterdir()) == []
