"""docs/lifecycle.md, typed line by line into one bash, and what it prints compared."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.console import Shell, steps
from tests.lifecycle.world import require_root_and_a_reachable_python
from tests.system.rig import tool

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "lifecycle.md").read_text()
REFUSED = {
    "perdure loader load unix:one.sock --manifest v1.json --signature v1.alice.sig --program app $HOST": 2,
    "perdure loader status unix:one.sock": 2,
    "perdure update unix:three.sock --to unix:four.sock --image loader.eif --root-directory array/simulated-root $V1 "
    "$HOST": 3,
    "perdure provision unix:four.sock --policy loaders.json --directory array": 3,
}
"""What the story shows as refused, and with which exit code."""


@pytest.mark.timeout(300)
def test_the_story_of_the_lifecycle_is_true(tmp_path):
    require_root_and_a_reachable_python()
    for name in ("ssh-keygen", "qemu-io"):
        tool(name)
    place = Path("/tmp") / f"perdure-story-{os.getpid()}"  # pytest's own directories are closed to other users
    place.mkdir(mode=0o755)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PERDURE": str(ROOT), "HOME": str(tmp_path)}
    environment.pop("PERDURE_DIRECTORY", None)
    refused = dict(REFUSED)
    try:
        with Shell(place, environment) as shell:
            for step in steps(TEXT):
                said = shell.run(step)
                assert said.code == refused.pop(step.command, 0), f"$ {step.command}\n{said.out}"
    finally:
        for name in ("one", "two", "three", "four"):
            subprocess.run(["perdure", "loader", "stop", f"unix:{place / name}.sock"], env=environment, check=False)
        subprocess.run(["perdure", "down", "--destroy", "--directory", place / "array"], env=environment, check=False)
        shutil.rmtree(place)
    assert not refused
