"""`manifest developers`, `sign`, `verify`: who may sign, signing, and whether enough have."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click
import coincurve

from perdure.cli import output
from perdure.cli.options import FILE, verb
from perdure.errors import Corrupt, Misuse, NotAuthorised
from perdure.manifest import signatures
from perdure.manifest.developers import DEVELOPERS_MAX, Developer, Developers, KeyKind
from perdure.manifest.manifest import Manifest
from perdure.service.site import artefacts, manifests

_KEY_LINE_BYTES_MAX: Final = 4096


def register(manifest: click.Group) -> None:
    """Add the verbs to `perdure manifest`."""
    _register_developers(manifest)
    _register_sign(manifest)
    _register_verify(manifest)


# developers -----------------------------------------------------------------------------------------------


def _register_developers(manifest: click.Group) -> None:
    @verb(
        manifest,
        "developers",
        "perdure manifest developers --threshold 2 alice=alice.pub bob=bip340:f9308a01... \\\n"
        "    carol=bitcoin:02c6047f... -o developers.json",
    )
    @click.option("--threshold", required=True, type=click.IntRange(1, DEVELOPERS_MAX), help="How many must sign (m).")
    @click.option("-o", "--output", "output_file", required=True, type=FILE, help="A file that does not exist yet.")
    @click.argument("keys", nargs=-1, required=True, metavar="NAME=KEY...")
    def developers(threshold: int, output_file: Path, keys: tuple[str, ...], as_json: bool) -> int:
        """Write the list of those who may sign, which belongs into the loader's image.

        KEY is an OpenSSH public key file (ssh-ed25519, or of a FIDO2 token), bip340: with 64 hexadecimal digits, or
        bitcoin: with the 66 of a compressed public key, whose wallet signs messages.
        """
        made = Developers(threshold, tuple(_developer(word) for word in keys))
        manifests.write_new(output_file, made.to_json(), "list of developers")
        names = [one.name for one in made.keys]
        value = {"file": str(output_file), "threshold": threshold, "developers": names}
        text = f"{threshold} of {len(names)} must sign: {', '.join(names)}\nThe list is in {output_file}."
        output.result(value, text, as_json=as_json)
        return 0


def _developer(word: str) -> Developer:
    name, equals, key = word.partition("=")
    if not equals:
        raise Misuse(f"{word!r:.80} is not NAME=KEY; nothing was written.")
    kind, colon, digits = key.partition(":")
    if colon and kind in (KeyKind.BIP340, KeyKind.BITCOIN):
        return Developer.of(name, kind, digits)
    line = artefacts.read_bounded(Path(key), "public key", bytes_max=_KEY_LINE_BYTES_MAX)
    return Developer.of(name, KeyKind.SSH, line.decode("ascii", "replace").strip())


# sign -----------------------------------------------------------------------------------------------------


def _register_sign(manifest: click.Group) -> None:
    @verb(manifest, "sign", "perdure manifest sign --ssh-key ~/.ssh/id_ed25519 manifest.json -o alice.sig")
    @click.option(
        "--ssh-key", type=FILE, help="Let ssh-keygen sign with this key, or the agent's or token's behind it."
    )
    @click.option(
        "--bip340-key-file", type=FILE, help="Sign with this key: 64 hexadecimal digits, yours alone to read."
    )
    @click.option("--bitcoin", is_flag=True, help="Print the text to sign with a Bitcoin wallet.")
    @click.option("--signature", metavar="BASE64", help="With --bitcoin: what the wallet made of it.")
    @click.option(
        "-o", "--output", "output_file", type=FILE, help="Where the signature goes: a file that does not exist."
    )
    @click.argument("file", type=FILE)
    def sign(
        ssh_key: Path | None,
        bip340_key_file: Path | None,
        bitcoin: bool,
        signature: str | None,
        output_file: Path | None,
        file: Path,
        as_json: bool,
    ) -> int:
        """Sign a manifest in one of three ways. Read it first: `perdure manifest show`, and `perdure manifest diff`.

        What is signed is the canonical form, so white space in the file makes no difference.
        """
        if [ssh_key is not None, bip340_key_file is not None, bitcoin].count(True) != 1 or (signature and not bitcoin):
            raise Misuse(
                "Say one of --ssh-key, --bip340-key-file and --bitcoin; --signature belongs to the last. "
                "Nothing was signed."
            )
        found = manifests.read_manifest(file)
        text = signatures.text_to_sign(found.digest())
        if bitcoin and signature is None:
            output.result({"text_to_sign": text}, text, as_json=as_json)
            return 0
        if output_file is None:
            raise Misuse("Say with -o where the signature goes; nothing was signed.")
        data, by = _signature(found, ssh_key, bip340_key_file, signature or "")
        manifests.write_new(output_file, data, "signature")
        value = {"file": str(output_file), "digest": found.digest().hex(), "by": by}
        said = f"{found.name}, version {found.version}, digest {found.digest().hex()}\nsigned by {by}"
        output.result(value, f"{said}\nThe signature is in {output_file}.", as_json=as_json)
        return 0


def _signature(manifest: Manifest, ssh_key: Path | None, key_file: Path | None, wallets: str) -> tuple[bytes, str]:
    """The file's contents, and by what key."""
    if ssh_key is not None:
        return manifests.ssh_signature(ssh_key, manifest.to_json()), f"the SSH key {ssh_key}"
    if key_file is not None:
        key = coincurve.PrivateKey(artefacts.read_key(key_file).private_key)
        made = signatures.bip340_file(key.sign_schnorr(manifest.digest()))
        return made, f"bip340:{key.public_key_xonly.format().hex()}"
    try:
        public_key = signatures.recover(signatures.text_to_sign(manifest.digest()), wallets.strip())
    except NotAuthorised as error:
        raise Misuse(f"The signature {error}; nothing was written.") from None
    # Any signature is by some key: whether it is the right one shows where the owner looks, or verifies.
    return signatures.bitcoin_file(wallets), f"bitcoin:{public_key.hex()}, if that is your wallet's key"


