"""The key looked for where it must not be: files, mounts, environments, arguments, logs, core files, swap."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from perdure.loader import memory
from tests.lifecycle.world import UID, World, until

MADV_PAGEOUT = 21
PIDFD_OPEN, PROCESS_MADVISE = 434, 440
SWAP_BYTES = 64 << 20
MARKER = "a marker that must be found in swap, or nothing would be"


@pytest.fixture(scope="module")
def running():
    """A world, a loader in it that has the key, and its three processes: launcher, loader, main program."""
    with World() as world:
        v1 = world.release(1)
        loader = world.loader("one")
        loader.load(v1, world.sign(v1, "alice", "bob"))
        loader.provision()
        world.counts_on()
        processes = [loader.process, *loader.process.children(recursive=True)]
        assert len(processes) == 3
        yield world, loader, processes


def forms_of(world):
    """The key's bytes, and how files have it."""
    private = world.authority.private_key
    return private, private.hex().encode(), private.hex().upper().encode()


def place_of(process):
    """The loader's memory, as the process sees it."""
    (line,) = (one for one in Path(f"/proc/{process.pid}/mounts").read_text().splitlines() if "/perdure-loader-" in one)
    return Path(f"/proc/{process.pid}/root{line.split()[1]}"), line


def test_the_key_is_in_no_file_that_a_host_sees_but_the_operators_own(running):
    world, _, _ = running
    holders = [
        path
        for path in world.place.rglob("*")
        if path.is_file() and any(form in path.read_bytes() for form in forms_of(world))
    ]
    assert holders == [world.found.array.key_file]


def test_the_key_is_in_memory_that_is_mounted_for_the_loader_alone_and_never_swapped(running):
    _, _, (launcher, loader, main) = running
    assert "perdure-loader-" not in Path("/proc/self/mounts").read_text()
    assert "perdure-loader-" not in Path(f"/proc/{launcher.pid}/mounts").read_text()
    for process in (loader, main):
        _, line = place_of(process)
        assert line.split()[2] == "ramfs" or "noswap" in line.split()[3].split(",")
        assert {"nosuid", "nodev"} <= set(line.split()[3].split(","))


def test_the_key_is_readable_by_the_main_program_and_nobody_else(running):
    world, _, (_, _, main) = running
    place, _ = place_of(main)
    directory = place / "private"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for name in ("authority.key", "array.id", "perdure.toml", "policy.json"):
        state = (directory / name).stat()
        assert (stat.S_IMODE(state.st_mode), state.st_uid, state.st_gid) == (0o400, UID, UID)
    assert (directory / "authority.key").read_bytes().strip() == world.authority.private_key.hex().encode()
    words = ["cat", str(directory / "authority.key")]
    other = subprocess.run(words, user=UID + 1, group=UID + 1, extra_groups=(), capture_output=True, check=False)
    assert other.returncode != 0


