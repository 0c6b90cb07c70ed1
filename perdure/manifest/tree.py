"""What a program is: the files of a directory, or of a tarball of it, and one digest for both.

The digest is SHA-256 over a listing that anybody can make with `find` and `sha256sum`: the line `perdure/tree/1`, then
a line `SHA256 x PATH` for each file, sorted by path as bytes; `x` for a file that its owner may execute, else `-`.
Times, owners, order, other bits and empty directories are not part of it, and are not unpacked either, so what is
unpacked is a function of what was signed.

A tarball comes from the host and is read before it is known to be good; so it is parsed here, in the one old form that
all tools write (`tar --format=ustar`, not compressed) and in one pass. Refused by name: links of any kind and devices;
paths that are absolute, climb out, hold anything but printable ASCII, or differ from another by case alone; doubles; a
file in the place of a directory; more than a bounded number and size. Nothing is written before the digest agrees.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perdure.errors import Corrupt, Misuse
from perdure.manifest import ustar
from perdure.manifest.ustar import Member

LISTING_HEAD: Final = b"perdure/tree/1\n"
MEMBERS_MAX: Final = 1 << 16
TARBALL_BYTES_MAX: Final = 1 << 28
"""It stands in the loader's RAM, and beside it what was unpacked."""
_PRINTABLE: Final = frozenset(range(0x20, 0x7F)) - {ord("\\")}


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    is_executable: bool
    sha256: bytes


def digest(path: Path) -> bytes:
    """The 32-byte digest of the directory at `path`, the same as `tarball_digest` of a tarball of it.

    Raises Misuse for what no tarball may hold, naming it, and when something cannot be read.
    """
    try:
        return _checked_digest([*_walk(path)])
    except OSError as error:
        raise Misuse(f"The program {path} cannot be read ({error}); nothing was changed.") from None


def tarball_digest(tarball: bytes) -> bytes:
    """The 32-byte digest of the tree in `tarball`. Raises Misuse that names the member at fault."""
    return _checked_digest([_listed(member) for member in _files(tarball)])


