"""Inserts a second of SQLite, one to a transaction, synchronous=FULL: straight on an array (`perdure.sqlite`), on ext4
on nbdfuse on the same array, and on this machine's tmpfs.

    python -m bench.inserts

One run of each, some seconds long, on simulated disks of this machine: for ratios, not for figures. What was measured
is in docs/recipes/sqlite-without-a-mount.md.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import apsw

from perdure import api, sqlite
from perdure.service.main import mount_settings_of
from perdure.service.site import config
from perdure.volume import Volume
from tests.cli.rig import Rig
from tests.system.rig import FileSystem, how_to_mount

SECONDS = 5
MODES = ("DELETE", "WAL")


def rate(connection: apsw.Connection) -> float:
    """Inserts of 200 bytes a second."""
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE t(number INTEGER PRIMARY KEY, body BLOB)")
    count, began = 0, time.monotonic()
    while (took := time.monotonic() - began) < SECONDS:
        connection.execute("INSERT INTO t(body) VALUES(randomblob(200))")
        count += 1
    return count / took


def on_files(folder: Path) -> dict[str, float]:
    """By journal mode, in a folder of a mounted file system."""
    rates = {}
    for mode in MODES:
        with closing(apsw.Connection(str(folder / f"{mode}.db"))) as connection:
            connection.execute(f"PRAGMA journal_mode={mode}").fetchall()
            rates[mode] = rate(connection)
    return rates


def on_a_volume(volume: Volume) -> dict[str, float]:
    """By journal mode, without a mount."""
    rates = {}
    for mode in MODES:
        with sqlite.connect(volume, f"{mode}.db", wal=mode == "WAL") as connection:
            rates[mode] = rate(connection)
    return rates


def mounted(rig: Rig, directory: Path) -> dict[str, float]:
    """On ext4 without a journal of its own, on nbdfuse on the array that is served."""
    with FileSystem(rig, directory, kind=how_to_mount()) as files:
        files.attach()
        files.make(journal=False)
        files.mount()
        try:
            return on_files(files.root)
        finally:
            files.unmount()


def without_a_mount(rig: Rig) -> dict[str, float]:
    """On the same disks, with this process as the main program."""
    found = config.load(rig.directory / config.NAME)
    with api.open_array(mount_settings_of(found), found.array.array_id) as array:
        array.trim(0, array.size)
        with Volume(array) as volume:
            return on_a_volume(volume)


def main() -> None:
    """Measure all and print a line for each."""
    measured: dict[str, Callable[[], dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as work, tempfile.TemporaryDirectory(dir="/dev/shm") as memory:  # noqa: SIM117  (the rig ends first)
        with Rig(Path(work)) as rig:
            rig.up(size="64M")
            measured["ext4 on nbdfuse"] = lambda: mounted(rig, Path(work))
            measured["perdure.sqlite"] = lambda: without_a_mount(rig)
            measured["tmpfs"] = lambda: on_files(Path(memory))
            for where, measure in measured.items():
                if where == "perdure.sqlite":
                    rig.run("down")
                print(where, *(f"{mode} {value:.0f}/s" for mode, value in measure().items()))


if __name__ == "__main__":
    main()
