"""The verifier of every platform: whose evidence it is, under which root, for which question, at which time."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.errors import (
    BadEvidence,
    BadSignature,
    DebugMode,
    ExpiredEvidence,
    ForbiddenLaunch,
    MalformedEvidence,
    MissingCollateral,
    Misuse,
    OutdatedTcb,
    UntrustedRoot,
    WrongCommitment,
    WrongMeasurement,
)
from perdure.evidence import envelope
from perdure.evidence.collateral import NONE, Collateral
from perdure.evidence.limits import SnpLimits, Tcb, TdxLimits
from perdure.evidence.measurement import Measurement
from perdure.evidence.nitro import chain
from perdure.evidence.policy import Policy, TrustedRoot
from perdure.evidence.roots import Platform
from perdure.evidence.snp.report import Product
from perdure.evidence.verified import VerifiedEvidence, expect_report_data
from perdure.evidence.verifier import EVIDENCE_BYTES_MAX, Verifier, stated_time_ms

from . import support
from .snp import support as snp
from .support import COMMITMENT, INSTANCE_ID, NOW_MS, PCRS, VECTORS, document, expected, needs_vectors, nsm, trusting
from .tdx import support as tdx
from .tpm import support as tpm

VCEK = bytes.fromhex("8d75da6364e66445adc5f4b93be8accd")
"""AMD's GUID of a VCEK in the host's table of certificates, as it stands there."""


@dataclass(frozen=True)
class Case:
    """Good evidence of a platform, and all that is needed to judge it. `root` is the certificate that it hangs on."""

    evidence: bytes
    policy: Policy
    root: bytes
    at_ms: int = NOW_MS
    collateral: Collateral = NONE

    def verify(self, commitment=COMMITMENT, **changes):
        case = replace(self, **changes)
        return Verifier(case.policy, case.collateral).verify(case.evidence, commitment, case.at_ms)

    def read(self, **changes):
        case = replace(self, **changes)
        return Verifier(case.policy, case.collateral).read(case.evidence, case.at_ms)


def table(certificate, kind=VCEK):
    """A host's table with one certificate, as an SEV-SNP guest gets it."""
    return kind + (48).to_bytes(4, "little") + len(certificate).to_bytes(4, "little") + bytes(24) + certificate


def enclave():
    return Case(nsm().attest(COMMITMENT), support.POLICY, support.ROOT.der)


def nitro():
    policy = Policy(
        (TrustedRoot("mine", Platform.NITRO, support.ROOT.der),), (Measurement.enclave("mine", *PCRS.values()),)
    )
    return replace(enclave(), policy=policy)


def machine():
    pcrs = {index: bytes([index + 1]) * 48 for index in range(24)}
    evidence = document(module_id=f"{INSTANCE_ID}-tpm0000000000000000", pcrs=..., nitrotpm_pcrs=pcrs)
    policy = Policy(
        (TrustedRoot("machines", Platform.NITROTPM, support.ROOT.der),),
        (Measurement.of("machines", {f"pcr{index}": pcrs[index] for index in (2, 4, 7, 12)}),),
    )
    return Case(evidence, policy, support.ROOT.der)


def sev_snp():
    guest = snp.machine(Product.MILAN)
    vcek, ask = guest.hints
    return Case(
        envelope.seal(envelope.TSM, b"sev_guest", guest.report, table(vcek)),
        snp.policy(guest.root, snp.limits()),
        guest.root,
        snp.NOW_MS,
        Collateral(certificates=(ask,)),
    )


def intel():
    return Case(
        envelope.seal(envelope.TSM, b"tdx_guest", tdx.V4.quote(), b""),
        tdx.POLICY,
        tdx.ROOT.der,
        tdx.NOW_MS,
        Collateral(tdx=(tdx.MAKER.text(),)),
    )


def quoted():
    quote = tpm.quote()
    return Case(
        envelope.seal(envelope.TPM, quote.attest, quote.signature, quote.pcrs, tpm.AK.der),
        tpm.POLICY,
        tpm.ROOT.der,
        collateral=Collateral(certificates=(tpm.ISSUER.der,)),
    )


