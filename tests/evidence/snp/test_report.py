import pytest

from perdure.errors import BadSignature, MalformedEvidence
from perdure.evidence.limits import Tcb
from perdure.evidence.snp import report as snp_report
from perdure.evidence.snp.report import Product, Signer, parse
from tests.evidence.snp import support
from tests.evidence.snp.support import FIELDS, LEAF_KEY, OTHER_KEY, machine, report

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
"""Of P-384's group (FIPS 186-4, D.1.2.4)."""
RESERVED = [name for name in FIELDS if name.startswith("reserved")]


def changed(evidence, at, value):
    return evidence[:at] + bytes([value]) + evidence[at + 1 :]


def field_bytes(*names):
    return [at for name in names for at in range(FIELDS[name][0], sum(FIELDS[name]))]


def test_the_table_of_fields_covers_every_signed_byte_once():
    assert field_bytes(*FIELDS) == list(range(support.SIGNATURE_AT))


@pytest.mark.parametrize("product", list(Product))
@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_a_report_gives_its_fields(product, version):
    parsed = parse(report(product, version=version, vmpl=2))
    assert parsed.report_data == support.REPORT_DATA
    assert parsed.measurement == support.MEASUREMENT
    assert parsed.host_data == support.HOST_DATA
    assert parsed.id_key_digest == support.ID_KEY_DIGEST
    assert parsed.author_key_digest == support.AUTHOR_KEY_DIGEST
    assert parsed.report_id == support.REPORT_ID
    assert parsed.chip_id == support.CHIP_IDS[product]
    assert parsed.product is (None if version == 2 else product)
    assert (parsed.guest_policy, parsed.platform_info, parsed.vmpl) == (0x30000, 0x27, 2)
    assert parsed.signer is Signer.VCEK
    parsed.verify(LEAF_KEY.public_key())


def test_the_four_tcbs_are_told_apart():
    parsed = parse(
        report(Product.MILAN, current_tcb=b"c" * 8, reported_tcb=b"r" * 8, committed_tcb=b"m" * 8, launch_tcb=b"l" * 8)
    )
    tcbs = (parsed.current_tcb, parsed.reported_tcb, parsed.committed_tcb, parsed.launch_tcb)
    assert tcbs == (b"c" * 8, b"r" * 8, b"m" * 8, b"l" * 8)


def test_a_tcb_is_read_in_the_order_of_its_product():
    raw = bytes(range(8))
    assert snp_report.tcb_of(Product.MILAN, raw) == Tcb(bootloader=0, tee=1, snp=6, microcode=7, fmc=0)
    assert snp_report.tcb_of(Product.GENOA, raw) == Tcb(bootloader=0, tee=1, snp=6, microcode=7, fmc=0)
    assert snp_report.tcb_of(Product.TURIN, raw) == Tcb(fmc=0, bootloader=1, tee=2, snp=3, microcode=7)


def test_any_other_length_is_refused():
    whole = machine().report
    for length in (*range(len(whole)), len(whole) + 1, 2 * len(whole)):
        with pytest.raises(MalformedEvidence, match="bytes instead of 1184"):
            parse((whole + whole)[:length])


@pytest.mark.parametrize("version", [0, 1, 6, 2**32 - 1])
def test_versions_that_are_not_known_are_refused(version):
    with pytest.raises(MalformedEvidence, match="version"):
        parse(report(Product.MILAN, version=version))


@pytest.mark.parametrize("algorithm", [0, 2, 0x101])
def test_other_algorithms_are_refused(algorithm):
    with pytest.raises(MalformedEvidence, match="P-384"):
        parse(report(Product.MILAN, signature_algorithm=algorithm))


def test_a_policy_without_the_bit_that_is_always_one_is_refused():
    with pytest.raises(MalformedEvidence, match="policy"):
        parse(report(Product.MILAN, policy=0x10000))


@pytest.mark.parametrize(
    ("version", "names"),
    [
        (2, (*RESERVED, "cpuid", "launch_mitigations", "current_mitigations")),
        (3, (*RESERVED, "launch_mitigations", "current_mitigations")),
        (4, (*RESERVED, "launch_mitigations", "current_mitigations")),
        (5, RESERVED),
    ],
)
def test_reserved_bytes_are_zero_in_each_version(version, names):
    good = report(Product.MILAN, version=version)
    for at in field_bytes(*names):
        with pytest.raises(MalformedEvidence, match="zeros"):
            parse(changed(good, at, 0x80))


