"""`vss`: Versioned Storage Service for LDK nodes, on an array."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.cli.options import FILE, config_options, find_config, verb
from perdure.errors import Misuse
from perdure.service import secrecy, wiping

if TYPE_CHECKING:
    from perdure.kv.database import Database
    from perdure.vss.auth import Authorizer


def register(cli: click.Group) -> None:
    """Add the verbs to the command line."""

    @cli.group()
    def vss() -> None:
        """Versioned Storage Service (VSS): what LDK nodes keep their state in."""

    @verb(vss, "serve", "perdure vss serve --config perdure.toml --listen 127.0.0.1:8080 --jwt-key jwt.pem")
    @config_options
    @click.option("--listen", "place", metavar="HOST:PORT", default="127.0.0.1:8080", help="Where; on loopback only.")
    @click.option(
        "--jwt-key", type=FILE, help="Users have tokens that this RSA key has signed: its public half, in PEM."
    )
    @click.option(
        "--signatures", is_flag=True, help="Users have secp256k1 keys and sign with them; anybody may have one."
    )
    @click.option(
        "--no-auth", is_flag=True, help="Nobody has to prove who they are: for programs on this machine only."
    )
    @click.option("--sqlite", type=FILE, help="Not on an array but in this ordinary file: NOT rollback-proof.")
    def serve(
        config_file: Path | None,
        directory: Path,
        place: str,
        jwt_key: Path | None,
        signatures: bool,
        no_auth: bool,
        sqlite: Path | None,
        as_json: bool,
    ) -> int:
        """Own the array and serve VSS from it, in the foreground, until a signal ends it.

        A reply is sent once every disk has proved, by hardware evidence, that it holds what was written, or, for what
        was read, that nobody else has taken the array over. No other main program of the array may run meanwhile.
        """
        authorizer = _authorizer(jwt_key, signatures=signatures, no_auth=no_auth)
        wiping.apply()  # from here on this program is another process image, if it was not already
        secrecy.apply()
        from perdure.service.telling import log  # noqa: PLC0415  loads h11
        from perdure.vss import main  # noqa: PLC0415

        def on_ready(url: str) -> None:
            click.echo(json.dumps({"url": url}) if as_json else f"serving {url}")

        with _database(config_file, directory, sqlite) as database:
            log.to_stderr()
            return main.run(database, place, authorizer, on_ready)


def _authorizer(jwt_key: Path | None, *, signatures: bool, no_auth: bool) -> Authorizer:
    from perdure.vss import auth  # noqa: PLC0415

    if (jwt_key is not None) + signatures + no_auth != 1:
        raise Misuse("Say one of --jwt-key, --signatures and --no-auth: who may ask? Nothing was started.")
    if jwt_key is not None:
        return auth.Jwt.read(jwt_key)
    return auth.signature if signatures else auth.nobody


@contextmanager
def _database(config_file: Path | None, directory: Path, sqlite: Path | None) -> Iterator[Database]:
    from perdure.kv.database import on_array, on_file  # noqa: PLC0415  loads the array code
    from perdure.service.owning import owned  # noqa: PLC0415
    from perdure.vss.main import DATABASE  # noqa: PLC0415

    if sqlite is not None:
        with on_file(sqlite) as database:
            yield database
        return
    with owned(find_config(config_file, directory)) as array, on_array(array, DATABASE) as database:
        yield database
