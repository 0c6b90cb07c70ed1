"""The Terraform files and what instances run first: parsed here, never planned or applied."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.deploy.files import DEPLOY, TOP

hcl2 = pytest.importorskip("hcl2", reason="python-hcl2 is not here; pip install python-hcl2 brings it")

HERE = DEPLOY / "aws"
USER_DATA = HERE / "user-data.sh.tftpl"
VALUES = {
    "enclave.memory_mib": "4096",
    "enclave.cpu_count": "2",
    "files.bucket": "bucket",
    "files.eif_key": "disk.eif",
    "files.eif_sha256": "aa" * 32,
    "files.eif_pcr0": "bb" * 48,
    "files.bundle_key": "bundle.tar",
    "files.bundle_sha256": "cc" * 32,
}
