"""Firmware as far as SEV-SNP's measurement reads it: OVMF's table of GUIDs at its end, and what that points to.

From edk2, OvmfPkg/ResetVector: Ia16/ResetVectorVtf0.asm (the table, which ends 32 bytes before the file does, each
entry as data, u16 size, GUID) and X64/OvmfSevMetadata.asm (sections as address, size, type).
"""

from __future__ import annotations

import struct
import uuid

SIZE_BYTES = 1 << 16
FOOTER = "96b582de-1fb2-45f7-baea-a366c55a082d"
HASH_TABLE = "7255371f-3a3b-4b04-927b-1da6efa8d454"
RESET_BLOCK = "00f771de-1a7e-4fcb-890e-68c77e2fb44e"
METADATA = "dc886566-984a-4798-a75e-5585a7bf67cc"
HASHES_PAGE = 0x80F000
METADATA_FROM_END = 0x800
SECTIONS = ((0x800000, 0x9000, 1), (0x80A000, 0x3000, 1), (0x80D000, 0x1000, 2), (0x80E000, 0x1000, 3))
KERNEL_HASHES = (HASHES_PAGE, 0x1000, 0x10)


def entry(guid: str, data: bytes) -> bytes:
    """One entry of the table."""
    return data + struct.pack("<H", len(data) + 18) + uuid.UUID(guid).bytes_le


def firmware(
    sections: tuple[tuple[int, int, int], ...] = (*SECTIONS, KERNEL_HASHES),
    *,
    hash_table: int | None = HASHES_PAGE + 0xC00,
    reset: int | None = 0x80B004,
    size_bytes: int = SIZE_BYTES,
) -> bytes:
    """Firmware for SEV-SNP that takes the kernel's hashes, unless something is left out."""
    entries = entry(METADATA, struct.pack("<I", METADATA_FROM_END))
    if hash_table is not None:
        entries += entry(HASH_TABLE, struct.pack("<II", hash_table, 0x400))
    if reset is not None:
        entries += entry(RESET_BLOCK, struct.pack("<I", reset))
    table = entries + struct.pack("<H", len(entries) + 18) + uuid.UUID(FOOTER).bytes_le
    described = b"".join(struct.pack("<III", *section) for section in sections)
    metadata = struct.pack("<4sIII", b"ASEV", 16 + len(described), 1, len(sections)) + described
    data = bytearray(b"\x90" * size_bytes)
    data[size_bytes - METADATA_FROM_END : size_bytes - METADATA_FROM_END + len(metadata)] = metadata
    data[size_bytes - 32 - len(table) : size_bytes - 32] = table
    return bytes(data)
