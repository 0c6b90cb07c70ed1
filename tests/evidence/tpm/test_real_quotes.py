"""Quotes that the tests did not make: a software TPM's, an EC2 machine's and a Google one's, and a live software TPM's.

A software TPM without firmware has measured nothing, so its recorded quote is good in everything but that.
"""

import os
import shutil
import subprocess
import time

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key

from perdure.errors import (
    BadSignature,
    ExpiredEvidence,
    ForbiddenLaunch,
    MalformedEvidence,
    UntrustedRoot,
    WrongMeasurement,
)
from perdure.evidence.tpm.quote import Scheme, parse_attest, parse_signature
from perdure.evidence.tpm.verifier import Quote
from perdure.evidence.verified import expect_report_data
from tests.evidence.support import COMMITMENT, VECTORS, expected, needs_vectors
from tests.evidence.tpm.support import AK_EXTENSIONS, ISSUER, ROOT, judge, number, policy_for, sized

HARDWARE = "vaportpm-2026-02-03"
TOOLS = (
    "swtpm",
    "tpm2_createprimary",
    "tpm2_readpublic",
    "tpm2_pcrextend",
    "tpm2_pcrread",
    "tpm2_quote",
    "tpm2_flushcontext",
)


def read(folder, name):
    return (VECTORS / folder / name).read_bytes()


def swtpm_quote():
    return Quote(*(read("tpm", f"swtpm-quote.{part}") for part in ("msg", "sig", "pcrs")))


def certify(pem):
    """Hints for a key that is known by its public half alone."""
    certificate = ISSUER.issue("real AK", load_pem_public_key(pem), AK_EXTENSIONS)
    return (der_of(certificate), ISSUER.der)


def der_of(certificate):
    return certificate.public_bytes(Encoding.DER)


# A software TPM, recorded ---------------------------------------------------------------------------------


@needs_vectors("tpm")
def test_a_recorded_quote_gives_what_its_record_says():
    record = expected("tpm")["swtpm"]["attest"]
    quote = swtpm_quote()
    taken = parse_attest(quote.attest)
    assert taken.extra_data.hex() == record["extraData"] == read("tpm", "swtpm-quote.nonce.hex").decode().strip()
    assert (taken.reset_count, taken.restart_count) == (record["resetCount"], record["restartCount"])
    assert [["0xb", list(taken.selected)]] == record["sel"]
    assert taken.pcr_digest.hex() == record["pcrDigest"]
    signature = parse_signature(quote.signature)
    assert (signature.scheme, signature.hash.name) == (Scheme.ECDSA, "sha256")
    assert signature.digest(quote.pcrs) == taken.pcr_digest
    key = load_pem_public_key(read("tpm", "swtpm-ak.pem"))
    assert signature.suits(key)
    signature.verify(key, quote.attest)


@needs_vectors("tpm")
def test_a_recorded_quote_of_a_tpm_without_firmware_holds_in_all_but_what_it_measured():
    hints = certify(read("tpm", "swtpm-ak.pem"))
    with pytest.raises(ForbiddenLaunch, match="nothing into PCR0"):
        judge(swtpm_quote(), hints)