MAKERS: dict[Platform, Callable[[], Case]] = {
    Platform.SIMULATED: enclave,
    Platform.NITRO: nitro,
    Platform.NITROTPM: machine,
    Platform.SEV_SNP: sev_snp,
    Platform.TDX: intel,
    Platform.TPM: quoted,
}
platforms = pytest.mark.parametrize("platform", Platform)
HAVE_TIME = (Platform.SIMULATED, Platform.NITRO, Platform.NITROTPM)
ONE_FORM = (Platform.SIMULATED, Platform.NITRO)
"""Simulated enclaves write what enclaves write: which of both it is is what the policy calls the root."""


@cache
def case_of(platform):
    return MAKERS[platform]()


def test_there_is_a_case_of_every_platform():
    assert MAKERS.keys() == set(Platform)
    assert snp.REPORT_DATA == tdx.REPORT_DATA == COMMITMENT
    assert COMMITMENT[:32] == tpm.EXTRA_DATA


# Every platform -------------------------------------------------------------------------------------------


@platforms
def test_good_evidence_says_everything_it_proves(platform):
    case = case_of(platform)
    verified = case.verify()
    assert verified.platform is platform
    assert verified.root == case.policy.roots[0].name
    assert case.policy.measurements[0].fits(verified.measurement)
    assert verified.report_data == (COMMITMENT[:32] if platform is Platform.TPM else COMMITMENT)
    assert verified.module_id.startswith(f"{verified.host}-")
    assert verified.time_ms == (NOW_MS if platform in HAVE_TIME else None)
    assert verified.not_after_ms >= case.at_ms
    assert case.read() == verified


@pytest.mark.parametrize(
    ("platform", "other"), [(one, other) for one in Platform for other in Platform if other is not one]
)
def test_a_root_vouches_for_no_other_platform_than_the_one_it_is_named_for(platform, other):
    """The very certificate, named for another platform, with a program of that platform that could be meant."""
    case = case_of(platform)
    misnamed = trusting(other, case.root)
    if {platform, other} == set(ONE_FORM):
        with pytest.raises(WrongMeasurement):
            case.read(policy=misnamed)
    else:
        with pytest.raises(UntrustedRoot):
            case.read(policy=misnamed)
        both = Policy((*case.policy.roots, *misnamed.roots), (*case.policy.measurements, *misnamed.measurements))
        assert case.read(policy=both) == case.read()
        # A program that is allowed under the other root alone is not allowed under this one.
        with pytest.raises(WrongMeasurement):
            case.read(policy=Policy(both.roots, misnamed.measurements))


@pytest.mark.parametrize("platform", ONE_FORM)
def test_what_an_enclaves_document_is_called_is_what_the_policy_calls_its_root(platform):
    assert case_of(Platform.SIMULATED).evidence == case_of(Platform.NITRO).evidence
    assert case_of(platform).verify().platform is platform


@platforms
def test_a_policy_without_roots_trusts_nothing(platform):
    with pytest.raises(UntrustedRoot):
        case_of(platform).read(policy=Policy((), ()))


@platforms
def test_a_root_of_the_right_platform_with_another_key_is_refused(platform):
    other = support.SimulatedRoot.create(support.seeded("other")).der
    with pytest.raises(UntrustedRoot):
        case_of(platform).read(policy=trusting(platform, other))


@platforms
def test_a_program_that_is_not_listed_is_refused(platform):
    case = case_of(platform)
    with pytest.raises(WrongMeasurement, match=f"does not allow under root {case.policy.roots[0].name}"):
        case.read(policy=Policy(case.policy.roots, ()))


@platforms
def test_evidence_is_refused_when_its_certificates_have_ended_or_not_begun(platform):
    case = case_of(platform)
    end = case.read().not_after_ms
    if platform not in HAVE_TIME:
        assert case.read(at_ms=end - 1)
    for at_ms in (end + 1, end + 10**11, 0, -1, 2**62):
        with pytest.raises(ExpiredEvidence):
            case.read(at_ms=at_ms)


