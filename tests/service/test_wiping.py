"""Freed memory is overwritten in the main program; the whole of it is scanned in tests/cli/test_receipts.py."""

import os
import subprocess
import sys

from perdure.service import wiping

PROGRAM = "from perdure.service import wiping; wiping.apply(); import sys; print(wiping.works(), *sys.argv[1:])"
SCRAPS = """
import ctypes, sys
from perdure.service import wiping
wiping.apply() if sys.argv[1] == "wipe" else None
size = int(sys.argv[2])
places = []
for _ in range(50):
    held = bytes(bytearray(b"\\x5a" * size))  # not a constant, nor shared
    places.append(id(held))
    del held
left = [ctypes.string_at(place + 24 + size // 2, 8) for place in places]  # behind the allocator's links
print(sum(piece == b"\\x5a" * 8 for piece in left))
"""


def run(program: str, *words: str, **extra: str) -> str:
    environment = {**os.environ, "GLIBC_TUNABLES": "", "MALLOC_PERTURB_": "", "PYTHONMALLOC": "", **extra}
    command = [sys.executable, "-c", program, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environment).stdout


def test_the_same_program_goes_on_with_freed_memory_overwritten():
    assert run(PROGRAM, "a b", "c") == "True a b c\n"


def test_the_probe_notices_memory_that_is_left_as_it_was():
    assert run(PROGRAM.replace("wiping.apply();", "")) == "False\n"


def test_the_probe_is_no_filling_of_the_c_librarys():
    filling = int(wiping.SETTINGS["MALLOC_PERTURB_"])
    assert wiping._PROBE not in (filling, filling ^ 0xFF)


def test_objects_of_every_size_are_overwritten_when_they_are_freed():
    """Small ones too: Python keeps those in pools of its own, and the C library in a cache of each thread."""
    for size in (64, 200, 480, 900, 1400, 5000, 70_000):
        assert int(run(SCRAPS, "leave", str(size))) > 0, "so the test can fail"
        assert int(run(SCRAPS, "wipe", str(size))) == 0


def test_other_tunables_of_the_c_library_stay_as_they_are():
    found = {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1:glibc.malloc.tcache_count=7", "HOME": "/root"}
    changed = wiping.environment(found)
    assert changed["GLIBC_TUNABLES"] == f"glibc.malloc.arena_max=1:{wiping.SETTINGS['GLIBC_TUNABLES']}"
    assert "glibc.malloc.tcache_count=0" in changed["GLIBC_TUNABLES"].split(":")
    assert changed["HOME"] == "/root"
    assert wiping.environment(changed) == changed
