import itertools
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cbor2
import pytest
from cryptography import x509
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
from perdure.evidence.measurement import Measurement
from perdure.evidence.nitro import cose
from perdure.evidence.nitro import verifier as nitro
from perdure.evidence.nitro.chain import ChainCache
from perdure.evidence.nitro.document import Kind
from perdure.evidence.policy import Policy, TrustedRoot
from perdure.evidence.roots import AWS_NITRO_G1, Platform
from perdure.evidence.verified import expect_report_data
from perdure.simtee.nsm import pcr4
from perdure.simtee.pki import SimulatedRoot
from tests.evidence.support import (
    COMMITMENT,
    INSTANCE_ID,
    MODULE_ID,
    NOW_MS,
    PCRS,
    POLICY,
    ROOT,
    document,
    fields,
    leaf,
    nsm,
    seeded,
    sign,
)

P384_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
CHAINS = ChainCache()
LEAF_FROM_MS, LEAF_TO_MS = 1_699_999_997_000, 1_700_010_800_000  # 3 s before NOW_MS's second, 3 h after it


def verify(evidence, *, policy=POLICY, at_ms=NOW_MS, chains=CHAINS):
    return nitro.verify(evidence, policy=policy, at_ms=at_ms, chains=chains)


def policy(*measurements, roots=POLICY.roots, skew_ms_max=60_000):
    return Policy(roots, tuple(Measurement.enclave("simulated", *pcrs) for pcrs in measurements), skew_ms_max)


@pytest.mark.parametrize("is_indefinite", [False, True])
@pytest.mark.parametrize("tag", [b"", b"\xd2"])
@pytest.mark.parametrize("chains", [None, ChainCache()])
def test_a_good_document_says_everything_it_proves(is_indefinite, tag, chains):
    evidence = tag + nsm(is_indefinite=is_indefinite).attest(COMMITMENT)
    for _ in range(2):
        verified = verify(evidence, chains=chains)
        assert verified.platform is Platform.SIMULATED
        assert verified.root == "simulated"
        zeros = {f"pcr{index}": bytes(48) for index in range(16)}
        signed = {"pcr0": PCRS[0], "pcr1": PCRS[1], "pcr2": PCRS[2], "pcr4": pcr4(INSTANCE_ID)}
        assert verified.measurement == zeros | signed
        assert verified.report_data == COMMITMENT
        assert verified.module_id == MODULE_ID
        assert verified.host == INSTANCE_ID
        assert verified.time_ms == NOW_MS
        assert verified.not_after_ms == LEAF_TO_MS


def test_an_independent_encoder_makes_the_same_document():
    of = leaf()
    for is_indefinite in (False, True):
        payload = cose.split(nsm(is_indefinite=is_indefinite).attest(COMMITMENT)).payload
        assert cbor2.loads(payload) == {**fields(of), "pcrs": {**fields(of)["pcrs"], 4: pcr4(INSTANCE_ID)}}
    assert cose.split(nsm(is_indefinite=False).attest(COMMITMENT)).payload[0] == 0xA9
    assert cose.split(nsm(is_indefinite=True).attest(COMMITMENT)).payload[0] == 0xBF


# Report data ----------------------------------------------------------------------------------------------


def test_report_data_must_be_the_commitment():
    verified = verify(nsm().attest(COMMITMENT))
    expect_report_data(verified, COMMITMENT)
    for other in (bytes(64), COMMITMENT[:-1] + b"\0", COMMITMENT[::-1]):
        with pytest.raises(WrongCommitment, match="another question"):
            expect_report_data(verified, other)
    for wrong_length in (b"", COMMITMENT[:32], COMMITMENT + b"\0"):
        with pytest.raises(Misuse):
            expect_report_data(verified, wrong_length)


@pytest.mark.parametrize("user_data", [None, b"", COMMITMENT[:-1], COMMITMENT + b"\0"])
def test_missing_empty_short_or_long_report_data_is_no_commitment(user_data):
    verified = verify(nsm().attest(user_data))
    assert verified.report_data == user_data
    with pytest.raises(WrongCommitment):
        expect_report_data(verified, COMMITMENT)


def test_nonce_and_public_key_do_not_stand_in_for_report_data():
    verified = verify(nsm().attest(None, nonce=COMMITMENT, public_key=COMMITMENT))
    with pytest.raises(WrongCommitment):
        expect_report_data(verified, COMMITMENT)


