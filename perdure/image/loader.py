"""The loader's image: which program in the first ramdisk, which developers in the second, nothing else.

As with a disk (`perdure.image.build`), each register names one thing: on Nitro PCR1 the loader's program, one constant
for each release and kernel, and PCR2 the list of developers, which anyone recomputes from its bytes. So whoever holds
the key decides by two registers who may ever run with it.

Built for the simulated platform alone so far: a real one needs the interpreter and the libraries in the image too.
"""

from __future__ import annotations

import json
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

from perdure.image import build, cpio, eif
from perdure.manifest.developers import Developers

DEVELOPERS_FILE: Final = "developers.json"
_ROOMS: Final = ("array", "disk", "evidence", "loader", "manifest", "shell")
_TOP: Final = ("__init__.py", "api.py", "errors.py")
_LEFT_OUT: Final = ("disk/init.py", "array/history.py", "array/derivation.py", "manifest/difference.py")
"""What a disk's image runs before its program, and what only the main program and the operator's commands use."""
_MAIN: Final = b"from perdure.loader.main import main\n\nmain()\n"


def program_files() -> dict[str, bytes]:
    """The loader of this installation: path inside the image to contents."""
    package = resources.files("perdure")
    files = {"__main__.py": _MAIN}
    for name in _TOP:
        files[f"perdure/{name}"] = package.joinpath(name).read_bytes()
    for room in _ROOMS:
        _take(package.joinpath(room), room, files)
    return files


def _take(folder: Traversable, path: str, files: dict[str, bytes]) -> None:
    for entry in folder.iterdir():
        below = f"{path}/{entry.name}"
        if entry.is_dir():
            _take(entry, below, files)
        elif entry.name.endswith(".py") and below not in _LEFT_OUT:
            files[f"perdure/{below}"] = entry.read_bytes()


def developers_ramdisk(developers: Developers) -> bytes:
    """The second ramdisk: the canonical list, which alone determines PCR2."""
    return cpio.pack({DEVELOPERS_FILE: developers.to_json()})


def build_simulated(developers: Developers) -> bytes:
    """The image of the loader for these developers, for the simulated platform."""
    ramdisks = (cpio.pack(program_files()), developers_ramdisk(developers))
    metadata = {**build.METADATA, "ImageName": "perdure-loader-simulated"}
    encoded = json.dumps(metadata, sort_keys=True, separators=(",", ":")).encode("ascii")
    return eif.build(build.SIMULATED_KERNEL, build.SIMULATED_CMDLINE, ramdisks, encoded)
