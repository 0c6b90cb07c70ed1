"""Reports that AMD's processors made: each must give what its record says, and each change to one must be refused."""

import functools
import hashlib
import warnings
from datetime import datetime

import pytest
from cryptography import x509
from cryptography.utils import CryptographyDeprecationWarning
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.errors import (
    BadChain,
    BadEvidence,
    BadSignature,
    DebugMode,
    ExpiredEvidence,
    ForbiddenLaunch,
    MalformedEvidence,
    MissingCollateral,
    OutdatedTcb,
    UntrustedRoot,
    WrongMeasurement,
)
from perdure.evidence import anchors
from perdure.evidence.limits import SnpLimits, Tcb
from perdure.evidence.policy import Measurement, Policy, TrustedRoot
from perdure.evidence.roots import Platform
from perdure.evidence.snp import certificates, verifier
from perdure.evidence.snp.certificates import KeyCertificate, chain_of, read
from perdure.evidence.snp.report import Product, Signer, parse, tcb_of
from tests.evidence.snp import support
from tests.evidence.support import VECTORS, expected, needs_vectors

pytestmark = needs_vectors("sev-snp")

RECORDS = expected("sev-snp")
REPORTS = [name for name, record in RECORDS.items() if "report" in record]
DEBUG = [name for name in REPORTS if int(RECORDS[name]["fields"]["policy"], 16) >> 19 & 1]
GOOD = [name for name in REPORTS if name not in DEBUG]
GENOA, AWS, TURIN = "genoa-vcek-v3-azure", "milan-vlek-v3-aws", "turin-vcek-certificate-only"
PRODUCTS = ("milan", "genoa", "turin")


def file(name, what):
    return (VECTORS / "sev-snp" / RECORDS[name][what]).read_bytes()


def field(name, what):
    return bytes.fromhex(RECORDS[name]["fields"][what])


def unix_ms(name, what):
    return int(datetime.fromisoformat(RECORDS[name][what]).timestamp() * 1000)


def product_of(name):
    return name.partition("-")[0]


def csp_id_of(name):
    der = bytes.fromhex(RECORDS[name]["ek_ext_der"].get("1.5", ""))
    return der[2:].decode() or None


def floor_of(name):
    """The TCB that the record shows as reported, by the table in AMD's specification for Milan and Genoa."""
    raw = field(name, "reported_tcb")
    return Tcb(bootloader=raw[0], tee=raw[1], snp=raw[6], microcode=raw[7])


def policy_for(name, product=None, measurement=None, **changes):
    limits = {"tcb_min": floor_of(name), "vmpl_max": RECORDS[name]["fields"]["vmpl"], "csp_id": csp_id_of(name)}
    root = TrustedRoot.builtin(f"amd-{product or product_of(name)}", SnpLimits(**{**limits, **changes}))
    measurement = field(name, "measurement") if measurement is None else measurement
    return Policy((root,), (Measurement.of(root.name, {"measurement": measurement}),))


def verify(name, *, evidence=None, hints=None, at_ms=None, **changes):
    at_ms = unix_ms(name, "ek_valid_from") + 1000 if at_ms is None else at_ms
    hints = (file(name, "ek"),) if hints is None else hints
    evidence = file(name, "report") if evidence is None else evidence
    return verifier.verify(evidence, hints, policy=policy_for(name, **changes), at_ms=at_ms)


@pytest.fixture
def chains_kept(monkeypatch):
    """Each pair of certificates is verified once, so that a test can ask about thousands of reports."""
    monkeypatch.setattr(certificates, "_issued", functools.cache(certificates._issued))


def test_there_are_records_of_every_kind():
    assert DEBUG
    assert GENOA in GOOD
    assert AWS in GOOD
    assert all(hashlib.sha256(file(name, "report")).hexdigest() == RECORDS[name]["sha256"] for name in REPORTS)