# verify ---------------------------------------------------------------------------------------------------


def _register_verify(manifest: click.Group) -> None:
    @verb(
        manifest,
        "verify",
        "perdure manifest verify --developers developers.json --program ./program manifest.json alice.sig bob.sig",
        exit_codes={0: "enough developers have signed", 2: "they have not, or the program is another one"},
    )
    @click.option("--developers", "developers_file", required=True, type=FILE, help="Who may sign.")
    @click.option("--program", type=click.Path(path_type=Path), help="The program, which must be the one it names.")
    @click.argument("file", type=FILE)
    @click.argument("signature_files", type=FILE, nargs=-1, metavar="SIGNATURE...")
    def verify(
        developers_file: Path, program: Path | None, file: Path, signature_files: tuple[Path, ...], as_json: bool
    ) -> int:
        """Check as the loader does whether enough developers signed a manifest, and say who did."""
        developers, found = manifests.read_developers(developers_file), manifests.read_manifest(file)
        given = [_read(path) for path in signature_files]
        names = signatures.verify(developers, found.to_json(), given)
        if program is not None and manifests.program_digest(program, found.program.kind) != found.program.sha256:
            raise Corrupt(f"The manifest is signed, but {program} is another program than it names.")
        value = {
            "name": found.name,
            "version": found.version,
            "digest": found.digest().hex(),
            "signed_by": list(names),
            "threshold": developers.threshold,
            "program_checked": program is not None,
        }
        text = f"{found.name}, version {found.version}, digest {found.digest().hex()}\nsigned by {', '.join(names)}"
        checked = "the program is the one it names" if program else "the program was not compared (--program)"
        output.result(value, f"{text} ({developers.threshold} are needed); {checked}", as_json=as_json)
        return 0


def _read(path: Path) -> bytes:
    return artefacts.read_bounded(path, "signature", bytes_max=signatures.SIGNATURE_BYTES_MAX)
