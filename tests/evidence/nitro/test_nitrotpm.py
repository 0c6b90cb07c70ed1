"""Documents of NitroTPMs: the format, chain and root of enclaves', of machines that a policy has to trust as such."""

import random
from datetime import datetime

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.errors import (
    BadChain,
    BadEvidence,
    BadSignature,
    DebugMode,
    ExpiredEvidence,
    MalformedEvidence,
    Misuse,
    UntrustedRoot,
    WrongCommitment,
    WrongMeasurement,
)
from perdure.evidence.nitro import verifier as nitro
from perdure.evidence.nitro.chain import ChainCache
from perdure.evidence.policy import Measurement, Policy, TrustedRoot
from perdure.evidence.roots import AWS_NITRO_G1, Platform
from perdure.evidence.verified import expect_report_data
from tests.evidence.support import (
    COMMITMENT,
    INSTANCE_ID,
    MODULE_ID,
    NOW_MS,
    PCRS,
    ROOT,
    VECTORS,
    document,
    expected,
    fields,
    leaf,
    needs_vectors,
    sign,
)

AWS_NITROTPM_G1 = "aws-nitrotpm-g1"
REAL = "vaportpm-2026-02-03.cbor"
REGISTERS = ("pcr2", "pcr4", "pcr7", "pcr12")

MACHINE_ID = f"{INSTANCE_ID}-tpm0000000000000000"
MACHINE_PCRS = {index: bytes([index + 1]) * 48 for index in range(24)}
MACHINES = TrustedRoot("machines", Platform.NITROTPM, ROOT.der)
ENCLAVES = TrustedRoot("enclaves", Platform.SIMULATED, ROOT.der)
MACHINE = Measurement.of("machines", {name: MACHINE_PCRS[int(name[3:])] for name in REGISTERS})
ENCLAVE = Measurement.enclave("enclaves", PCRS[0], PCRS[1], PCRS[2])
POLICY = Policy((MACHINES,), (MACHINE,))
CHAINS = ChainCache()


def machine(**changes):
    """A well signed document of a NitroTPM under a root of our own, with some fields changed; `...` removes one."""
    return document(**{"module_id": MACHINE_ID, "pcrs": ..., "nitrotpm_pcrs": MACHINE_PCRS, **changes})


def judge(evidence, policy=POLICY, at_ms=NOW_MS):
    return nitro.verify(evidence, policy=policy, at_ms=at_ms, chains=CHAINS)


def pcrs_with(**changed):
    return {**MACHINE_PCRS, **{int(name[3:]): value for name, value in changed.items()}}


# A machine of AWS -----------------------------------------------------------------------------------------


def record():
    return expected("nitrotpm")[REAL]


def real():
    return (VECTORS / "nitrotpm" / REAL).read_bytes()


def real_registers(*names):
    return {one: bytes.fromhex(record()["nitrotpm_pcrs"][one[3:]]) for one in names}


def real_policy(**changed):
    root = TrustedRoot.builtin(AWS_NITROTPM_G1)
    registers = real_registers(*REGISTERS) | changed
    return Policy((root,), (Measurement.of(AWS_NITROTPM_G1, registers),))


def real_verify(evidence=None, policy=None, at_ms=None):
    at_ms = record()["timestamp_ms"] if at_ms is None else at_ms
    evidence = real() if evidence is None else evidence
    return nitro.verify(evidence, policy=real_policy() if policy is None else policy, at_ms=at_ms, chains=CHAINS)


@needs_vectors("nitrotpm")
def test_a_real_document_gives_what_its_record_says():
    verified = real_verify()
    assert verified.platform is Platform.NITROTPM
    assert verified.root == AWS_NITROTPM_G1
    assert verified.measurement == real_registers(*(f"pcr{index}" for index in range(24)))
    assert verified.report_data is None
    assert verified.module_id == record()["module_id"]
    assert verified.host == record()["module_id"].split("-tpm")[0]
    assert verified.time_ms == record()["timestamp_ms"] == nitro.document_time_ms(real())
    assert verified.not_after_ms == int(datetime.fromisoformat(record()["valid_until"]).timestamp() * 1000)


