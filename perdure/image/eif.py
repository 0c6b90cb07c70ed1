"""Enclave image files (EIF), version 4: build, parse, measure.

Sources: aws-nitro-enclaves-image-format (format), nitro-cli and its documentation (order of sections, PCRs).
All integers are big-endian. Header, 548 bytes:

    0 magic ".eif"   4 u16 version 4   6 u16 flags (bit 0: aarch64)   8 u64 default memory   16 u64 default CPUs
    24 u16 reserved   26 u16 section count   28 32 x u64 offsets   284 32 x u64 sizes   540 u32 unused   544 u32 CRC-32

The CRC covers the whole file except itself. A section is u16 type, u16 flags, u64 size, then its data.
`parse` refuses gaps, overlaps, trailing bytes, unknown sections and anything else that two readers could see
differently. Metadata and signature are not measured by PCR0, 1 and 2; a signature is carried but not verified here.
"""

from __future__ import annotations

import enum
import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from perdure.errors import Misuse

MAGIC: Final = b".eif"
VERSION: Final = 4
VERSIONS_READ: Final = (2, 3, VERSION)
"""Those that nitro-cli has written: 2 since August 2020, 3 since April 2021, 4, with metadata, since March 2022."""
SECTION_COUNT_MAX: Final = 32
MEMORY_BYTES_DEFAULT: Final = 1 << 30
CPU_COUNT_DEFAULT: Final = 2
FLAG_AARCH64: Final = 1
SIGNATURE_BYTES_MAX: Final = 32_768

_HEADER: Final = struct.Struct(">4sHHQQHH32Q32QII")
_SECTION: Final = struct.Struct(">HHQ")
_CRC_AT: Final = _HEADER.size - 4


class SectionType(enum.IntEnum):
    """The numbers of the format."""

    KERNEL = 1
    CMDLINE = 2
    RAMDISK = 3
    SIGNATURE = 4
    METADATA = 5


@dataclass(frozen=True, slots=True)
class Eif:
    """The parts of an image. `ramdisks` are in file order, which is the order they are unpacked and measured in."""

    kernel: bytes
    cmdline: bytes
    ramdisks: tuple[bytes, ...]
    metadata: bytes
    signature: bytes | None = None
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Pcrs:
    """What Nitro measures of an image, 48 bytes each: all of it; kernel and first ramdisk; the other ramdisks.

    `pcr8` is that of the certificate which signed the image, None if it is not signed.
    """

    pcr0: bytes
    pcr1: bytes
    pcr2: bytes
    pcr8: bytes | None = None


def build(kernel: bytes, cmdline: bytes, ramdisks: Sequence[bytes], metadata: bytes) -> bytes:
    """Return the unsigned x86 image of these parts, sections in AWS's order. The same parts give the same bytes.

    `metadata` is JSON; it is not measured, but hold no time in it if images are to be compared.
    Raises Misuse without a ramdisk, or with more than the 29 for which the format has room.
    """
    if not 1 <= len(ramdisks) <= SECTION_COUNT_MAX - 3:
        raise Misuse(f"An image has 1 to {SECTION_COUNT_MAX - 3} ramdisks, not {len(ramdisks)}.")
    sections = [(SectionType.KERNEL, kernel), (SectionType.CMDLINE, cmdline), (SectionType.METADATA, metadata)]
    sections += [(SectionType.RAMDISK, ramdisk) for ramdisk in ramdisks]
    offsets, at = [], _HEADER.size
    for _, data in sections:
        offsets.append(at)
        at += _SECTION.size + len(data)
    header = _header(0, offsets, [len(data) for _, data in sections])
    body = b"".join(_SECTION.pack(kind, 0, len(data)) + data for kind, data in sections)
    return header[:_CRC_AT] + struct.pack(">I", _crc(header, body)) + body


def parse(image: bytes) -> Eif:
    """Return the parts of an image; raise Misuse that says what is wrong with it."""
    if len(image) < _HEADER.size or not image.startswith(MAGIC):
        raise Misuse("The file is not an enclave image: it does not start with an EIF header.")
    _, version, flags, _, _, reserved, count, *table, unused, crc = _HEADER.unpack_from(image)
    if version not in VERSIONS_READ:
        raise Misuse(f"The image has EIF version {version}; versions 2 to {VERSION} are read.")
    if flags & ~FLAG_AARCH64 or reserved or unused or not 1 <= count <= SECTION_COUNT_MAX:
        raise Misuse("The image's header has flags, reserved fields or a section count that the format does not allow.")
    if crc != _crc(image[: _HEADER.size], image[_HEADER.size :]):
        raise Misuse("The image's CRC does not fit its contents: the file is damaged.")
    return _assemble(_sections(image, count, table[:32], table[32:]), flags, has_metadata=version == VERSION)


