"""What a quote proves under a policy, and every way in which it does not."""

import dataclasses
import hashlib
import random

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.errors import (
    BadChain,
    BadEvidence,
    BadSignature,
    ExpiredEvidence,
    ForbiddenLaunch,
    MalformedEvidence,
    MissingCollateral,
    UntrustedRoot,
    WrongCommitment,
    WrongMeasurement,
)
from perdure.evidence.roots import Platform
from perdure.evidence.tpm.verifier import Quote
from perdure.evidence.verified import expect_report_data
from tests.evidence.support import COMMITMENT, NOW_MS
from tests.evidence.tpm.support import (
    AK,
    AK_EXTENSIONS,
    EXTRA_DATA,
    HASHES,
    HINTS,
    ISSUER,
    PCRS,
    POLICY,
    ROOT,
    attest,
    ec_key,
    judge,
    number,
    policy_for,
    quote,
    rsa_key,
    selection,
    self_signed,
    sign,
    sized,
)

RSA = rsa_key()
P384 = ec_key("P-384", ec.SECP384R1())
GOOD = quote()


def hints_for(key):
    return (ISSUER.authority("AK", key, extensions=AK_EXTENSIONS).der, ISSUER.der)


def identity(key):
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()[:16]


def changed(**parts):
    return dataclasses.replace(GOOD, **parts)


def mutants(data):
    """Each with one byte changed."""
    bits = random.Random(1)
    for at, byte in enumerate(data):
        yield at, data[:at] + bytes([byte ^ bits.randint(1, 255)]) + data[at + 1 :]


# What it proves -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hash_id", HASHES)
@pytest.mark.parametrize(("key", "scheme"), [(AK.key, 0x18), (P384, 0x18), (RSA, 0x14), (RSA, 0x16)])
def test_a_good_quote_says_everything_it_proves(key, scheme, hash_id):
    verified = judge(quote(key, hash_id=hash_id, scheme=scheme), hints_for(key))
    assert verified.platform is Platform.TPM
    assert verified.root == "root0"
    assert verified.measurement == {f"pcr{index}": PCRS[index] for index in range(24)}
    assert verified.report_data == EXTRA_DATA
    assert verified.host == f"tpm-{identity(key)}"
    assert verified.module_id == f"tpm-{identity(key)}-7.3"
    assert verified.time_ms is None
    assert verified.not_after_ms == NOW_MS // 1000 * 1000 + 24 * 3600 * 1000


def test_every_start_of_a_machine_has_its_own_module_id_and_the_machine_one_name():
    starts = [
        judge(quote(reset_count=number(reset, 4), restart_count=number(again, 4)))
        for reset in (1, 2)
        for again in (0, 1)
    ]
    assert len({one.module_id for one in starts}) == len(starts)
    assert len({one.host for one in starts}) == 1
    assert judge(quote(P384), hints_for(P384)).host != starts[0].host


def test_the_same_key_is_the_same_machine_whatever_its_certificate_and_clock_say():
    other = ISSUER.authority("renewed", AK.key, extensions=())
    evidence = quote(clock=b"\xff" * 8, safe=b"\0", firmware=bytes(8), qualified_signer=sized(b""))
    assert judge(evidence, (other.der, ISSUER.der)).module_id == judge().module_id


def test_the_first_certificate_whose_key_signed_is_the_attestation_keys():
    later = ISSUER.authority("later", AK.key, extensions=AK_EXTENSIONS, end=AK.certificate.not_valid_after_utc)
    short = ISSUER.authority("short", AK.key, extensions=AK_EXTENSIONS, end=AK.certificate.not_valid_before_utc)
    assert judge(hints=(*hints_for(P384), *hints_for(RSA), later.der, short.der))
    with pytest.raises(ExpiredEvidence):
        judge(hints=(ISSUER.der, short.der, later.der))


# Report data ----------------------------------------------------------------------------------------------


def test_the_report_data_is_the_first_half_of_the_commitment():
    verified = judge()
    expect_report_data(verified, COMMITMENT)
    expect_report_data(verified, COMMITMENT[:32] + bytes(32))
    with pytest.raises(WrongCommitment):
        expect_report_data(verified, bytes(64))
    with pytest.raises(WrongCommitment):
        expect_report_data(verified, COMMITMENT[32:] + COMMITMENT[:32])


@pytest.mark.parametrize("extra", [b"", EXTRA_DATA[:-1], EXTRA_DATA + b"\0", COMMITMENT, bytes(32)])
def test_any_other_report_data_is_no_commitment(extra):
    verified = judge(quote(extra_data=sized(extra)))
    assert verified.report_data == (extra or None)
    with pytest.raises(WrongCommitment):
        expect_report_data(verified, COMMITMENT)


# Every byte -----------------------------------------------------------------------------------------------


