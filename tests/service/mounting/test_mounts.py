"""The kernel's list of mounts, and who holds a place."""

import subprocess
from pathlib import Path

import pytest

from perdure.service.mounting import mounts
from perdure.service.mounting.mounts import Mount


def test_what_is_mounted_is_found_by_its_place():
    assert mounts.find(Path("/proc")).kind == "proc"
    assert mounts.find(Path("/proc/self")) is None


def test_names_with_blanks_are_read_as_the_kernel_writes_them(tmp_path, monkeypatch):
    lines = "36 35 98:0 / /mnt/a\\040b rw,noatime shared:1 - ext4 /dev/a\\134b rw\n"
    (tmp_path / "mountinfo").write_text(lines * 2 + "37 35 98:0 / /mnt/a rw - xfs /dev/b rw\n")
    monkeypatch.setattr(mounts, "_MOUNTS", tmp_path / "mountinfo")
    assert mounts.find(Path("/mnt/a b")) == Mount("ext4", "/dev/a\\b")
    assert mounts.find(Path("/mnt")) is None


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_who_works_there_or_has_something_open_is_named(tmp_path, kind):
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "file").write_text("x")
    words = {"directory": "cd held && echo && exec cat", "file": "exec 5<held/file; echo; exec cat"}
    pipe = subprocess.PIPE
    with subprocess.Popen(["sh", "-c", words[kind]], cwd=tmp_path, stdin=pipe, stdout=pipe) as process:
        process.stdout.readline()
        assert [pid for pid, _ in mounts.holders(tmp_path / "held")] == [process.pid]
        assert list(mounts.holders(tmp_path / "hel")) == []
        process.stdin.close()
