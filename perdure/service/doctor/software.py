"""Whether what is installed works: each package is imported, and what the array rests on is tried."""

from __future__ import annotations

import importlib
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from typing import Final

from perdure import __version__
from perdure.service import wiping
from perdure.service.doctor.finding import Finding, fail, ok, warn

PYTHON_MIN: Final = (3, 11)
_PROBE_S_MAX: Final = 30
_REINSTALL: Final = "Install Perdure anew from its lock (`make setup`), with hashes."
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")


def findings() -> list[Finding]:
    """All of it."""
    return [python(), packages(), signatures(), coding(), freed_memory()]


def python() -> Finding:
    """The interpreter's version."""
    found = f"Perdure {__version__} on {platform.python_implementation()} {platform.python_version()}"
    if sys.version_info >= PYTHON_MIN:
        return ok("python", found)
    return fail("python", found, "Perdure is tested with Python 3.11 and later only.", "Install a newer Python.")


def packages(distribution: str = "perdure") -> Finding:
    """Whether every package that `distribution` needs is installed and can be imported."""
    try:
        needed = [_NAME.match(line)[0] for line in metadata.requires(distribution) or () if "extra" not in line]  # type: ignore[index]
    except metadata.PackageNotFoundError:
        return warn(
            "packages",
            f"{distribution} is not installed as a package, so what it needs cannot be listed",
            "A package that is missing is noticed only when it is used.",
            _REINSTALL,
        )
    broken = [problem for name in needed if (problem := _problem(name))]
    if broken:
        return fail("packages", "; ".join(broken), "The main program does not start without it.", _REINSTALL)
    return ok("packages", ", ".join(f"{name} {metadata.version(name)}" for name in needed))


def _problem(name: str) -> str | None:
    """What is wrong with a package, None if nothing."""
    try:
        files = metadata.files(name) or ()
    except metadata.PackageNotFoundError:
        return f"{name} is not installed"
    for module in sorted({file.parts[0] for file in files if file.name == "__init__.py" and len(file.parts) == 2}):
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever it is, the package is of no use
            return f"{name} cannot be imported ({error!r:.200})"
    return None


def signatures() -> Finding:
    """Whether libsecp256k1 signs, and tells a good signature from a bad one."""
    from coincurve import PrivateKey  # noqa: PLC0415  (what cannot be imported is a finding, no defect)

    key, message = PrivateKey(), os.urandom(32)
    signature = key.sign(message)
    if key.public_key.verify(signature, message) and not key.public_key.verify(signature, message[::-1]):
        return ok("signatures", "libsecp256k1 signs, and verifies what is signed and nothing else")
    return fail("signatures", "libsecp256k1 does not verify rightly", "Disks obey signed commands only.", _REINSTALL)


def coding() -> Finding:
    """Whether any k of n fragments give the data back."""
    from perdure.array.erasure import Code  # noqa: PLC0415  (as above)

    code, data = Code(3, 5), os.urandom(3 * 4096)
    columns = code.encode(data)
    if b"".join(map(bytes, code.decode({seat: columns[seat] for seat in (1, 3, 4)}))) == data:
        return ok("erasure code", "ISA-L gives the data back from 3 of 5 fragments")
    return fail("erasure code", "ISA-L gives back something else", "Data could not be read after a loss.", _REINSTALL)


def freed_memory() -> Finding:
    """Whether the C library overwrites what is freed when it is told to as `perdure serve` tells it."""
    probe = [sys.executable, "-c", "from perdure.service import wiping; print(wiping.works())"]
    try:
        done = subprocess.run(  # noqa: S603  (this very program)
            probe, env=wiping.environment(os.environ), capture_output=True, timeout=_PROBE_S_MAX, check=False
        )
        is_wiped = done.stdout.strip() == b"True"
    except (OSError, subprocess.TimeoutExpired):
        is_wiped = False
    if is_wiped:
        return ok("freed memory", "The C library overwrites what the main program frees")
    return warn(
        "freed memory",
        f"The C library ({' '.join(platform.libc_ver()).strip() or 'unknown'}) does not overwrite what is freed",
        "What is erased may stay in the main program's memory until something else takes its place.",
        "Use a system with glibc 2.26 or later; musl has no such setting.",
    )
