"""What one must trust to trust a disk: the modules it loads, and how many lines of them are ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import perdure

ROOT = Path(perdure.__file__).parent.parent
FOLDER = ROOT / "perdure" / "disk"

THIRD_PARTY = {"coincurve", "_libsecp256k1"}
"""The only names from outside the standard library that the program may load: coincurve, and the name under which its
one extension module registers the C library. Neither cffi nor _cffi_backend is needed at run time."""
OURS = {"perdure", *(f"perdure.disk{name}" for name in ("", ".address", ".chain", ".core", ".main", ".serve", ".wire"))}
DOORS = ("nsm", "tsm", "tpm")
"""Each image has one of them: the disk's door to its platform's evidence."""
FORBIDDEN = {
    "_ctypes",
    "asyncio",
    "concurrent",
    "ctypes",
    "http",
    "logging",
    "multiprocessing",
    "pickle",
    "random",
    "secrets",
    "shutil",
    "sqlite3",
    "ssl",
    "subprocess",
    "tempfile",
    "urllib",
    "xml",
}
"""Parts of the standard library whose arrival would mean that the program does more than it should."""

MEASURE = """
import importlib, json, sys
before = set(sys.modules)
sys.path.insert(0, sys.argv[1])
import perdure.disk.main
for door in sys.argv[2:]:
    importlib.import_module(f"perdure.disk.{door}")
print(json.dumps({"all": sorted(sys.modules), "new": sorted(set(sys.modules) - before)}))
"""


def closure(*doors: str) -> dict[str, list[str]]:
    command = [sys.executable, "-I", "-c", MEASURE, str(ROOT), *doors]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    closure: dict[str, list[str]] = json.loads(done.stdout)
    return closure


@pytest.mark.parametrize("door", DOORS)
def test_the_program_loads_the_standard_library_one_signature_library_and_itself(door: str) -> None:
    loaded = closure(door)["new"]
    names = {name.partition(".")[0] for name in loaded}
    assert names - sys.stdlib_module_names == THIRD_PARTY | {"perdure"}
    assert {name for name in loaded if name.startswith("perdure")} == OURS | {f"perdure.disk.{door}"}


def test_the_program_loads_no_door_before_it_is_told_which() -> None:
    assert {name for name in closure()["new"] if name.startswith("perdure")} == OURS


def test_the_program_does_not_load_what_it_has_no_use_for() -> None:
    found = {name for name in closure(*DOORS)["new"] if name.partition(".")[0] in FORBIDDEN}
    assert found == set()


def test_every_file_of_the_folder_is_in_the_closure_or_runs_before() -> None:
    files = {path.stem for path in FOLDER.glob("*.py")} - {"__init__", "init", *DOORS}
    assert {f"perdure.disk.{name}" for name in files} | {"perdure", "perdure.disk"} == OURS


def lines(*names: str) -> int:
    return sum(len((FOLDER / name).read_text().splitlines()) for name in names)


@pytest.mark.parametrize("door", DOORS)
def test_what_runs_on_a_platform_stays_within_its_line_budget(door: str) -> None:
    others = {f"{other}.py" for other in DOORS if other != door}
    assert lines(*({path.name for path in FOLDER.glob("*.py")} - others)) < 1000
    assert lines("core.py", "chain.py", "wire.py") < 370
    assert lines("init.py") < 140
    assert lines(f"{door}.py") < 140


def test_init_loads_the_standard_library_alone() -> None:
    loaded = set(closure("init")["new"]) - set(closure()["new"])
    assert {name.partition(".")[0] for name in loaded} <= sys.stdlib_module_names | {"perdure"}
    assert "perdure.disk.init" in loaded


def test_the_readme_and_the_design_state_the_lines_that_there_are() -> None:
    root = FOLDER.parents[1]
    common = [path.name for path in FOLDER.glob("*.py") if path.stem not in {"init", *DOORS}]
    whole = {door: lines(*common, "init.py", f"{door}.py") for door in ("nsm", "tsm", "tpm")}
    readme = " ".join((root / "README.md").read_text().split())
    assert f"{whole['nsm']} lines on Nitro, {whole['tsm']} on SEV-SNP and TDX, {whole['tpm']} on a TPM" in readme
    assert f"{lines('init.py')} of them are the init" in readme
    assert f"wire format are {lines('core.py', 'chain.py', 'wire.py')}." in readme
    design = (root / "docs" / "design.md").read_text()
    for door, total in whole.items():
        row = f"| {lines(*common)} | {lines('init.py')} | `{door}` {lines(f'{door}.py')} | {total} |"
        assert row in design, door
