"""How a disk sends evidence that is not one document: parts with their lengths, under a name for their platform.

A Nitro document is sent as it is; everything else as 4 bytes of name, then each part as u32 big-endian length and
bytes. The name says which verifier reads the parts, no more: every verifier looks for roots of its own platform alone.
The layouts are those of the disk program (docs/spec.md, section 12).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from perdure.errors import MalformedEvidence

TSM: Final = b"PTSM"
"""Parts: provider, outblob, auxblob, as Linux's configfs-tsm gives them."""
SNP_PROVIDER: Final = b"sev_guest"
TDX_PROVIDER: Final = b"tdx_guest"
TPM: Final = b"PTPM"
"""Parts: TPMS_ATTEST, TPMT_SIGNATURE, the PCR values, the attestation key's certificate (DER)."""
PART_BYTES_MAX: Final = 1 << 16
_PARTS: Final = {TSM: 3, TPM: 4}


@dataclass(frozen=True, slots=True)
class Envelope:
    """The parts that came under `name`."""

    name: bytes
    parts: tuple[bytes, ...]


def is_envelope(evidence: bytes) -> bool:
    """Whether this begins as an envelope does; what does not can only be a Nitro document."""
    return evidence[:4] in _PARTS


def seal(name: bytes, *parts: bytes) -> bytes:
    """The envelope of these parts, as a disk makes it."""
    return name + b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def open_envelope(evidence: bytes) -> Envelope:
    """Take an envelope apart; raise MalformedEvidence unless it has its number of whole parts and nothing after."""
    name, at, parts = evidence[:4], 4, []
    for _ in range(_PARTS.get(name, 0)):
        length = int.from_bytes(evidence[at : at + 4], "big")
        part = evidence[at + 4 : at + 4 + length]
        if at + 4 > len(evidence) or len(part) != length or length > PART_BYTES_MAX:
            raise MalformedEvidence("A part of the evidence is cut short or too long.")
        parts.append(part)
        at += 4 + length
    if not parts or at != len(evidence):
        raise MalformedEvidence("The evidence is of no platform that is known, or has bytes after its end.")
    return Envelope(name, tuple(parts))