# The question ---------------------------------------------------------------------------------------------


@platforms
def test_evidence_answers_its_own_question_alone(platform):
    case = case_of(platform)
    signed = 32 if platform is Platform.TPM else 64
    for at in range(64):
        other = bytearray(COMMITMENT)
        other[at] ^= 1
        if at < signed:
            with pytest.raises(WrongCommitment, match=r"another question or another answer") as caught:
                expect_report_data(case_of_verified(platform), bytes(other))
            assert caught.value.exit_code == 3
        else:
            expect_report_data(case_of_verified(platform), bytes(other))
    for other in (bytes(64), COMMITMENT[32:] + COMMITMENT[:32]):
        with pytest.raises(WrongCommitment):
            case.verify(other)


@cache
def case_of_verified(platform):
    return case_of(platform).read()


@platforms
def test_a_commitment_has_64_bytes(platform):
    for length in (0, 31, 32, 34, 63, 65, 128):
        with pytest.raises(Misuse, match=f"A commitment has 64 bytes, not {length}"):
            case_of(platform).verify(bytes(length))


@platforms
def test_report_data_of_another_length_is_no_commitment(platform):
    verified = case_of_verified(platform)
    signed = 32 if platform is Platform.TPM else 64
    expect_report_data(replace(verified, report_data=COMMITMENT[:signed]), COMMITMENT)
    for wrong in (None, b"", COMMITMENT[: 96 - signed], COMMITMENT[: signed - 1], COMMITMENT[:signed] + b"\0"):
        with pytest.raises(WrongCommitment):
            expect_report_data(replace(verified, report_data=wrong), COMMITMENT)


def test_a_tpms_quote_over_all_64_bytes_cannot_be_and_over_33_or_none_is_refused():
    for extra, error in ((COMMITMENT[:33], WrongCommitment), (b"", WrongCommitment), (COMMITMENT, WrongCommitment)):
        quote = tpm.quote(extra_data=tpm.sized(extra))
        evidence = envelope.seal(envelope.TPM, quote.attest, quote.signature, quote.pcrs, tpm.AK.der)
        with pytest.raises(error):
            case_of(Platform.TPM).verify(evidence=evidence)


def test_report_data_of_other_questions_comes_out_of_read():
    assert Verifier(support.POLICY).read(nsm().attest(b"other"), NOW_MS).report_data == b"other"
    assert Verifier(support.POLICY).read(nsm().attest(None), NOW_MS).report_data is None
    with pytest.raises(WrongCommitment):
        Verifier(support.POLICY).verify(nsm().attest(None), COMMITMENT, NOW_MS)


# The form -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "provider",
    [b"", b"sev_guest\n", b"SEV_GUEST", b"sev-guest", b"sev", b"tdx_guest\0", b"tdx", b"arm_cca_guest", b"\xff\n"],
)
def test_an_unknown_provider_is_refused(provider):
    for case in (case_of(Platform.SEV_SNP), case_of(Platform.TDX)):
        _, blob, extra = envelope.open_envelope(case.evidence).parts
        with pytest.raises(MalformedEvidence, match="which is no platform that is known") as caught:
            case.read(evidence=envelope.seal(envelope.TSM, provider, blob, extra))
        assert repr(provider) in str(caught.value)


def test_a_long_provider_is_not_repeated_at_length():
    with pytest.raises(MalformedEvidence) as caught:
        Verifier(support.POLICY).read(envelope.seal(envelope.TSM, b"\n" * 30_000, b"", b""), NOW_MS)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_a_report_under_another_providers_name_is_refused():
    for one, other, name in (
        (Platform.SEV_SNP, Platform.TDX, b"tdx_guest"),
        (Platform.TDX, Platform.SEV_SNP, b"sev_guest"),
    ):
        _, blob, extra = envelope.open_envelope(case_of(one).evidence).parts
        for case in (case_of(one), case_of(other)):
            with pytest.raises(MalformedEvidence):
                case.read(evidence=envelope.seal(envelope.TSM, name, blob, extra))


