"""`disk run`: one simulated disk in the foreground. `disk relay`: the way over TCP to a disk that has only a vsock.

`disk lose`: the loss of simulated disks, for drills.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from perdure.cli import output
from perdure.cli.options import DIRECTORY, FILE, Size, absolute, directory_option, verb
from perdure.disk import address
from perdure.errors import Misuse
from perdure.evidence.roots import Platform
from perdure.service import relay
from perdure.service.site import artefacts, config, local
from perdure.simtee import launch


def register(cli: click.Group) -> None:
    """Add the verbs to the command line."""

    @cli.group("disk")
    def disk() -> None:
        """Run a disk: the program that lends this machine's RAM."""

    @verb(
        disk,
        "run",
        "perdure disk run --image disk.eif --listen tcp:127.0.0.1:7001 --size 512M --root-directory simulated-root",
    )
    @click.option("--image", required=True, type=FILE, help="The disk image, from `perdure image build`.")
    @click.option("--listen", required=True, metavar="ADDRESS", help="unix:PATH, tcp:HOST:PORT or vsock:CID:PORT.")
    @click.option("--size", required=True, type=Size(), help="The memory to lend: bytes, or with K, M, G, T.")
    @click.option(
        "--root-directory", required=True, type=DIRECTORY, help="The simulated platform's root, made if absent."
    )
    @click.option(
        "--platform",
        type=click.Choice([kind.value for kind in launch.PLATFORMS]),
        default=Platform.SIMULATED.value,
        show_default=True,
        help="A simulated enclave, or a machine with a software TPM (swtpm).",
    )
    @click.option(
        "--evidence-latency-ms", type=click.FloatRange(0, 60_000), default=0.0, help="What each evidence takes."
    )
    def run(
        image: Path,
        listen: str,
        size: str,
        root_directory: Path,
        platform: str,
        evidence_latency_ms: float,
        as_json: bool,
    ) -> int:
        """Run a disk image on a simulated platform until a signal ends it; what it holds is gone then.

        Simulated platforms protect nothing. It prints the address once the disk listens.
        """
        try:
            address.parse(listen)
        except ValueError as error:
            raise Misuse(f"{error}; no disk was started.") from None
        data = artefacts.read_bounded(image, "disk image")
        return launch.run(
            data,
            root_directory=root_directory,
            listen=listen,
            size_bytes=config.parse_size(size),
            platform=Platform(platform),
            evidence_latency_ms=evidence_latency_ms,
            ready_fd=_json_printer() if as_json else None,
        )

    @verb(disk, "relay", "perdure disk relay --listen tcp:0.0.0.0:7001 --to vsock:16:7000")
    @click.option("--listen", required=True, metavar="ADDRESS", help="unix:PATH, tcp:HOST:PORT or vsock:CID:PORT.")
    @click.option("--to", required=True, metavar="ADDRESS", help="The disk's address, in the same forms.")
    def pass_on(listen: str, to: str, as_json: bool) -> int:
        """Pass connections on to a disk until a signal ends it: an enclave's disk is reached only from its parent.

        Whoever reaches the relay reaches the disk, which obeys signed commands only. It prints the address once it
        listens, and on standard error when the disk cannot be reached and when it can again.
        """

        def ready(real: str) -> None:
            click.echo(json.dumps({"listening": real}) if as_json else f"listening {real}")

        relay.run(listen, to, ready=ready, say=output.note)
        return 0

    @verb(disk, "lose", "perdure disk lose 1 3")
    @click.argument("seats", type=int, nargs=-1, required=True)
    @directory_option
    def lose(seats: tuple[int, ...], directory: Path, as_json: bool) -> int:
        """Kill simulated disks of `perdure up`, as if their machines were lost: for drills. What they held is GONE.

        It refuses to lose more than the array survives.
        """
        found = config.load(absolute(directory) / config.NAME)
        lost = local.lose_disks(found, seats)
        seats_text = f"{'the disk of seat' if len(lost) == 1 else 'the disks of seats'} {', '.join(map(str, lost))}"
        text = f"Lost: {seats_text}. `perdure status` shows what the array makes of it."
        output.result({"lost": lost}, text, as_json=as_json)
        return 0


def _json_printer() -> int:
    """The end of a pipe for the disk's line `listening ADDRESS`; a child prints the address as JSON.

    A child and not a thread, because the launcher must have one thread when it starts the disk.
    """
    read_fd, write_fd = os.pipe()
    if os.fork() == 0:
        os.close(write_fd)
        with open(read_fd) as stream:
            words = stream.readline().split()
        if len(words) == 2:
            os.write(1, json.dumps({"listening": words[1]}).encode() + b"\n")
        os._exit(0)
    os.close(read_fd)
    return write_fd