@pytest.mark.parametrize("name", GOOD)
def test_a_real_report_gives_what_its_record_says(name):
    found = verify(name)
    assert found.platform is Platform.SEV_SNP
    assert found.root == f"amd-{product_of(name)}"
    registers = ("measurement", "host_data", "id_key_digest", "author_key_digest")
    assert found.measurement == {register: field(name, register) for register in registers}
    assert found.report_data == field(name, "report_data")
    assert found.time_ms is None
    assert found.not_after_ms == unix_ms(name, "ek_valid_until")
    chip_id = field(name, "chip_id")
    host = f"snp-{hashlib.sha256(chip_id).hexdigest()[:16]}" if any(chip_id) else None
    assert found.host == host
    assert found.module_id == f"{host or 'snp-' + '0' * 16}-{field(name, 'report_id').hex()[:16]}"


@pytest.mark.parametrize("name", REPORTS)
def test_a_real_report_parses_as_its_record_says(name):
    fields, parsed = RECORDS[name]["fields"], parse(file(name, "report"))
    assert parsed.guest_policy == int(fields["policy"], 16)
    assert parsed.platform_info == int(fields["plat"], 16)
    assert parsed.vmpl == fields["vmpl"]
    assert parsed.signer.value == int(fields["signer_info"], 16) >> 2
    for tcb in ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"):
        assert getattr(parsed, tcb) == field(name, tcb)
    assert parsed.product in (None, product_of(name).capitalize())
    assert tcb_of(Product(product_of(name).capitalize()), parsed.reported_tcb) == floor_of(name)


@pytest.mark.parametrize("name", DEBUG)
def test_a_real_debug_guest_is_refused_as_that_and_nothing_else(name):
    with pytest.raises(DebugMode):
        verify(name)


@pytest.mark.parametrize("name", REPORTS)
def test_a_real_report_is_refused_outside_of_its_certificates_life(name):
    start, end = unix_ms(name, "ek_valid_from"), unix_ms(name, "ek_valid_until")
    for at_ms in (start, end):
        if name in GOOD:
            assert verify(name, at_ms=at_ms)
    for at_ms in (start - 1, end + 1, end + 10**12):
        with pytest.raises(ExpiredEvidence):
            verify(name, at_ms=at_ms)


@pytest.mark.parametrize("name", REPORTS)
def test_a_real_report_is_refused_under_every_other_root(name):
    for other in PRODUCTS:
        if other != product_of(name):
            with pytest.raises(UntrustedRoot):
                verify(name, product=other)
    impostor = support.ark(Product(product_of(name).capitalize()))
    program = field(name, "measurement")
    policy = support.policy(impostor, SnpLimits(floor_of(name)), measurement=program)
    with pytest.raises(UntrustedRoot):
        verifier.verify(file(name, "report"), (file(name, "ek"),), policy=policy, at_ms=unix_ms(name, "ek_valid_from"))
    aside = TrustedRoot("aside", Platform.TPM, getattr(anchors, f"AMD_ARK_{product_of(name).upper()}"))
    with pytest.raises(UntrustedRoot):
        verifier.verify(
            file(name, "report"), (file(name, "ek"),), policy=Policy((aside,), ()), at_ms=unix_ms(name, "ek_valid_from")
        )


@pytest.mark.parametrize("name", GOOD)
def test_a_real_report_of_another_program_is_refused(name):
    with pytest.raises(WrongMeasurement):
        verify(name, measurement=bytes(48))


@pytest.mark.parametrize("name", GOOD)
def test_a_real_report_below_the_floor_is_refused(name):
    floor = floor_of(name)
    for part in ("bootloader", "tee", "snp", "microcode", "fmc"):
        numbers = {one: getattr(floor, one) for one in ("bootloader", "tee", "snp", "microcode", "fmc")}
        with pytest.raises(OutdatedTcb):
            verify(name, tcb_min=Tcb(**{**numbers, part: numbers[part] + 1}))


def test_a_real_report_from_a_weaker_privilege_level_is_refused():
    with pytest.raises(ForbiddenLaunch, match="level 1"):
        verify(AWS, vmpl_max=0)