def padded(platform, length):
    """Good evidence that its host has made so long, with bytes that no verifier reads."""
    case = case_of(platform)
    opened = envelope.open_envelope(case.evidence)
    *parts, last = opened.parts
    junk = bytes(range(256)) * 256
    collateral = case.collateral
    if (
        platform is Platform.TPM
    ):  # the key's certificate is at hand, so what the disk sends in its place may be anything
        collateral, last = replace(collateral, certificates=(last, *collateral.certificates)), b""
    missing = length - len(envelope.seal(opened.name, *parts, last))
    return replace(case, evidence=envelope.seal(opened.name, *parts, last + junk[:missing]), collateral=collateral)


@pytest.mark.parametrize("platform", [Platform.SEV_SNP, Platform.TDX, Platform.TPM])
def test_a_host_that_makes_its_evidence_long_is_refused(platform):
    """What a disk proved must fit into an event, or its host would decide whether the proof of a lie is kept."""
    longest = padded(platform, EVIDENCE_BYTES_MAX)
    assert len(longest.evidence) == EVIDENCE_BYTES_MAX
    assert longest.verify() == case_of(platform).verify()
    with pytest.raises(MalformedEvidence, match=f"has {EVIDENCE_BYTES_MAX + 1} bytes"):
        padded(platform, EVIDENCE_BYTES_MAX + 1).read()


@platforms
def test_evidence_in_another_form_is_refused(platform):
    case = case_of(platform)
    for form in (
        lambda data: envelope.seal(envelope.TSM, b"sev_guest", data, b""),
        lambda data: envelope.seal(envelope.TSM, b"tdx_guest", data, b""),
        lambda data: envelope.seal(envelope.TPM, data, data, data, data),
        lambda data: envelope.TPM + data[4:],
        lambda data: envelope.TSM + data[4:],
        lambda data: data[4:],
        lambda data: b"\xd2" + data[1:],
    ):
        wrong = form(case.evidence)
        if wrong != case.evidence:
            with pytest.raises(MalformedEvidence):
                case.read(evidence=wrong)


@platforms
def test_every_truncation_and_extension_is_refused(platform):
    case = case_of(platform)
    verifier = Verifier(case.policy, case.collateral)
    lengths = {*range(0, len(case.evidence), 41), *range(20), *range(len(case.evidence) - 70, len(case.evidence))}
    for length in sorted(lengths):
        with pytest.raises(MalformedEvidence):
            verifier.read(case.evidence[:length], case.at_ms)
    for more in (b"\0", b"\0\0\0\0", case.evidence):
        with pytest.raises(MalformedEvidence):
            verifier.read(case.evidence + more, case.at_ms)


