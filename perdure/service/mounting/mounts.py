"""What is mounted, by the kernel's own list; who holds it; and a patient unmount.

The list and not a look at the directory: a FUSE mount whose server has died answers no look, and is still there.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perdure.errors import Unavailable
from perdure.service.mounting import tools

BUSY_S: Final = 10.0
"""How long an unmount waits for those who still hold the file system."""
_RETRY_S: Final = 0.05
_HOLDERS_MAX: Final = 5
_SYS_BLOCK: Final = Path("/sys/block")
_MOUNTS: Final = Path("/proc/self/mountinfo")


class StillHeld(Unavailable):
    """Somebody has something open there, so it stays mounted."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the kernel's list. `source` is the device or whatever the file system calls itself."""

    kind: str
    source: str

    def is_of(self, device: Path) -> bool:
        """Whether it shows `device`, itself or through a loop device.

        A FUSE server that gets SIGTERM detaches its mount. From then on the kernel calls the file under a loop device
        by its path within that mount, which is its name alone.
        """
        names = (str(device), f"/{device.name}")
        return self.source == str(device) or any(loop == self.source and name in names for loop, name in _backed())


def find(path: Path) -> Mount | None:
    """What is mounted at `path` (the last one, where there are several); None when nothing is."""
    found = None
    for line in _MOUNTS.read_text().splitlines():
        # proc_pid_mountinfo(5): the mount point is field 5; after a lone hyphen come type and source.
        fields, _, rest = line.partition(" - ")
        if _plain(fields.split()[4]) == str(path):
            kind, source = rest.split()[:2]
            found = Mount(kind, _plain(source))
    return found


def _plain(field: str) -> str:
    """The kernel writes space, tab, newline and backslash in octal."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def loops_of(file: Path) -> list[str]:
    """The loop devices, such as /dev/loop0, that show `file`."""
    return [loop for loop, name in _backed() if name == str(file)]


def _backed() -> Iterator[tuple[str, str]]:
    """Each loop device, and what the kernel calls the file that it shows."""
    for entry in _SYS_BLOCK.glob("loop*/loop/backing_file"):
        with suppress(OSError):  # given back while we look
            yield f"/dev/{entry.parts[3]}", entry.read_text().rstrip("\n")


def unmount(path: Path, say: Callable[[str], None]) -> None:
    """Unmount what is at `path`, waiting for those who hold it. Raises StillHeld with their process ids."""
    give_up, has_said = time.monotonic() + BUSY_S, False
    while find(path) is not None:
        done = tools.call("umount", path) if os.geteuid() == 0 else tools.call("fusermount3", "-u", path)
        if done.code == 0 or find(path) is None:
            return
        if time.monotonic() >= give_up:
            raise StillHeld(
                f"{path} is still mounted, because {_who(path)} ({done.last_line}); what was written there is safe as "
                "long as this machine runs. End them and give the same command again, which takes it away first."
            )
        if not has_said:
            say(f"Waiting for up to {BUSY_S:.0f} s to unmount {path}: {_who(path)}.")
            has_said = True
        time.sleep(_RETRY_S)


def _who(path: Path) -> str:
    held = [f"{pid} ({name})" for pid, name in holders(path)]
    if not held:
        return "the system refuses"
    more = f" and {len(held) - _HOLDERS_MAX} more" if len(held) > _HOLDERS_MAX else ""
    return f"it is used by process {', '.join(held[:_HOLDERS_MAX])}{more}"


def holders(path: Path) -> Iterator[tuple[int, str]]:
    """The id and name of each process that works in `path` or has something there open; no more than we may see."""
    for process in Path("/proc").glob("[0-9]*"):
        if any(_is_in(link, path) for link in _links(process)):
            with suppress(OSError):
                yield int(process.name), (process / "comm").read_text().strip()


def _links(process: Path) -> Iterator[Path]:
    yield from (process / "cwd", process / "root", process / "exe")
    for folder in ("fd", "map_files"):
        with suppress(OSError):
            yield from (process / folder).iterdir()


def mounted_elsewhere(source: str) -> Iterator[tuple[int, str]]:
    """The id and name of each process with a mount namespace in which `source` is still mounted.

    One that was made while it was mounted here has a copy of the mount, which our unmount need not reach.
    """
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            lines = (process / "mountinfo").read_text().splitlines()
            if any(line.partition(" - ")[2].split()[1] == source for line in lines):
                yield int(process.name), (process / "comm").read_text().strip()


def _is_in(link: Path, path: Path) -> bool:
    try:
        target = os.readlink(link)
    except OSError:
        return False
    return target == str(path) or target.startswith(f"{path}/")


def wait_until(what: Callable[[], bool], seconds: float) -> bool:
    """Whether it came true; looked at again and again."""
    give_up = time.monotonic() + seconds
    while not what():
        if time.monotonic() >= give_up:
            return False
        time.sleep(_RETRY_S)
    return True
