import hashlib
import json
import struct
import zlib
from datetime import UTC, datetime, timedelta

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import Misuse
from perdure.image import eif
from tests.evidence.support import VECTORS

IMAGES = VECTORS / "eif"
RECORD_FILE = IMAGES / "synthetic-expected.json"
RECORDS = json.loads(RECORD_FILE.read_text()) if RECORD_FILE.exists() else {}
needs_vectors = pytest.mark.skipif(
    not RECORDS, reason=f"IMAGE FORMAT NOT TESTED AGAINST OTHERS: there is no {RECORD_FILE}; set PERDURE_VECTORS"
)

EMPTY_PCR2 = "21b9efbc184807662e966d34f390821309eeac6802309798826296bf3e8bec7c10edb30948c90ba67310f7b964fc500a"
GOOD = eif.build(b"kernel", b"cmdline", [b"one", b"two", b""], b"{}")
HEADER_BYTES = 548


def with_crc(image):
    return image[:544] + struct.pack(">I", zlib.crc32(image[548:], zlib.crc32(image[:544]))) + image[548:]


def patched(at, data, image=GOOD):
    return with_crc(image[:at] + data + image[at + len(data) :])


def section(kind, data, flags=0):
    return struct.pack(">HHQ", kind, flags, len(data)) + data


def assembled(*sections, version=4):
    """An image of any sections, with right offsets, sizes and CRC."""
    offsets, at = [], HEADER_BYTES
    for item in sections:
        offsets.append(at)
        at += len(item)
    sizes = [len(item) - 12 for item in sections]
    padding = [0] * (32 - len(sections))
    table = struct.pack(">64Q", *offsets, *padding, *sizes, *padding)
    header = b".eif" + struct.pack(">HHQQHH", version, 0, 1 << 30, 2, 0, len(sections)) + table + bytes(8)
    return with_crc(header + b"".join(sections))


K, C, R, M, S = (
    section(1, b"kernel"),
    section(2, b"cmdline"),
    section(3, b"ramdisk"),
    section(5, b"{}"),
    section(4, b"sig"),
)


@needs_vectors
@pytest.mark.parametrize("name", RECORDS)
def test_images_of_other_tools_have_the_pcrs_of_their_record(name):
    record, image = RECORDS[name], (IMAGES / name).read_bytes()
    assert hashlib.sha256(image).hexdigest() == record["sha256"]
    parts = eif.parse(image)
    pcrs = eif.measure(parts)
    assert pcrs.pcr0.hex() == record["PCR0"]
    assert pcrs.pcr1.hex() == record["PCR1"]
    assert pcrs.pcr2.hex() == record["PCR2"]
    assert eif.build(parts.kernel, parts.cmdline, parts.ramdisks, parts.metadata) == image


ramdisk_lists = st.lists(st.binary(max_size=40), min_size=1, max_size=4)


@given(st.binary(max_size=40), st.binary(max_size=40), ramdisk_lists, st.binary(max_size=40))
def test_what_is_built_is_parsed(kernel, cmdline, ramdisks, metadata):
    image = eif.build(kernel, cmdline, ramdisks, metadata)
    assert eif.parse(image) == eif.Eif(kernel, cmdline, tuple(ramdisks), metadata)
    assert (
        assembled(
            section(1, kernel), section(2, cmdline), section(5, metadata), *(section(3, data) for data in ramdisks)
        )
        == image
    )


def test_the_pcrs_cover_what_they_are_said_to_cover():
    def pcrs(kernel=b"k", cmdline=b"c", ramdisks=(b"1", b"2", b"3"), metadata=b"m"):
        return eif.measure(eif.parse(eif.build(kernel, cmdline, ramdisks, metadata)))

    base = pcrs()
    assert pcrs(metadata=b"other") == base
    for changed in (pcrs(kernel=b"K"), pcrs(cmdline=b"C"), pcrs(ramdisks=(b"!", b"2", b"3"))):
        assert (changed.pcr0 != base.pcr0, changed.pcr1 != base.pcr1, changed.pcr2 == base.pcr2) == (True, True, True)
    for changed in (pcrs(ramdisks=(b"1", b"!", b"3")), pcrs(ramdisks=(b"1", b"3", b"2"))):
        assert (changed.pcr0 != base.pcr0, changed.pcr1 == base.pcr1, changed.pcr2 != base.pcr2) == (True, True, True)
    for pcr, content in ((base.pcr0, b"kc123"), (base.pcr1, b"kc1"), (base.pcr2, b"23")):
        assert pcr == hashlib.sha384(bytes(48) + hashlib.sha384(content).digest()).digest()


def test_an_image_with_one_ramdisk_has_the_pcr2_that_many_enclaves_publish():
    assert eif.measure(eif.parse(assembled(K, C, M, R))).pcr2.hex() == EMPTY_PCR2


