"""`upgrade`: put the program that is installed now in the place of the one that serves."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from perdure.cli import output
from perdure.cli.options import config_options, find_config, verb
from perdure.errors import Unavailable, error_from_json
from perdure.service.control import ask
from perdure.service.site import artefacts, background, processes
from perdure.service.site.config import Config

CHECK_S_MAX: Final = 90.0
"""How long the main program may take to find out whether the new one starts."""
ANSWER_S_MAX: Final = 60.0
"""How long one question may wait; the new program answers none before it has mounted or failed to."""
POLL_S: Final = 0.1


def register(cli: click.Group) -> None:
    """Add the verb to the command line."""

    @verb(cli, "upgrade", "perdure upgrade --config perdure.toml")
    @config_options
    def upgrade(config_file: Path | None, directory: Path, as_json: bool) -> int:
        """Replace the running main program by the one that is installed now; NBD clients only wait meanwhile.

        If the new program does not start, the old one goes on. Interrupted, this command leaves the upgrade going on.
        """
        found = find_config(config_file, directory)
        reply = ask(found.serve.control, "upgrade", timeout_s=CHECK_S_MAX)
        try:
            status = _awaited(found, int(reply["upgrades"]))
        except KeyboardInterrupt:
            output.note("The upgrade goes on in the main program: `perdure status` shows the array once it serves.")
            raise
        text = (
            f"Upgraded: {status['program']} (release {status['release']}) serves the array, {status['state']} "
            f"{status['summary']}."
        )
        output.result(status, text, as_json=as_json)
        return int(status["exit_code"])


def _awaited(found: Config, upgrades: int) -> Mapping[str, Any]:
    """The first status of the new program, as it says it: it may be of another release than this command."""
    last = ""
    with output.progress("upgrading"):
        while True:
            try:
                status = ask(found.serve.control, "status", timeout_s=ANSWER_S_MAX)
            except Unavailable as error:
                last = _still_running(found, error, last)
            else:
                if status["upgrades"] >= upgrades:
                    return status
                if status["upgrade_error"] is not None:
                    raise error_from_json(status["upgrade_error"])
            time.sleep(POLL_S)


def _still_running(found: Config, error: Unavailable, last: str) -> str:
    """Show why it does not serve yet, once. Raises Unavailable if it will not."""
    if background.running(found) is None:
        log = found.directory / artefacts.MAIN_LOG_FILE
        raise Unavailable(
            f"The main program ended during the upgrade (last in {log}: {processes.last_line(log)}); nothing that was "
            "flushed is lost. `perdure up` or `perdure import` mounts the array again."
        ) from None
    if str(error) != last:
        output.note(str(error))
    return str(error)
