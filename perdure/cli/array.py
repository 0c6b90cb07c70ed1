"""`create`, `import`, `export`, `status`: an array by its configuration file."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import click

from perdure.cli import layout, output
from perdure.cli.options import config_options, find_config, verb
from perdure.errors import Unavailable
from perdure.service.mounting import record
from perdure.service.site import artefacts, background, processes
from perdure.service.status import ArrayStatus


def register(cli: click.Group) -> None:
    """Add the verbs to the command line."""

    @verb(cli, "create", "perdure create --config perdure.toml")
    @config_options
    def create(config_file: Path | None, directory: Path, as_json: bool) -> int:
        """Make an array of the blank disks that the configuration names, and print its id."""
        from perdure.service.creation import create_array  # noqa: PLC0415  (loads the array code)

        found = find_config(config_file, directory)
        with processes.locked(found.directory):
            with output.progress("creating the array"):
                found = create_array(find_config(config_file, directory))
            record = artefacts.read_record(found.directory)
        assert record is not None
        value = {"array_id": record.array_id, "record": str(found.directory / artefacts.ARRAY_FILE)}
        text = f"Created array {record.array_id}\nThe id is in {found.path}. `perdure import` mounts the array."
        output.result(value, text, as_json=as_json)
        return 0

    @verb(cli, "import", "perdure import --config perdure.toml")
    @config_options
    def import_(config_file: Path | None, directory: Path, as_json: bool) -> int:
        """Take the array over: start its main program in the background and wait until it serves.

        From then on, a main program that had the array before gets no acknowledgement any more.
        """
        found = find_config(config_file, directory)
        with processes.locked(found.directory):
            if background.running(found) is None:
                with output.progress("mounting the array"):
                    status = background.start(found)
            else:
                output.note("The main program runs here already.")
                status = background.status(found)
        return _show(status, as_json=as_json)

    @verb(cli, "export", "perdure export --config perdure.toml")
    @config_options
    def export(config_file: Path | None, directory: Path, as_json: bool) -> int:
        """Stop the main program cleanly, so that another machine can import the array."""
        found = find_config(config_file, directory)
        record.require_none_at_work(found.directory)
        with processes.locked(found.directory), output.progress("flushing and bringing everything home"):
            was_running = background.stop(found)
        if not was_running:
            raise Unavailable("No main program runs here, so there is nothing to stop; the disks were not touched.")
        text = (
            "Exported: everything written is on the disks; any machine with the key, the id and the policy may import."
        )
        output.result({"stopped": True}, text, as_json=as_json)
        return 0

    @verb(cli, "status", "perdure status\nperdure status -v\nperdure status -x\nperdure status 5 3")
    @click.option("-x", "is_brief", is_flag=True, help="Only what has trouble: one line when all is well.")
    @click.option("-v", "is_verbose", is_flag=True, help="With everything that each disk's last evidence shows.")
    @click.argument("interval", type=click.FloatRange(min=0.1), required=False)
    @click.argument("times", type=click.IntRange(min=1), required=False)
    @config_options
    def status(
        is_brief: bool,
        is_verbose: bool,
        interval: float | None,
        times: int | None,
        config_file: Path | None,
        directory: Path,
        as_json: bool,
    ) -> int:
        """Show the array and its disks. Exit code: 0 healthy, 1 degraded, 2 unusable, 3 rollback or cloning.

        With INTERVAL, in seconds, again and again, TIMES times; with --json one object a line then.
        """
        found, exit_code = find_config(config_file, directory), 0
        for _ in every(interval, times):
            seen = background.status(found)
            shown = layout.brief_text(seen) if is_brief else layout.text(seen, is_verbose=is_verbose)
            if as_json and interval is not None:
                click.echo(json.dumps(seen.to_json()))
            else:
                output.result(seen.to_json(), shown, as_json=as_json)
            exit_code = seen.exit_code
        return exit_code


def every(interval_s: float | None, times: int | None) -> Iterator[None]:
    """Once without an interval; else `times` times, or for ever, so many seconds apart."""
    for turn in itertools.count(1):
        yield
        if interval_s is None or turn == times:
            return
        time.sleep(interval_s)


def _show(status: ArrayStatus, *, as_json: bool) -> int:
    output.result(status.to_json(), layout.text(status), as_json=as_json)
    return status.exit_code
