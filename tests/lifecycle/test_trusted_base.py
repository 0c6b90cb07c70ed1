"""What one must trust to trust a loader: the modules it loads, how many lines of them are ours, and its image."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import perdure
from perdure.image import loader as images

ROOT = Path(perdure.__file__).parent.parent
THIRD_PARTY = {"awscrt", "_awscrt", "coincurve", "_libsecp256k1", "cryptography", "_openssl", "_cffi_backend"}
THIRD_PARTY |= {"numpy", "pyeclib", "pyeclib_c"}
"""Names from outside the standard library: signatures and ciphers, and the coding that a mount needs."""
ROOMS = {"array", "disk", "evidence", "loader", "manifest", "shell"}
DOORS = {f"perdure.disk.{door}" for door in ("nsm", "tsm", "tpm")}
KMS = {f"perdure.loader.kms{name}" for name in ("", ".ber", ".cms", ".recipient")}
"""In the image for whoever keeps the key there; nothing loads it yet."""
MEASURE = """
import json, sys
before = set(sys.modules)
sys.path.insert(0, sys.argv[1])
import perdure.loader.main
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def loaded() -> set[str]:
    command = [sys.executable, "-I", "-c", MEASURE, str(ROOT)]
    return set(json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout))


def own_files() -> dict[str, int]:
    """Lines of each of our files in the image, without the one line that starts it."""
    files = images.program_files()
    return {name: contents.count(b"\n") for name, contents in files.items() if name != "__main__.py"}


def test_the_loader_loads_the_array_the_verifiers_and_no_service() -> None:
    names = loaded()
    assert {name.partition(".")[0] for name in names} - sys.stdlib_module_names <= THIRD_PARTY | {"perdure"}
    rooms = {name.split(".")[1] for name in names if name.startswith("perdure.")}
    assert rooms == ROOMS | {"api", "errors"}


def test_the_image_holds_what_the_loader_loads_and_little_else() -> None:
    names = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in own_files()}
    ours = {name for name in loaded() if name.partition(".")[0] == "perdure"}
    assert ours <= names
    assert names - ours == DOORS | KMS


def test_the_lines_stay_within_their_budget_and_the_documents_state_them() -> None:
    lines = own_files()
    loader = sum(count for name, count in lines.items() if name.startswith("perdure/loader/") and "/kms/" not in name)
    manifest = sum(count for name, count in lines.items() if name.startswith("perdure/manifest/"))
    assert loader < 1300
    assert manifest < 1300
    design = " ".join((ROOT / "docs" / "design.md").read_text().split())
    assert f"the loader itself has {loader:,} lines, the manifests' room {manifest:,}" in design
    assert f"{sum(lines.values()):,} of ours in all" in design
