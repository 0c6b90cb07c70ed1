"""Where what is tested lies, and the tools that look at it; a test is skipped by the name of what is missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
DEPLOY = TOP / "deploy"


def tool(name: str, package: str) -> str:
    """The path of a program; skips the test where it is missing."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not here; apt install {package} brings it")
    return found
