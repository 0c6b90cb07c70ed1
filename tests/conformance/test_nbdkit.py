"""nbdkit's nbd plugin before a served array, with filters that slow, cut, fail and watch what passes.

The filters stand between the client and the array, so an array that answers out of turn, too late, or otherwise than
asked shows as a difference or as an error that nobody injected.
"""

import re

import pytest

from tests.cli.rig import Rig
from tests.conformance.rig import failure, libnbd, nbdkit, qemu_io, random_file
from tests.system.rig import call

pytestmark = pytest.mark.timeout(300)  # some start the main program again and again

SIZE = 16 << 20

FILTERS = {
    "delay": ("--filter=delay", "delay-read=2ms", "delay-write=2ms"),
    "rate": ("--filter=rate", "connection-rate=400M"),
    "small-blocks": ("--filter=blocksize", "minblock=512", "maxdata=12k", "maxlen=64k"),
    "large-blocks": ("--filter=blocksize", "minblock=64k", "maxdata=1M"),
    "policy": (
        "--filter=blocksize-policy",
        "blocksize-minimum=4096",
        "blocksize-preferred=64k",
        "blocksize-maximum=1M",
        "blocksize-error-policy=error",
    ),
    "no-parallel": ("--filter=noparallel", "serialize=all-requests"),
    "fua-by-flush": ("--filter=fua", "fuamode=emulate"),
    "fua-forced": ("--filter=fua", "fuamode=force"),
    "multi-conn": ("--filter=multi-conn", "multi-conn-mode=emulate"),
    "cache": ("--filter=cache", "cache=writeback"),
    "luck": ("--filter=retry", "retries=20", "retry-delay=1", "--filter=error", "error=EIO", "error-rate=1%"),
}


@pytest.mark.parametrize("name", FILTERS)
def test_what_is_copied_through_a_filter_is_there_without_it(served, tmp_path, name):
    original, copy, straight = tmp_path / "original", tmp_path / "copy", tmp_path / "straight"
    content = random_file(original, SIZE)
    options = [word for word in FILTERS[name] if word.startswith("--")]
    settings = [word for word in FILTERS[name] if not word.startswith("--")]
    with nbdkit(tmp_path, *options, "nbd", f"uri={served}", *settings) as uri:
        call("nbdcopy", "--flush", "--request-size=131072", original, uri)
        call("nbdcopy", "--request-size=131072", uri, copy)
    call("nbdcopy", served, straight)
    assert straight.read_bytes() == content
    assert copy.read_bytes() == content


@pytest.mark.parametrize(
    ("command", "limited"),
    [("read 0 64k", "pread"), ("write 0 64k", "pwrite"), ("write -z 0 64k", "zero"), ("discard 0 64k", "trim")],
)
def test_an_injected_error_comes_through_and_nothing_else_does(served, tmp_path, command, limited):
    settings = (f"error-{limited}=ENOSPC", f"error-{limited}-rate=100%")
    with nbdkit(tmp_path, "--filter=error", "nbd", f"uri={served}", *settings) as uri:
        assert "No space left" in qemu_io(uri, command, code=1)
    assert "failed" not in qemu_io(served, command)


def test_an_array_without_enough_disks_fails_through_a_proxy_and_the_next_one_serves(tmp_path):
    """EIO of ours is EIO there; `retry` then connects to the main program that was started anew."""
    with Rig(tmp_path, disks=3, threshold=2) as rig:
        served = rig.up()["nbd_uri"]
        with nbdkit(
            tmp_path, "--filter=retry", "nbd", f"uri={served}", "retries=30", "retry-delay=1", "retry-exponential=no"
        ) as uri:
            assert "failed" not in qemu_io(uri, "write -P 7 0 1M", "flush")
            rig.kill_main()
            rig.up()
            assert "failed" not in qemu_io(uri, "read -P 7 0 1M", "write -P 8 0 64k", "flush")
        with nbdkit(tmp_path, "nbd", f"uri={served}") as uri:
            rig.kill_disk(0)
            rig.kill_disk(1)
            assert failure(uri, "h.flush") == "EIO"


def test_checkwrite_finds_on_the_array_what_was_written_beside_it(served, tmp_path):
    """The filter turns every write, zero and trim into a read that must find just that."""
    image = tmp_path / "image"
    random_file(image, SIZE)
    call("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, served)
    with nbdkit(tmp_path, "--filter=checkwrite", "nbd", f"uri={served}") as uri:
        call("nbdcopy", image, uri)
        with image.open("r+b") as file:
            file.seek(SIZE // 2 + 12345)
            file.write(b"?")
        call("nbdcopy", image, uri, code=1)


def test_cow_leaves_the_array_as_it_is(served, tmp_path):
    random_file(tmp_path / "image", SIZE)
    call("nbdcopy", "--flush", tmp_path / "image", served)
    with nbdkit(tmp_path, "--filter=cow", "nbd", f"uri={served}") as uri:
        said = qemu_io(
            uri, "write -P 1 1000 100000", "discard 2M 1M", "flush", "read -P 1 1000 100000", "read -P 0 2M 1M"
        )
        assert "failed" not in said
    call("nbdcopy", served, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "image").read_bytes()


def test_log_and_stats_saw_every_command_answered_without_an_error(served, tmp_path):
    """What was asked is in the log with its answer; as many bytes were counted as were moved."""
    log, stats = tmp_path / "log", tmp_path / "stats"
    settings = (f"logfile={log}", f"statsfile={stats}")
    with nbdkit(tmp_path, "--filter=log", "--filter=stats", "nbd", f"uri={served}", *settings) as uri:
        libnbd(
            uri,
            """
h = connected()
for at in range(0, 1 << 20, 1 << 16):
    h.pwrite(bytes([at >> 16]) * (1 << 16), at + 1, nbd.CMD_FLAG_FUA)
    h.zero(5000, at + 100)
    h.trim(5000, at + 10000)
    h.pread(1 << 16, at)
h.flush()
tell(None)
""",
        )
    said = log.read_text()
    answered = re.findall(r"return=(-?\d+)", said)
    assert set(answered) == {"0"}, said
    for command, count in (("Write", 16), ("Zero", 16), ("Trim", 16), ("Read", 16), ("Flush", 1)):
        assert len(re.findall(rf" {command} id=", said)) == count, said
        assert len(re.findall(rf"\.\.\.{command} id=\d+ return=0", said)) == count, said
    assert re.search(r"write: 16 ops.*1\.00 MiB", stats.read_text()), stats.read_text()