@needs_vectors("tpm")
def test_every_flipped_bit_of_a_recorded_quote_is_refused_before_anything_it_says():
    quote, hints = swtpm_quote(), certify(read("tpm", "swtpm-ak.pem"))
    for part in ("attest", "signature", "pcrs"):
        data = getattr(quote, part)
        for at in range(8 * len(data)):
            flipped = bytearray(data)
            flipped[at // 8] ^= 1 << at % 8
            parts = {one: getattr(quote, one) for one in ("attest", "signature", "pcrs")} | {part: bytes(flipped)}
            with pytest.raises((MalformedEvidence, BadSignature)):
                judge(Quote(**parts), hints)


# Hardware -------------------------------------------------------------------------------------------------


def hardware_signature():
    """AWS's tool writes the signature in DER; this is the TPM's own form of it."""
    r, s = decode_dss_signature(read("nitrotpm", f"{HARDWARE}-tpm-sig.der"))
    return bytes.fromhex("0018000b") + sized(number(r, 32)) + sized(number(s, 32))


def hardware_key():
    record = expected("nitrotpm")[f"{HARDWARE}.cbor"]
    x, y = (int(record[f"ak_{coordinate}"], 16) for coordinate in "xy")
    return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()


@needs_vectors("nitrotpm")
def test_the_signature_of_a_quote_by_hardware_holds():
    statement, signature = read("nitrotpm", f"{HARDWARE}-tpm-attest.bin"), parse_signature(hardware_signature())
    assert signature.suits(hardware_key())
    signature.verify(hardware_key(), statement)
    for at in range(len(statement)):
        with pytest.raises(BadSignature):
            signature.verify(hardware_key(), statement[:at] + bytes([statement[at] ^ 1]) + statement[at + 1 :])


@needs_vectors("nitrotpm")
def test_a_genuine_quote_of_another_bank_is_refused_for_its_bank():
    statement = read("nitrotpm", f"{HARDWARE}-tpm-attest.bin")
    record = expected("nitrotpm")[f"{HARDWARE}.cbor"]
    values = bytes.fromhex("".join(record["nitrotpm_pcrs"].values()))
    hints = (der_of(ISSUER.issue("hardware AK", hardware_key(), AK_EXTENSIONS)), ISSUER.der)
    with pytest.raises(MalformedEvidence, match="SHA-256 bank"):
        judge(Quote(statement, hardware_signature(), values), hints)
    # The rest of it is of the form that is read; calling the bank another breaks the signature.
    bank = statement.rindex(bytes.fromhex("000c03ffffff"))
    renamed = statement[:bank] + bytes.fromhex("000b") + statement[bank + 2 :]
    taken = parse_attest(renamed)
    assert taken.extra_data.hex() == record["nonce"]
    assert taken.selected == tuple(range(24))
    assert parse_signature(hardware_signature()).digest(values) == taken.pcr_digest
    with pytest.raises(BadSignature):
        judge(Quote(renamed, hardware_signature(), bytes(24 * 32)), hints)


# A virtual TPM of Google's, with its own chain -----------------------------------------------------------


def cloud_quote():
    r, s = decode_dss_signature(read("gcp-vtpm", f"{HARDWARE}-tpm-sig.der"))
    signature = bytes.fromhex("0018000b") + sized(number(r, 32)) + sized(number(s, 32))
    return Quote(read("gcp-vtpm", f"{HARDWARE}-tpm-attest.bin"), signature, read("gcp-vtpm", f"{HARDWARE}.pcrs"))


def cloud_judge(quote=None, hints=("ak", "intermediate"), *, root="root", at_ms=None, **changed):
    record = expected("gcp-vtpm")[HARDWARE]
    registers = {f"pcr{at}": bytes.fromhex(record["pcrs_sha256"][str(at)]) for at in (0, 4, 7)} | changed
    policy = policy_for(read("gcp-vtpm", f"{HARDWARE}-{root}.der"), **registers)
    certificates = tuple(read("gcp-vtpm", f"{HARDWARE}-{name}.der") for name in hints)
    return judge(quote or cloud_quote(), certificates, policy=policy, at_ms=at_ms or record["verify_at"] * 1000)


@needs_vectors("gcp-vtpm")
def test_a_clouds_quote_under_its_own_root_gives_what_its_record_says():
    record = expected("gcp-vtpm")[HARDWARE]
    for verified in (
        cloud_judge(),
        cloud_judge(hints=("root", "intermediate", "ak")),
        cloud_judge(hints=("ak",), root="intermediate"),
        cloud_judge(hints=("ak",), root="ak"),
    ):
        assert {name: value.hex() for name, value in verified.measurement.items()} == {
            f"pcr{at}": value for at, value in record["pcrs_sha256"].items()
        }
        assert verified.report_data == bytes.fromhex(record["nonce"])
        expect_report_data(verified, bytes.fromhex(record["nonce"]) + bytes(32))
        assert verified.module_id == f"{verified.host}-{record['reset_count']}.{record['restart_count']}"
        assert verified.not_after_ms == 2_716_166_268_000  # 2056-01-27 02:37:48 UTC: the end of the AK's


@needs_vectors("gcp-vtpm")
def test_a_clouds_quote_is_refused_under_another_root_for_another_program_and_at_another_time():
    record = expected("gcp-vtpm")[HARDWARE]
    with pytest.raises(UntrustedRoot):
        cloud_judge(hints=("ak",))
    with pytest.raises(UntrustedRoot):
        judge(cloud_quote(), (read("gcp-vtpm", f"{HARDWARE}-ak.der"),))
    with pytest.raises(WrongMeasurement):
        cloud_judge(pcr7=bytes(32))
    for at_ms in (1, record["verify_at"] * 1000 + 10**12):
        with pytest.raises(ExpiredEvidence):
            cloud_judge(at_ms=at_ms)


# A software TPM, live -------------------------------------------------------------------------------------


class Tpm:
    """A software TPM whose PCR 0, 2, 4 and 9 somebody has extended."""

    def __init__(self, folder):
        self.folder = folder
        socket = folder / "s"
        command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={folder}", "--server", f"type=unixio,path={socket}"]
        command += ["--ctrl", f"type=unixio,path={socket}.ctrl", "--flags", "not-need-init,startup-clear"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.environment = {**os.environ, "TPM2TOOLS_TCTI": f"swtpm:path={socket}"}
        for _ in range(200):
            if socket.exists():
                break
            time.sleep(0.02)

    def run(self, *command):
        for one in (command, ("tpm2_flushcontext", "-t")):  # what a tool leaves behind fills the TPM's few places
            self.run_one(*one)

    def run_one(self, *command):
        subprocess.run(command, env=self.environment, cwd=self.folder, check=True, capture_output=True, timeout=30)

    def key(self, algorithm):
        attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign"
        self.run("tpm2_createprimary", "-Q", "-C", "e", "-G", algorithm, "-a", attributes, "-c", "ak")
        self.run("tpm2_readpublic", "-Q", "-c", "ak", "-f", "pem", "-o", "ak.pem")
        return (self.folder / "ak.pem").read_bytes()

    def quote(self, qualifying, scheme, hash_name):
        bank = "sha256:" + ",".join(map(str, range(24)))
        kind = ("--scheme", scheme, "-g", hash_name)
        asked = ("-q", qualifying.hex()) if qualifying else ()
        self.run("tpm2_quote", "-Q", "-c", "ak", "-l", bank, *asked, *kind, "-m", "m", "-s", "g")
        self.run("tpm2_pcrread", "-Q", bank, "-o", "p")
        return Quote(*((self.folder / name).read_bytes() for name in "mgp"))

    def stop(self):
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture(scope="module")
def tpm(tmp_path_factory):
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        pytest.skip(f"NO LIVE TPM TESTED: {missing[0]} is not installed")
    made = Tpm(tmp_path_factory.mktemp("t"))
    try:
        made.run(
            "tpm2_pcrextend",
            f"0:sha256={'11' * 32}",
            f"2:sha256={'44' * 32}",
            f"4:sha256={'22' * 32}",
            f"9:sha256={'33' * 32}",
        )
        yield made
    finally:
        made.stop()


@pytest.mark.parametrize(
    ("kind", "scheme", "hash_name"),
    [
        ("ecc256", "ecdsa", "sha256"),
        ("ecc384", "ecdsa", "sha384"),
        ("rsa2048", "rsassa", "sha256"),
        ("rsa2048", "rsapss", "sha256"),
    ],
)
def test_a_live_tpms_quote_is_accepted_for_what_it_measured(tpm, kind, scheme, hash_name):
    hints = certify(tpm.key(f"{kind}:{scheme}-{hash_name}:null"))
    quote = tpm.quote(COMMITMENT[:32], scheme, hash_name)
    pcrs = {f"pcr{number}": quote.pcrs[32 * number :][:32] for number in (0, 2, 4, 9)}
    policy = policy_for(ROOT.der, **pcrs)
    verified = judge(quote, hints, policy=policy)
    expect_report_data(verified, COMMITMENT)
    assert verified.measurement["pcr17"] == b"\xff" * 32
    again = judge(tpm.quote(b"", scheme, hash_name), hints, policy=policy)
    assert again.report_data is None
    assert again.module_id == verified.module_id
    with pytest.raises(WrongMeasurement):
        judge(quote, hints)