@needs_vectors("nitrotpm")
def test_a_real_documents_nonce_and_public_key_do_not_stand_in_for_report_data():
    with pytest.raises(WrongCommitment):
        expect_report_data(real_verify(), COMMITMENT)
    with pytest.raises(WrongCommitment):
        expect_report_data(real_verify(), bytes.fromhex(record()["nonce"]) + bytes(32))


@needs_vectors("nitrotpm")
def test_a_policy_that_trusts_enclaves_alone_refuses_a_real_machine():
    enclaves = TrustedRoot.builtin(AWS_NITRO_G1)
    assert enclaves.certificate == TrustedRoot.builtin(AWS_NITROTPM_G1).certificate
    registers = real_registers("pcr0", "pcr1", "pcr2")
    with pytest.raises(UntrustedRoot, match="does not name"):
        real_verify(policy=Policy((enclaves,), (Measurement.of(AWS_NITRO_G1, registers),)))
    with pytest.raises(Misuse):
        TrustedRoot(AWS_NITRO_G1, Platform.NITROTPM, enclaves.certificate)


@needs_vectors("nitrotpm")
@needs_vectors("nitro")
def test_a_policy_that_trusts_machines_alone_refuses_a_real_enclave():
    for name, one in expected("nitro").items():
        with pytest.raises(UntrustedRoot, match="does not name"):
            real_verify((VECTORS / "nitro" / name).read_bytes(), at_ms=one["verify_at"] * 1000)


@needs_vectors("nitrotpm")
@needs_vectors("nitro")
def test_a_policy_that_trusts_both_keeps_their_programs_apart():
    roots = tuple(TrustedRoot.builtin(name) for name in (AWS_NITRO_G1, AWS_NITROTPM_G1))
    both = Policy(roots, real_policy().measurements)
    assert real_verify(policy=both).root == AWS_NITROTPM_G1
    name, one = next(
        (name, one) for name, one in expected("nitro").items() if one["signature_ok"] and not one["debug_mode"]
    )
    evidence, at_ms = (VECTORS / "nitro" / name).read_bytes(), one["verify_at"] * 1000
    with pytest.raises(WrongMeasurement, match=AWS_NITRO_G1):
        real_verify(evidence, policy=both, at_ms=at_ms)
    pcrs = {f"pcr{index}": bytes.fromhex(one["nonzero_pcrs"][str(index)]) for index in range(3)}
    enclave = Measurement.of(AWS_NITRO_G1, pcrs)
    verified = real_verify(evidence, policy=Policy(roots, (*both.measurements, enclave)), at_ms=at_ms)
    assert (verified.root, verified.platform) == (AWS_NITRO_G1, Platform.NITRO)


@needs_vectors("nitrotpm")
@pytest.mark.parametrize("name", REGISTERS)
def test_a_real_machine_that_runs_something_else_is_refused(name):
    with pytest.raises(WrongMeasurement):
        real_verify(policy=real_policy(**{name: b"\x01" * 48}))


@needs_vectors("nitrotpm")
def test_a_real_document_is_refused_outside_of_its_time():
    policy, start, end = (
        Policy(real_policy().roots, real_policy().measurements, skew_ms_max=3 * 3600 * 1000),
        *(int(datetime.fromisoformat(record()[f"valid_{edge}"]).timestamp() * 1000) for edge in ("from", "until")),
    )
    assert real_verify(policy=policy, at_ms=start)
    assert real_verify(policy=policy, at_ms=end)
    for at_ms in (start - 1, end + 1, end + 10**12):
        with pytest.raises(ExpiredEvidence):
            real_verify(policy=policy, at_ms=at_ms)
    for late in (-60_001, 60_001):
        with pytest.raises(ExpiredEvidence):
            real_verify(at_ms=record()["timestamp_ms"] + late)


@needs_vectors("nitrotpm")
def test_every_changed_byte_and_truncation_of_a_real_document_is_refused():
    evidence, bits, policy = real(), random.Random(1), real_policy()
    at_ms = record()["timestamp_ms"]
    for at, byte in enumerate(evidence):
        mutant = evidence[:at] + bytes([byte ^ bits.randint(1, 255)]) + evidence[at + 1 :]
        with pytest.raises(BadEvidence):
            judge(mutant, policy, at_ms)
        with pytest.raises(MalformedEvidence):
            judge(evidence[:at], policy, at_ms)
    with pytest.raises(MalformedEvidence):
        judge(evidence + b"\0", policy, at_ms)


