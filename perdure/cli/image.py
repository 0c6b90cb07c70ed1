"""`image build` and `image measure`: disk images and what hardware says of them."""

from __future__ import annotations

from pathlib import Path

import click

from perdure.cli import output
from perdure.cli.options import DIRECTORY, FILE, verb
from perdure.errors import Misuse
from perdure.evidence.roots import Platform
from perdure.image import eif
from perdure.image.build import build_simulated
from perdure.service import artefacts, local
from perdure.simtee.pki import SimulatedRoot


def register(cli: click.Group) -> None:
    """Add the verbs to the command line."""

    @cli.group("image")
    def image() -> None:
        """Build and measure disk images."""

    @verb(
        image,
        "build",
        "perdure image build --platform simulated --authority-key-file authority.key -o disk.eif \\\n"
        "    --policy policy.json --root-directory simulated-root",
    )
    @click.option(
        "--platform", required=True, type=click.Choice([Platform.SIMULATED.value]), help="What it will run on."
    )
    @click.option("--authority-key-file", type=FILE, help="The authority's key file; only its public half is used.")
    @click.option("--public-key", metavar="HEX", help="Instead: the public half, 33 bytes compressed, in hexadecimal.")
    @click.option("-o", "--output", "output_file", required=True, type=FILE, help="Where the image goes.")
    @click.option("--policy", "policy_file", type=FILE, help="Also write a policy that accepts this image alone.")
    @click.option(
        "--root-directory", type=DIRECTORY, help="For --policy: the simulated platform's root, made if absent."
    )
    def build(
        platform: str,
        authority_key_file: Path | None,
        public_key: str | None,
        output_file: Path,
        policy_file: Path | None,
        root_directory: Path | None,
        as_json: bool,
    ) -> int:
        """Build the disk image for an authority, and print its measurements PCR0, PCR1 and PCR2."""
        del platform  # there is one so far
        if (policy_file is None) is not (root_directory is None):
            raise Misuse("--policy and --root-directory go together: a policy names the root; nothing was written.")
        data = build_simulated(_public_key(authority_key_file, public_key))
        artefacts.write_atomic(output_file, data, 0o644)
        if policy_file is not None and root_directory is not None:
            policy = local.policy_of(data, SimulatedRoot.load_or_create(root_directory).der)
            artefacts.write_atomic(policy_file, policy.to_json(), 0o644)
        _show(data, as_json=as_json, image=str(output_file), policy=None if policy_file is None else str(policy_file))
        return 0

    @verb(image, "measure", "perdure image measure disk.eif")
    @click.argument("file", type=FILE)
    def measure(file: Path, as_json: bool) -> int:
        """Print what Nitro, or the simulated platform, measures of an image."""
        _show(artefacts.read_bounded(file, "image", bytes_max=1 << 32), as_json=as_json, image=str(file))
        return 0


def _public_key(key_file: Path | None, public_key: str | None) -> bytes:
    if (key_file is None) is (public_key is None):
        raise Misuse("Name the authority by one of --authority-key-file and --public-key; nothing was written.")
    if key_file is not None:
        return artefacts.read_key(key_file).public_key
    try:
        return bytes.fromhex(public_key or "")
    except ValueError:
        raise Misuse(
            "--public-key is not hexadecimal; nothing was written. Use what `perdure key new` printed."
        ) from None


def _show(data: bytes, *, as_json: bool, **files: str | None) -> None:
    pcrs = eif.measure(eif.parse(data))
    value = {**files, "pcr0": pcrs.pcr0.hex(), "pcr1": pcrs.pcr1.hex(), "pcr2": pcrs.pcr2.hex()}
    text = f"PCR0 {value['pcr0']}\nPCR1 {value['pcr1']}\nPCR2 {value['pcr2']}"
    output.result(value, text, as_json=as_json)
