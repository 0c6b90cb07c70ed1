"""What a run may have left on this machine: mounts, loop devices, servers, files; and a way to clear it."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import psutil

from perdure.service.mounting import mounts

FILES = ("run.json", "run.log", "run.lock", "attached", "data")


def of(directory: Path) -> list[str]:
    """Everything there is for an array's directory, each as a line."""
    found = [f"mount {mount}" for mount in mounted_below(directory)]
    found += [f"loop {loop}" for loop in loops_below(directory)]
    found += [f"process {process.pid} {process.name()}" for process in servers(directory)]
    return found + [f"file {name}" for name in FILES if (directory / name).is_file() or (directory / name).is_dir()]


def mounted_below(directory: Path) -> list[str]:
    places = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [place for place in places if place.startswith(f"{directory}/")]


def loops_below(directory: Path) -> list[str]:
    found = []
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if entry.read_text().startswith(f"{directory}/"):
                found.append(entry.parts[3])
        except OSError:
            continue
    return found


def servers(directory: Path) -> list[psutil.Process]:
    """Processes of nbdfuse and fuse2fs that name the directory."""
    found = []
    for process in psutil.process_iter(["name", "cmdline", "status"]):
        words = process.info["cmdline"] or []
        if process.info["name"] in ("nbdfuse", "fuse2fs") and any(f"{directory}/" in word for word in words):
            found.append(process)
    return found


def force_away(directory: Path) -> None:
    """After a test that failed: end and unmount everything, with no care for what was written."""
    for process in servers(directory):
        process.kill()
    for place in reversed(mounted_below(directory)):
        subprocess.run(["umount", "-l", place], check=False, capture_output=True)
    for name in ("run.json", "run.log", "run.lock"):
        (directory / name).unlink(missing_ok=True)
    for name in ("attached", "data"):
        with contextlib.suppress(OSError):
            (directory / name).rmdir()
    mounts.wait_until(lambda: not loops_below(directory), 10)