def test_version_5_has_vectors_of_mitigations():
    parse(report(Product.MILAN, version=5, launch_mitigations=b"\xff" * 8, current_mitigations=b"\xff" * 8))


def test_the_unsigned_padding_has_one_legal_value():
    good = machine().report
    for at in range(support.SIGNATURE_AT + 144, len(good)):
        with pytest.raises(MalformedEvidence, match="zeros"):
            parse(changed(good, at, 1))


def test_new_bits_of_platform_info_are_taken_as_they_are():
    assert parse(report(Product.MILAN, platform_info=2**64 - 1)).platform_info == 2**64 - 1


@pytest.mark.parametrize("author_and_mask", [0, 1, 2, 3])
def test_who_signed_is_read_from_bits_2_to_4(author_and_mask):
    for signer in Signer:
        parsed = parse(report(Product.MILAN, signer_info=author_and_mask | signer.value << 2))
        assert parsed.signer is signer
    for unknown in (2, 3, 4, 5, 6):
        with pytest.raises(MalformedEvidence, match="kind of key"):
            parse(report(Product.MILAN, signer_info=author_and_mask | unknown << 2))
    with pytest.raises(BadSignature, match="not signed"):
        parse(report(Product.MILAN, signer_info=author_and_mask | 7 << 2))


@pytest.mark.parametrize("bit", range(5, 32))
def test_reserved_bits_of_signer_info_are_zero(bit):
    for signer in (0, 1, 7):
        with pytest.raises(MalformedEvidence, match="kind of key"):
            parse(report(Product.MILAN, signer_info=1 << bit | signer << 2))


@pytest.mark.parametrize(
    ("cpuid", "product"),
    [
        (b"\x19\x00", Product.MILAN),
        (b"\x19\x0f", Product.MILAN),
        (b"\x19\x10", Product.GENOA),
        (b"\x19\x1f", Product.GENOA),
        (b"\x19\xa0", Product.GENOA),
        (b"\x19\xaf", Product.GENOA),
        (b"\x1a\x00", Product.TURIN),
        (b"\x1a\x1f", Product.TURIN),
    ],
)
def test_family_and_model_name_the_product(cpuid, product):
    assert parse(report(Product.MILAN, cpuid=cpuid)).product is product


@pytest.mark.parametrize("cpuid", [b"\x17\x01", b"\x19\x20", b"\x19\x9f", b"\x19\xb0", b"\x1a\x20", b"\x1a\x50", b""])
def test_processors_that_are_not_known_are_refused(cpuid):
    with pytest.raises(MalformedEvidence, match="processor that this release does not know"):
        parse(report(Product.MILAN, cpuid=cpuid))


def test_another_key_did_not_sign():
    with pytest.raises(BadSignature):
        parse(machine().report).verify(OTHER_KEY.public_key())


def test_r_and_s_are_little_endian_and_below_the_order_of_the_curve():
    good, at = machine().report, support.SIGNATURE_AT
    r, s = good[at : at + 72], good[at + 72 : at + 144]
    bigger = (int.from_bytes(r, "little") + ORDER).to_bytes(72, "little")
    for broken in (
        r[47::-1] + bytes(24) + s[47::-1] + bytes(24),
        s + r,
        bytes(144),
        bytes(72) + s,
        bigger + s,
        r[:71] + b"\x01" + s,
        r + s[:48] + b"\x01" + s[49:],
        b"\xff" * 144,
    ):
        with pytest.raises(BadSignature):
            parse(good[:at] + broken + good[at + 144 :]).verify(LEAF_KEY.public_key())


def test_s_and_n_minus_s_both_verify():
    good, at = machine().report, support.SIGNATURE_AT + 72
    twin = (ORDER - int.from_bytes(good[at : at + 72], "little")).to_bytes(72, "little")
    parse(good[:at] + twin + good[at + 72 :]).verify(LEAF_KEY.public_key())