@platforms
def test_flipped_bits_are_refused(platform):
    """A sample, of everything; all bits are flipped where the platform's own tests are."""
    case = case_of(platform)
    verifier, at_random = Verifier(case.policy, case.collateral), random.Random(platform.value)
    for at in sorted(at_random.sample(range(8 * len(case.evidence)), 250)):
        flipped = bytearray(case.evidence)
        flipped[at // 8] ^= 1 << at % 8
        with pytest.raises(BadEvidence):
            verifier.read(bytes(flipped), case.at_ms)


DISTINCT = tuple(platform for platform in Platform if platform is not Platform.SIMULATED)
"""Nitro's form is the simulated platform's too, and one certificate cannot be a root of both."""
ANY_POLICY = Policy(
    tuple(support.root_of(platform, platform.value, case_of(platform).root) for platform in DISTINCT),
    tuple(Measurement.of(platform.value, support.registers_of(platform)) for platform in DISTINCT),
)
providers = st.sampled_from([b"sev_guest", b"tdx_guest"]) | st.binary(max_size=12)
blobs = st.binary(max_size=60) | st.sampled_from(
    [
        part
        for one in Platform
        for part in (
            case_of(one).evidence,
            *(
                envelope.open_envelope(case_of(one).evidence).parts
                if envelope.is_envelope(case_of(one).evidence)
                else ()
            ),
        )
    ]
)


@settings(deadline=None)
@given(
    st.binary(max_size=80)
    | st.tuples(providers, blobs, blobs).map(lambda parts: envelope.seal(envelope.TSM, *parts))
    | st.tuples(blobs, blobs, blobs, blobs).map(lambda parts: envelope.seal(envelope.TPM, *parts))
    | blobs
)
def test_whatever_the_bytes_an_answer_or_bad_evidence_comes_out(evidence):
    verifier = Verifier(ANY_POLICY, Collateral((tpm.ISSUER.der, b"", b"\x30\x00"), ("", "{}", tdx.MAKER.text())))
    with pytest.raises(BadEvidence):
        verifier.verify(evidence, COMMITMENT, NOW_MS)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_mutated_evidence_is_refused(data):
    case = case_of(data.draw(st.sampled_from(list(Platform))))
    start = data.draw(st.integers(0, len(case.evidence)))
    end = data.draw(st.integers(start, min(start + 8, len(case.evidence))))
    mutant = case.evidence[:start] + data.draw(st.binary(max_size=8)) + case.evidence[end:]
    if mutant != case.evidence:
        with pytest.raises(BadEvidence):
            case.read(evidence=mutant)


# Collateral -----------------------------------------------------------------------------------------------


def test_an_amd_keys_certificate_comes_from_the_table_or_from_the_collateral():
    case, (vcek, ask) = case_of(Platform.SEV_SNP), snp.machine(Product.MILAN).hints
    verified = case.read()
    report = envelope.open_envelope(case.evidence).parts[1]
    bare = envelope.seal(envelope.TSM, b"sev_guest", report, b"")
    for certificates in ((vcek, ask), (ask, vcek), (b"junk", ask, vcek)):
        assert case.read(evidence=bare, collateral=Collateral(certificates)) == verified
    for certificates in ((), (ask,)):
        with pytest.raises(MissingCollateral):
            case.read(evidence=bare, collateral=Collateral(certificates))
    with pytest.raises(MalformedEvidence, match="table of certificates"):
        case.read(evidence=envelope.seal(envelope.TSM, b"sev_guest", report, b"junk"))


def test_intels_statements_come_from_the_collateral_alone():
    case = case_of(Platform.TDX)
    text = case.collateral.tdx[0]
    assert case.read(collateral=Collateral(tdx=("junk", text))) == case.read()
    with pytest.raises(MissingCollateral):
        case.read(collateral=NONE)
    quote = envelope.open_envelope(case.evidence).parts[1]
    with pytest.raises(MissingCollateral):
        case.read(evidence=envelope.seal(envelope.TSM, b"tdx_guest", quote, text.encode()), collateral=NONE)


def test_a_tpms_issuer_comes_from_the_collateral_and_its_key_from_either():
    case = case_of(Platform.TPM)
    assert case.read(collateral=Collateral((b"junk", tpm.ISSUER.der))) == case.read()
    with pytest.raises(UntrustedRoot):
        case.read(collateral=NONE)
    *parts, _ = envelope.open_envelope(case.evidence).parts
    keyless = envelope.seal(envelope.TPM, *parts, b"")
    assert case.read(evidence=keyless, collateral=Collateral((tpm.ISSUER.der, tpm.AK.der))) == case.read()
    with pytest.raises((MissingCollateral, BadSignature)):
        case.read(evidence=keyless)


def test_there_is_no_collateral_unless_given():
    assert Verifier(support.POLICY).collateral == Collateral((), ()) == NONE


# Limits ---------------------------------------------------------------------------------------------------


def test_the_limits_of_the_root_are_what_counts():
    case = case_of(Platform.SEV_SNP)
    floor = snp.limits().tcb_min
    too_new = replace(snp.limits(), tcb_min=replace(floor, microcode=floor.microcode + 1))
    with pytest.raises(OutdatedTcb):
        case.read(policy=snp.policy(case.root, too_new))
    with pytest.raises(ForbiddenLaunch):
        case.read(policy=snp.policy(case.root, replace(snp.limits(), csp_id="CN=cloud")))
    case = case_of(Platform.TDX)
    with pytest.raises(OutdatedTcb):
        case.read(policy=tdx.policy("OutOfDate"))


# Time -----------------------------------------------------------------------------------------------------


@platforms
def test_the_time_that_evidence_states_is_told_where_there_is_one(platform):
    assert stated_time_ms(case_of(platform).evidence) == (NOW_MS if platform in HAVE_TIME else None)


def test_a_stated_time_is_not_verified_and_stands_for_nothing():
    evidence = document(timestamp=7)
    assert stated_time_ms(evidence) == 7
    assert stated_time_ms(evidence[:-1] + bytes([evidence[-1] ^ 1])) == 7
    with pytest.raises(ExpiredEvidence):
        Verifier(support.POLICY).read(evidence, 7)


@given(st.binary(max_size=60))
def test_what_is_no_evidence_states_no_time(data):
    if envelope.is_envelope(data):
        assert stated_time_ms(data) is None
    else:
        with pytest.raises(MalformedEvidence):
            stated_time_ms(data)


def test_stored_documents_are_judged_again_as_of_their_own_time():
    for platform in HAVE_TIME:
        case = case_of(platform)
        assert case.verify(at_ms=stated_time_ms(case.evidence)).time_ms == NOW_MS


# What is kept ---------------------------------------------------------------------------------------------


@pytest.fixture
def chains_verified(monkeypatch):
    """The paths whose signatures were verified, one after the other."""
    seen, really = [], chain.verify_path
    monkeypatch.setattr(chain, "verify_path", lambda path: (seen.append(path), really(path))[1])
    return seen


def test_a_chain_is_verified_once_and_every_document_anew(chains_verified):
    verifier, module = Verifier(support.POLICY), nsm()
    for number in range(3):
        commitment = bytes([number]) * 64
        evidence = module.attest(commitment)
        for _ in range(2):
            assert verifier.verify(evidence, commitment, NOW_MS).report_data == commitment
        with pytest.raises(BadSignature):
            verifier.verify(evidence[:-1] + bytes([evidence[-1] ^ 1]), commitment, NOW_MS)
        with pytest.raises(WrongCommitment):
            verifier.verify(evidence, COMMITMENT, NOW_MS)
        with pytest.raises(ExpiredEvidence):
            verifier.verify(evidence, commitment, NOW_MS + 60_001)
    assert len(chains_verified) == 1
    assert verifier.verify(nsm("another").attest(COMMITMENT), COMMITMENT, NOW_MS)
    assert len(chains_verified) == 2


def test_chains_that_are_bad_are_not_kept(chains_verified):
    bad = document(cabundle=[*support.leaf().cabundle[:-1], support.leaf("another").cabundle[-1]])
    verifier = Verifier(support.POLICY)
    for _ in range(2):
        with pytest.raises(BadEvidence):
            verifier.read(bad, NOW_MS)
    assert len(chains_verified) == 2


def test_verifiers_that_share_chains_share_no_trust(chains_verified):
    shared = chain.ChainCache()
    evidence = case_of(Platform.SIMULATED).evidence
    for _ in range(2):
        assert Verifier(support.POLICY, chains=shared).read(evidence, NOW_MS)
    assert (len(chains_verified), len(shared)) == (1, 1)
    other = support.SimulatedRoot.create(support.seeded("x")).der
    for policy in (Policy((), ()), trusting(Platform.SIMULATED, other), trusting(Platform.NITROTPM, support.ROOT.der)):
        with pytest.raises(UntrustedRoot):
            Verifier(policy, chains=shared).read(evidence, NOW_MS)
    with pytest.raises(WrongMeasurement):
        Verifier(Policy(support.POLICY.roots, ()), chains=shared).read(evidence, NOW_MS)


def test_verifiers_share_no_chains_unless_told_to(chains_verified):
    for _ in range(2):
        assert Verifier(support.POLICY).read(case_of(Platform.SIMULATED).evidence, NOW_MS)
    assert len(chains_verified) == 2


def test_verifiers_of_one_policy_and_collateral_are_equal():
    assert Verifier(support.POLICY) == Verifier(support.POLICY, NONE)
    assert Verifier(support.POLICY) != Verifier(support.POLICY, Collateral((b"one",)))
    assert Verifier(support.POLICY) != Verifier(Policy((), ()))


def test_a_verifier_serves_many_threads_and_platforms_at_once():
    kinds = (Platform.SIMULATED, Platform.NITROTPM)
    policy = Policy(
        tuple(root for one in kinds for root in case_of(one).policy.roots),
        tuple(allowed for one in kinds for allowed in case_of(one).policy.measurements),
    )
    verifier = Verifier(policy)
    jobs = [kinds[number % 2] for number in range(16)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda one: verifier.verify(case_of(one).evidence, COMMITMENT, NOW_MS), jobs))
    assert [verified.platform for verified in found] == jobs
    assert all(isinstance(verified, VerifiedEvidence) for verified in found)


