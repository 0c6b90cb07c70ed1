"""What one run has attached and mounted, in a file beside the configuration: for the one that comes after a kill -9.

It is written before each step with what the step will make. So nothing that is there is missing in it; what it names
and is not there was not made yet, or was taken away by a restart of the machine. The kernel's lists say which.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from perdure.errors import Misuse
from perdure.service.mounting.attach import FILE_NAME, Way
from perdure.service.site import artefacts, processes
from perdure.service.site.processes import Process

RECORD_FILE: Final = "run.json"
LOG_FILE: Final = "run.log"
LOCK_FILE: Final = "run.lock"
FOLDER: Final = "attached"
"""Where nbdfuse shows the array as a file."""


@dataclass(frozen=True, slots=True)
class Record:
    """One run. `main` is the main program if this run started it; servers are None until they run."""

    directory: Path
    """The configuration's."""
    mount_point: Path
    has_made_mount_point: bool
    way: Way
    run: Process
    """The run itself."""
    device: Path | None = None
    """/dev/nbdN once it is connected, or the file that nbdfuse shows."""
    nbdfuse: Process | None = None
    fuse2fs: Process | None = None
    main: Process | None = None

    @property
    def folder(self) -> Path:
        """Where nbdfuse is mounted."""
        return self.directory / FOLDER

    @property
    def file(self) -> Path:
        """The array as nbdfuse shows it."""
        return self.folder / FILE_NAME

    @property
    def log(self) -> Path:
        """What the servers printed."""
        return self.directory / LOG_FILE

    def write(self) -> Record:
        """Make it durable; the same record. Raises Misuse."""
        value = {name: str(part) if isinstance(part, Path) else part for name, part in asdict(self).items()}
        artefacts.write_atomic(self.directory / RECORD_FILE, (json.dumps(value, indent=2) + "\n").encode())
        return self

    def remove(self) -> None:
        """Everything of this run has been taken away."""
        self.log.unlink(missing_ok=True)
        (self.directory / RECORD_FILE).unlink(missing_ok=True)


def read(directory: Path) -> Record | None:
    """What a run before this one has left; None if it left nothing. Raises Misuse for a damaged file."""
    path = directory / RECORD_FILE
    if not path.exists():
        return None
    try:
        return _record(json.loads(artefacts.read_bounded(path, "record of a run")), directory)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Misuse(
            f"The record {path} of an earlier `perdure run` is damaged; nothing was changed. Unmount what that run has "
            "mounted, and move the file away."
        ) from None


def _record(value: Mapping[str, Any], directory: Path) -> Record:
    return Record(
        directory,
        Path(value["mount_point"]),
        bool(value["has_made_mount_point"]),
        Way(value["way"]),
        Process(**value["run"]),
        None if value["device"] is None else Path(value["device"]),
        *(None if value[name] is None else Process(**value[name]) for name in ("nbdfuse", "fuse2fs", "main")),
    )


def require_none_at_work(directory: Path) -> None:
    """Raise Misuse while a run has the array of this directory mounted: without the array its command would fail."""
    if (directory / LOCK_FILE).exists():
        busy = (
            "A `perdure run` has a file system on this array; nothing was stopped. Let its command end, or end it with "
            "SIGTERM: it then brings everything home."
        )
        with processes.locked(directory, name=LOCK_FILE, wait_s=0, busy=busy):
            pass
