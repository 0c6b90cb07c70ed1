import hashlib
import json
import os
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import Misuse
from perdure.image import eif

VECTORS = Path(os.environ.get("PERDURE_VECTORS", Path(__file__).parents[3] / "shared" / "vectors")) / "eif"
RECORD_FILE = VECTORS / "synthetic-expected.json"
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


def assembled(*sections):
    """An image of any sections, with right offsets, sizes and CRC."""
    offsets, at = [], HEADER_BYTES
    for item in sections:
        offsets.append(at)
        at += len(item)
    sizes = [len(item) - 12 for item in sections]
    padding = [0] * (32 - len(sections))
    table = struct.pack(">64Q", *offsets, *padding, *sizes, *padding)
    header = b".eif" + struct.pack(">HHQQHH", 4, 0, 1 << 30, 2, 0, len(sections)) + table + bytes(8)
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
    record, image = RECORDS[name], (VECTORS / name).read_bytes()
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
    inner = hashlib.sha384(b"kc1").digest()
    assert base.pcr1 == hashlib.sha384(bytes(48) + inner).digest()


def test_an_image_with_one_ramdisk_has_the_pcr2_that_many_enclaves_publish():
    assert eif.measure(eif.parse(assembled(K, C, M, R))).pcr2.hex() == EMPTY_PCR2


def test_a_border_can_move_without_moving_pcr0_so_all_three_must_be_compared():
    a = eif.measure(eif.parse(eif.build(b"k", b"c", [b"12", b"3"], b"{}")))
    b = eif.measure(eif.parse(eif.build(b"k", b"c", [b"1", b"23"], b"{}")))
    assert a.pcr0 == b.pcr0
    assert (a.pcr1, a.pcr2) != (b.pcr1, b.pcr2)


def test_other_orders_a_signature_and_the_arm_flag_are_read():
    assert eif.parse(assembled(K, C, R, R, M)) == eif.parse(assembled(M, R, K, R, C))
    assert eif.parse(assembled(K, C, M, R, S)).signature == b"sig"
    assert eif.parse(patched(6, b"\0\1")).flags == eif.FLAG_AARCH64


@pytest.mark.parametrize(
    ("image", "what"),
    [
        (b"", "does not start"),
        (GOOD[:547], "does not start"),
        (b"\x7fELF" + GOOD[4:], "does not start"),
        (patched(4, b"\0\3"), "version 3"),
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
        (assembled(C, M, R), "KERNEL"),
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
