"""`key new`: an authority's key."""

from __future__ import annotations

from pathlib import Path

import click

from perdure.cli import output
from perdure.cli.options import FILE, verb
from perdure.service.site import artefacts


def register(cli: click.Group) -> None:
    """Add the verbs to the command line."""

    @cli.group("key")
    def key() -> None:
        """The authority's key."""

    @verb(key, "new", "perdure key new -o authority.key")
    @click.option("-o", "--output", "output_file", required=True, type=FILE, help="A file that does not exist yet.")
    def new(output_file: Path, as_json: bool) -> int:
        """Draw a private key, write it to a file for its owner only, and print the public half.

        Keep a copy in a safe place: without the key nobody can open the array.
        """
        public_key = artefacts.new_key(output_file).public_key.hex()
        value = {"file": str(output_file), "public_key": public_key}
        output.result(value, f"public key {public_key}\nThe private key is in {output_file}.", as_json=as_json)
        return 0
