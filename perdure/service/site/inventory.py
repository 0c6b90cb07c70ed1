"""The arrays whose configurations are on this machine, and how each of them is. It looks, and starts nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from perdure.errors import Misuse, PerdureError
from perdure.service.site import background, config

VERSION: Final = 1
ETC: Final = Path("/etc/perdure")
"""Where services have their configurations, each in a folder of its own."""
_ID_CHARS: Final = 12


@dataclass(frozen=True, slots=True)
class Row:
    """One array. What is not known is None. `state` is that of `status`, or `stopped`, `new`, `silent`, `broken`.

    `stopped`: no main program runs here; `new`: it was not created yet; `silent`: its main program does not answer;
    `broken`: its configuration cannot be read. `losses_survived` is how many more disks may be lost now.
    """

    name: str
    path: str
    state: str
    exit_code: int
    array_id: str | None = None
    size_bytes: int | None = None
    k: int | None = None
    n: int | None = None
    summary: str | None = None
    losses_survived: int | None = None
    nbd_uri: str | None = None
    main_pid: int | None = None
    note: str | None = None
    """What is wrong, in a sentence."""


def configurations(up_directory: Path, etc: Path = ETC) -> list[Path]:
    """The configuration of `perdure up`, if there is one, and those of services."""
    of_up = up_directory / config.NAME
    return [*([of_up] if of_up.exists() else []), *sorted(etc.glob(f"*/{config.NAME}"))]


def rows(paths: Sequence[Path]) -> list[Row]:
    """One for each configuration, in order; two arrays of one name are called by their ids."""
    found = [row(path.absolute()) for path in paths]
    names = Counter(one.name for one in found)
    return [replace(one, name=_other_name(one)) if names[one.name] > 1 else one for one in found]


def _other_name(one: Row) -> str:
    return one.path if one.array_id is None else one.array_id[:_ID_CHARS]


def row(path: Path) -> Row:
    """How the array of the configuration at `path` is."""
    name = path.parent.name
    try:
        found = config.load(path)
    except Misuse as error:
        return Row(name, str(path), "broken", error.exit_code, note=str(error))
    shape, process = found.array, background.running(found)
    bare = Row(
        name,
        str(path),
        "new" if shape.array_id is None else "stopped",
        2,
        array_id=None if shape.array_id is None else shape.array_id.hex(),
        size_bytes=shape.size_bytes,
        k=shape.threshold,
        n=shape.disks,
    )
    if process is None:
        return bare
    try:
        status = background.status(found)
    except PerdureError as error:
        return replace(bare, state="silent", main_pid=process.pid, note=str(error))
    return replace(
        bare,
        state=str(status.state),
        exit_code=status.exit_code,
        array_id=status.array_id,
        summary=status.summary,
        losses_survived=status.losses_survived,
        nbd_uri=status.nbd_uri,
        main_pid=process.pid,
        note=None if status.failure is None else str(status.failure["message"]),
    )


def exit_code(found: Sequence[Row]) -> int:
    """That of the worst; 0 where there is none."""
    return max((one.exit_code for one in found), default=0)


def to_json(found: Sequence[Row]) -> dict[str, Any]:
    """The object that `perdure list --json` prints."""
    return {"version": VERSION, "exit_code": exit_code(found), "arrays": [asdict(one) for one in found]}