def test_real_machines_that_may_share_cores_are_refused_where_that_is_forbidden():
    for name in GOOD:
        with pytest.raises(ForbiddenLaunch, match="SMT"):
            verify(name, smt_allowed=False)


def test_a_real_cloud_key_counts_for_its_own_cloud_alone():
    assert csp_id_of(AWS) == "CN=cc-us-east-2.amazonaws.com"
    for csp_id in (None, "CN=cc-us-east-1.amazonaws.com"):
        with pytest.raises(ForbiddenLaunch, match="cloud"):
            verify(AWS, csp_id=csp_id)
    with pytest.raises(ForbiddenLaunch, match="cloud"):
        verify(GENOA, csp_id=csp_id_of(AWS))


@pytest.mark.parametrize("name", REPORTS)
def test_without_its_own_certificate_a_real_report_cannot_be_judged(name):
    others = [file(other, "ek") for other in RECORDS if other != name]
    for hints in ((), others):
        with pytest.raises(MissingCollateral):
            verify(name, hints=hints)


@pytest.mark.parametrize("name", GOOD)
def test_a_real_certificate_is_found_in_a_table_among_others(name):
    guids = {"vcek": "8d75da6364e66445adc5f4b93be8accd", "vlek": "c24b07a85aa23e48aae639c045a0b8a1"}
    certificate = file(name, "ek")
    entry = bytes.fromhex(guids[RECORDS[name]["ek"].split(".")[-2]]) + (48).to_bytes(4, "little")
    blob = entry + len(certificate).to_bytes(4, "little") + bytes(24) + certificate
    others = [file(other, "ek") for other in RECORDS if other != name]
    assert verify(name, hints=(*others, *verifier.certificate_table(blob))) == verify(name)


@pytest.mark.parametrize("name", REPORTS)
def test_a_real_signature_is_checked(name):
    good = file(name, "report")
    for at in (0x50, 0x90, 0x140, 0x2A0, 0x2A0 + 47, 0x2A0 + 71, 0x2A0 + 72, 0x2A0 + 143):
        with pytest.raises(BadSignature):
            verify(name, evidence=good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])


@pytest.mark.parametrize("name", REPORTS)
def test_a_real_certificate_with_a_flipped_bit_is_refused(name):
    good, hint = file(name, "report"), file(name, "ek")
    with pytest.raises(BadChain):
        verify(name, evidence=good, hints=(hint[:-1] + bytes([hint[-1] ^ 1]),))


def test_every_flipped_bit_of_a_real_report_is_refused(chains_kept):
    """Signed or not: the signature's unused bytes and the padding have one legal value."""
    good = file(GENOA, "report")
    policy, hints, at_ms = policy_for(GENOA), (file(GENOA, "ek"),), unix_ms(GENOA, "ek_valid_from")
    assert verifier.verify(good, hints, policy=policy, at_ms=at_ms)
    for at, byte in enumerate(good):
        for bit in range(8):
            mutant = good[:at] + bytes([byte ^ 1 << bit]) + good[at + 1 :]
            with pytest.raises((MalformedEvidence, MissingCollateral, BadSignature)):
                verifier.verify(mutant, hints, policy=policy, at_ms=at_ms)


def test_a_real_report_is_refused_at_every_other_length():
    good = file(GENOA, "report")
    policy, hints, at_ms = policy_for(GENOA), (file(GENOA, "ek"),), unix_ms(GENOA, "ek_valid_from")
    for length in (*range(len(good)), len(good) + 1, len(good) + 16):
        with pytest.raises(MalformedEvidence):
            verifier.verify((good + good)[:length], hints, policy=policy, at_ms=at_ms)


@given(
    st.sampled_from(REPORTS or [""]),
    st.lists(st.tuples(st.integers(0, 1183), st.integers(1, 255)), min_size=1, max_size=5, unique_by=lambda x: x[0]),
    st.binary(max_size=2),
)
@settings(max_examples=100, deadline=None)
def test_mutated_real_reports_are_refused_with_a_typed_error(name, flips, tail):
    mutant = bytearray(file(name, "report"))
    for at, flip in flips:
        mutant[at] ^= flip
    with pytest.raises(BadEvidence):
        verify(name, evidence=bytes(mutant) + tail)


