"""`replace`, `rejoin`, `scrub`: ask the main program for repair, and show it. Interrupted, they leave it going on."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from perdure.cli import output, scan
from perdure.cli.options import Size, complete_seat, config_options, find_config, verb
from perdure.disk import address as disk_address
from perdure.errors import Misuse, Unavailable, error_from_json
from perdure.service.control import ask
from perdure.service.site import background, config, local, processes
from perdure.service.site.config import Config
from perdure.service.status import ArrayStatus, DiskState, Repair, RepairState, Verb

POLL_S: Final = 0.2
LINE_S: Final = 5.0
"""How often a line is printed where there is no terminal."""
END_S: Final = 5.0
"""How long a main program that answers no more may take to end."""
VOTE_S: Final = 10.0
"""What a vote takes at most, beyond the silence that it waits for."""

_limit_option = click.option(
    "--limit", type=Size(), metavar="RATE", help="At most so many bytes of the array a second: 256K or more, as in 50M."
)


def register(cli: click.Group) -> None:
    """Add the verbs to the command line."""

    @verb(cli, "replace", "perdure replace 2\nperdure replace 2 --address tcp:10.0.0.7:7001 --limit 50M")
    @click.argument("seat", type=int, shell_complete=complete_seat)
    @click.option("--address", metavar="ADDRESS", help="Where the fresh disk is, if not where the configuration says.")
    @_limit_option
    @config_options
    def replace(
        seat: int, address: str | None, limit: str | None, config_file: Path | None, directory: Path, as_json: bool
    ) -> int:
        """Rebuild a seat, whose disk is dead, on a fresh disk, while the array serves.

        In a directory of `perdure up` the fresh simulated disk is started too. The work is the main program's: when
        this command is interrupted it goes on, and the same command shows it again.
        """
        found = find_config(config_file, directory)
        if address is None:
            _start_local(found, seat, as_json=as_json)
        else:
            address = config.absolute_address(address, found.directory)
        return mend(found, Verb.REPLACE, seat, address, limit, as_json=as_json)

    @verb(cli, "rejoin", "perdure rejoin 2")
    @click.argument("seat", type=int, shell_complete=complete_seat)
    @_limit_option
    @config_options
    def rejoin(seat: int, limit: str | None, config_file: Path | None, directory: Path, as_json: bool) -> int:
        """Take a disk back that was voted off and has not ended: it gets only what it missed."""
        return mend(find_config(config_file, directory), Verb.REJOIN, seat, None, limit, as_json=as_json)

    @verb(cli, "scrub", "perdure scrub --limit 100M")
    @_limit_option
    @config_options
    def scrub(limit: str | None, config_file: Path | None, directory: Path, as_json: bool) -> int:
        """Read everything from every disk, with evidence; mend what is wrong, and say on whose disks it was."""
        return mend(find_config(config_file, directory), Verb.SCRUB, None, None, limit, as_json=as_json)


def mend(found: Config, what: Verb, seat: int | None, address: str | None, limit: str | None, *, as_json: bool) -> int:
    """Ask for a repair, show it until it is over, and return the array's exit code. Raises what it ended with."""
    bytes_per_s_max = None if limit is None else config.parse_size(limit)
    reply = ask(found.serve.control, what, seat=seat, address=address, bytes_per_s_max=bytes_per_s_max)
    if reply["attached"] and not as_json:
        output.note("It runs already, with the limit that it was given; this shows it.")
    repair, status = _followed(found, reply["id"], as_json=as_json)
    if repair.error is not None:
        raise error_from_json(repair.error)
    if repair.state is RepairState.STOPPED:
        raise _ended(repair)
    value = {
        **status.to_json(),
        "repair": next(item for item in status.to_json()["repairs"] if item["id"] == repair.id),
    }
    output.result(value, f"{scan.sentence(repair)}\nThe array is {status.state} {status.summary}.", as_json=as_json)
    return status.exit_code