# Every byte -----------------------------------------------------------------------------------------------


def test_every_changed_byte_is_refused():
    evidence = nsm().attest(COMMITMENT)
    bits = random.Random(1)
    for at, byte in enumerate(evidence):
        mutant = evidence[:at] + bytes([byte ^ bits.randint(1, 255)]) + evidence[at + 1 :]
        with pytest.raises(BadEvidence):
            verify(mutant)


def test_every_truncation_and_extension_is_refused():
    evidence = nsm().attest(COMMITMENT)
    for length in range(len(evidence)):
        with pytest.raises(MalformedEvidence):
            verify(evidence[:length])
    for more in (b"\0", b"\xff", evidence):
        with pytest.raises(MalformedEvidence):
            verify(evidence + more)


@given(st.binary(max_size=500) | st.binary(max_size=500).map(lambda data: cose.join(data, bytes(96))))
def test_random_bytes_are_refused(data):
    with pytest.raises(MalformedEvidence):
        verify(data)
    with pytest.raises(MalformedEvidence):
        nitro.document_time_ms(data)


LEAF = leaf()
PAYLOAD = cbor2.dumps(fields(LEAF))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_well_signed_payload_of_any_bytes_is_accepted_or_refused_with_a_reason(data):
    start = data.draw(st.integers(0, len(PAYLOAD)))
    end = data.draw(st.integers(start, min(start + 8, len(PAYLOAD))))
    payload = PAYLOAD[:start] + data.draw(st.binary(max_size=8)) + PAYLOAD[end:]
    try:
        verified = verify(sign(payload, LEAF.key))
    except BadEvidence:
        return
    assert verified.root == "simulated"
    assert [verified.measurement[f"pcr{index}"] for index in PCRS] == list(PCRS.values())


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.binary(max_size=60),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(0, 40) | st.text(max_size=3), inner),
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(fields(LEAF))), values)
def test_a_field_of_any_value_is_accepted_or_refused_with_a_reason(field, value):
    try:
        verify(document(**{field: value}))
    except BadEvidence:
        return


# Shape ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": "SHA256"},
        {"digest": ...},
        {"digest": b"SHA384"},
        {"module_id": ...},
        {"module_id": ""},
        {"module_id": INSTANCE_ID},
        {"module_id": f"{INSTANCE_ID}-tpm0000000000000000"},
        {"module_id": f"{INSTANCE_ID}-enc"},
        {"module_id": f"{INSTANCE_ID}-enc01\n"},
        {"module_id": MODULE_ID.encode()},
        {"timestamp": ...},
        {"timestamp": 0},
        {"timestamp": -1},
        {"timestamp": True},
        {"timestamp": float(NOW_MS)},
        {"timestamp": 2**64 - 1},
        {"pcrs": ...},
        {"pcrs": {}},
        {"pcrs": {0: PCRS[0], 1: PCRS[1]}},
        {"pcrs": {**PCRS, 32: bytes(48)}},
        {"pcrs": {**PCRS, -1: bytes(48)}},
        {"pcrs": {**PCRS, "3": bytes(48)}},
        {"pcrs": {**PCRS, 3: bytes(32)}},
        {"pcrs": {**PCRS, 3: None}},
        {"pcrs": list(PCRS.values())},
        {"certificate": ...},
        {"certificate": None},
        {"certificate": b""},
        {"certificate": bytes(1025)},
        {"cabundle": ...},
        {"cabundle": []},
        {"cabundle": ROOT.der},
        {"cabundle": [ROOT.der] * 9},
        {"cabundle": [ROOT.der, b""]},
        {"cabundle": [ROOT.der, None]},
        {"user_data": "text"},
        {"user_data": bytes(4097)},
        {"nonce": 1},
        {"public_key": []},
        {"nitrotpm_pcrs": {0: bytes(48)}},
        {"nitrotpm_pcrs": None},
        {"nitrotpm_pcrs": {0: bytes(48)}, "pcrs": ...},
        {"padding": bytes(16 * 1024)},
    ],
)
def test_refuses_a_signed_payload_of_another_shape(changes):
    with pytest.raises(MalformedEvidence):
        verify(document(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"nonce": ...},
        {"public_key": ..., "user_data": ..., "nonce": ...},
        {"nonce": bytes(1025)},
        {"a_new_field": {"of": ["any", 1.5, cbor2.CBORTag(1, 0), {1: None}]}},
        {"pcrs": {**PCRS, 16: b"\x10" * 48, 31: bytes(48)}},
    ],
)
def test_accepts_what_the_format_leaves_open(changes):
    assert verify(document(**changes)).measurement["pcr0"] == PCRS[0]


