"""What a host brings: a manifest, signatures, and the program; believed only as far as developers have signed.

Nothing of it is written anywhere before the threshold of signatures holds and the program's digest is the manifest's.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perdure.errors import Corrupt
from perdure.manifest import signatures, tree
from perdure.manifest.developers import Developers
from perdure.manifest.manifest import Manifest, ProgramKind

IMAGE: Final = "image"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A manifest that enough developers have signed, and where its program stands."""

    manifest: Manifest
    signers: tuple[str, ...]
    signatures: tuple[bytes, ...]
    program: Path
    """The directory, or the file, for `{program}`."""


def authorised(developers: Developers, manifest: bytes, given: Sequence[bytes]) -> tuple[Manifest, tuple[str, ...]]:
    """The manifest, and who of the developers signed it. Raises Misuse or NotAuthorised."""
    found = Manifest.from_json(manifest)
    return found, signatures.verify(developers, found.to_json(), given)


def load(developers: Developers, manifest: bytes, given: Sequence[bytes], program: bytes, place: Path) -> Loaded:
    """Verify, then write the program into the empty directory `place`. Raises Misuse, NotAuthorised or Corrupt."""
    found, signers = authorised(developers, manifest, given)
    wanted = found.program
    if wanted.kind is not ProgramKind.IMAGE:  # a tree travels as a tarball of it, which has the same digest
        tree.unpack(program, place, wanted.sha256)
        return Loaded(found, signers, tuple(given), place)
    if hashlib.sha256(program).digest() != wanted.sha256:
        raise Corrupt("The program is another one than the manifest names; nothing of it was written or run.")
    path = place / IMAGE
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755), "wb") as file:
        file.write(program)
        os.fchmod(file.fileno(), 0o755)
    return Loaded(found, signers, tuple(given), path)