def test_every_flipped_bit_of_the_statement_is_refused():
    for at in range(8 * len(GOOD.attest)):
        flipped = bytearray(GOOD.attest)
        flipped[at // 8] ^= 1 << at % 8
        with pytest.raises((MalformedEvidence, BadSignature)):
            judge(changed(attest=bytes(flipped)))


def test_every_flipped_bit_of_the_signature_is_refused():
    for key, scheme in ((AK.key, 0x18), (RSA, 0x14), (RSA, 0x16)):
        hints, evidence = hints_for(key), quote(key, scheme=scheme)
        for at in range(0, 8 * len(evidence.signature), 1 if scheme == 0x18 else 7):
            flipped = bytearray(evidence.signature)
            flipped[at // 8] ^= 1 << at % 8
            with pytest.raises((MalformedEvidence, BadSignature, MissingCollateral)):
                judge(dataclasses.replace(evidence, signature=bytes(flipped)), hints)


def test_every_changed_byte_of_the_pcr_values_is_refused():
    for _, mutant in mutants(GOOD.pcrs):
        with pytest.raises(BadSignature, match="not those that the TPM signed"):
            judge(changed(pcrs=mutant))


def test_every_changed_byte_of_a_certificate_is_refused():
    for which, der in enumerate(HINTS):
        for _, mutant in mutants(der):
            hints = (*HINTS[:which], mutant, *HINTS[which + 1 :])
            with pytest.raises((MissingCollateral, BadSignature, UntrustedRoot, BadChain)):
                judge(GOOD, hints)


def test_every_truncation_and_extension_is_refused():
    for field in ("attest", "signature", "pcrs"):
        data = getattr(GOOD, field)
        for length in range(len(data)):
            with pytest.raises(MalformedEvidence):
                judge(changed(**{field: data[:length]}))
        for more in (b"\0", b"\xff", data):
            with pytest.raises(MalformedEvidence):
                judge(changed(**{field: data + more}))


@given(
    st.binary(max_size=200),
    st.binary(max_size=100),
    st.binary(max_size=100),
    st.lists(st.binary(max_size=50), max_size=3),
)
def test_random_bytes_are_refused(statement, signature, pcrs, hints):
    with pytest.raises(BadEvidence):
        judge(Quote(statement, signature, pcrs), hints)
    with pytest.raises(BadEvidence):
        judge(Quote(attest()[:100] + statement, sign(b"", AK.key)[:4] + signature, GOOD.pcrs), (*hints, *HINTS))


def spliced(data, draw):
    start = draw(st.integers(0, len(data)))
    end = draw(st.integers(start, min(start + 8, len(data))))
    return data[:start] + draw(st.binary(max_size=8)) + data[end:]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_well_signed_statement_of_any_bytes_is_accepted_or_refused_with_a_reason(data):
    statement = spliced(GOOD.attest, data.draw)
    try:
        verified = judge(Quote(statement, sign(statement, AK.key), GOOD.pcrs))
    except BadEvidence:
        return
    assert verified.root == "root0"
    assert verified.measurement["pcr0"] == PCRS[0]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_certificates_of_any_bytes_are_accepted_or_refused_with_a_reason(data):
    which = data.draw(st.integers(0, len(HINTS) - 1))
    hints = [spliced(der, data.draw) if at == which else der for at, der in enumerate(HINTS)]
    try:
        judge(GOOD, hints)
    except BadEvidence:
        return
    assert tuple(hints) == HINTS


# Signature ------------------------------------------------------------------------------------------------


def test_another_tpms_signature_is_refused():
    other = ec_key("another TPM")
    with pytest.raises(BadSignature, match="another TPM"):
        judge(Quote(GOOD.attest, sign(GOOD.attest, other), GOOD.pcrs))
    with pytest.raises(BadSignature):
        judge(hints=hints_for(other))
    with pytest.raises(BadSignature):
        judge(Quote(attest(reset_count=number(8, 4)), GOOD.signature, GOOD.pcrs))


def test_a_weak_or_foreign_key_counts_for_nothing_even_if_certified():
    for key in (ec_key("k1", ec.SECP256K1()), ec_key("521", ec.SECP521R1()), rsa_key(1024)):
        certificate = ROOT.authority("AK", key, extensions=AK_EXTENSIONS).der
        statement = attest()
        with pytest.raises((MissingCollateral, MalformedEvidence)):
            judge(Quote(statement, sign(statement, key), GOOD.pcrs), (certificate,))


def test_the_signature_is_malleable_so_a_quotes_bytes_identify_nothing():
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    s = int.from_bytes(GOOD.signature[-32:], "big")
    twin = changed(signature=GOOD.signature[:-32] + number(order - s, 32))
    assert twin != GOOD
    assert judge(twin) == judge(GOOD)


def test_a_signature_in_der_is_no_tpmt_signature():
    der = AK.key.sign(GOOD.attest, ec.ECDSA(HASHES[0x000B]))
    assert decode_dss_signature(der)
    with pytest.raises(MalformedEvidence):
        judge(changed(signature=der))


# What is quoted -------------------------------------------------------------------------------------------


def test_the_digest_is_made_with_the_hash_of_the_signature():
    for signed, digested in ((0x000B, 0x000C), (0x000C, 0x000B), (0x000D, 0x000B)):
        statement = attest(hash_id=digested)
        with pytest.raises(BadSignature, match="not those that the TPM signed"):
            judge(Quote(statement, sign(statement, AK.key, hash_id=signed), GOOD.pcrs))


@pytest.mark.parametrize("digest", [b"", bytes(32), b"\xff" * 32, hashlib.sha256(GOOD.pcrs).digest()[:-1]])
def test_a_signed_digest_of_something_else_is_refused(digest):
    with pytest.raises(BadSignature, match="not those that the TPM signed"):
        judge(quote(pcr_digest=sized(digest)))


def test_values_of_two_pcrs_cannot_change_places():
    for order in ((4, 0, 7), (7, 4, 0), (0, 7, 4)):
        values = b"".join(PCRS[index] for index in order)
        with pytest.raises(BadSignature):
            judge(Quote(quote(indexes=(0, 4, 7)).attest, quote(indexes=(0, 4, 7)).signature, values))
    with pytest.raises(WrongMeasurement):
        judge(quote(indexes=(0, 4, 7), selection=selection((1, 4, 7))))


def test_a_good_signature_over_another_bank_or_another_kind_of_statement_is_refused():
    for fields in (
        {"selection": selection(range(24), bank=0x000C)},
        {"count": number(2, 4), "selection": selection([], bank=0x0004) + selection(range(24))},
        {"type": number(0x8014, 2)},
        {"magic": bytes(4)},
    ):
        with pytest.raises(MalformedEvidence):
            judge(quote(**fields))


# What ran -------------------------------------------------------------------------------------------------


def test_a_subset_of_pcrs_suffices_if_it_has_all_that_the_measurement_names():
    policy = policy_for(ROOT.der, pcrs=(0, 2, 4, 9, 11))
    for indexes in ((0, 2, 4, 9, 11), (0, 1, 2, 3, 4, 7, 9, 11, 23)):
        assert set(judge(quote(indexes=indexes), policy=policy).measurement) == {f"pcr{index}" for index in indexes}
    with pytest.raises(WrongMeasurement):
        judge(quote(indexes=(0, 2, 4, 9)), policy=policy)


@pytest.mark.parametrize(
    ("indexes", "missing"),
    [((), "PCR0"), ((4, 7), "PCR0"), ((0, 7), "PCR2"), ((0, 2, 7), "PCR4"), ((0, 2, 4, 7), "PCR9")],
)
def test_a_quote_without_firmware_kernel_or_initramfs_fits_nothing(indexes, missing):
    with pytest.raises(WrongMeasurement, match=f"leaves out {missing}"):
        judge(quote(indexes=indexes))


@pytest.mark.parametrize("index", [0, 2, 4, 7, 9])
def test_another_program_is_refused(index):
    policy = policy_for(ROOT.der, pcrs=(0, 2, 4, 7, 9), **{f"pcr{index}": b"\x01" * 32})
    with pytest.raises(WrongMeasurement):
        judge(policy=policy)
    assert judge(policy=policy_for(ROOT.der, pcrs=(0, 2, 4, 7, 9)))


@pytest.mark.parametrize("index", [0, 2, 4, 9])
def test_firmware_that_measured_nothing_is_refused_whatever_the_policy_lists(index):
    pcrs = b"".join(bytes(32) if at == index else value for at, value in PCRS.items())
    with pytest.raises(ForbiddenLaunch, match=f"nothing into PCR{index}:"):
        judge(quote(pcrs=pcrs), policy=policy_for(ROOT.der, **{f"pcr{index}": bytes(32)}))
    with pytest.raises(ForbiddenLaunch, match=f"nothing into PCR{index}:"):
        judge(quote(indexes=(index,), pcrs=bytes(32)))


def test_other_pcrs_may_be_zero():
    pcrs = b"".join(value if at in (0, 2, 4, 9) else bytes(32) for at, value in PCRS.items())
    assert judge(quote(pcrs=pcrs)).measurement["pcr7"] == bytes(32)


# Order ----------------------------------------------------------------------------------------------------


def test_a_quote_with_several_faults_is_refused_for_the_first_in_the_documented_order():
    stranger = self_signed("stranger")
    unknown = (stranger.authority("AK", AK.key, extensions=AK_EXTENSIONS).der,)
    forged = changed(pcrs=bytes(len(GOOD.pcrs)))
    late = NOW_MS + 10**12
    for evidence, hints, at_ms, error in (
        (changed(attest=b"", signature=GOOD.signature[:-1]), (), late, MalformedEvidence),
        (forged, (), late, MissingCollateral),
        (changed(attest=attest(reset_count=bytes(4)), pcrs=forged.pcrs), unknown, late, BadSignature),
        (forged, unknown, late, UntrustedRoot),
        (forged, (AK.der, ROOT.authority("TPM issuer", ISSUER.key, extensions=()).der), late, BadChain),
        (forged, HINTS, late, ExpiredEvidence),
        (forged, HINTS, NOW_MS, BadSignature),
        (quote(pcrs=bytes(len(GOOD.pcrs))), HINTS, NOW_MS, ForbiddenLaunch),
    ):
        with pytest.raises(BadEvidence) as caught:
            judge(evidence, hints, at_ms=at_ms)
        assert type(caught.value) is error
    assert judge(GOOD, HINTS, policy=POLICY)