def test_the_main_program_has_no_privilege_but_to_lock_its_memory(running):
    _, _, (_, _, main) = running
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{main.pid}/status").read_text().splitlines() if ":" in line
    )
    assert status["Uid"].split() == status["Gid"].split() == [str(UID)] * 4
    assert status["Groups"].split() == []
    assert status["NoNewPrivs"].strip() == "1"
    assert [int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")] == [1 << 14] * 4


def test_the_key_is_in_no_environment_no_argument_and_no_log(running):
    world, loader, processes = running
    for process in processes:
        for name in ("environ", "cmdline"):
            data = Path(f"/proc/{process.pid}/{name}").read_bytes()
            assert data
            assert not any(form in data for form in forms_of(world))
    assert "the main program serves" in loader.log.read_text()
    assert not any(form in loader.log.read_bytes() for form in forms_of(world))


def test_no_core_file_is_written_of_the_main_program(running):
    """It is run again afterwards, so this is looked at in the directory where a core would be."""
    world, loader, (_, _, main) = running
    if Path("/proc/sys/kernel/core_pattern").read_text().startswith(("|", "/")):
        pytest.skip("core files are not written to the working directory here")
    assert _core_of_one_that_may(world.place), "a process without these limits leaves one"
    place, _ = place_of(main)
    main.send_signal(signal.SIGABRT)
    until(lambda: loader.health()["pid"] not in (None, main.pid))
    assert not list((place / "program").glob("core*"))
    assert not list((place / "private").glob("core*"))
    assert "ended with 134" in loader.log.read_text()


def _core_of_one_that_may(place):
    program = "import os, resource; resource.setrlimit(resource.RLIMIT_CORE, (1 << 30,) * 2); os.abort()"
    directory = place / "may"
    directory.mkdir()
    subprocess.run([sys.executable, "-c", program], cwd=directory, check=False)
    return list(directory.glob("core*"))


# Swap -----------------------------------------------------------------------------------------------------


@pytest.fixture
def swap(tmp_path):
    """A swap file of our own, in use; its path."""
    path = tmp_path / "swap"
    path.write_bytes(bytes(SWAP_BYTES))
    path.chmod(0o600)
    for words in (["mkswap", path], ["swapon", path]):
        if subprocess.run(words, capture_output=True, check=False).returncode:
            pytest.skip("swap cannot be added here")
    yield path
    subprocess.run(["swapoff", path], check=True)


def test_the_key_is_not_in_swap_when_everything_that_can_be_is(running, swap):
    world, _, _ = running
    _, loader, main = [running[1].process, *running[1].process.children(recursive=True)]
    holder = _holder()
    try:
        assert _page_out(holder.pid) > 0
        for process in (loader, main):
            _page_out(process.pid)
            status = Path(f"/proc/{process.pid}/status").read_text()
            assert int(re.search(r"^VmSwap:\s+(\d+) kB", status, re.MULTILINE)[1]) == 0
            assert int(re.search(r"^VmLck:\s+(\d+) kB", status, re.MULTILINE)[1]) > 1000
        written = _on_disk(swap)
        assert MARKER.encode() in written, "pages are swapped, and found"
        assert not any(form in written for form in forms_of(world))
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def _on_disk(swap):
    """What was written to the file below the page cache, which swapping passes by."""
    fd = os.open(swap, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return os.pread(fd, SWAP_BYTES, 0)
    finally:
        os.close(fd)


def _holder():
    """A process that has the marker in its memory, and does not lock it."""
    program = f"import time; kept = bytearray({MARKER!r}.encode() * 50_000); print(1, flush=True); time.sleep(99)"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout.readline()
    return process


def _page_out(pid):
    """Ask the kernel to swap out all that it may of a process's memory; how much of it is in swap then, kB."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(PIDFD_OPEN, pid, 0)
    assert fd >= 0
    try:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            if line.split()[1].startswith("rw"):
                vector = (ctypes.c_size_t * 2)(start, end - start)
                libc.syscall(PROCESS_MADVISE, fd, vector, 1, MADV_PAGEOUT, 0)
    finally:
        os.close(fd)
    time.sleep(0.2)
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^VmSwap:\s+(\d+) kB", status, re.MULTILINE)[1])


# Wiping ---------------------------------------------------------------------------------------------------


def test_what_is_wiped_is_overwritten_before_it_is_removed_and_links_are_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"not ours")
    directory = tmp_path / "private"
    memory.write_private(directory, {"key": b"secret" * 1000}, os.getuid())
    (directory / "deeper").mkdir()
    (directory / "link").symlink_to(outside)
    (directory / "deeper" / "way-out").symlink_to(tmp_path)
    os.link(outside, directory / "second-name")
    with open(directory / "key", "rb") as key:
        memory.wipe(directory)
        assert key.read() == bytes(6000)
    assert not directory.exists()
    assert outside.read_bytes() == b"not ours"
    memory.wipe(directory)


def test_when_the_loader_is_told_to_stop_nothing_of_it_is_left():
    with World() as world:
        v1 = world.release(1)
        loader = world.loader("one")
        loader.load(v1, world.sign(v1, "alice", "bob"))
        loader.provision()
        world.counts_on()
        place, line = place_of(loader.process.children(recursive=True)[0])
        processes = [loader.process, *loader.process.children(recursive=True)]
        loader.stop()
        _, alive = psutil.wait_procs(processes, timeout=10)
        assert [one for one in alive if one.status() != "zombie"] == []
        with contextlib.suppress(FileNotFoundError):
            assert not os.listdir(line.split()[1])
        assert not place.exists()