@given(st.integers(0, 10_000), st.integers(0, 7))
@settings(max_examples=100, deadline=None)
def test_a_mutated_real_certificate_vouches_for_nothing(at, bit):
    mutant = bytearray(file(GENOA, "ek"))
    mutant[at % len(mutant)] ^= 1 << bit
    with pytest.raises((MissingCollateral, UntrustedRoot, BadChain)):
        verify(GENOA, hints=(bytes(mutant),))


# Certificates without a report ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECORDS)
def test_a_real_key_certificate_is_read_as_its_record_says(name):
    found, recorded = read(file(name, "ek")), RECORDS[name]["ek_ext_der"]
    assert isinstance(found, KeyCertificate)
    assert found.product is Product(product_of(name).capitalize())
    assert found.signer is (Signer.VLEK if "1.5" in recorded else Signer.VCEK)
    assert (found.hardware_id or b"").hex() == recorded.get("1.4", "")
    assert found.csp_id == csp_id_of(name)
    parts = {int(arc.rpartition(".")[2]): int(der[4:], 16) for arc, der in recorded.items() if arc.startswith("1.3.")}
    numbers = tcb_of(found.product, found.tcb)
    assert (numbers.bootloader, numbers.tee, numbers.snp) == (parts[1], parts[2], parts[3])
    assert (numbers.microcode, numbers.fmc) == (parts[8], parts.get(9, 0))


@pytest.mark.parametrize("name", RECORDS)
def test_a_real_key_certificate_hangs_on_its_products_root(name):
    found = read(file(name, "ek"))
    assert isinstance(found, KeyCertificate)
    limits = SnpLimits(Tcb(0, 0, 0, 0))
    roots = {product: TrustedRoot.builtin(f"amd-{product}", limits) for product in PRODUCTS}
    chain = chain_of(found, (), Policy(tuple(roots.values()), ()))
    assert chain.root == roots[product_of(name)]
    assert chain.not_before_ms == unix_ms(name, "ek_valid_from")
    assert chain.not_after_ms == unix_ms(name, "ek_valid_until")
    others = tuple(root for product, root in roots.items() if product != product_of(name))
    with pytest.raises(UntrustedRoot):
        chain_of(found, (), Policy(others, ()))


def test_the_turin_certificate_fits_a_turin_report_of_its_chip_and_no_other():
    found = read(file(TURIN, "ek"))
    assert isinstance(found, KeyCertificate)
    values = dict.fromkeys(("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"), found.tcb)
    mine = support.report(Product.TURIN, chip_id=found.hardware_id, **values)
    assert found.fits(parse(mine))
    assert not found.fits(parse(support.report(Product.TURIN, **values)))
    assert not found.fits(parse(support.report(Product.TURIN, chip_id=found.hardware_id)))
    # Our key signed that report, not the processor's: the certificate is real, so it ends at the signature.
    policy = Policy((TrustedRoot.builtin("amd-turin", SnpLimits(Tcb(0, 0, 0, 0))),), ())
    with pytest.raises(BadSignature):
        verifier.verify(mine, (file(TURIN, "ek"),), policy=policy, at_ms=unix_ms(TURIN, "ek_valid_from"))


@pytest.mark.parametrize("name", RECORDS)
def test_real_certificates_have_serial_number_0_and_are_verified_in_silence(name):
    """When the first half fails, a new `cryptography` refuses AMD's certificates: see `certificates._read`."""
    with pytest.warns(CryptographyDeprecationWarning, match=support.SERIAL_WARNING):
        assert x509.load_der_x509_certificate(file(name, "ek")).serial_number == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        certificates._read.cache_clear()
        found = read(file(name, "ek"))
        assert isinstance(found, KeyCertificate)
        assert chain_of(
            found, (), Policy((TrustedRoot.builtin(f"amd-{product_of(name)}", SnpLimits(Tcb(0, 0, 0, 0))),), ())
        )