def measure(eif: Eif) -> Pcrs:
    """Return the PCRs that Nitro gives an image: SHA-384(48 zeros || SHA-384(parts joined)).

    PCR0: kernel, command line, all ramdisks. PCR1: kernel, command line, first ramdisk. PCR2: the other ramdisks.
    Parts are joined without lengths, so always compare all three.
    """
    boot = eif.kernel + eif.cmdline
    return Pcrs(
        pcr0=extend_zeros(hashlib.sha384(boot + b"".join(eif.ramdisks)).digest()),
        pcr1=extend_zeros(hashlib.sha384(boot + eif.ramdisks[0]).digest()),
        pcr2=extend_zeros(hashlib.sha384(b"".join(eif.ramdisks[1:])).digest()),
        pcr8=None if eif.signature is None else extend_zeros(hashlib.sha384(_signer(eif.signature)).digest()),
    )


def _signer(signature: bytes) -> bytes:
    """The DER of the certificate in a signature section: a CBOR list of maps, the certificate as PEM in integers.

    Raises Misuse. The signature itself is not verified: the hypervisor does that, and refuses the image otherwise.
    """
    try:
        first, *_ = cbor2.loads(signature[:SIGNATURE_BYTES_MAX])  # the hypervisor looks at the first alone
        pem = bytes(list(first["signing_certificate"]))  # a list of integers; never one integer, which is a length
        return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    except Exception as error:  # whatever the decoders dislike means this
        raise Misuse(f"The image's signature section cannot be read: {error!s:.80}.") from error


def extend_zeros(value: bytes) -> bytes:
    """Return a PCR that was zero and is extended once by `value`."""
    return hashlib.sha384(bytes(48) + value).digest()


def _header(flags: int, offsets: list[int], sizes: list[int]) -> bytes:
    padding = [0] * (SECTION_COUNT_MAX - len(offsets))
    table = (*offsets, *padding, *sizes, *padding)
    return _HEADER.pack(MAGIC, VERSION, flags, MEMORY_BYTES_DEFAULT, CPU_COUNT_DEFAULT, 0, len(offsets), *table, 0, 0)


def _crc(header: bytes, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(header[:_CRC_AT]))


def _sections(image: bytes, count: int, offsets: list[int], sizes: list[int]) -> list[tuple[int, bytes]]:
    sections, at = [], _HEADER.size
    for offset, size in zip(offsets[:count], sizes[:count], strict=True):
        end = at + _SECTION.size + size
        if offset != at or end > len(image):
            raise Misuse("The image's sections are not one after another, or one is cut short.")
        kind, flags, stated = _SECTION.unpack_from(image, at)
        if flags or stated != size:
            raise Misuse("A section of the image has flags, or another size than the header's table states.")
        sections.append((kind, image[at + _SECTION.size : end]))
        at = end
    if at != len(image) or any(offsets[count:]) or any(sizes[count:]):
        raise Misuse("The image has bytes or table entries that belong to no section.")
    return sections


def _assemble(sections: list[tuple[int, bytes]], flags: int, *, has_metadata: bool) -> Eif:
    parts: dict[int, list[bytes]] = {kind: [] for kind in SectionType}
    for kind, data in sections:
        if kind not in parts:
            raise Misuse(f"The image has a section of the unknown type {kind}.")
        parts[kind].append(data)
    measured = [kind for kind, _ in sections if kind <= SectionType.RAMDISK]
    if measured != sorted(measured):  # PCRs are over file order, and what else a hypervisor makes of it is not known
        raise Misuse("The image's kernel, command line and ramdisks are not in this order.")
    for kind, wanted in ((SectionType.KERNEL, 1), (SectionType.CMDLINE, 1), (SectionType.METADATA, int(has_metadata))):
        if len(parts[kind]) != wanted:
            raise Misuse(f"The image has {len(parts[kind])} sections of type {kind.name}; it must have {wanted}.")
    if not parts[SectionType.RAMDISK] or len(parts[SectionType.SIGNATURE]) > 1:
        raise Misuse("The image has no ramdisk, or more than one signature.")
    return Eif(
        kernel=parts[SectionType.KERNEL][0],
        cmdline=parts[SectionType.CMDLINE][0],
        ramdisks=tuple(parts[SectionType.RAMDISK]),
        metadata=b"".join(parts[SectionType.METADATA]),
        signature=next(iter(parts[SectionType.SIGNATURE]), None),
        flags=flags,
    )
