"""`provision` and `update`: give a loader the key, and have one main program follow another."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import click

from perdure.cli import output
from perdure.cli.loader import bundle, bundle_options, located, start_simulated
from perdure.cli.options import DIRECTORY, FILE, config_options, find_config, verb
from perdure.errors import Misuse
from perdure.manifest.manifest import Manifest
from perdure.service.site import artefacts


def register(cli: click.Group) -> None:
    """Add the verbs to the command line."""

    @verb(
        cli,
        "provision",
        "perdure provision tcp:10.0.0.9:7100 --policy loaders.json --config perdure.toml --manifest v1.json",
    )
    @click.argument("address")
    @click.option("--policy", "policy_file", required=True, type=FILE, help="Which loaders may have the key.")
    @click.option("--manifest", "manifest_file", type=FILE, help="The manifest that it must be about to run.")
    @config_options
    def provision(
        address: str,
        policy_file: Path,
        manifest_file: Path | None,
        config_file: Path | None,
        directory: Path,
        as_json: bool,
    ) -> int:
        """Judge a loader's evidence, and send it the array's key and id, sealed to it alone.

        Run it where the key is: on the operator's machine. It ends when the main program serves.
        """
        from perdure.service import lifecycle  # noqa: PLC0415  (loads the array code)

        found = find_config(config_file, directory)
        if found.array.array_id is None:
            raise Misuse(f"{found.path} names no array; create it first. Nothing was sent.")
        expected = None
        if manifest_file is not None:
            expected = Manifest.from_json(artefacts.read_bounded(manifest_file, "manifest"))
        authority = artefacts.read_key(found.array.key_file)
        loaders = artefacts.read_policy(policy_file)
        with output.progress("judging the loader, and giving it the key"):
            shown = asyncio.run(lifecycle.provision(address, authority, found.array.array_id, loaders, expected))
        assert shown.manifest is not None
        manifest = shown.manifest
        value = {"name": manifest.name, "version": manifest.version, "pid": shown.health["pid"]}
        value |= {"signers": shown.health["signers"], "module_id": shown.verified.module_id}
        text = (
            f"The loader is one that {policy_file} allows, has the key, and proves that {manifest.name} version "
            f"{manifest.version} serves; it says that {output.plain(', '.join(shown.health['signers']))} signed."
        )
        output.result(value, text, as_json=as_json)
        return 0

    @verb(
        cli,
        "update",
        "perdure update unix:old.sock --to unix:new.sock --image loader.eif --root-directory root \\\n"
        "    --manifest v2.json --signature v2.alice.sig --signature v2.carol.sig --program app2.tar \\\n"
        "    --disk tcp:10.0.0.7:7001 --disk tcp:10.0.1.7:7001 --serve unix:/run/app/nbd.sock",
    )
    @click.argument("before", metavar="RUNNING")
    @click.option("--to", "address", required=True, metavar="ADDRESS", help="The loader that takes over.")
    @click.option("--image", "image_file", type=FILE, help="Simulated: start it first, from this image.")
    @click.option("--root-directory", type=DIRECTORY, help="Simulated: the platform's root.")
    @bundle_options
    def update(
        before: str,
        address: str,
        image_file: Path | None,
        root_directory: Path | None,
        as_json: bool,
        **given: Any,  # noqa: ANN401
    ) -> int:
        """Run another version, or the same one elsewhere: the loader at RUNNING hands the key to the one at --to.

        The old main program brings everything home and ends before the new one gets the key. If the new one does not
        come to serve, the old one goes on, unless the array has accepted the higher version by then.
        """
        from perdure.service import lifecycle  # noqa: PLC0415  (loads the array code)

        if (image_file is None) is not (root_directory is None):
            raise Misuse("--image and --root-directory go together; nothing was done.")
        brought = bundle(given)
        if image_file is not None and root_directory is not None:
            address = str(start_simulated(image_file, root_directory, address, None)["address"])
        with output.progress(f"bringing version {brought.manifest.version} to the loader at {address}"):
            asyncio.run(lifecycle.load(address, brought))
        began = time.monotonic()
        with output.progress("handing over"):
            health = asyncio.run(lifecycle.follow(address, located(before)))
        took_s = time.monotonic() - began
        manifest = brought.manifest
        text = (
            f"{manifest.name} version {manifest.version} serves at {brought.serve}, process {health['pid']}; from the "
            f"old one's last moment to its first {took_s:.1f} s at most."
        )
        if health.get("before_has_ended") is not True:
            output.note(
                f"The loader at {before} did not confirm that it ends. If it goes on it takes the array back, and what "
                "serves now is fenced: look at both with `perdure loader status`. Nothing acknowledged is lost."
            )
        value = {"name": manifest.name, "version": manifest.version, "pid": health["pid"], "took_s": round(took_s, 3)}
        output.result({**value, "address": address}, text, as_json=as_json)
        return 0