def test_a_border_can_move_without_moving_pcr0_so_all_three_must_be_compared():
    a = eif.measure(eif.parse(eif.build(b"k", b"c", [b"12", b"3"], b"{}")))
    b = eif.measure(eif.parse(eif.build(b"k", b"c", [b"1", b"23"], b"{}")))
    assert a.pcr0 == b.pcr0
    assert (a.pcr1, a.pcr2) != (b.pcr1, b.pcr2)


def test_metadata_anywhere_a_signature_and_the_arm_flag_are_read():
    usual = eif.parse(assembled(K, C, M, R, R, S))
    for order in ((K, C, R, R, M, S), (M, K, C, R, R, S), (S, M, K, C, R, R), (K, S, C, R, M, R)):
        assert eif.parse(assembled(*order)) == usual


@pytest.mark.parametrize("order", [(C, K, M, R), (K, R, C, M), (R, K, C, M), (K, C, M, R, C), (C, R, K, M)])
def test_an_order_in_which_the_pcrs_would_be_others_is_refused(order):
    """They are over the contents in the order of the file (AWS's README, "EIF Measurements")."""
    with pytest.raises(Misuse, match="not in this order"):
        eif.parse(assembled(*order))


def test_a_signature_and_the_arm_flag_are_read():
    assert eif.parse(assembled(K, C, M, R, S)).signature == b"sig"
    assert eif.parse(patched(6, b"\0\1")).flags == eif.FLAG_AARCH64


@pytest.mark.parametrize(
    ("image", "what"),
    [
        (b"", "does not start"),
        (GOOD[:547], "does not start"),
        (b"\x7fELF" + GOOD[4:], "does not start"),
        (patched(4, b"\0\3"), "1 sections of type METADATA; it must have 0"),
        (patched(4, b"\0\5"), "version 5"),
        (patched(6, b"\0\2"), "flags"),
        (patched(24, b"\0\1"), "reserved"),
        (patched(540, b"\0\0\0\1"), "reserved"),
        (patched(26, b"\0\0"), "section count"),
        (patched(26, b"\0\x21"), "section count"),
        (GOOD[:-1] + b"\1", "CRC"),
        (GOOD[:544] + bytes(4) + GOOD[548:], "CRC"),
        (with_crc(GOOD + b"\0"), "belong to no section"),
        (with_crc(GOOD[:-1]), "cut short"),
        (patched(26, b"\0\5"), "belong to no section"),
        (patched(28, struct.pack(">Q", 549)), "one after another"),
        (patched(28 + 8, struct.pack(">Q", 548)), "one after another"),
        (patched(284, struct.pack(">Q", 7)), "another size"),
        (patched(284, struct.pack(">Q", 2**63)), "cut short"),
        (patched(284 + 8 * 31, struct.pack(">Q", 1)), "belong to no section"),
        (patched(548 + 2, b"\0\1"), "flags"),
        (patched(548 + 4, struct.pack(">Q", 5)), "another size"),
        (patched(548, b"\0\6"), "unknown type 6"),
        (patched(548, b"\0\0"), "unknown type 0"),
        (patched(548, b"\0\3"), "not in this order"),
        (assembled(C, M, R), "0 sections of type KERNEL"),
        (assembled(K, K, C, M, R), "2 sections of type KERNEL"),
        (assembled(K, M, R), "CMDLINE"),
        (assembled(K, C, R), "METADATA"),
        (assembled(K, C, M), "no ramdisk"),
        (assembled(K, C, M, R, S, S), "more than one signature"),
    ],
)  # fmt: skip
def test_refuses(image, what):
    with pytest.raises(Misuse, match=what):
        eif.parse(image)


def test_every_changed_byte_of_the_file_is_refused():
    for at, byte in enumerate(GOOD):
        with pytest.raises(Misuse):
            eif.parse(GOOD[:at] + bytes([byte ^ 0x40]) + GOOD[at + 1 :])


@given(st.binary(max_size=600).map(lambda data: with_crc((GOOD[:40] + data).ljust(548, b"\0"))))
def test_other_bytes_with_a_right_crc_are_refused(image):
    with pytest.raises(Misuse):
        eif.parse(image)


def test_refuses_to_build_without_or_with_too_many_ramdisks():
    for ramdisks in ([], [b""] * 30):
        with pytest.raises(Misuse):
            eif.build(b"", b"", ramdisks, b"")
    assert len(eif.parse(eif.build(b"", b"", [b""] * 29, b"")).ramdisks) == 29


# Versions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0, 1, 5, 0xFFFF])
def test_versions_that_no_released_tool_writes_are_refused(version):
    with pytest.raises(Misuse, match=f"version {version};"):
        eif.parse(assembled(K, C, M, R, version=version))


