"""Documents that AWS hardware made: each must give what its record says, and each change to one must be refused."""

import hashlib
import random
from datetime import datetime

import cbor2
import pytest

from perdure.errors import (
    BadChain,
    BadEvidence,
    BadSignature,
    DebugMode,
    ExpiredEvidence,
    MalformedEvidence,
    UntrustedRoot,
    WrongMeasurement,
)
from perdure.evidence.measurement import Measurement
from perdure.evidence.nitro import verifier as nitro
from perdure.evidence.nitro.chain import ChainCache
from perdure.evidence.policy import Policy, TrustedRoot
from perdure.evidence.roots import AWS_NITRO_G1, Platform
from perdure.simtee.nsm import pcr4
from tests.evidence.support import POLICY, VECTORS, expected, needs_vectors

pytestmark = needs_vectors("nitro")

AWS = TrustedRoot.builtin(AWS_NITRO_G1)
RECORDS = expected("nitro")
GOOD = [name for name, record in RECORDS.items() if record["signature_ok"] and not record["debug_mode"]]
DEBUG = [name for name, record in RECORDS.items() if record["debug_mode"]]
PLAIN = "veracruz-2022-11-09.cbor"


def read(name):
    return (VECTORS / "nitro" / name).read_bytes()


def pcr(name, index):
    return bytes.fromhex(RECORDS[name]["nonzero_pcrs"].get(str(index), "00" * 48))


def policy_for(name, skew_ms_max=60_000):
    return Policy((AWS,), (Measurement.enclave(AWS_NITRO_G1, pcr(name, 0), pcr(name, 1), pcr(name, 2)),), skew_ms_max)


def verify(evidence, name=PLAIN, *, at_ms=None, skew_ms_max=60_000):
    at_ms = RECORDS[name]["verify_at"] * 1000 if at_ms is None else at_ms
    return nitro.verify(evidence, policy=policy_for(name, skew_ms_max), at_ms=at_ms)


def unix_ms(text):
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def hexed(data):
    return None if data is None else data.hex()


def test_there_are_records_of_every_kind():
    assert GOOD
    assert DEBUG
    assert all(hashlib.sha256(read(name)).hexdigest() == record["sha256"] for name, record in RECORDS.items())


@pytest.mark.parametrize("name", GOOD)
def test_a_real_document_gives_what_its_record_says(name):
    record = RECORDS[name]
    verified = verify(read(name), name)
    assert verified.platform is Platform.NITRO
    assert verified.root == AWS_NITRO_G1
    assert verified.measurement == {f"pcr{index}": pcr(name, index) for index in range(16)}
    assert hexed(verified.report_data) == record["user_data"]
    assert verified.module_id == record["module_id"]
    assert verified.host == record["module_id"].partition("-enc")[0]
    assert verified.time_ms == record["timestamp_ms"] == nitro.document_time_ms(read(name))
    assert verified.not_after_ms == unix_ms(record["valid_until"])


@pytest.mark.parametrize("name", GOOD)
def test_a_real_module_id_and_pcr4_name_the_same_instance(name):
    assert verify(read(name), name).measurement["pcr4"] == pcr4(RECORDS[name]["module_id"])


@pytest.mark.parametrize("name", DEBUG)
def test_a_real_debug_enclave_is_refused(name):
    with pytest.raises(DebugMode):
        verify(read(name), name)


@pytest.mark.parametrize("name", [name for name, record in RECORDS.items() if not record["signature_ok"]])
def test_the_document_with_a_bad_signature_fails_there_and_nowhere_else(name):
    with pytest.raises(BadSignature):
        verify(read(name), name)


@needs_vectors("nitrotpm")
def test_a_genuine_nitrotpm_document_is_refused_as_an_enclave():
    for name, record in expected("nitrotpm").items():
        if name.endswith(".cbor"):
            evidence = (VECTORS / "nitrotpm" / name).read_bytes()
            with pytest.raises(UntrustedRoot, match="does not name"):
                nitro.verify(evidence, policy=policy_for(PLAIN), at_ms=record["verify_at"] * 1000)