@needs_vectors("nitrotpm")
@pytest.mark.parametrize("part", ["leaf", "instance", "root", "signature"])
def test_one_flipped_bit_of_a_real_document_is_refused_for_what_it_is(part):
    evidence = real()
    _, _, payload, signature = cbor2.loads(evidence)
    decoded = cbor2.loads(payload)
    target, error = {
        "leaf": (decoded["certificate"], BadChain),
        "instance": (decoded["cabundle"][-1], BadChain),
        "root": (decoded["cabundle"][0], UntrustedRoot),
        "signature": (signature, BadSignature),
    }[part]
    at = evidence.index(target) + len(target) - 1
    with pytest.raises(error):
        real_verify(evidence[:at] + bytes([evidence[at] ^ 1]) + evidence[at + 1 :])


# A machine of our own -------------------------------------------------------------------------------------


def test_a_good_document_says_everything_it_proves():
    verified = judge(machine())
    assert verified.platform is Platform.NITROTPM
    assert verified.root == "machines"
    assert verified.measurement == {f"pcr{index}": value for index, value in MACHINE_PCRS.items()}
    assert verified.report_data == COMMITMENT
    assert verified.module_id == MACHINE_ID
    assert verified.host == INSTANCE_ID
    assert verified.time_ms == NOW_MS
    expect_report_data(verified, COMMITMENT)
    for other in (bytes(64), COMMITMENT[:32] + bytes(32)):  # all 64 bytes count, unlike on other TPMs
        with pytest.raises(WrongCommitment):
            expect_report_data(verified, other)


def test_each_kind_needs_a_root_of_its_own_platform():
    for evidence, ours, theirs in (
        (machine(), Policy((MACHINES,), (MACHINE,)), Policy((ENCLAVES,), (ENCLAVE,))),
        (document(), Policy((ENCLAVES,), (ENCLAVE,)), Policy((MACHINES,), (MACHINE,))),
    ):
        assert judge(evidence, ours)
        with pytest.raises(UntrustedRoot):
            judge(evidence, theirs)
    both = Policy((MACHINES, ENCLAVES), (MACHINE, ENCLAVE))
    assert judge(machine(), both).root == "machines"
    assert judge(document(), both).root == "enclaves"


@pytest.mark.parametrize("platform", [Platform.NITRO, Platform.SIMULATED, Platform.TPM])
def test_a_root_of_any_other_platform_vouches_for_no_machine(platform):
    with pytest.raises(UntrustedRoot):
        judge(machine(), Policy((TrustedRoot("other", platform, ROOT.der),), ()))


@pytest.mark.parametrize(
    "policy", [POLICY, Policy((ENCLAVES,), (ENCLAVE,)), Policy((MACHINES, ENCLAVES), (MACHINE, ENCLAVE))]
)
def test_registers_of_both_kinds_at_once_are_refused_whoever_is_trusted(policy):
    enclave = {index: PCRS.get(index, bytes(48)) for index in range(16)}
    for module_id in (MACHINE_ID, MODULE_ID):
        for first, second in (
            (enclave, MACHINE_PCRS),
            ({}, MACHINE_PCRS),
            (enclave, {}),
            (None, MACHINE_PCRS),
            (enclave, None),
        ):
            with pytest.raises(MalformedEvidence, match="at once"):
                judge(document(module_id=module_id, pcrs=first, nitrotpm_pcrs=second), policy)


@pytest.mark.parametrize(
    "module_id",
    [
        MODULE_ID,
        INSTANCE_ID,
        f"{INSTANCE_ID}-tpm",
        f"{INSTANCE_ID}-tpm{'0' * 33}",
        f"{INSTANCE_ID}-TPM0000000000000000",
        f"{INSTANCE_ID}-tpm0000000000000000-enc0123456789abcdef",
        f"{MACHINE_ID}\n",
        MACHINE_ID.encode(),
        None,
        ...,
    ],
)
def test_a_machines_module_id_has_its_own_form(module_id):
    with pytest.raises(MalformedEvidence, match="field module_id "):
        judge(machine(module_id=module_id))


def test_an_enclave_cannot_have_a_machines_module_id():
    with pytest.raises(MalformedEvidence, match="field module_id "):
        judge(document(module_id=MACHINE_ID), Policy((ENCLAVES,), (ENCLAVE,)))


