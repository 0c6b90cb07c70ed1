"""`key new`, `derive`, `show`, `passphrase`: an authority's key, where it comes from and what comes from it."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from perdure.array import derivation
from perdure.array.commands import Authority
from perdure.cli import output
from perdure.cli.options import FILE, verb
from perdure.errors import Misuse
from perdure.image.build import authority_pcr2
from perdure.service.site import artefacts

_NEW_FILE = click.option(
    "-o", "--output", "output_file", required=True, type=FILE, help="A file that does not exist yet."
)


def register(cli: click.Group) -> None:
    """Add the verbs to the command line."""

    @cli.group("key")
    def key() -> None:
        """The authority's key."""

    @verb(key, "new", "perdure key new -o authority.key")
    @_NEW_FILE
    def new(output_file: Path, as_json: bool) -> int:
        """Draw a private key, write it to a file for its owner only, and print the public half.

        Keep a copy in a safe place: without the key nobody can open the array.
        """
        _print_new(artefacts.new_key(output_file), output_file, as_json=as_json)
        return 0

    @verb(key, "derive", "perdure key derive --from node.seed --label my-node -o authority.key")
    @click.option(
        "--from",
        "secret_file",
        required=True,
        type=FILE,
        help="A secret of 16 to 64 bytes that you keep anyway: the bytes themselves, or hexadecimal digits.",
    )
    @click.option("--label", required=True, help="Which of the keys that the secret leads to; keep it with the secret.")
    @_NEW_FILE
    def derive(secret_file: Path, label: str, output_file: Path, as_json: bool) -> int:
        """Derive a private key from another program's, write it to a file for its owner only, print the public half.

        The same secret and label always give the same key, here and anywhere else (docs/keys.md). Such a secret is a
        Lightning node's 32 bytes, or the seed that BIP-39 words stand for; a password is none.
        """
        authority = derivation.authority(artefacts.read_seed(secret_file), label)
        artefacts.write_key(output_file, authority)
        _print_new(authority, output_file, as_json=as_json)
        return 0

    @verb(key, "show", "perdure key show authority.key")
    @click.argument("key_file", type=FILE)
    def show(key_file: Path, as_json: bool) -> int:
        """Print the public half of a private key, its fingerprint and the PCR2 of its images; never the key itself.

        PCR2 is what Nitro, and the simulated platform, measure of the authority in every image that obeys this key.
        """
        public_key = artefacts.read_key(key_file).public_key
        pcr2 = authority_pcr2(public_key).hex()
        value = {"public_key": public_key.hex(), "fingerprint": derivation.fingerprint(public_key), "pcr2": pcr2}
        text = "\n".join(f"{name.replace('_', ' '):11} {digits}" for name, digits in value.items())
        output.result(value, text, as_json=as_json)
        return 0

    @verb(key, "passphrase", "perdure key passphrase --from authority.key --label data -o data.passphrase")
    @click.option("--from", "key_file", required=True, type=FILE, help="The authority's private key.")
    @click.option("--label", required=True, help="Which volume: each label has a passphrase of its own.")
    @click.option("-o", "--output", "output_file", type=FILE, help="Write it to this file, which does not exist yet.")
    @click.option("--force", is_flag=True, help="Print it even on a terminal.")
    def passphrase(key_file: Path, label: str, output_file: Path | None, force: bool, as_json: bool) -> int:
        """Derive the passphrase of a LUKS volume from the authority's key; for `cryptsetup --key-file -`.

        It is 64 hexadecimal digits without a line feed, since cryptsetup would take one for a part of it. The same key
        and label always give the same passphrase.
        """
        if output_file is None and sys.stdout.isatty() and not force:
            raise Misuse(
                "A passphrase is not printed on a terminal; nothing was derived. Pipe it into `cryptsetup --key-file "
                "-`, write it with -o, or give --force."
            )
        digits = derivation.luks_passphrase(artefacts.read_key(key_file), label)
        _print_secret(digits, output_file, as_json=as_json)
        return 0


def _print_new(authority: Authority, file: Path, *, as_json: bool) -> None:
    public_key = authority.public_key.hex()
    value = {"file": str(file), "public_key": public_key}
    output.result(value, f"public key {public_key}\nThe private key is in {file}.", as_json=as_json)


def _print_secret(digits: str, file: Path | None, *, as_json: bool) -> None:
    if file is not None:
        artefacts.write_secret(file, digits.encode("ascii"))
        output.result({"file": str(file)}, f"The passphrase is in {file}.", as_json=as_json)
    elif as_json:
        output.result({"passphrase": digits}, "", as_json=True)
    else:
        click.echo(digits, nl=False)