def test_refuses_a_payload_that_is_not_one_map_without_doubles():
    double = b"\xaa" + PAYLOAD[1:] + cbor2.dumps("nonce") + cbor2.dumps(None)
    for payload in (PAYLOAD + b"\0", double, b"\x80", b"", cbor2.dumps([fields(LEAF)]), cbor2.dumps(PAYLOAD)):
        with pytest.raises(MalformedEvidence):
            verify(sign(payload, LEAF.key))


# Roots and chains -----------------------------------------------------------------------------------------


def test_the_simulated_root_is_refused_unless_the_policy_names_it():
    aws_only = Policy((TrustedRoot.builtin(AWS_NITRO_G1),), (Measurement.enclave(AWS_NITRO_G1, *PCRS.values()),))
    with pytest.raises(UntrustedRoot, match="does not name"):
        verify(nsm().attest(COMMITMENT), policy=aws_only)


def test_a_root_with_the_same_name_and_another_key_is_refused():
    impostor = SimulatedRoot.create(seeded("impostor"))
    assert impostor.certificate.subject == ROOT.certificate.subject
    with pytest.raises(UntrustedRoot):
        verify(nsm(root=impostor).attest(COMMITMENT))
    forged = nsm(root=impostor).attest(COMMITMENT).replace(impostor.der, ROOT.der)
    with pytest.raises(BadEvidence):
        verify(forged)


def test_a_root_of_a_platform_that_writes_another_format_is_refused(monkeypatch):
    evidence = nsm().attest(COMMITMENT)
    assert verify(evidence)
    monkeypatch.setattr(nitro, "_PLATFORMS", {Kind.ENCLAVE: (Platform.NITRO,)})
    with pytest.raises(UntrustedRoot):
        verify(evidence)


def test_a_measurement_counts_only_under_the_root_that_it_names():
    other = SimulatedRoot.create(seeded("other"))
    both = (*POLICY.roots, TrustedRoot("other", Platform.SIMULATED, other.der))
    evidence = nsm(root=other).attest(COMMITMENT)
    with pytest.raises(WrongMeasurement):
        verify(evidence, policy=Policy(both, (Measurement.enclave("simulated", *PCRS.values()),)))
    assert verify(evidence, policy=Policy(both, (Measurement.enclave("other", *PCRS.values()),))).root == "other"


def test_the_chain_must_be_whole_and_the_documents_own():
    bundle, other = list(LEAF.cabundle), leaf("another enclave")
    for changes in (
        {"cabundle": bundle[:-1]},
        {"cabundle": bundle[:1]},
        {"cabundle": [bundle[0], *reversed(bundle[1:])]},
        {"cabundle": [*bundle, other.cabundle[-1]]},
        {"cabundle": [*bundle[:-1], other.cabundle[-1]]},
        {"cabundle": [*bundle, LEAF.certificate]},
        {"certificate": bundle[-1]},
        {"certificate": ROOT.der},
    ):
        with pytest.raises(BadChain):
            verify(document(**changes))
    with pytest.raises(UntrustedRoot):
        verify(document(cabundle=bundle[1:]))


def test_another_documents_leaf_and_chain_do_not_fit_the_signature():
    other = leaf("another enclave")
    with pytest.raises(BadSignature):
        verify(document(certificate=other.certificate, cabundle=list(other.cabundle)))


def test_an_authority_of_the_chain_cannot_sign_documents_itself():
    payload = cbor2.dumps({**fields(LEAF), "certificate": LEAF.cabundle[-1], "cabundle": list(LEAF.cabundle[:-1])})
    with pytest.raises(BadChain):
        verify(sign(payload, LEAF.key))


# Signature ------------------------------------------------------------------------------------------------


def test_the_signature_is_malleable_so_the_documents_bytes_identify_nothing():
    evidence = nsm().attest(COMMITMENT)
    s = int.from_bytes(evidence[-48:], "big")
    twin = evidence[:-48] + (P384_ORDER - s).to_bytes(48, "big")
    assert twin != evidence
    assert verify(twin) == verify(evidence)


