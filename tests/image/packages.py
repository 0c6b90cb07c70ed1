"""Packages that a test makes itself: deb (an ar archive with `data.tar.xz`) and wheel."""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
import zipfile
from collections.abc import Mapping

from perdure.image.runtime import Package

LINK, HARD_LINK, FOLDER = "->", "=>", "/"


def data_tar(files: Mapping[str, bytes | tuple[str, str]]) -> bytes:
    """A tar as in a deb, names with "./": contents, or (LINK, target), (HARD_LINK, name), (FOLDER, "")."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, contents in files.items():
            info = tarfile.TarInfo(f"./{name}")
            if isinstance(contents, bytes):
                info.size = len(contents)
                archive.addfile(info, io.BytesIO(contents))
            else:
                kind, info.linkname = contents
                info.type = {LINK: tarfile.SYMTYPE, HARD_LINK: tarfile.LNKTYPE, FOLDER: tarfile.DIRTYPE}[kind]
                archive.addfile(info)
    return buffer.getvalue()


def ar(members: Mapping[str, bytes]) -> bytes:
    """An ar archive as dpkg makes it: header of 60 bytes, data, padding to an even length."""
    data = b"!<arch>\n"
    for name, contents in members.items():
        data += f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(contents):<10}`\n".encode()
        data += contents + b"\n" * (len(contents) % 2)
    return data


def deb(files: Mapping[str, bytes | tuple[str, str]]) -> bytes:
    """A package of these files; its control member has an odd length, so that padding counts."""
    control = lzma.compress(b"control")
    control += bytes(1 - len(control) % 2)
    return ar({"debian-binary": b"2.0\n", "control.tar.xz": control, "data.tar.xz": lzma.compress(data_tar(files))})


def wheel(files: Mapping[str, bytes]) -> bytes:
    """A wheel of these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, contents in files.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), contents)
    return buffer.getvalue()


def package(data: bytes, *files: str, kind: str = "deb", name: str = "p", version: str = "1") -> Package:
    """The lock's line for these bytes."""
    return Package(name, kind, version, hashlib.sha256(data).hexdigest(), files)


PYTHON = deb({"usr/bin/python3.11": b"\x7fELF interpreter", "usr/lib/os.py": b"os\n", "usr/share/unused": b"x"})
LIBRARY = deb({"usr/lib/libc.so.6": (LINK, "libc-2.so"), "usr/lib/libc-2.so": b"\x7fELF libc"})
SIGNATURES = wheel({"coincurve/__init__.py": b"coincurve\n", "coincurve/unused.py": b""})
PACKAGES = (
    package(PYTHON, "usr/bin/python3.11", "usr/lib/os.py", name="python"),
    package(LIBRARY, "usr/lib/libc.so.6", name="libc6"),
    package(SIGNATURES, "coincurve/__init__.py", kind="wheel", name="coincurve"),
)
INPUTS = {"python.deb": PYTHON, "libc6.deb": LIBRARY, "coincurve.whl": SIGNATURES}
RUNTIME = {
    "usr/bin/python3.11": b"\x7fELF interpreter",
    "usr/lib/os.py": b"os\n",
    "usr/lib/libc.so.6": b"\x7fELF libc",
    "perdure-disk/coincurve/__init__.py": b"coincurve\n",
}
"""A small runtime: what `unpack` makes of PACKAGES and INPUTS."""
