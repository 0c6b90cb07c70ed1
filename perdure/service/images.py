"""Images from files: inputs read, compared and fetched; policies for what was built.

Inputs are the operator's or the developers': a kernel, a folder with its modules and command line, a folder with the
packages of the image's Python. What is built of them depends on their bytes alone.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from perdure.errors import Misuse, Unavailable
from perdure.evidence.measurement import Measurement
from perdure.evidence.policy import Policy, TrustedRoot
from perdure.image import runtime
from perdure.image.runtime import LOCK_FILE, Package
from perdure.service.site import artefacts

KERNEL_BYTES_MAX: Final = 1 << 28
MODULES_FILE: Final = "modules"
CMDLINE_FILE: Final = "cmdline"
NSM_MODULE: Final = "nsm.ko"
FETCH_S_MAX: Final = 600


@dataclass(frozen=True, slots=True)
class Blobs:
    """What belongs to a kernel: its modules (name to contents, in loading order), and perhaps a command line."""

    modules: Mapping[str, bytes]
    cmdline: str | None


def read_kernel(path: Path) -> bytes:
    """The kernel's bytes. Raises Misuse if it is no bzImage (Linux, Documentation/arch/x86/boot.rst)."""
    kernel = artefacts.read_bounded(path, "kernel", bytes_max=KERNEL_BYTES_MAX)
    if kernel[0x1FE:0x200] != b"\x55\xaa" or kernel[0x202:0x206] != b"HdrS":
        raise Misuse(f"{path} is not a kernel in the form bzImage; nothing was written.")
    return kernel


def read_blobs(directory: Path) -> Blobs:
    """Read a folder of kernel modules: `modules` names them line by line, `cmdline` holds the kernel's command line.

    Both may be absent; AWS's own folder (nitro-cli's blobs) has just `nsm.ko`, which is loaded then. Raises Misuse.
    """
    if not directory.is_dir():
        raise Misuse(f"The folder of modules {directory} is not there; nothing was written.")
    listing, cmdline = directory / MODULES_FILE, directory / CMDLINE_FILE
    if listing.exists():
        names = artefacts.read_bounded(listing, "list of modules").decode("utf-8", "replace").split()
    else:
        names = [NSM_MODULE] if (directory / NSM_MODULE).exists() else []
    if strange := [name for name in names if "/" in name or not name.endswith(".ko")]:
        raise Misuse(
            f"{listing} names {strange[0]!r:.80}, which is no file in {directory}, or no module that is not compressed "
            "(.ko); nothing was written."
        )
    modules = {name: artefacts.read_bounded(directory / name, "module", bytes_max=KERNEL_BYTES_MAX) for name in names}
    text = artefacts.read_bounded(cmdline, "command line") if cmdline.exists() else None
    try:
        return Blobs(modules, None if text is None else text.decode("ascii").strip())
    except UnicodeDecodeError:
        raise Misuse(f"{cmdline} is not ASCII text, so it is no kernel's command line; nothing was written.") from None


# The image's Python ---------------------------------------------------------------------------------------


def read_runtime(directory: Path) -> dict[str, bytes]:
    """The files of the image's Python, of the packages in `directory`; by its own lock if it has one. Raises Misuse."""
    lock = directory / LOCK_FILE
    data = artefacts.read_bounded(lock, "lock") if lock.exists() else runtime.builtin_lock()
    packages = runtime.parse_lock(data)
    found = [path for package in packages if (path := directory / package.file_name).exists()]
    limit = runtime.PACKAGE_BYTES_MAX
    inputs = {path.name: artefacts.read_bounded(path, "package", bytes_max=limit) for path in found}
    return runtime.unpack(packages, inputs)


def cached_runtime() -> Path:
    """The folder in the user's cache for the release's packages."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "perdure" / "runtime"


def fetch(directory: Path, *, newest: bool = False) -> list[str]:
    """Bring the packages of the lock into `directory`; return the names of those that were not there already.

    Debian packages come by `apt-get download`, the wheel by pip, both from wherever this machine takes its packages.
    With `newest`, whatever version is there now is taken, and a lock of these is written beside them: images of two
    such folders differ. Raises Unavailable for a package that is not to be had, Misuse for one with other contents.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Misuse(f"The folder {directory} cannot be made ({error.strerror}); nothing was fetched.") from None
    fetched, packages = [], []
    for package in runtime.parse_lock(runtime.builtin_lock()):
        path = directory / package.file_name
        version = package.version
        if newest or not path.exists():
            data, version = _download(package, newest=newest)
            fetched.append(package.name)
        else:
            data = artefacts.read_bounded(path, "package", bytes_max=runtime.PACKAGE_BYTES_MAX)
        digest = hashlib.sha256(data).hexdigest()
        if digest != package.sha256 and not newest:
            raise Misuse(f"{path} is not version {package.version} of {package.name} that the lock pins; move it away.")
        artefacts.write_atomic(path, data, 0o644)
        packages.append(replace(package, version=version, sha256=digest))
    if newest:
        artefacts.write_atomic(directory / LOCK_FILE, runtime.lock_text(tuple(packages)).encode(), 0o644)
    else:
        (directory / LOCK_FILE).unlink(missing_ok=True)  # all are the release's now
    return fetched


def _download(package: Package, *, newest: bool) -> tuple[bytes, str]:
    """The bytes of a package, and its version."""
    with tempfile.TemporaryDirectory(prefix="perdure-fetch-") as folder:
        if package.kind == "deb":
            if shutil.which("apt-get") is None:
                raise Unavailable(f"Here is no apt-get to bring {package.name} with; see docs/platforms.md.")
            command = ["apt-get", "-q", "download", f"{package.name}:amd64" + ("" if newest else f"={package.version}")]
        else:
            command = [sys.executable, "-m", "pip", "--quiet", "download", "--no-deps", "--only-binary=:all:"]
            command += ["--python-version=3.11", "--implementation=cp", "--platform=manylinux_2_17_x86_64"]
            command += [f"{package.name}=={package.version}"]  # the interface of its extension is pinned in any case
        try:
            done = subprocess.run(  # noqa: S603
                command, cwd=folder, capture_output=True, text=True, timeout=FETCH_S_MAX, check=False
            )
        except subprocess.TimeoutExpired:
            done = subprocess.CompletedProcess(command, 1, "", f"no end after {FETCH_S_MAX} s")
        files = list(Path(folder).iterdir())
        if done.returncode or len(files) != 1:
            last = (done.stderr.strip() or "nothing was said").splitlines()[-1]
            raise Unavailable(
                f"Version {package.version} of {package.name} cannot be fetched ({last:.120}). Bring the file with "
                f"SHA-256 {package.sha256} as {package.file_name} yourself, or take what there is with --newest."
            )
        version = unquote(files[0].name.split("_")[1]) if package.kind == "deb" else package.version
        return files[0].read_bytes(), version


# Policies -------------------------------------------------------------------------------------------------


def policy_of(root: TrustedRoot, registers: Mapping[str, bytes], seats_per_root_max: int | None = None) -> Policy:
    """The policy that accepts a program with these registers under `root`, and nothing else. Raises Misuse."""
    return Policy((root,), (Measurement.of(root.name, registers),), seats_per_root_max=seats_per_root_max)
