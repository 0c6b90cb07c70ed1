"""What is left of erased data in the memory of every process (A19)."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator

import psutil
import pytest

from perdure.disk.wire import Opcode
from tests.lying_host.host import SECTOR, LyingHost, writes_in

SECTORS = 8
PIECE = 32


@pytest.fixture
def host(tmp_path):
    with LyingHost(tmp_path) as host:
        host.mount()
        yield host


def test_a19_nothing_that_was_erased_is_in_the_memory_of_any_disk_or_of_the_main_program(host, tmp_path):
    plaintext, columns = write_something(host)
    plain = pieces_of(plaintext)
    disks = [host.disk_processes(seat) for seat in range(host.n)]
    for processes, column in zip(disks, columns, strict=True):
        assert found(processes, column) >= SECTORS  # it is looked for in the right way
        assert found(processes, plain) == 0
    assert host.read(0, SECTORS * SECTOR) == plaintext
    words = ["--offset", 0, "--length", SECTORS * SECTOR, "-o", tmp_path / "receipt.json"]
    host.run("erase", *words, code=0)
    for processes, column in zip(disks, columns, strict=True):
        assert found(processes, column + plain) == 0
    assert host.read(0, SECTORS * SECTOR) == bytes(SECTORS * SECTOR)
    assert left_in_main(host, plain, columns) == (0, 0)


def left_in_main(host, plain, columns):
    """How often pieces of the plaintext, and of the ciphertext, are still in the main program's memory."""
    main = [psutil.Process(host.main_pid)]
    return found(main, plain), sum(found(main, column) for column in columns)


def write_something(host):
    """Write what can be recognised and let it come home; it, and pieces of what each disk was sent for it."""
    data = os.urandom(SECTORS * SECTOR)
    host.settle()
    starts = [len(proxy.frames) for proxy in host.proxies]
    host.write(0, data)
    host.settle()
    columns = []
    for proxy, start in zip(host.proxies, starts, strict=True):
        executes = [frame for frame in proxy.commands(start=start) if frame.opcode is Opcode.EXECUTE]
        column = b"".join(fragments_in(frame, host.geometry) for frame in executes)
        assert len(column) == SECTORS * host.geometry.fragment_bytes
        columns.append(pieces_of(column))
    return data, columns


def fragments_in(frame, shape):
    """The fragments of the entry that an EXECUTE writes into the ring, if it writes one (docs/spec.md, 6.2)."""
    for target, entry in writes_in(frame):
        if shape.slot_start(0) <= target < shape.tag_start(0):
            writes = int.from_bytes(entry[4:6], "big")
            return entry[len(entry) - writes * shape.fragment_bytes :]
    return b""


def pieces_of(data):
    """Enough of it to know it by: some bytes from the middle of every 2,048."""
    return [data[at : at + PIECE] for at in range(1000, len(data), 2048)]


# Looking into processes -----------------------------------------------------------------------------------


def found(processes, pieces):
    """How often any of `pieces` occurs in all that these processes could write to; they stand still meanwhile."""
    count = 0
    for process in processes:
        with stopped(process):
            count += sum(area.count(piece) for area in memory_of(process.pid) for piece in pieces)
    return count


@contextlib.contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def memory_of(pid: int) -> Iterator[bytes]:
    """The contents of every mapping that the process may write to."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            start, end, flags = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+)", line).groups()
            if flags.startswith("rw"):
                memory.seek(int(start, 16))
                yield memory.read(int(end, 16) - int(start, 16))