# Evidence that hardware made ------------------------------------------------------------------------------


def read(folder, name):
    return (VECTORS / folder / name).read_bytes()


def unix_ms(text):
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def built_in(name, registers, limits=None):
    return Policy((TrustedRoot.builtin(name, limits),), (Measurement.of(name, registers),))


@needs_vectors("nitro")
def test_a_real_enclaves_document_is_verified_for_what_it_was_made_for():
    name = "veracruz-2022-11-09.cbor"
    record = expected("nitro")[name]
    pcrs = {f"pcr{index}": bytes.fromhex(record["nonzero_pcrs"][str(index)]) for index in range(3)}
    verifier, evidence = Verifier(built_in("aws-nitro-g1", pcrs)), read("nitro", name)
    verified = verifier.read(evidence, stated_time_ms(evidence))
    assert (verified.platform, verified.module_id) == (Platform.NITRO, record["module_id"])
    assert verified.report_data.hex() == record["user_data"]
    with pytest.raises(WrongCommitment):  # its 32 bytes are no beginning of 64
        verifier.verify(evidence, verified.report_data + bytes(32), stated_time_ms(evidence))
    with pytest.raises(UntrustedRoot):
        Verifier(trusting(Platform.NITROTPM, verifier.policy.roots[0].certificate)).read(evidence, verified.time_ms)


