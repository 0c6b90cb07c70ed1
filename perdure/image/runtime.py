"""The Python that runs in an image: chosen files of Debian packages and of one wheel, each package pinned by SHA-256.

`runtime.toml` is the lock. The packages themselves are inputs that lie in a folder; here they are only compared with
the lock and unpacked, in memory. So an image depends on the lock and on nothing of the machine that builds it.

Formats: deb(5) (an ar archive with `data.tar.xz`), the wheel's zip. Links are followed inside their package.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import posixpath
import tarfile
import tomllib
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Final

from perdure.errors import Misuse

LOCK_FILE: Final = "runtime.toml"
PACKAGE_BYTES_MAX: Final = 1 << 26
_AR_MAGIC: Final = b"!<arch>\n"
_AR_HEADER_BYTES: Final = 60
_LINKS_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class Package:
    """One line of the lock: `kind` is "deb" or "wheel", `files` the paths that are taken of it."""

    name: str
    kind: str
    version: str
    sha256: str
    files: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.kind not in ("deb", "wheel"):
            raise ValueError(f"there is no kind {self.kind!r:.20}")

    @property
    def file_name(self) -> str:
        """Under which it lies in the folder of inputs."""
        return f"{self.name}.{'deb' if self.kind == 'deb' else 'whl'}"


def builtin_lock() -> bytes:
    """The lock of this release."""
    return resources.files("perdure.image").joinpath(LOCK_FILE).read_bytes()


def parse_lock(data: bytes) -> tuple[Package, ...]:
    """Read a lock. Raises Misuse."""
    try:
        packages = tomllib.loads(data.decode())["package"]
        return tuple(Package(**{**one, "files": tuple(one["files"])}) for one in packages)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Misuse(f"The lock of the image's Python is not one: {error!s:.80}.") from None


def lock_text(packages: tuple[Package, ...]) -> str:
    """A lock of these packages, which `parse_lock` reads."""
    lines = []
    for package in packages:
        lines += ["[[package]]", *(f"{key} = {json.dumps(value)}" for key, value in asdict(package).items()), ""]
    return "\n".join(lines)


def unpack(packages: tuple[Package, ...], inputs: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the runtime's files: path to contents. `inputs`: the bytes of each package by its `file_name`.

    A wheel's files go below `perdure-disk/`, beside the program. Raises Misuse when an input is missing, is another
    than the lock's, or lacks a file.
    """
    files: dict[str, bytes] = {}
    for package in packages:
        data = inputs.get(package.file_name)
        if data is None:
            raise Misuse(f"The input {package.file_name} is missing; `perdure image fetch` brings it.")
        if hashlib.sha256(data).hexdigest() != package.sha256:
            raise Misuse(f"The input {package.file_name} is not version {package.version} that the lock pins.")
        if package.kind == "deb":
            files.update(_from_deb(package, data))
        else:
            files.update(_from_wheel(package, data))
    return files


def _from_wheel(package: Package, data: bytes) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {f"perdure-disk/{name}": archive.read(name) for name in package.files}
    except Exception as error:  # zipfile has many ways to dislike an archive
        raise Misuse(f"The wheel {package.file_name} cannot be read: {error!s:.80}.") from None


def _from_deb(package: Package, data: bytes) -> dict[str, bytes]:
    try:
        with tarfile.open(fileobj=io.BytesIO(lzma.decompress(_ar_member(data, b"data.tar.xz")))) as archive:
            members = {member.name.removeprefix("./"): member for member in archive}
            return {name: _contents(archive, members, name) for name in package.files}
    except Exception as error:  # so have tarfile and lzma
        raise Misuse(f"The package {package.file_name} cannot be read: {error!s:.80}.") from None


def _contents(archive: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo], name: str) -> bytes:
    target = name
    for _ in range(_LINKS_MAX):
        member = members[target]
        if not member.issym():
            break
        target = posixpath.normpath(posixpath.join("/", posixpath.dirname(target), member.linkname)).lstrip("/")
    else:
        raise KeyError(f"{name} leads through too many links")
    file = archive.extractfile(member)
    if file is None:
        raise KeyError(f"{name} is no file")
    return file.read()


def _ar_member(data: bytes, wanted: bytes) -> bytes:
    at = len(_AR_MAGIC)
    while data.startswith(_AR_MAGIC) and len(data) >= at + _AR_HEADER_BYTES:
        header = data[at : at + _AR_HEADER_BYTES]
        if not header[48:58].rstrip().isdigit():
            break
        size = int(header[48:58])
        at += _AR_HEADER_BYTES
        if header[:16].rstrip(b" /") == wanted:
            return data[at : at + size]
        at += size + size % 2
    raise KeyError(f"{wanted.decode()} is not in it")
