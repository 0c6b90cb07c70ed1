"""`list`: a line for each array of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from perdure.cli import output
from perdure.cli.options import directory_option, verb
from perdure.service.site import config, inventory
from perdure.service.site.inventory import Row

_HEAD = ("NAME", "SIZE", "K/N", "STATE", "LOSSES", "MAIN", "NBD")
_EXIT_CODES = {
    0: "all are healthy, or there is none",
    1: "the worst is degraded",
    2: "the worst is unusable, or its main program does not run",
    3: "evidence of rollback or cloning",
}


def register(cli: click.Group) -> None:
    """Add the verb to the command line."""

    @verb(cli, "list", "perdure list\nperdure list /etc/perdure/ledger /etc/perdure/keys --json", _EXIT_CODES)
    @click.argument("directories", type=click.Path(path_type=Path), nargs=-1)
    @directory_option
    def list_(directories: tuple[Path, ...], directory: Path, as_json: bool) -> int:
        """Show a line for each array: size, state, how many more disks may be lost, and where it is served.

        DIRECTORIES, or configuration files, say which. Without any it is the array of `perdure up` and those of
        services, in /etc/perdure/*/perdure.toml.
        """
        paths = [_configuration(path) for path in directories] or inventory.configurations(directory)
        found = inventory.rows(paths)
        none = f"There is no array in {directory} or {inventory.ETC}. `perdure up` makes one."
        output.result(inventory.to_json(found), _table(found) if found else none, as_json=as_json)
        for one in found:
            if one.note is not None and not as_json:
                output.note(f"perdure: {one.name}: {one.note}")
        return inventory.exit_code(found)


def _configuration(path: Path) -> Path:
    return path / config.NAME if path.is_dir() else path


def _table(found: Sequence[Row]) -> str:
    lines = [_HEAD, *(_cells(one) for one in found)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(_HEAD))]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def _cells(one: Row) -> tuple[str, ...]:
    return (
        one.name,
        "-" if one.size_bytes is None else output.human_size(one.size_bytes),
        "-" if one.k is None else f"{one.k}/{one.n}",
        one.state.upper() if one.summary is None else f"{one.state.upper()} {one.summary}",
        "-" if one.losses_survived is None else str(one.losses_survived),
        "-" if one.main_pid is None else "runs",
        one.nbd_uri or "-",
    )
