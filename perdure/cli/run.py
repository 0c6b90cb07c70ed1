"""`run`: a command with the array mounted as its file system, and no line of it changed."""

from __future__ import annotations

import os
from pathlib import Path

import click

from perdure.cli import output
from perdure.cli.options import DIRECTORY, absolute, config_options, find_config, verb
from perdure.errors import Misuse
from perdure.service.mounting import command, session
from perdure.service.mounting.attach import Way
from perdure.service.mounting.command import Order
from perdure.service.mounting.file_system import Kind
from perdure.service.mounting.session import Wish

MOUNT_POINT = "data"
VARIABLE = "PERDURE_DATA"
EXIT_CODES = {
    0: "the command ended with 0, and all that it wrote is on the disks",
    2: "it could not be mounted, or not all that was written is on the disks; the sentence says which",
    3: "evidence of rollback or cloning",
    126: "the command cannot be executed",
    127: "the command was not found",
    128: "and above: the command was ended by the signal of that number less 128; any other code is the command's own",
}


def register(cli: click.Group) -> None:
    """Add the verb to the command line."""

    @verb(cli, "run", "perdure run --make-file-system -- true\nperdure run -- sqlite3 state.db", EXIT_CODES)
    @config_options
    @click.option(
        "--at", type=DIRECTORY, help=f"The mount point, empty.  [default: {MOUNT_POINT}, beside the configuration]"
    )
    @click.option(
        "--by", type=click.Choice([str(way) for way in Way]), help="The way in (default: the first that works)."
    )
    @click.option("--make-file-system", "makes", is_flag=True, help="Make one first, on an array that is blank.")
    @click.option("--file-system", type=click.Choice([str(kind) for kind in Kind]), help="Which.  [default: ext4]")
    @click.option("--mount-options", metavar="A,B", default="", help="More options for the mount, as in mount(8).")
    @click.option("--user", metavar="USER[:GROUP]", help="Run the command as somebody else; names or numbers.")
    @click.option("--no-chdir", is_flag=True, help="Run the command in the present directory.")
    @click.argument("words", metavar="-- COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
    def run(
        config_file: Path | None,
        directory: Path,
        at: Path | None,
        by: str | None,
        makes: bool,
        file_system: str | None,
        mount_options: str,
        user: str | None,
        no_chdir: bool,
        words: tuple[str, ...],
        as_json: bool,
    ) -> int:
        """Run a command with the array as its file system, and bring all that it wrote home when it has ended.

        The command runs in the mount point, which PERDURE_DATA names to it. Signals are passed on to it. The array is
        served by the main program that runs already, or by one for this time. Whatever is killed, what the command
        had synced is safe, and the next run takes away what was left.

        The ways in: `nbd` (the kernel's client), `loop` (nbdfuse and a loop device), `fuse2fs` (ext4 without root).
        """
        found = find_config(config_file, directory)
        whom = None if user is None else command.user(user)
        if file_system is not None and not makes:
            raise Misuse("--file-system goes with --make-file-system; nothing was started. Else it is found by itself.")
        if whom is not None and at is None:
            raise Misuse(
                "--user needs --at: others than the owner cannot reach the directory of the key, where it would be "
                "mounted; nothing was started."
            )
        mount_point = Path(os.path.realpath(absolute(found.directory / MOUNT_POINT if at is None else at)))
        wish = Wish(
            mount_point,
            None if by is None else Way(by),
            Kind(file_system or Kind.EXT4) if makes else None,
            tuple(option for option in mount_options.split(",") if option),
            whom,
        )
        order = Order(words, None if no_chdir else mount_point, whom, {VARIABLE: str(mount_point)})
        code = session.run(found, wish, order, output.note)
        if as_json:
            output.result({"exit_code": code, "mount_point": str(mount_point), "clean": True}, "", as_json=True)
        return code

    run.allow_interspersed_args = False  # what comes after the command's name is the command's
