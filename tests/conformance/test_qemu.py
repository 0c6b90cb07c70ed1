"""QEMU's block drivers for tests: `blkverify` compares every read, `blklogwrites` records every write and flush.

The log is QEMU's account of what was asked for and of what had been flushed. What a crash leaves is held against it.
"""

import random
import re
import subprocess
import threading
from collections import deque
from itertools import islice
from types import SimpleNamespace

import pytest

from tests.array.byte_array import ByteArray
from tests.cli.rig import Rig
from tests.conformance import log_writes
from tests.conformance.log_writes import Flag
from tests.conformance.rig import libnbd, qemu_io, qemu_nbd
from tests.system.rig import CLIENT_S, FileSystem, call, helper, how_to_mount, seeded, tool

pytestmark = pytest.mark.timeout(300)  # some start the main program again and again

SIZE = 16 << 20
AREA = 2 << 20
"""Where the crashing workload writes: small, so that it writes over itself."""
_SUCCESS = re.compile(r"^(?:wrote|discard) (\d+)/\d+ bytes at offset (\d+)")


def test_blkverify_finds_every_read_as_it_is_on_a_raw_file(served, tmp_path):
    """Of zeroes blkverify knows nothing, and QEMU 7.2 aborts at them; the test below has them."""
    rng = seeded()
    raw = tmp_path / "raw"
    call("nbdcopy", served, raw)
    options = f"driver=blkverify,raw.driver=file,raw.filename={raw},test.driver=nbd,{nbd_options(served)}"
    options = options.replace("server.", "test.server.").replace("export=", "test.export=")
    commands = []
    for number in range(400):
        offset, length = extent(rng, SIZE, unit=1)
        if rng.random() < 0.5:
            commands.append(f"write -q -P {number % 255 + 1} {rng.choice(('', '-f '))}{offset} {length}")
        else:
            commands.append(f"read -q {offset} {length}")
        if number % 50 == 49:
            commands.append("flush")
    said = qemu_io(("--image-opts", options), *commands, f"read 0 {SIZE}")
    assert said.count("bytes at offset") == 1, said
    assert "identical" in call("qemu-img", "compare", "-f", "raw", "-F", "raw", raw, served)


def test_blkverify_notices_a_difference(served, tmp_path):
    """Else the test above would show nothing."""
    raw = tmp_path / "raw"
    call("nbdcopy", served, raw)
    with raw.open("r+b") as file:
        file.seek(70000)
        file.write(b"another")
    options = f"driver=blkverify,raw.driver=file,raw.filename={raw},test.driver=nbd,{nbd_options(served)}"
    options = options.replace("server.", "test.server.").replace("export=", "test.export=")
    assert "contents mismatch at offset" in qemu_io(("--image-opts", options), "read 64k 64k", code=1)


def test_writes_zeroes_and_discards_leave_what_they_leave_on_a_raw_file(served, tmp_path):
    rng = seeded()
    raw = tmp_path / "raw"
    call("nbdcopy", served, raw)
    commands = [command(rng, SIZE, unit=1, number=number) for number in range(300)]
    for image in (raw, served):
        qemu_io(image, *(one if one.startswith("flush") else one.replace(" ", " -q ", 1) for one in commands))
    assert "identical" in call("qemu-img", "compare", "-f", "raw", "-F", "raw", raw, served)


def test_killed_anywhere_in_a_recorded_workload_it_keeps_what_was_flushed_and_a_prefix_of_the_rest(tmp_path):
    kills(tmp_path, seeded(), count=3)


def test_replayed_to_a_flush_and_killed_there_a_file_system_is_as_the_log_says(tmp_path):
    replays(tmp_path, seeded(), count=3)


# Kills in the middle --------------------------------------------------------------------------------------


def kills(directory, rng, *, count):
    """Kill the main program `count` times in a workload; hold what is left against the log each time."""
    model, partial = ByteArray(AREA), 0
    with Rig(directory, disks=3, threshold=2) as rig:
        uri = rig.up()["nbd_uri"]
        for number in range(count):
            commands = [command(rng, AREA, unit=512, number=at) for at in range(3000)]
            log = directory / f"log-{number}"
            log.touch()
            said = until_killed(rig, uri, log, commands, after=rng.randrange(20, 400))
            acknowledged(model, commands, said, log_writes.read(log))
            partial += bool(model.pending)
            rig.up()
            model.crashed(rig.read(0, AREA))
    print(f"{partial} of {count} kills found something that was not flushed")
    assert partial


def until_killed(rig, uri, log, commands, *, after):
    """Give qemu-io all commands at once, kill the main program when `after` were carried out; what qemu-io said."""
    options = f"driver=blklogwrites,file.driver=nbd,{nbd_options(uri)},log.driver=file,log.filename={log}"
    options = options.replace("server.", "file.server.").replace("export=", "file.export=")
    words = [tool("qemu-io"), "-t", "writeback", "-d", "unmap", "--image-opts", options]
    pipe, lines = subprocess.PIPE, []
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True) as process:
        feeder = threading.Thread(target=feed, args=(process.stdin, commands))
        feeder.start()
        successes = 0
        for line in process.stdout:
            lines.append(line.replace("qemu-io> ", ""))
            successes += bool(_SUCCESS.match(lines[-1]))
            if successes == after:
                rig.kill_main()
                successes += 1
        feeder.join(CLIENT_S)
        assert process.wait(CLIENT_S) == 1, "no command failed, so nothing was killed"
    return lines


def feed(pipe, commands):
    for one in (*commands, "quit"):
        pipe.write(one + "\n")
    pipe.close()