@pytest.mark.parametrize("version", [2, 3])
def test_the_images_of_older_tools_are_measured_too(version):
    """AWS's README, "EIF format version history": 2 since August 2020, 3 since April 2021, 4 since March 2022."""
    older = eif.measure(eif.parse(assembled(K, C, R, R, version=version)))
    assert older == eif.measure(eif.parse(assembled(K, C, M, R, R)))


# Signed images -----------------------------------------------------------------------------------------------


def certificate(name="signer", curve=None):
    key = ec.generate_private_key(curve or ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    day = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1, day, day + timedelta(days=30))
    return key, builder.sign(key, hashes.SHA384())


def entry(signer, pcr0, index=0):
    """One signature over PCR0, as AWS's tool makes it: all bytes as lists of integers, an untagged COSE_Sign1."""
    key, cert = signer
    payload = cbor2.dumps({"register_index": index, "register_value": list(pcr0)})
    protected = cbor2.dumps({1: -35})
    signed = cbor2.dumps(["Signature1", protected, b"", payload])
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA384())))
    message = cbor2.dumps([protected, {}, payload, r.to_bytes(48, "big") + s.to_bytes(48, "big")])
    pem = cert.public_bytes(serialization.Encoding.PEM)
    return {"signing_certificate": list(pem), "signature": list(message)}


SIGNER = certificate()
UNSIGNED = eif.measure(eif.parse(assembled(K, C, M, R)))


def signed(*entries):
    return assembled(K, C, M, R, section(4, cbor2.dumps(list(entries))))


def test_the_pcr8_of_a_signed_image_is_that_of_its_certificate():
    pcrs = eif.measure(eif.parse(signed(entry(SIGNER, UNSIGNED.pcr0))))
    der = SIGNER[1].public_bytes(serialization.Encoding.DER)
    assert pcrs.pcr8 == hashlib.sha384(bytes(48) + hashlib.sha384(der).digest()).digest()
    assert (pcrs.pcr0, pcrs.pcr1, pcrs.pcr2) == (UNSIGNED.pcr0, UNSIGNED.pcr1, UNSIGNED.pcr2)
    assert UNSIGNED.pcr8 is None


def test_of_several_signatures_the_first_counts():
    """AWS's README, "EifSectionSignature": only the first is verified, and its reader takes PCR8 from it."""
    first, second = entry(SIGNER, UNSIGNED.pcr0), entry(certificate("other"), UNSIGNED.pcr0)
    pcr8 = [eif.measure(eif.parse(signed(*entries))).pcr8 for entries in ((first, second), (first,), (second,))]
    assert pcr8[0] == pcr8[1] != pcr8[2]


def test_a_certificate_as_a_byte_string_is_the_same():
    one = entry(SIGNER, UNSIGNED.pcr0)
    as_bytes = {**one, "signing_certificate": bytes(one["signing_certificate"])}
    assert eif.measure(eif.parse(signed(as_bytes))) == eif.measure(eif.parse(signed(one)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"sig",
        cbor2.dumps([]),
        cbor2.dumps({}),
        cbor2.dumps(5),
        cbor2.dumps("text"),
        cbor2.dumps([5]),
        cbor2.dumps([{}]),
        cbor2.dumps([{"signing_certificate": 5}]),
        cbor2.dumps([{"signing_certificate": 1 << 33}]),  # not a request for 8 GiB
        cbor2.dumps([{"signing_certificate": [256]}]),
        cbor2.dumps([{"signing_certificate": []}]),
        cbor2.dumps([{"signing_certificate": list(b"-----BEGIN CERTIFICATE-----")}]),
        b"\x9b\x7f\xff\xff\xff\xff\xff\xff\xff",  # a list of 2^63 entries
        b"\x81" * 20_000,
    ],
)
def test_a_signature_that_cannot_be_read_is_told(data):
    parts = eif.parse(assembled(K, C, M, R, section(4, data)))
    with pytest.raises(Misuse, match=r"^The image's signature section cannot be read: .*\.$"):
        eif.measure(parts)


def test_a_signature_is_read_up_to_the_formats_limit():
    one = entry(SIGNER, UNSIGNED.pcr0)
    rest = len(cbor2.dumps([{**one, "signature": [0] * 1000}])) - 1000
    for size, is_read in ((32_768, True), (32_769, False), (60_000, False)):
        image = signed({**one, "signature": [0] * (size - rest)})
        assert len(image) - len(assembled(K, C, M, R)) == 12 + size
        if is_read:
            assert eif.measure(eif.parse(image)).pcr8 is not None
        else:
            with pytest.raises(Misuse, match="signature section"):
                eif.measure(eif.parse(image))


def test_a_signature_cut_anywhere_is_told():
    data = cbor2.dumps([entry(SIGNER, UNSIGNED.pcr0)])
    for length in range(0, len(data), 37):
        with pytest.raises(Misuse):
            eif.measure(eif.parse(assembled(K, C, M, R, section(4, data[:length]))))
