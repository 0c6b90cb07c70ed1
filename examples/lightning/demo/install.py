"""The nodes' program and the npm packages that its lock names, in a build folder of their own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent
NAMED = ("package.json", "package-lock.json")


class Missing(Exception):
    """A program that the demo needs is not here; the message names it and what brings it."""


def install(folder: Path) -> Path:
    """Bring the program into `folder`, and its packages unless the lock's are there; the path of its first file.

    Raises Missing without Node.js and npm, and CalledProcessError when npm fails.
    """
    for name in ("node", "npm"):
        if shutil.which(name) is None:
            raise Missing(f"{name} is not here, and the nodes run in it; Debian's packages are nodejs and npm.")
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "node_modules" / ".lock"
    lock = (SOURCES / "package-lock.json").read_bytes()
    for name in NAMED:
        shutil.copy2(SOURCES / name, folder)
    if not done.exists() or done.read_bytes() != lock:
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=folder, check=True)
        done.write_bytes(lock)
    shutil.rmtree(folder / "src", ignore_errors=True)
    shutil.copytree(SOURCES / "src", folder / "src")
    return folder / "src" / "main.mjs"
