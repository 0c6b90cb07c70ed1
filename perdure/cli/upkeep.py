"""`offline`, `online`, `clear`, `verify`: what an operator does with disks that are well."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from perdure.cli import output, repair
from perdure.cli.options import complete_seat, config_options, find_config, verb
from perdure.service.control import ask
from perdure.service.status import Verb

_OFFLINE_S_MAX = 60.0
_VERIFY_S_MAX = 120.0


def register(cli: click.Group) -> None:
    """Add the verbs to the command line."""

    @verb(cli, "offline", "perdure offline 2")
    @click.argument("seat", type=int, shell_complete=complete_seat)
    @config_options
    def offline(seat: int, config_file: Path | None, directory: Path, as_json: bool) -> int:
        """Take a live disk out of use, to serve its machine; it keeps what it holds while it runs.

        Refused where no other disk could be lost any more without it. `perdure online` takes it back.
        """
        found = find_config(config_file, directory)
        value = ask(found.serve.control, "offline", timeout_s=_OFFLINE_S_MAX, seat=seat)
        text = f"The disk in seat {seat} is offline. If it goes on running, `perdure online {seat}` takes it back."
        output.result(value, text, as_json=as_json)
        return 0

    @verb(cli, "online", "perdure online 2")
    @click.argument("seat", type=int, shell_complete=complete_seat)
    @config_options
    def online(seat: int, config_file: Path | None, directory: Path, as_json: bool) -> int:
        """Take a disk back that was taken offline: it gets only what it missed. The same as `rejoin`."""
        found = find_config(config_file, directory)
        return repair.mend(found, Verb.REJOIN, seat, None, None, as_json=as_json)

    @verb(cli, "clear", "perdure clear\nperdure clear 2")
    @click.argument("seat", type=int, required=False, shell_complete=complete_seat)
    @config_options
    def clear(seat: int | None, config_file: Path | None, directory: Path, as_json: bool) -> int:
        """Set error counters to zero, of one SEAT or of all, and forget repairs that have ended. Events stay.

        With SEAT, a disk that is gone from it may come back although evidence spoke against it (ROLLBACK, CLONE): give
        it only if you know that no host was at fault, as with an address that was your own mistake.
        """
        value = ask(find_config(config_file, directory).serve.control, "clear", seat=seat)
        output.result(value, "Cleared.", as_json=as_json)
        return 0

    @verb(cli, "verify", "perdure verify")
    @config_options
    def verify(config_file: Path | None, directory: Path, as_json: bool) -> int:
        """Ask every disk now for fresh hardware evidence of who it is, where it stands and which roster it holds.

        Exit code: 0 if all of them prove it, 1 if some are missing or silent, 3 on evidence of rollback or cloning.
        """
        found = find_config(config_file, directory)
        with output.progress("asking every disk for evidence"):
            value = ask(found.serve.control, "verify", timeout_s=_VERIFY_S_MAX)
        output.result(value, "\n".join(_lines(value)), as_json=as_json)
        return int(value["exit_code"])


def _lines(value: Mapping[str, Any]) -> list[str]:
    lines = [_line(disk) for disk in value["disks"]]
    proved = sum(disk["verified"] for disk in value["disks"])
    seats = len(value["disks"]) + value["empty_seats"]
    return [*lines, f"{proved} of {seats} seats have a disk that has just proved itself by hardware evidence."]


def _line(disk: Mapping[str, Any]) -> str:
    if disk["error"] is not None:
        return click.style(f"  seat {disk['seat']}  NOT VERIFIED  {disk['error']['message']}", fg="red")
    return (
        f"  seat {disk['seat']}  verified  instance {disk['instance'][:16]} on {disk['platform']} "
        f"({disk['module_id']}), {disk['carried_out']} commands carried out"
    )
