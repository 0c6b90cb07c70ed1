"""The disk's image: which program in the first ramdisk, which authority in the second, nothing else.

So on Nitro PCR1 names the program (one constant per release and kernel), PCR2 names the authority (anyone recomputes it
from its 33 bytes, without the image) and PCR0 binds both. Same inputs, same bytes: no times, no owners, no build host.

A real image's first ramdisk holds init, the interpreter, the disk program with its platform's door to evidence and no
other's, and the kernel modules it was given. For Nitro both ramdisks go into an EIF; for a virtual machine they are
joined into one initramfs beside its kernel.

The simulated platform's kernel is a line of text, and its interpreter and libraries are the launching machine's;
they are not measured. That is the part of a real image which this one does not stand for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from perdure.errors import Misuse
from perdure.evidence.roots import Platform
from perdure.image import cpio, eif

AUTHORITY_FILE: Final = "authority.pub"
AUTHORITY_BYTES: Final = 33
SIMULATED_KERNEL: Final = b"perdure simulated TEE, version 1: protects nothing, for tests and trials only\n"
SIMULATED_CMDLINE: Final = b"perdure.simulated=1"

NITRO_CMDLINE: Final = (
    b"reboot=k panic=30 pci=off nomodules console=ttyS0 i8042.noaux i8042.nomux i8042.nopnp i8042.dumbkbd "
    b"random.trust_cpu=on"
)
"""The kernel's command line in AWS's own enclave images (nitro-cli, blobs/x86_64/cmdline)."""
DISK_PORT: Final = 7000

_PROGRAM_DIRECTORY: Final = "perdure-disk"
_INIT: Final = "init.py"
_RUNTIMES: Final = ("usr/", "lib/", "lib64/", f"{_PROGRAM_DIRECTORY}/coincurve/")
"""Where an interpreter's files may be: no lock can put others in place of init's, the program's or the modules'."""
_SHEBANG: Final = b"#!/usr/bin/python3.11 -ISB\n"
_DOORS: Final = {"nsm": "nsm.py", "tsm": "tsm.py", "tpm": "tpm.py"}
_MAIN: Final = b"import sys\n\nfrom perdure.disk.main import main\n\nsys.exit(main())\n"


@dataclass(frozen=True, slots=True)
class Boot:
    """What init does on a platform: `boot.json` in the image. `heartbeat`: the parent's context id and port, or None.

    `evidence` is the disk's door to it. `listen` is where it listens unless the host's command line says otherwise.
    """

    evidence: str
    listen: str
    heartbeat: tuple[int, int] | None = None


_TSM: Final = Boot("tsm:/sys/kernel/config/tsm/report", f"tcp:0.0.0.0:{DISK_PORT}")
BOOTS: Final[Mapping[Platform, Boot]] = {
    # Any context id: the enclave does not know its own. Its parent is 3, and listens for the heartbeat at 9000.
    Platform.NITRO: Boot("nsm:/dev/nsm", f"vsock:{0xFFFFFFFF}:{DISK_PORT}", (3, 9000)),
    Platform.SEV_SNP: _TSM,
    Platform.TDX: _TSM,
    Platform.TPM: Boot("tpm:/dev/tpmrm0", f"tcp:0.0.0.0:{DISK_PORT}"),
}
"""The platforms for which images are built, beside the simulated one."""
METADATA: Final = {
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


def program_files(door: str | None = None) -> dict[str, bytes]:
    """Return the disk program of this installation: path inside the image to contents.

    `perdure/__init__.py`, the `.py` files of `perdure.disk`, and the `__main__.py` that starts it. Of the doors to
    evidence only the one named `door` ("nsm", "tsm", "tpm"), and no init, which runs before; None takes all doors.
    """
    package = resources.files("perdure")
    left_out = {_INIT, *(file for name, file in _DOORS.items() if door is not None and name != door)}
    entries = (entry for entry in package.joinpath("disk").iterdir() if entry.name.endswith(".py"))
    files = {f"perdure/disk/{entry.name}": entry.read_bytes() for entry in entries if entry.name not in left_out}
    return {"__main__.py": _MAIN, "perdure/__init__.py": package.joinpath("__init__.py").read_bytes(), **files}


def program_ramdisk(platform: Platform, runtime: Mapping[str, bytes], modules: Mapping[str, bytes]) -> bytes:
    """Return the first ramdisk of a real image: init, interpreter, program, and kernel modules in their loading order.

    `runtime` comes from `perdure.image.runtime.unpack`. The host's choices are not in it, nor is the authority: for one
    release, kernel and platform it is one constant. Raises Misuse for a platform without images, or a bad module name.
    """
    if strange := sorted(name for name in runtime if not name.startswith(_RUNTIMES)):
        raise Misuse(f"The image's Python would bring {strange[0]!r:.80}, which is not its own.")
    if platform not in BOOTS:
        raise Misuse(f"There are no images for platform {platform}; there are for {', '.join(BOOTS)}.")
    boot = BOOTS[platform]
    door = boot.evidence.partition(":")[0]
    settings = json.dumps({**asdict(boot), "modules": list(modules)}, sort_keys=True).encode("ascii")
    init = resources.files("perdure").joinpath("disk", _INIT).read_bytes()
    program = {name: contents for name, contents in program_files(door).items() if "/" in name}  # init starts it
    return cpio.pack(
        {
            "init": _SHEBANG + init,
            "boot.json": settings + b"\n",
            **{f"modules/{name}": contents for name, contents in modules.items()},
            **runtime,
            **{f"{_PROGRAM_DIRECTORY}/{name}": contents for name, contents in program.items()},
        }
    )


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


def authority_pcr2(authority: bytes) -> bytes:
    """Return what Nitro, or the simulated platform, has in PCR2 of every image for this authority: 48 bytes.

    Raises Misuse as `authority_ramdisk` does.
    """
    return eif.extend_zeros(hashlib.sha384(authority_ramdisk(authority)).digest())


def build_simulated(authority: bytes, program: Mapping[str, bytes] | None = None) -> bytes:
    """Return the image of the disk program for `authority`, for the simulated platform.

    `program` (path to contents, with a `__main__.py`) is by default this installation's. Raises Misuse if the
    authority is not a key, or a path cannot be archived.
    """
    files = program_files() if program is None else program
    ramdisks = (cpio.pack(files), authority_ramdisk(authority))
    metadata = json.dumps(METADATA, sort_keys=True, separators=(",", ":")).encode("ascii")
    return eif.build(SIMULATED_KERNEL, SIMULATED_CMDLINE, ramdisks, metadata)


def build_nitro(kernel: bytes, cmdline: bytes, program: bytes, authority: bytes) -> bytes:
    """Return the enclave image (EIF) of a kernel, its command line, a `program_ramdisk` and an authority."""
    metadata = {**METADATA, "ImageName": "perdure-disk"}
    encoded = json.dumps(metadata, sort_keys=True, separators=(",", ":")).encode("ascii")
    return eif.build(kernel, cmdline, (program, authority_ramdisk(authority)), encoded)


def build_initramfs(program: bytes, authority: bytes) -> bytes:
    """Return the initramfs of a virtual machine: both ramdisks, which a kernel unpacks one over the other."""
    return program + authority_ramdisk(authority)