@pytest.mark.parametrize("signature", [bytes(96), b"\xff" * 96, bytes(48) + b"\x01" * 48, b"\x01" * 48 + bytes(48)])
def test_degenerate_signatures_are_refused(signature):
    with pytest.raises(BadSignature):
        verify(nsm().attest(COMMITMENT)[:-96] + signature)


def test_a_signature_with_r_or_s_outside_of_the_group_is_refused():
    evidence = nsm().attest(COMMITMENT)
    for at in (-96, -48):
        number = int.from_bytes(evidence[at : at + 48 or None], "big") + P384_ORDER
        if number < 2**384:
            wrapped = evidence[:at] + number.to_bytes(48, "big") + (evidence[at + 48 :] if at == -96 else b"")
            with pytest.raises(BadSignature):
                verify(wrapped)
    with pytest.raises(BadSignature):
        verify(evidence[:-96] + P384_ORDER.to_bytes(48, "big") + evidence[-48:])


# Time -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chains", [None, CHAINS])
def test_evidence_holds_from_the_leafs_first_to_its_last_millisecond(chains):
    wide = policy(tuple(PCRS.values()), skew_ms_max=3 * 3600 * 1000)
    for at_ms in (LEAF_FROM_MS, LEAF_TO_MS):
        assert verify(document(timestamp=at_ms), policy=wide, at_ms=at_ms, chains=chains)
    for at_ms, what in ((LEAF_FROM_MS - 1, "from now"), (LEAF_TO_MS + 1, "ms ago"), (0, "from now"), (2**62, "ms ago")):
        with pytest.raises(ExpiredEvidence, match=what):
            verify(document(), policy=wide, at_ms=at_ms, chains=chains)


@pytest.mark.parametrize("time_ms", [LEAF_FROM_MS - 1, LEAF_TO_MS + 1])
def test_a_document_dated_outside_of_its_leafs_life_is_refused(time_ms):
    wide = policy(tuple(PCRS.values()), skew_ms_max=3 * 3600 * 1000)
    with pytest.raises(ExpiredEvidence, match="its own certificate"):
        verify(document(timestamp=time_ms), policy=wide, at_ms=NOW_MS)


def test_the_documents_clock_and_ours_may_differ_by_the_skew_and_no_more():
    strict = policy(tuple(PCRS.values()), skew_ms_max=1_500)
    for offset in (-1_500, 1_500):
        assert verify(document(), policy=strict, at_ms=NOW_MS + offset)
    for offset in (-1_501, 1_501):
        with pytest.raises(ExpiredEvidence, match="differ by 1501 ms"):
            verify(document(), policy=strict, at_ms=NOW_MS + offset)


def test_a_stored_document_is_checked_at_its_own_time():
    evidence = nsm().attest(COMMITMENT)
    assert nitro.document_time_ms(evidence) == NOW_MS
    assert verify(evidence, at_ms=nitro.document_time_ms(evidence)).time_ms == NOW_MS


def test_a_cached_chain_does_not_make_evidence_live_longer():
    chains, evidence = ChainCache(), nsm().attest(COMMITMENT)
    verify(evidence, chains=chains)
    with pytest.raises(ExpiredEvidence):
        verify(evidence, at_ms=LEAF_TO_MS + 1, chains=chains)
    with pytest.raises(BadSignature):
        verify(evidence[:-1] + bytes([evidence[-1] ^ 1]), chains=chains)
    assert len(chains) == 1


# Measurement ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zeroed", [(0, 1, 2), (0,), (1,), (2,)])
def test_debug_mode_is_refused_even_if_the_policy_lists_zeros(zeroed):
    pcrs = {index: bytes(48) if index in zeroed else pcr for index, pcr in PCRS.items()}
    with pytest.raises(DebugMode):
        verify(nsm(pcrs=pcrs).attest(COMMITMENT), policy=policy(tuple(pcrs.values())))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_all_three_pcrs_must_be_those_of_one_allowed_program(index):
    pcrs = {**PCRS, index: b"\x99" * 48}
    evidence = nsm(pcrs=pcrs).attest(COMMITMENT)
    with pytest.raises(WrongMeasurement):
        verify(evidence)
    assert verify(evidence, policy=policy(tuple(PCRS.values()), tuple(pcrs.values())))


