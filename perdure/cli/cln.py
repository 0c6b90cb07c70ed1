"""`cln`: a Core Lightning node's database on an array."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.cli import output
from perdure.cli.options import FILE, config_options, find_config, verb
from perdure.service import secrecy, wiping

if TYPE_CHECKING:
    from perdure.cln.replica import Replica


def register(cli: click.Group) -> None:
    """Add the verbs to the command line."""

    @cli.group()
    def cln() -> None:
        """Core Lightning: the node's database on an array."""

    @verb(cln, "plugin", "perdure cln plugin --config perdure.toml")
    @config_options
    def plugin(config_file: Path | None, directory: Path, as_json: bool) -> int:
        """Own the array and keep every write of lightningd in it; lightningd starts this, through a script.

        Each write is answered once every disk has proved to have it; a node that runs on an older database is stopped.
        """
        del as_json  # standard output is the conversation with lightningd
        wiping.apply()
        secrecy.apply()
        from perdure.cln.plugin import run  # noqa: PLC0415
        from perdure.service.telling import log  # noqa: PLC0415

        with _replica(config_file, directory) as replica:
            log.to_stderr()
            run(replica.write, sys.stdin.buffer, sys.stdout.buffer)
        return 0

    @verb(cln, "take", "perdure cln take --config perdure.toml --database ~/.lightning/bitcoin/lightningd.sqlite3")
    @click.option("--database", required=True, type=FILE, help="The node's database; lightningd must not run.")
    @config_options
    def take(database: Path, config_file: Path | None, directory: Path, as_json: bool) -> int:
        """Begin with the database that a node has: copy it into an array that keeps none yet."""
        with _replica(config_file, directory) as replica:
            version = replica.take(database)
        output.result({"data_version": version}, f"Kept {database}, version {version}.", as_json=as_json)
        return 0

    @verb(cln, "restore", "perdure cln restore --config perdure.toml -o ~/.lightning/bitcoin/lightningd.sqlite3")
    @click.option("-o", "--output", "output_file", required=True, type=FILE, help="A new file.")
    @config_options
    def restore(output_file: Path, config_file: Path | None, directory: Path, as_json: bool) -> int:
        """Write the node's database as the array has it, which is the latest; before each start of lightningd."""
        with _replica(config_file, directory) as replica:
            version = replica.restore(output_file)
        text = f"Wrote {output_file}, version {version}: it has all that the node was told is kept."
        output.result({"data_version": version, "file": str(output_file)}, text, as_json=as_json)
        return 0


@contextmanager
def _replica(config_file: Path | None, directory: Path) -> Iterator[Replica]:
    from perdure.cln.replica import DATABASE, Replica  # noqa: PLC0415  loads the array code
    from perdure.kv.database import on_array  # noqa: PLC0415
    from perdure.service.owning import owned  # noqa: PLC0415

    with owned(find_config(config_file, directory)) as array, on_array(array, DATABASE) as database:
        yield Replica(database)