@needs_vectors("nitrotpm")
def test_a_real_machines_document_is_verified_under_the_root_for_machines_alone():
    record = expected("nitrotpm")["vaportpm-2026-02-03.cbor"]
    evidence = read("nitrotpm", "vaportpm-2026-02-03.cbor")
    pcrs = {f"pcr{index}": bytes.fromhex(pcr) for index, pcr in record["nitrotpm_pcrs"].items()}
    machines = built_in("aws-nitrotpm-g1", {name: pcrs[name] for name in ("pcr2", "pcr4", "pcr7", "pcr12")})
    verified = Verifier(machines).read(evidence, stated_time_ms(evidence))
    assert (verified.platform, verified.measurement) == (Platform.NITROTPM, pcrs)
    enclaves = built_in("aws-nitro-g1", {name: pcrs[name] for name in ("pcr0", "pcr1", "pcr2")})
    with pytest.raises(UntrustedRoot):
        Verifier(enclaves).read(evidence, verified.time_ms)
    for platform in (Platform.TDX, Platform.SEV_SNP, Platform.TPM, Platform.SIMULATED):
        with pytest.raises(UntrustedRoot):
            Verifier(trusting(platform, machines.roots[0].certificate)).read(evidence, verified.time_ms)


SNP_LIMITS = {
    "milan-vcek-v2-go-sev-guest": ("amd-milan", SnpLimits(Tcb(2, 0, 5, 68), alias_checked=False)),
    "milan-vlek-v3-aws": (
        "amd-milan",
        SnpLimits(Tcb(4, 0, 24, 217), vmpl_max=1, csp_id="CN=cc-us-east-2.amazonaws.com"),
    ),
    "genoa-vcek-v3-azure": ("amd-genoa", SnpLimits(Tcb(10, 0, 23, 84))),
}


