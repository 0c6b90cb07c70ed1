"""Programs of the system: where they are, which Debian package has them, and what they said.

They run in a session of their own, so that Ctrl-C, which is for the command, ends none of them half-way.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import Final

from perdure.errors import Misuse

PACKAGES: Final = {
    "nbd-client": "nbd-client",
    "nbdfuse": "libnbd-bin (Debian 12) or nbdfuse (later)",
    "fuse2fs": "fuse2fs",
    "fusermount3": "fuse3",
    "mount": "mount",
    "umount": "mount",
    "losetup": "mount",
    "sync": "coreutils",
    "e2fsck": "e2fsprogs",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "mkfs.btrfs": "btrfs-progs",
    "btrfs": "btrfs-progs",
}
"""Which Debian package brings a program."""
_ADMINISTRATOR: Final = "/usr/sbin:/sbin"
"""Not on everybody's PATH."""


@dataclass(frozen=True, slots=True)
class Said:
    """How a program ended. `text` is both its outputs."""

    code: int
    text: str

    @property
    def first_line(self) -> str:
        """The first line, likewise: where what is wrong comes before advice."""
        return next((line.strip().rstrip(".") for line in self.text.splitlines() if line.strip()), self.last_line)

    @property
    def last_line(self) -> str:
        """The last line with anything in it, for a sentence."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip()]
        return lines[-1].rstrip(".") if lines else f"it ended with {self.code} and said nothing"


def find(name: str) -> str | None:
    """The path of a program; None where it is not installed."""
    return shutil.which(name) or shutil.which(name, path=_ADMINISTRATOR)


def require(name: str) -> str:
    """The path of a program. Raises Misuse that names its package."""
    path = find(name)
    if path is None:
        raise Misuse(
            f"{name} is not installed, and it is needed here; nothing was changed. Install the Debian package "
            f"{PACKAGES[name]}."
        )
    return path


def call(name: str, *words: object) -> Said:
    """Run a program to its end. Raises Misuse when it is not installed."""
    done = subprocess.run(  # noqa: S603  (a closed list of programs)
        [require(name), *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        start_new_session=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    return Said(done.returncode, done.stdout)
