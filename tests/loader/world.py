"""What the loader's tests stand on."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UID = 61_184


def require_root_and_a_reachable_python() -> None:
    """Skip where a main program could not be run as another user: that needs root, and a Python that it may enter."""
    if os.geteuid() != 0:
        pytest.skip("a loader needs to be root, as it is in its TEE")
    if reachable_python() is None:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        pytest.skip(f"no Python {version} here can be executed by other users (apt install python{version})")


def reachable_python() -> str | None:
    """The `python3` that a main program would find, if it is of this version."""
    path = f"{Path(sys.executable).parent}:{os.defpath}"
    for place in path.split(os.pathsep):
        found = shutil.which("python3", path=place)
        if found is None:
            continue
        program = f"import sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
        with contextlib.suppress(PermissionError):
            words = [found, "-I", "-c", program]
            if subprocess.run(words, user=UID, group=UID, extra_groups=(), check=False, cwd="/").returncode == 0:
                return found
    return None