def image_digest(path: Path) -> bytes:
    """The 32-byte digest of a program that is one file: its plain SHA-256. Raises Misuse if it cannot be read.

    Whoever runs the file afterwards must be the only one who could have changed it meanwhile.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise Misuse(f"The program {path} cannot be read ({error.strerror}); nothing was changed.") from None


def unpack(tarball: bytes, directory: Path, expected_digest: bytes) -> None:
    """Write the tree in `tarball` into the empty directory `directory`, if its digest is the expected one.

    Files get mode 0755 or 0644, directories 0755. Raises Misuse for a tarball that is refused or a directory that is
    not empty, Corrupt for another digest: then nothing was written. Raises Misuse if a file cannot be written: what
    stands in the directory then is incomplete.
    """
    files = _files(tarball)
    if _listing_digest([_listed(member) for member in files]) != expected_digest:
        raise Corrupt("The program is another one than the manifest names; nothing of it was written or run.")
    _require_tree([member.path for member in files])
    if not directory.is_dir() or any(directory.iterdir()):
        raise Misuse(f"The directory {directory} is not an empty directory; nothing was written.")
    for member in files:
        _write(directory, member)


def _write(directory: Path, member: Member) -> None:
    path = directory / member.path
    try:
        _make_directory(path.parent)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(fd, "wb") as file:
            file.write(member.contents)
            os.fchmod(fd, 0o755 if member.is_executable else 0o644)
    except OSError as error:
        raise Misuse(
            f"{member.path!a} could not be written ({error.strerror}); the program is incomplete and must not be run."
        ) from None


def _make_directory(path: Path) -> None:
    """With its parents; whatever the umask is."""
    if not path.is_dir():
        _make_directory(path.parent)
        path.mkdir()
        path.chmod(0o755)


# The listing ----------------------------------------------------------------------------------------------


def _listed(member: Member) -> _File:
    return _File(member.path, member.is_executable, hashlib.sha256(member.contents).digest())


def _checked_digest(files: Sequence[_File]) -> bytes:
    found = _listing_digest(files)
    _require_tree([file.path for file in files])
    return found


def _listing_digest(files: Sequence[_File]) -> bytes:
    """Of one path each alone, which is what keeps the listing unambiguous; cheap also for what a host made up."""
    listing = hashlib.sha256(LISTING_HEAD)
    for file in files:
        _require_path(file.path)
    for file in sorted(files, key=lambda file: file.path):
        mark = "x" if file.is_executable else "-"
        listing.update(f"{file.sha256.hex()} {mark} {file.path}\n".encode("ascii"))
    return listing.digest()


def _require_tree(paths: Sequence[str]) -> None:
    """Raise Misuse unless the paths can stand beside one another, also where a and A are one name."""
    if not paths:
        raise Misuse("The program has no files.")
    spelling: dict[str, str] = {}
    files: set[str] = set()
    directories: set[str] = set()
    for path in paths:
        if path in files:
            raise Misuse(f"The program has {path!a:.300} twice.")
        files.add(path)
        parts = path.split("/")
        for count in range(1, len(parts) + 1):
            prefix = "/".join(parts[:count])
            if spelling.setdefault(prefix.lower(), prefix) != prefix:
                raise Misuse(f"The program has {prefix!a:.300} and another path that differs by case alone.")
        directories.update("/".join(parts[:count]) for count in range(1, len(parts)))
    if both := sorted(files & directories):
        raise Misuse(f"The program has {both[0]!a:.300} as a file and as a directory.")


def _require_path(path: str) -> None:
    parts = path.split("/")
    if not _PRINTABLE.issuperset(path.encode("utf-8", "surrogateescape")):
        raise Misuse(f"The program has the path {path!a:.300}; only printable ASCII without '\\' is allowed.")
    if any(part in ("", ".", "..") for part in parts):
        raise Misuse(f"The program has the path {path!a:.300}, which is absolute, climbs out or is not in plain form.")
    if len(path) > ustar.PATH_BYTES_MAX:
        raise Misuse(f"The program has the path {path!a:.300}, longer than {ustar.PATH_BYTES_MAX} bytes.")


def _files(tarball: bytes) -> list[Member]:
    """The regular files of the tarball. What a directory's entry says is in the files' paths too, or is of no use."""
    if len(tarball) > TARBALL_BYTES_MAX:
        raise Misuse(f"The tarball has more than {TARBALL_BYTES_MAX} bytes.")
    members = _bounded(ustar.members(tarball))
    for member in members:
        if member.is_directory and member.path != ".":
            _require_path(member.path)
    return [member for member in members if not member.is_directory]


def _bounded(found: Iterable[Member]) -> list[Member]:
    members: list[Member] = []
    for member in found:
        if len(members) == MEMBERS_MAX:
            raise Misuse(f"The tarball has more than {MEMBERS_MAX} members; {member.path!a:.300} is one too many.")
        members.append(member)
    return members


# A directory ----------------------------------------------------------------------------------------------


def _walk(root: Path) -> Iterator[_File]:
    size = 0
    for count, path in enumerate(_below(root)):
        if count == MEMBERS_MAX:
            raise Misuse(f"The program {root} has more than {MEMBERS_MAX} files and directories.")
        status = path.lstat()
        size += status.st_size
        if size > TARBALL_BYTES_MAX:
            raise Misuse(f"The program {root} has more than {TARBALL_BYTES_MAX} bytes; no loader would take it.")
        name = path.relative_to(root).as_posix()
        if stat.S_ISREG(status.st_mode):
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").digest()
            yield _File(name, bool(status.st_mode & stat.S_IXUSR), sha256)
        elif not stat.S_ISDIR(status.st_mode):
            raise Misuse(
                f"The program has {name!a:.300}, which is neither a file nor a directory. Links are not allowed: make "
                "a copy in which they are files (cp -rL)."
            )


def _below(directory: Path) -> Iterator[Path]:
    waiting = [directory]
    while waiting:
        for path in waiting.pop().iterdir():
            yield path
            if path.is_dir() and not path.is_symlink():
                waiting.append(path)