def test_pcrs_of_two_allowed_programs_do_not_mix():
    two = policy((b"\x01" * 48, b"\x02" * 48, b"\x03" * 48), (b"\x04" * 48, b"\x05" * 48, b"\x06" * 48))
    with pytest.raises(WrongMeasurement):
        verify(nsm(pcrs={0: b"\x01" * 48, 1: b"\x05" * 48, 2: b"\x03" * 48}).attest(COMMITMENT), policy=two)


def test_a_policy_without_measurements_allows_nothing():
    with pytest.raises(WrongMeasurement):
        verify(nsm().attest(COMMITMENT), policy=policy())


def test_the_message_tells_another_authority_from_another_program():
    other = b"\x09" * 48
    for index, pcr in PCRS.items():
        with pytest.raises(WrongMeasurement, match=rf"another authority.*these fit: pcr{index}\)"):
            verify(nsm(pcrs={**dict.fromkeys(PCRS, other), index: pcr}).attest(COMMITMENT))
    with pytest.raises(WrongMeasurement, match=r"these fit: pcr1, pcr2\); its pcr0 is 0909090909090909\.\.\."):
        verify(nsm(pcrs={**PCRS, 0: other}).attest(COMMITMENT))
    with pytest.raises(WrongMeasurement, match="does not allow under root simulated; its pcr0 is 0909090909090909"):
        verify(nsm(pcrs=dict.fromkeys(PCRS, other)).attest(COMMITMENT))


def test_a_register_that_the_policy_lists_besides_must_fit_too():
    pcrs = {**PCRS, 8: b"\x08" * 48}
    for value, fits in ((pcrs[8], True), (bytes(48), False)):
        listed = Measurement.of("simulated", {**{f"pcr{index}": pcr for index, pcr in PCRS.items()}, "pcr8": value})
        signed_images = Policy(POLICY.roots, (listed,))
        if fits:
            assert verify(nsm(pcrs=pcrs).attest(COMMITMENT), policy=signed_images)
        else:
            with pytest.raises(WrongMeasurement, match="these fit: pcr0, pcr1, pcr2"):
                verify(nsm(pcrs=pcrs).attest(COMMITMENT), policy=signed_images)


# Threads and simulated chains -----------------------------------------------------------------------------


def test_many_threads_verify_with_one_cache():
    chains = ChainCache()
    evidence = [nsm(f"enclave {number % 3}").attest(COMMITMENT) for number in range(30)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda item: verify(item, chains=chains), evidence))
    assert len(results) == 30
    assert len(chains) == 3


def test_simulated_certificates_have_the_names_and_lifetimes_that_aws_gives():
    path = [x509.load_der_x509_certificate(der) for der in (*LEAF.cabundle, LEAF.certificate)]
    hours = [(c.not_valid_after_utc - c.not_valid_before_utc).total_seconds() / 3600 for c in path[1:]]
    assert [round(number) for number in hours] == [481, 135, 24, 3]
    assert all(issuer.subject == child.issuer for issuer, child in itertools.pairwise(path))
    assert "aws" not in path[0].subject.rfc4514_string()
    assert path[-1].subject.rfc4514_string().startswith(f"CN={MODULE_ID}.")


def test_each_pcr_is_reported_under_its_own_name():
    """On hardware they all differ; the simulated platform signs zeros for most of them."""
    pcrs = {**PCRS, **{index: bytes([index + 1]) * 48 for index in range(3, 16)}}
    measurement = verify(document(pcrs=pcrs)).measurement
    assert measurement == {f"pcr{index}": pcr for index, pcr in pcrs.items()}
    assert list(measurement) == [f"pcr{index}" for index in range(16)]


def test_an_allowed_program_with_other_contents_is_named_as_such_whatever_else_is_allowed():
    allowed = policy((b"x" * 48, PCRS[1], b"x" * 48), (b"y" * 48, b"y" * 48, b"y" * 48))
    with pytest.raises(WrongMeasurement, match="another authority"):
        verify(document(), policy=allowed)


def test_the_end_is_that_of_the_certificate_that_ends_first():
    class EndsSooner(ChainCache):
        def verify(self, path):
            return replace(super().verify(path), not_after_ms=NOW_MS + 5)

    assert verify(document(), chains=EndsSooner()).not_after_ms == NOW_MS + 5