def acknowledged(model, commands, said, entries):
    """Give the model what the log has, as far as qemu-io said that it succeeded, and then what was under way.

    QEMU writes an entry when the request has come back, also when it failed; so the first failure ends the account.
    A flush that had nothing to flush leaves neither a line nor an entry. FUA leaves a write and a flush, but no flush
    right after another one: QEMU then flushes the array without an entry, which it writes for what is newer only.
    """
    done = [line for line in said if _SUCCESS.match(line)]
    asked = [one for one in commands if not one.startswith("flush")]
    assert 0 < len(done) < len(asked), "the kill did not come in the middle"
    left = deque(entries)
    for line in done:
        begin, end = extent_of(line)
        while begin < end:  # QEMU cuts zeroes at multiples of the server's preferred block size
            entry = left.popleft()
            if Flag.FLUSH in entry.flags:
                model.flushed()
                continue
            assert entry.offset == begin, (line, entry.offset)
            give(model, entry)
            begin += entry.length
        if " -f " in asked.pop(0):
            model.flushed()
    for entry in islice(left, 3):  # the first that failed may be there, in up to three parts
        if Flag.FLUSH not in entry.flags:
            give(model, entry)


def extent_of(line):
    length, offset = map(int, _SUCCESS.match(line).groups())
    return offset, offset + length


def give(model, entry):
    if Flag.DISCARD in entry.flags or not any(entry.data):
        model.zero(entry.offset, entry.length)
    else:
        model.write(entry.offset, entry.data)


# Replays --------------------------------------------------------------------------------------------------


def replays(directory, rng, *, count=None):
    """Record a file system's life beside the array; replay it to `count` or all of its flushes, with a kill at each.

    How many of them had a file system to check.
    """
    raw, log = directory / "raw", directory / "log"
    raw.touch()
    log.touch()
    raw.open("r+b").truncate(SIZE)
    record_file_system(directory, raw, log)
    entries = log_writes.read(log)
    assert log_writes.replay(entries, SIZE) == raw.read_bytes(), "the log does not say what happened"
    marks = log_writes.flushes(entries)
    print(f"{len(entries)} entries, {len(marks)} flushes")
    assert len(marks) > (count or 0)
    begin = checked = 0
    with Rig(directory, disks=3, threshold=2) as rig:
        uri = rig.up()["nbd_uri"]
        for mark in marks if count is None else sorted(rng.sample(marks, count)):
            replay_and_kill(rig, uri, log, begin, mark)
            rig.up()
            expected, found = directory / "expected", directory / "found"
            expected.write_bytes(log_writes.replay(entries[:mark], SIZE))
            call("nbdcopy", uri, found)
            assert "identical" in call("qemu-img", "compare", "-f", "raw", "-F", "raw", expected, found)
            checked += check(found)
            begin = mark
    return checked


def replay_and_kill(rig, uri, log, begin, mark):
    """Carry out the log's entries from `begin` to the flush before `mark`, and kill the main program there."""
    main = rig.process("main")
    libnbd(
        uri,
        f"""
import os, pathlib, signal
from tests.conformance import log_writes
h = connected()
for entry in log_writes.read(pathlib.Path({str(log)!r}))[{begin}:{mark}]:
    if log_writes.Flag.DISCARD in entry.flags:
        h.trim(entry.length, entry.offset)
    elif entry.length:
        h.pwrite(entry.data, entry.offset)
    if log_writes.Flag.FLUSH in entry.flags:
        h.flush()
os.kill({main.pid}, signal.SIGKILL)
tell(None)
""",
    )
    assert main.wait(CLIENT_S)


def record_file_system(directory, raw, log):
    """ext4 with a journal on a raw file, under QEMU's eyes: files come, are synced, and some of them go."""
    kind = how_to_mount()
    image = f"driver=blklogwrites,file.driver=file,file.filename={raw},log.driver=file,log.filename={log}"
    with (
        qemu_nbd(directory, "--cache=writeback", "--image-opts", image) as uri,
        FileSystem(SimpleNamespace(nbd_uri=uri), directory, kind=kind) as files,
    ):
        files.attach()
        files.make(journal=True)
        files.mount()
        with helper("copier", files.root, *([] if kind == "loop" else ["each"])) as process:
            for number in range(2):
                process.stdin.write("go\n")
                process.stdin.flush()
                assert process.stdout.readline() == f"synced {number}\n"
        files.detach()


def check(image):
    """At a flush a file system with a journal has nothing that this does not mend; whether it was made by then."""
    if image.read_bytes()[1080:1082] != b"\x53\xef":
        return False
    done = subprocess.run([tool("e2fsck"), "-fp", image], capture_output=True, timeout=CLIENT_S, check=False)
    assert done.returncode in (0, 1), done.stdout
    call("e2fsck", "-fn", image)
    return True


# What the workloads have in common ------------------------------------------------------------------------


def nbd_options(uri):
    """The array as QEMU's block options."""
    path = uri.split("socket=")[1]
    return f"server.type=unix,server.path={path},export=perdure"


def extent(rng: random.Random, size: int, *, unit: int):
    """Offset and length in bytes within `size`, both a multiple of `unit`; small ones and large ones, never nothing."""
    length = max(1, int(rng.choice((4096, 20000, 200000)) * rng.random()) // unit) * unit
    return rng.randrange(0, (size - length) // unit) * unit, length


def command(rng: random.Random, size: int, *, unit: int, number: int):
    """One of qemu-io's commands; no two neighbours write the same."""
    offset, length = extent(rng, size, unit=unit)
    pattern = f"-P {number % 255 + 1}"
    kinds = [f"write {pattern}"] * 6 + [f"write {pattern} -f", "write -z", "write -z -u", "discard", "flush"]
    kind = rng.choice(kinds)
    return kind if kind == "flush" else f"{kind} {offset} {length}"
