"""What one must trust to trust a disk: the modules it loads, and how many lines of them are ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import perdure

ROOT = Path(perdure.__file__).parent.parent
FOLDER = ROOT / "perdure" / "disk"

THIRD_PARTY = {"coincurve", "_libsecp256k1"}
"""The only names from outside the standard library that the program may load: coincurve, and the name under which its
one extension module registers the C library. Neither cffi nor _cffi_backend is needed at run time."""
OURS = {"perdure", *(f"perdure.disk{name}" for name in ("", ".address", ".core", ".main", ".nsm", ".serve", ".wire"))}
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
import json, sys
before = set(sys.modules)
sys.path.insert(0, sys.argv[1])
import perdure.disk.main
print(json.dumps({"all": sorted(sys.modules), "new": sorted(set(sys.modules) - before)}))
"""


def closure() -> dict[str, list[str]]:
    command = [sys.executable, "-I", "-c", MEASURE, str(ROOT)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    closure: dict[str, list[str]] = json.loads(done.stdout)
    return closure


def test_the_program_loads_the_standard_library_one_signature_library_and_itself() -> None:
    loaded = closure()["new"]
    names = {name.partition(".")[0] for name in loaded}
    assert names - sys.stdlib_module_names == THIRD_PARTY | {"perdure"}
    assert {name for name in loaded if name.startswith("perdure")} == OURS


def test_the_program_does_not_load_what_it_has_no_use_for() -> None:
    found = {name for name in closure()["new"] if name.partition(".")[0] in FORBIDDEN}
    assert found == set()


def test_every_file_of_the_folder_is_in_the_closure() -> None:
    files = {path.stem for path in FOLDER.glob("*.py")} - {"__init__"}
    assert {f"perdure.disk.{name}" for name in files} | {"perdure", "perdure.disk"} == OURS


def lines(*names: str) -> int:
    return sum(len((FOLDER / name).read_text().splitlines()) for name in names)


def test_the_program_stays_within_its_line_budget() -> None:
    assert lines(*(path.name for path in FOLDER.glob("*.py"))) < 800
    assert lines("core.py", "wire.py") < 350
