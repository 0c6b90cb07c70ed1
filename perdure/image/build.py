"""The disk's image: which program in the first ramdisk, which authority in the second, nothing else.

So PCR1 names the program (one constant per release), PCR2 names the authority (anyone recomputes it from its 33
bytes, without the image) and PCR0 binds both. Same inputs, same bytes: no times, no owners, no build host.

The simulated platform's kernel is a line of text, and its interpreter and libraries are the launching machine's;
they are not measured. That is the part of a real image which this one does not stand for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from perdure.errors import Misuse
from perdure.image import cpio, eif

AUTHORITY_FILE: Final = "authority.pub"
AUTHORITY_BYTES: Final = 33
SIMULATED_KERNEL: Final = b"perdure simulated TEE, version 1: protects nothing, for tests and trials only\n"
SIMULATED_CMDLINE: Final = b"perdure.simulated=1"

_MAIN: Final = b"import sys\n\nfrom perdure.disk.main import main\n\nsys.exit(main())\n"
_METADATA: Final = {
    "ImageName": "perdure-disk-simulated",
    "ImageVersion": "1",
    "BuildMetadata": {
        "BuildTime": "1970-01-01T00:00:00+00:00",
        "BuildTool": "perdure",
        "BuildToolVersion": "1",
        "OperatingSystem": "none",
        "KernelVersion": "none",
    },
    "DockerInfo": {},
    "CustomMetadata": {},
}


def program_files() -> dict[str, bytes]:
    """Return the disk program of this installation: path inside the image to contents.

    `perdure/__init__.py`, every `.py` file of `perdure.disk`, and the `__main__.py` that starts it.
    """
    package = resources.files("perdure")
    disk = (entry for entry in package.joinpath("disk").iterdir() if entry.name.endswith(".py"))
    files = {f"perdure/disk/{entry.name}": entry.read_bytes() for entry in disk}
    return {"__main__.py": _MAIN, "perdure/__init__.py": package.joinpath("__init__.py").read_bytes(), **files}


def authority_ramdisk(authority: bytes) -> bytes:
    """Return the second ramdisk of every image for this authority, a 33-byte compressed secp256k1 public key.

    It alone determines PCR2. Raises Misuse if the bytes are not such a key.
    """
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), authority)
    except ValueError as error:
        raise Misuse("The authority is not a point of secp256k1.") from error
    if len(authority) != AUTHORITY_BYTES:
        raise Misuse(f"The authority is a compressed secp256k1 public key of 33 bytes, not of {len(authority)}.")
    return cpio.pack({AUTHORITY_FILE: authority})


def build_simulated(authority: bytes, program: Mapping[str, bytes] | None = None) -> bytes:
    """Return the image of the disk program for `authority`, for the simulated platform.

    `program` (path to contents, with a `__main__.py`) is by default this installation's. Raises Misuse if the
    authority is not a key, or a path cannot be archived.
    """
    files = program_files() if program is None else program
    ramdisks = (cpio.pack(files), authority_ramdisk(authority))
    metadata = json.dumps(_METADATA, sort_keys=True, separators=(",", ":")).encode("ascii")
    return eif.build(SIMULATED_KERNEL, SIMULATED_CMDLINE, ramdisks, metadata)
