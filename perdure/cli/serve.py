"""`serve`: be the main program."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import click

from perdure.cli.options import config_options, find_config, verb
from perdure.errors import Misuse, PerdureError
from perdure.service import secrecy, wiping
from perdure.service.site import background
from perdure.service.site.config import Config, host_and_port
from perdure.service.status import ArrayStatus


def register(cli: click.Group) -> None:
    """Add the verb to the command line."""

    @verb(cli, "serve", "perdure serve --config perdure.toml")
    @config_options
    @click.option("--http", metavar="HOST:PORT", help="Where to show the page and the metrics, whatever the file says.")
    @click.option("--ready-fd", type=click.IntRange(3), hidden=True, help="Where `import` and `up` wait for a report.")
    @click.option("--check", is_flag=True, hidden=True, help="Say what this program is, for one that it may follow.")
    def serve(
        config_file: Path | None, directory: Path, http: str | None, ready_fd: int | None, check: bool, as_json: bool
    ) -> int:
        """Be the main program, in the foreground, until a signal or `perdure export` ends it.

        SIGHUP, or `perdure upgrade`, replaces it by the program that is installed now; clients only wait meanwhile.
        """
        if check:
            return _check(find_config(config_file, directory))
        unreported = [ready_fd]  # empty once the report is out: the number may mean another file then

        def on_ready(status: ArrayStatus) -> None:
            if not unreported:
                return
            fd = unreported.pop()
            if fd is not None:
                background.report_ready(fd, status)
            elif as_json:
                click.echo(json.dumps(status.to_json()))
            else:
                click.echo(f"serving {status.nbd_uri}")

        try:
            found = _shown_at(find_config(config_file, directory), http)
            wiping.apply()  # from here on this program is another process image, if it was not already
            is_locked = secrecy.apply()
            from perdure.service import handover, main  # noqa: PLC0415  loads the array code
            from perdure.service.telling import log  # noqa: PLC0415

            log.to_stderr(found.tell.log)
            inherited = handover.inherited(os.environ)
            if inherited is not None:  # the report is out long ago, and whoever read our output may be gone
                unreported.clear()
            if not is_locked:
                main.logger.info("this program's memory may be swapped: it needs CAP_IPC_LOCK, or no limit to lock it")
            if not wiping.works():
                main.logger.warning(
                    "this C library does not overwrite what is freed: what is erased may stay in this program's memory"
                )
            return main.run(found, on_ready, inherited)
        except PerdureError as error:
            fd = unreported.pop() if unreported else None
            if fd is not None:
                background.report_error(fd, error)
            raise


def _shown_at(found: Config, http: str | None) -> Config:
    """The configuration with the page elsewhere. Raises Misuse."""
    if http is None:
        return found
    try:
        return replace(found, serve=replace(found.serve, http=host_and_port(http)))
    except Misuse as error:
        raise Misuse(f"--http {error}; nothing was started.") from None


def _check(found: Config) -> int:
    """Do all that can go wrong before a mount, and print what the program before this one asks."""
    from perdure.service import main, upgrade  # noqa: PLC0415  loads the array code

    main.require_id(found)
    main.settings_of(found)
    click.echo(json.dumps(upgrade.credentials(found)))
    return 0