def real_report(name, **changes):
    """A verifier for a real report, the evidence as a guest would send it, and when its certificates hold."""
    record = expected("sev-snp")[name]
    root, limits = SNP_LIMITS[name]
    policy = built_in(root, {"measurement": bytes.fromhex(record["fields"]["measurement"])}, replace(limits, **changes))
    evidence = envelope.seal(envelope.TSM, b"sev_guest", read("sev-snp", record["report"]), b"")
    collateral = Collateral((read("sev-snp", record["ek"]),))
    return Verifier(policy, collateral), evidence, unix_ms(record["ek_valid_from"]) + 1000


@needs_vectors("sev-snp")
@pytest.mark.parametrize("name", ["milan-vlek-v3-aws", "genoa-vcek-v3-azure"])
def test_a_real_processors_report_is_verified_for_what_it_was_made_for(name):
    verifier, evidence, at_ms = real_report(name)
    report_data = bytes.fromhex(expected("sev-snp")[name]["fields"]["report_data"])
    verified = verifier.verify(evidence, report_data, at_ms)
    assert (verified.platform, verified.root) == (Platform.SEV_SNP, SNP_LIMITS[name][0])
    assert (verified.report_data, verified.time_ms) == (report_data, None)
    with pytest.raises(WrongCommitment):
        verifier.verify(evidence, bytes(64), at_ms)


@needs_vectors("sev-snp")
def test_a_real_report_of_a_guest_that_can_be_debugged_is_refused():
    verifier, evidence, at_ms = real_report("milan-vcek-v2-go-sev-guest")
    with pytest.raises(DebugMode):
        verifier.read(evidence, at_ms)


def real_quote(name, limits=None):
    record = expected("tdx")[name]
    registers = {key: bytes.fromhex(record[key]) for key in ("rtmr0", "rtmr1", "rtmr2")}
    registers["mrtd"] = bytes.fromhex(record["mr_td"])
    collateral = Collateral(tdx=(read("tdx", record["collateral"]).decode(),))
    evidence = envelope.seal(envelope.TSM, b"tdx_guest", read("tdx", f"{name}.quote"), b"")
    return Verifier(built_in("intel-sgx", registers, limits or TdxLimits()), collateral), evidence, record


@needs_vectors("tdx")
def test_a_real_quote_is_verified_for_what_it_was_made_for():
    verifier, evidence, record = real_quote("dcap-qvl-v4")
    verified = verifier.verify(evidence, bytes.fromhex(record["report_data"]), record["verify_at"] * 1000)
    assert (verified.platform, verified.root, verified.time_ms) == (Platform.TDX, "intel-sgx", None)
    with pytest.raises(WrongCommitment):
        verifier.verify(evidence, bytes(64), record["verify_at"] * 1000)
    with pytest.raises(ExpiredEvidence):
        verifier.read(evidence, (record["verify_at"] + 40 * 86_400) * 1000)


@needs_vectors("tdx")
def test_a_real_quote_of_a_guest_that_can_be_debugged_is_refused():
    verifier, evidence, record = real_quote("trustee-v4-debug-td")
    with pytest.raises(DebugMode):
        verifier.read(evidence, record["verify_at"] * 1000)


@needs_vectors("tpm")
def test_a_real_tpms_quote_is_read_under_a_root_that_vouches_for_its_key():
    """Of a software TPM that started without firmware: good in everything but that it measured nothing."""
    public = load_pem_public_key(read("tpm", "swtpm-ak.pem"))
    ak = tpm.ISSUER.issue("AK", public, tpm.AK_EXTENSIONS).public_bytes(Encoding.DER)
    evidence = envelope.seal(envelope.TPM, *(read("tpm", f"swtpm-quote.{part}") for part in ("msg", "sig", "pcrs")), ak)
    policy = tpm.policy_for(tpm.ROOT.der, **{f"pcr{number}": bytes(32) for number in (0, 2, 4, 9)})
    verifier = Verifier(policy, Collateral((tpm.ISSUER.der,)))
    with pytest.raises(ForbiddenLaunch):
        verifier.read(evidence, NOW_MS)