def _followed(found: Config, repair_id: str, *, as_json: bool) -> tuple[Repair, ArrayStatus]:
    """The repair once it is over, and the status that says so, shown meanwhile unless as JSON. Raises Unavailable."""
    repair = None
    try:
        with _shown(as_json=as_json) as view:
            while True:
                status = background.status(found)
                repair = _find(status, repair_id)
                view.show(repair)
                if repair.state.is_over:
                    return repair, status
                time.sleep(POLL_S)
    except KeyboardInterrupt:
        if repair is not None:
            output.note(
                f"The {scan.name(repair)} goes on in the main program: `perdure status` shows it, and so does the same "
                "command again."
            )
        raise
    except Unavailable:
        main = background.running(found)
        if repair is not None and (main is None or main.wait(END_S)):
            raise _ended(repair) from None
        raise


def _find(status: ArrayStatus, repair_id: str) -> Repair:
    for repair in status.repairs:
        if repair.id == repair_id:
            return repair
    raise Unavailable(
        "This repair is not the main program's any more: another was begun since, or the main program itself; `perdure "
        "status` shows what there is."
    )


def _ended(repair: Repair) -> Unavailable:
    return Unavailable(
        f"The main program ended during the {scan.name(repair)}, which stood at {scan.progress_text(repair)}; nothing "
        "that was flushed is lost. Once it serves again, give the same command again."
    )


# Showing --------------------------------------------------------------------------------------------------


class _View(Protocol):
    def show(self, repair: Repair) -> None: ...


class _Nothing:
    def show(self, repair: Repair) -> None:
        del repair


class _Lines:
    """Where there is no terminal: a line now and then, and the last."""

    def __init__(self) -> None:
        self._last, self._next_s = "", 0.0

    def show(self, repair: Repair) -> None:
        text = f"{scan.name(repair)}: {scan.progress_text(repair)}"
        if text != self._last and (repair.state.is_over or time.monotonic() >= self._next_s):
            self._last, self._next_s = text, time.monotonic() + LINE_S
            output.note(text)


class _Bar:
    """On a terminal."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task = bars.add_task("", total=None, text="")

    def show(self, repair: Repair) -> None:
        self._bars.update(
            self._task,
            description=scan.name(repair),
            total=repair.total_bytes,
            completed=repair.done_bytes,
            text=scan.progress_text(repair),
        )


@contextmanager
def _shown(*, as_json: bool) -> Iterator[_View]:
    if as_json:
        yield _Nothing()
    elif sys.stderr.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
        with Progress(*columns, console=Console(stderr=True)) as bars:
            yield _Bar(bars)
    else:
        yield _Lines()


# The disks of `perdure up` --------------------------------------------------------------------------------


def _start_local(found: Config, seat: int, *, as_json: bool) -> None:
    """Start a fresh disk where the seat's own has ended, once the array has voted that one off."""
    if not _has_ended(found, seat):
        return
    _await_vote(found, seat, as_json=as_json)
    with processes.locked(found.directory):
        if _has_ended(found, seat):  # nobody was faster
            local.start_fresh_disk(found, seat)


def _has_ended(found: Config, seat: int) -> bool:
    """Whether `up` started the seat's disk, it runs no more, and nobody else answers where it did."""
    return local.is_local(found) and seat in local.ended_seats(found) and not _answers(found.addresses[seat])


def _answers(address: str) -> bool:
    family, target = disk_address.parse(address)
    with suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        probe.connect(target)
        return True
    return False


def _await_vote(found: Config, seat: int, *, as_json: bool) -> None:
    """A disk that has just ended is a member until the array has found out; the main program says so if this fails."""
    in_use = (DiskState.ONLINE, DiskState.SUSPECT)
    give_up = time.monotonic() + found.serve.dead_after_ms / 1000 + VOTE_S
    is_noted = as_json
    while (status := background.status(found)).disks[seat].state in in_use and status.failure is None:
        if time.monotonic() >= give_up:
            raise Misuse(
                f"The disk of seat {seat} has ended and was not voted off in time; nothing was changed. Try again."
            )
        if not is_noted:
            output.note(f"waiting until the ended disk of seat {seat} is voted off")
            is_noted = True
        time.sleep(POLL_S)