@pytest.mark.parametrize("name", GOOD)
def test_a_real_document_is_refused_outside_of_its_leafs_life(name):
    start, end = unix_ms(RECORDS[name]["valid_from"]), unix_ms(RECORDS[name]["valid_until"])
    wide = 3 * 3600 * 1000
    assert verify(read(name), name, at_ms=start, skew_ms_max=wide)
    for at_ms in (start - 1000, end + 1000, end + 4 * 3600 * 1000):
        with pytest.raises(ExpiredEvidence):
            verify(read(name), name, at_ms=at_ms, skew_ms_max=wide)


def test_a_real_document_is_refused_under_any_other_root_and_for_any_other_program():
    at_ms = RECORDS[PLAIN]["verify_at"] * 1000
    with pytest.raises(UntrustedRoot):
        nitro.verify(read(PLAIN), policy=POLICY, at_ms=at_ms)
    with pytest.raises(WrongMeasurement):
        nitro.verify(read(PLAIN), policy=policy_for("anjuna-2021-03-17.cbor"), at_ms=at_ms)


def test_s_and_n_minus_s_both_verify():
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
    evidence = read(PLAIN)
    twin = evidence[:-48] + (order - int.from_bytes(evidence[-48:], "big")).to_bytes(48, "big")
    assert verify(twin) == verify(evidence)


@pytest.mark.parametrize(
    ("part", "error"),
    [
        ("payload", BadSignature),
        ("signature", BadSignature),
        ("protected", MalformedEvidence),
        ("leaf", BadChain),
        ("instance", BadChain),
        ("zonal", BadChain),
        ("regional", BadChain),
        ("root", UntrustedRoot),
    ],
)
def test_one_flipped_bit_is_refused_for_what_it_is(part, error):
    evidence = read(PLAIN)
    _, _, payload, signature = cbor2.loads(evidence)
    fields = cbor2.loads(payload)
    root, regional, zonal, instance = fields["cabundle"]
    parts = {"root": root, "regional": regional, "zonal": zonal, "instance": instance, "leaf": fields["certificate"]}
    parts |= {"payload": fields["user_data"], "signature": signature, "protected": bytes.fromhex("a1013822")}
    target = parts[part]
    at = evidence.index(target) + len(target) - 1  # of a certificate: the last byte of its signature
    with pytest.raises(error):
        verify(evidence[:at] + bytes([evidence[at] ^ 1]) + evidence[at + 1 :])


def test_a_leaf_of_another_document_or_a_missing_intermediate_is_refused():
    protected, unprotected, payload, signature = cbor2.loads(read(PLAIN))
    other = cbor2.loads(cbor2.loads(read("anjuna-2021-03-17.cbor"))[2])
    fields = cbor2.loads(payload)
    for changes in ({"certificate": other["certificate"]}, {"cabundle": fields["cabundle"][:-1]}):
        changed = cbor2.dumps([protected, unprotected, cbor2.dumps({**fields, **changes}), signature])
        with pytest.raises(BadChain):
            verify(changed)


def test_an_appended_byte_is_refused_and_tag_18_is_accepted():
    with pytest.raises(MalformedEvidence):
        verify(read(PLAIN) + b"\0")
    assert verify(b"\xd2" + read(PLAIN)) == verify(read(PLAIN))


def test_every_changed_byte_of_a_real_document_is_refused():
    evidence, chains, bits = read(PLAIN), ChainCache(), random.Random(1)
    policy, at_ms = policy_for(PLAIN), RECORDS[PLAIN]["verify_at"] * 1000
    for at, byte in enumerate(evidence):
        mutant = evidence[:at] + bytes([byte ^ bits.randint(1, 255)]) + evidence[at + 1 :]
        with pytest.raises(BadEvidence):
            nitro.verify(mutant, policy=policy, at_ms=at_ms, chains=chains)
