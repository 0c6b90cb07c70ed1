"""Signatures at the price of a hash, for worlds that need millions: a MAC that the authority and its disks share.

What a signature is for, that nobody but the authority commands a disk, holds here because no simulated adversary has
the key. The real ones have their own tests, and some seeds of every run use them (`perdure.sim.plan`). What is signed
for third parties, a receipt, is signed in earnest always; so these disks take real signatures too.
"""

from __future__ import annotations

from hashlib import blake2b

from perdure.array.commands import Authority
from perdure.disk.core import DiskCore

_KEY = b"shared by the simulated authority and disks"


def _sign(digest: bytes) -> bytes:
    return blake2b(digest, key=_KEY).digest()


class CheapAuthority(Authority):
    """An authority whose signatures only a `CheapDisk` takes."""

    def sign(self, digest: bytes) -> bytes:
        """64 bytes."""
        return _sign(digest)


class CheapDisk(DiskCore):
    """The disk program, all of it; only that a cheap signature is as good as a real one."""

    def _check_signature(self, signature: bytes, digest: bytes) -> None:
        if signature != _sign(digest):
            super()._check_signature(signature, digest)
