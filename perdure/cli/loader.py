"""`loader image`, `start`, `load`, `status`, `stop`: the fixed program that runs what the developers have signed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from perdure.cli import output
from perdure.cli.options import DIRECTORY, FILE, absolute, verb
from perdure.disk import address as disk_address
from perdure.errors import Misuse, Unavailable
from perdure.evidence.measurement import Measurement
from perdure.evidence.policy import SEATS_MAX, Policy, TrustedRoot
from perdure.evidence.roots import Platform
from perdure.image import eif
from perdure.image import loader as images
from perdure.loader.talk import unpacked
from perdure.manifest.developers import Developers
from perdure.manifest.manifest import Manifest
from perdure.service.site import artefacts, local, processes
from perdure.simtee.pki import SimulatedRoot

if TYPE_CHECKING:
    from perdure.service.lifecycle import Bundle

LOG: Final = "loader.log"
UID: Final = 61_184
"""As whom the main program runs unless told otherwise: a number that Debian and systemd give to nobody."""


def register(cli: click.Group) -> None:
    """Add the verbs to the command line."""

    @cli.group("loader")
    def loader() -> None:
        """The fixed program that runs what the developers have signed, and gives it the key."""

    @verb(
        loader,
        "image",
        "perdure loader image --developers developers.json --root-directory root \\\n"
        "    -o loader.eif --policy loaders.json",
    )
    @click.option("--developers", required=True, type=FILE, help="Who may sign, and how many must.")
    @click.option("--root-directory", required=True, type=DIRECTORY, help="The simulated platform's root.")
    @click.option("-o", "--output", "output_file", required=True, type=FILE, help="Where the image goes.")
    @click.option("--policy", "policy_file", required=True, type=FILE, help="Where a policy for it alone goes.")
    def image(developers: Path, root_directory: Path, output_file: Path, policy_file: Path, as_json: bool) -> int:
        """Build the loader's image for these developers, and the policy by which an operator knows it.

        For the simulated platform, which protects nothing. Same inputs, same bytes.
        """
        listed = Developers.from_json(artefacts.read_bounded(developers, "developers' list"))
        data = images.build_simulated(listed)
        pcrs = eif.measure(eif.parse(data))
        root = SimulatedRoot.load_or_create(root_directory)
        measured = Measurement.enclave(local.ROOT_NAME, pcrs.pcr0, pcrs.pcr1, pcrs.pcr2)
        trusted = TrustedRoot(local.ROOT_NAME, Platform.SIMULATED, root.der)
        artefacts.write_atomic(output_file, data, 0o644)
        artefacts.write_atomic(
            policy_file, Policy((trusted,), (measured,), seats_per_root_max=SEATS_MAX).to_json(), 0o644
        )
        registers = {name: value.hex() for name, value in measured.registers}
        lines = [f"{name} {value}" for name, value in registers.items()]
        lines.append(f"{listed.threshold} of {len(listed.keys)} developers must sign; only pcr2 depends on them.")
        value = {"image": str(output_file), "policy": str(policy_file), "registers": registers}
        output.result(value, "\n".join(lines), as_json=as_json)
        return 0

    @verb(loader, "start", "perdure loader start loader.eif --root-directory root --listen unix:loader.sock")
    @click.argument("image_file", metavar="IMAGE", type=FILE)
    @click.option("--root-directory", required=True, type=DIRECTORY, help="The simulated platform's root.")
    @click.option("--listen", required=True, metavar="ADDRESS", help="Where it is asked: tcp:HOST:PORT or unix:PATH.")
    @click.option("--log", type=FILE, help="Where it and the main program log.  [default: loader.log beside the image]")
    def start(image_file: Path, root_directory: Path, listen: str, log: Path | None, as_json: bool) -> int:
        """Start a loader on the simulated platform, in the background; it waits to be given a program."""
        where = start_simulated(image_file, root_directory, listen, log)
        output.result(where, f"A loader listens at {where['address']}, process {where['pid']}.", as_json=as_json)
        return 0

    @verb(
        loader,
        "load",
        "perdure loader load unix:loader.sock --manifest v1.json --signature v1.alice.sig --signature v1.bob.sig \\\n"
        "    --program app.tar --disk tcp:10.0.0.7:7001 --disk tcp:10.0.1.7:7001 --serve unix:/run/app/nbd.sock",
    )
    @click.argument("address")
    @bundle_options
    def load(address: str, as_json: bool, **given: Any) -> int:  # noqa: ANN401  (what click gives)
        """Bring a loader a signed program, and say where the disks are; it verifies, and waits for the key."""
        from perdure.service import lifecycle  # noqa: PLC0415  (loads the array code)

        health = asyncio.run(lifecycle.load(address, bundle(given)))
        _show(health, {}, as_json=as_json)
        return 0

    @verb(loader, "status", "perdure loader status unix:loader.sock --policy loaders.json")
    @click.argument("address")
    @click.option("--policy", "policy_file", type=FILE, help="Judge evidence of it, made now, by this policy.")
    def status(address: str, policy_file: Path | None, as_json: bool) -> int:
        """Say what a loader is doing, and with --policy prove who says so and which manifest it has verified."""
        from perdure.service import lifecycle  # noqa: PLC0415  (loads the array code)

        if policy_file is None:
            health, proof = asyncio.run(lifecycle.health(address)), {}
        else:
            shown = asyncio.run(lifecycle.identity(address, artefacts.read_policy(policy_file)))
            health = shown.health
            proof = {name: value.hex() for name, value in shown.verified.measurement.items() if any(value)}
        _show(health, proof, as_json=as_json)
        return 0 if health["state"] == "running" else 1

    @verb(loader, "stop", "perdure loader stop unix:loader.sock")
    @click.argument("address")
    def stop(address: str, as_json: bool) -> int:
        """Have the main program bring everything home, and the loader end; the key is gone from there."""
        from perdure.service import lifecycle  # noqa: PLC0415  (loads the array code)

        status = asyncio.run(lifecycle.stop(address)).get("status")
        if status not in (None, 0):
            raise Unavailable(
                f"The loader has stopped, but its main program ended with {status!r:.10}: what was flushed is safe on "
                "the disks, what was written after that may be lost. See the loader's log."
            )
        ran = "no main program ran there" if status is None else "everything written is on the disks"
        output.result({"stopped": True, "status": status}, f"Stopped: {ran}.", as_json=as_json)
        return 0


def bundle_options(function: Any) -> Any:  # noqa: ANN401  (a decorator)
    """What a host brings to a loader."""
    for option in reversed(
        (
            click.option("--manifest", required=True, type=FILE, help="What the developers signed."),
            click.option("--signature", "signatures", multiple=True, type=FILE, help="One of theirs; repeat."),
            click.option("--program", required=True, type=click.Path(path_type=Path), help="The program it names."),
            click.option("--disk", "addresses", multiple=True, required=True, metavar="ADDRESS", help="Repeat."),
            click.option("--serve", required=True, metavar="ADDRESS", help="Where the program serves NBD."),
            click.option("--uid", type=click.IntRange(1), default=UID, show_default=True, help="As whom it runs."),
        )
    ):
        function = option(function)
    return function


def bundle(given: Mapping[str, Any]) -> Bundle:
    """What the options name. Raises Misuse."""
    from perdure.service.lifecycle import Bundle  # noqa: PLC0415  (loads the array code)

    names = ("manifest", "signatures", "program", "addresses", "serve", "uid")
    manifest, signatures, program, addresses, serve, uid = (given[name] for name in names)
    return Bundle.read(manifest, signatures, program, [located(one) for one in addresses], located(serve), uid)


def located(address: str) -> str:
    """The address with the path of a Unix socket made absolute: a loader has another current directory."""
    kind, _, path = address.partition(":")
    return f"unix:{absolute(Path(path))}" if kind == "unix" else address


def start_simulated(image: Path, root_directory: Path, listen: str, log: Path | None) -> dict[str, Any]:
    """Start the image; where it listens and its launcher's process id. Raises Misuse, Unavailable."""
    try:
        disk_address.parse(listen)
    except ValueError as error:
        raise Misuse(f"{error}; no loader was started.") from None
    log = absolute(log or image.with_name(LOG))
    options = {"--image": absolute(image), "--root-directory": absolute(root_directory), "--listen": located(listen)}
    words = [str(part) for pair in options.items() for part in pair]
    command = [sys.executable, "-m", "perdure.simtee.launch", *words]
    process = processes.start_detached(command, log=log, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as stream:
        line = stream.readline().decode()
    if not line.startswith("listening "):
        process.wait()
        raise Unavailable(f"The loader did not start: {processes.last_line(log)}")
    process.returncode = 0  # it goes on without us
    return {"address": line.removeprefix("listening ").strip(), "pid": process.pid, "log": str(log)}


def _show(health: Mapping[str, Any], proof: Mapping[str, str], *, as_json: bool) -> None:
    manifest = None if health["manifest"] is None else Manifest.from_json(unpacked(health, "manifest"))
    state = output.plain(health["state"])
    lines = [f"   state: {state}"]
    value: dict[str, Any] = {"state": health["state"], "pid": health["pid"], "says": health["says"]}
    if manifest is not None:
        value |= {"name": manifest.name, "version": manifest.version, "digest": manifest.digest().hex()}
        value |= {"array_id": manifest.array_id.hex(), "signers": health["signers"]}
        lines += [f" program: {manifest.name} version {manifest.version}", f"  digest: {manifest.digest().hex()}"]
        lines += [f"   array: {manifest.array_id.hex()}", f"  signed: {output.plain(', '.join(health['signers']))}"]
    if health["says"]:
        lines.append(f"    says: {output.plain(health['says'])}")
    value["proved"] = dict(proof)
    lines += [f"evidence: {name} {register}" for name, register in proof.items()]
    if proof:
        what = "which program it holds, and that it serves" if state == "running" else "which program it holds"
        lines.append(f"  proved: who it is, and {what}; all else is what it says")
    output.result(value, "\n".join(lines), as_json=as_json)
