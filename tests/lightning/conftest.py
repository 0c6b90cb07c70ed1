"""The demo's program with its npm packages, installed once for all tests."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from examples.lightning.demo.install import install

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="session")
def program():
    """The first file of the nodes' program; a test that needs it is skipped without Node.js, npm or the packages."""
    for name in ("node", "npm"):
        if shutil.which(name) is None:
            pytest.skip(f"needs {name} (Debian package {name.replace('node', 'nodejs')})")
    try:
        return install(ROOT / "build" / "lightning-tests")
    except subprocess.CalledProcessError:
        pytest.skip("the npm packages are not here and cannot be fetched")