@pytest.mark.parametrize(
    "pcrs",
    [
        {},
        None,
        list(MACHINE_PCRS.values()),
        *({index: value for index, value in MACHINE_PCRS.items() if index != missing} for missing in (2, 4, 7, 12)),
        {0: bytes(48), 1: bytes(48), 2: bytes(48)},
        pcrs_with(pcr4=bytes(32)),
        pcrs_with(pcr7=b""),
        pcrs_with(pcr12=None),
        pcrs_with(pcr32=bytes(48)),
        {**MACHINE_PCRS, "4": bytes(48)},
    ],
)
def test_registers_of_another_shape_are_refused(pcrs):
    with pytest.raises(MalformedEvidence, match="field nitrotpm_pcrs "):
        judge(machine(nitrotpm_pcrs=pcrs))


def test_a_document_without_any_registers_is_refused():
    with pytest.raises(MalformedEvidence):
        judge(machine(nitrotpm_pcrs=...))


def test_only_what_says_what_was_booted_must_be_there():
    pcrs = {index: MACHINE_PCRS[index] for index in (2, 4, 7, 12)}
    assert judge(machine(nitrotpm_pcrs=pcrs)).measurement == dict(MACHINE.registers)
    more = Measurement.of("machines", {**dict(MACHINE.registers), "pcr11": MACHINE_PCRS[11]})
    with pytest.raises(WrongMeasurement):  # pcr11 is named by this policy, and not there
        judge(machine(nitrotpm_pcrs=pcrs), Policy((MACHINES,), (more,)))


def test_firmware_that_measured_no_boot_image_is_refused_whatever_the_policy_lists():
    zero = Measurement.of("machines", {**dict(MACHINE.registers), "pcr4": bytes(48)})
    with pytest.raises(DebugMode, match="no boot image"):
        judge(machine(nitrotpm_pcrs=pcrs_with(pcr4=bytes(48))), Policy((MACHINES,), (zero,)))


def test_what_is_debug_mode_in_an_enclave_is_nothing_in_a_machine():
    zeros = {f"pcr{index}": bytes(48) for index in (0, 1)}
    assert judge(machine(nitrotpm_pcrs=pcrs_with(**zeros)))
    policy = Policy((ENCLAVES,), (ENCLAVE,))
    assert judge(document(pcrs={**{index: bytes(48) for index in range(16)}, **PCRS}), policy)
    with pytest.raises(DebugMode):
        judge(document(pcrs={**PCRS, 0: bytes(48)}), policy)


@pytest.mark.parametrize("name", REGISTERS)
def test_a_machine_that_runs_something_else_is_refused(name):
    with pytest.raises(WrongMeasurement, match="other contents"):
        judge(machine(nitrotpm_pcrs=pcrs_with(**{name: b"\xee" * 48})))


def test_another_machines_signature_and_a_wrong_time_are_refused():
    other = leaf("another machine")
    payload = {**fields(leaf()), "module_id": MACHINE_ID, "nitrotpm_pcrs": MACHINE_PCRS}
    del payload["pcrs"]
    assert judge(sign(cbor2.dumps(payload), leaf().key))
    with pytest.raises(BadSignature):
        judge(sign(cbor2.dumps(payload), other.key))
    for late in (-60_001, 60_001, 4 * 3600 * 1000):
        with pytest.raises(ExpiredEvidence):
            judge(machine(), at_ms=NOW_MS + late)


def test_every_truncation_and_extension_is_refused():
    evidence = machine()
    for length in range(len(evidence)):
        with pytest.raises(MalformedEvidence):
            judge(evidence[:length])
    with pytest.raises(MalformedEvidence):
        judge(evidence + b"\0")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.binary(max_size=60),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(0, 40) | st.text(max_size=3), inner),
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["module_id", "nitrotpm_pcrs", "pcrs", "digest", "timestamp", "user_data"]), values)
def test_a_field_of_any_value_is_accepted_or_refused_with_a_reason(field, value):
    try:
        verified = judge(machine(**{field: value}))
    except BadEvidence:
        return
    assert verified.platform is Platform.NITROTPM
    assert verified.measurement["pcr4"] == MACHINE_PCRS[4]
