"""What a loader has the hardware sign: for whom, which key it made, and which manifest it has verified. Core.

A loader's evidence commits to 64 bytes (docs/spec.md, 18.2):

    SHA-512(tag | purpose u8 | nonce 32 | public key 32 | version u64 | manifest digest 32)

The nonce is the asker's, so no evidence serves twice. The public key is the loader's ephemeral one, to which a secret
will be sealed; zeros where none is wanted. Purposes keep evidence for one from being used for another.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Final

from perdure.array.roster import Program
from perdure.errors import Misuse

NONCE_BYTES: Final = 32
PUBLIC_KEY_BYTES: Final = 32
NO_KEY: Final = bytes(PUBLIC_KEY_BYTES)
_TAG: Final = hashlib.sha512(b"perdure/loader/offer/1").digest()
_FORM: Final = Struct(">B32s32sQ32s")


class Purpose(IntEnum):
    """What evidence of a loader is for."""

    CEREMONY = 1
    """An operator shall seal the key to it."""
    SUCCESSION = 2
    """The loader that runs now shall."""
    IDENTITY = 3
    """Somebody wants to know what a loader holds."""
    RUNNING = 4
    """... or that its main program serves: there is no evidence for this before."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One statement by a loader. Raises Misuse when a field has not its one length."""

    purpose: Purpose
    nonce: bytes
    public_key: bytes
    program: Program

    def __post_init__(self) -> None:
        if (len(self.nonce), len(self.public_key), len(self.program.manifest)) != (NONCE_BYTES, PUBLIC_KEY_BYTES, 32):
            raise Misuse("a nonce, a public key and a manifest's digest have 32 bytes each")

    def commitment(self) -> bytes:
        """The 64 bytes that the evidence must carry."""
        fields = _FORM.pack(self.purpose, self.nonce, self.public_key, *self.program)
        return hashlib.sha512(_TAG + fields).digest()
