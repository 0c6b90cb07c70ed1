"""libnbd against a served array: nbdcopy with many connections, and its bindings with their own checks switched off."""

import os

import pytest

from tests.cli.rig import Rig
from tests.conformance.rig import libnbd, random_file
from tests.system.rig import CLIENT_S, call

pytestmark = pytest.mark.timeout(300)  # some start the main program again and again

SIZE = 16 << 20
BOTH = pytest.mark.parametrize("structured", [True, False], ids=["structured", "simple"])


@pytest.mark.parametrize("words", [("--connections=4", "--requests=64"), ("--synchronous",), ("--request-size=4096",)])
def test_nbdcopy_brings_everything_there_and_back(served, tmp_path, words):
    original, copy = tmp_path / "original", tmp_path / "copy"
    content = random_file(original, SIZE)
    call("nbdcopy", "--flush", *words, original, served)
    call("nbdcopy", *words, served, copy)
    assert copy.read_bytes() == content


def test_nbdcopy_zeroes_what_the_source_does_not_have(served, tmp_path):
    """`--destination-is-zero` is not given, so holes of the source must be zeroed on what is full of other data."""
    full, sparse, copy = tmp_path / "full", tmp_path / "sparse", tmp_path / "copy"
    full.write_bytes(os.urandom(SIZE))
    sparse.write_bytes(b"begin")
    os.truncate(sparse, SIZE)
    call("nbdcopy", full, served)
    call("nbdcopy", "--flush", "--allocated", sparse, served)
    call("nbdcopy", served, copy)
    assert copy.read_bytes() == sparse.read_bytes()


def test_nbdinfo_finds_neither_a_map_nor_a_context_that_is_not_offered(served):
    assert (
        libnbd(served, "h = connected(contexts=['base:allocation']); tell(h.can_meta_context('base:allocation'))") == 0
    )
    (said,) = call("nbdinfo", "--map", "--totals", served, code=1).splitlines()
    assert "does not support metadata context" in said
    call("nbdinfo", "--is", "structured-reply", served)
    for ability in ("cache", "df", "fast-zero", "flush", "fua", "multi-conn", "trim", "zero"):
        call("nbdinfo", "--can", ability, served, code=2 if ability in ("cache", "fast-zero") else 0)
    call("nbdinfo", "--is", "read-only", served, code=2)


@BOTH
def test_what_is_wrong_is_refused_by_its_error_and_the_connection_goes_on(served, structured):
    told = libnbd(
        served,
        f"""
h, size = connected({structured}), {SIZE}
tell({{
    "read beyond": failure(h.pread, 512, size - 511),
    "read far beyond": failure(h.pread, 512, 1 << 62),
    "write beyond": failure(h.pwrite, b"x" * 512, size - 511),
    "trim beyond": failure(h.trim, 512, size - 511),
    "zero beyond": failure(h.zero, 512, size - 511),
    "read of nothing": failure(h.pread, 0, 0),
    "write of nothing": failure(h.pwrite, b"", 0),
    "trim of nothing": failure(h.trim, 0, 0),
    "zero of nothing": failure(h.zero, 0, 0),
    "read of too much": failure(h.pread, (32 << 20) + 1, 0),
    "cache": failure(h.cache, 4096, 0),
    "fast zero": failure(h.zero, 4096, 0, nbd.CMD_FLAG_FAST_ZERO),
    "unknown flag": failure(h.pread, 512, 0, 1 << 9),
    "still there": failure(h.pread, 512, size - 512),
}})
""",
    )
    assert told.pop("still there") is None
    assert told.pop("write beyond") == told.pop("zero beyond") == "ENOSPC"
    assert told.pop("read of too much") == ("EOVERFLOW" if structured else "EINVAL")
    assert set(told.values()) == {"EINVAL"}, told


@BOTH
def test_no_request_needs_alignment_and_neighbours_stay_as_they_were(served, structured):
    told = libnbd(
        served,
        f"""
h = connected({structured})
wrong = []
for offset, length in ((0, 1), (1, 4095), (4095, 2), (4097, 8190), (12288, 4096), (99999, 65537), ({SIZE} - 3, 3)):
    low, high = max(0, offset - 5000), min({SIZE}, offset + length + 5000)
    for change in ("pwrite", "zero", "trim"):
        h.pwrite(bytes([7]) * (high - low), low)
        if change == "pwrite":
            h.pwrite(bytes([9]) * length, offset)
        else:
            getattr(h, change)(length, offset)
        new = bytes([9]) * length if change == "pwrite" else bytes(length)
        if h.pread(high - low, low) != bytes([7]) * (offset - low) + new + bytes([7]) * (high - offset - length):
            wrong.append((change, offset, length))
tell(wrong)
""",
    )
    assert told == []


def test_flags_that_may_come_with_each_command_are_taken(served):
    told = libnbd(
        served,
        """
h, data = connected(), bytes(5000)
tell({
    "write": failure(h.pwrite, data, 1, nbd.CMD_FLAG_FUA),
    "trim": failure(h.trim, 5000, 1, nbd.CMD_FLAG_FUA),
    "zero": failure(h.zero, 5000, 1, nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_NO_HOLE),
    "flush": failure(h.flush),
    "df": failure(h.pread_structured, 1 << 20, 1, lambda *_: 0, nbd.CMD_FLAG_DF),
})
""",
    )
    assert set(told.values()) == {None}, told


def test_a_structured_read_comes_in_chunks_that_cover_it_once(served):
    told = libnbd(
        served,
        """
h, chunks = connected(), []
h.pwrite(b"ab" * 40000, 5000)
def chunk(buffer, offset, status, error):
    chunks.append((offset, len(buffer), status))
data = h.pread_structured(80000, 5000, chunk)
tell({"whole": data == bytearray(b"ab" * 40000), "chunks": sorted(chunks), "data": nbd.READ_DATA})
""",
    )
    assert told["whole"]
    end = 5000
    for offset, length, status in told["chunks"]:
        assert (offset, status) == (end, told["data"])
        end += length
    assert end == 85000


def test_a_thousand_requests_in_flight_are_each_answered_with_their_own_data(served):
    """More than the server takes at once: it must stop reading, and go on."""
    told = libnbd(
        served,
        """
h = connected()
written = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(number.to_bytes(4, "big") * 256)), number * 1024)
           for number in range(1000)]
def wait(cookies):
    left = set(cookies)
    while left:
        h.poll(-1)
        left -= {cookie for cookie in left if h.aio_command_completed(cookie)}
wait(written)
buffers = [nbd.Buffer(1024) for _ in range(1000)]
wait([h.aio_pread(buffer, number * 1024) for number, buffer in enumerate(buffers)])
tell([n for n, buffer in enumerate(buffers) if buffer.to_bytearray() != n.to_bytes(4, "big") * 256])
""",
    )
    assert told == []


def test_what_one_connection_flushed_another_reads(served):
    """What CAN_MULTI_CONN promises."""
    told = libnbd(
        served,
        """
handles = [connected() for _ in range(8)]
wrong = 0
for turn in range(40):
    writer, reader = handles[turn % 8], handles[(turn * 5 + 3) % 8]
    writer.pwrite(bytes([turn + 1]) * 6000, 100 + turn * 3000)
    handles[(turn + 1) % 8].flush()
    wrong += reader.pread(6000, 100 + turn * 3000) != bytes([turn + 1]) * 6000
tell(wrong)
""",
    )
    assert told == 0


def test_clients_that_vanish_in_the_middle_of_everything_harm_nobody(served):
    """With commands in flight and half a payload sent: their process ends, or the socket is closed under libnbd."""
    told = libnbd(
        served,
        """
import contextlib, os, socket, struct
steady = connected()
steady.zero(1 << 20, 0)
steady.pwrite(b"steady" * 1000, 1 << 20)
steady.flush()
for number in range(20):
    child = os.fork()
    if child == 0:
        h = connected()
        for at in range(64):
            h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray([number]) * 65536), (2 << 20) + at * 65536)
            h.aio_pread(nbd.Buffer(65536), at * 65536)
        fd = h.aio_get_fd()
        if number % 2:
            with contextlib.suppress(BlockingIOError):  # then it is full, which is in the middle of something too
                os.write(fd, struct.pack(">IHHQQI", 0x25609513, 0, 1, 1, 0, 1 << 20)[: number + 9])
        os._exit(0)
    os.waitpid(child, 0)
steady.flush()
others = connected()
tell({"steady": steady.pread(6000, 1 << 20) == b"steady" * 1000,
      "beginning": bytes(others.pread(1 << 20, 0)) == bytes(1 << 20),
      "torn": [at for at in range(2 << 20, 6 << 20, 4096) if len(set(others.pread(4096, at))) > 1],
      "last byte": max(others.pread(4 << 20, 2 << 20))})
""",
    )
    assert told.pop("last byte") < 20, "what nobody wrote"
    assert told == {"steady": True, "beginning": True, "torn": []}, "half a payload writes nothing, nor half a sector"


def test_another_name_is_refused_and_the_names_are_listed(served):
    told = libnbd(
        served,
        """
h = nbd.NBD()
h.set_opt_mode(True)
h.connect_uri(sys.argv[1])
names = []
h.opt_list(lambda name, description: names.append((name, description)) and None)
h.set_export_name("another")
refused = failure(h.opt_go)
h.set_export_name("")
h.opt_go()
tell({"names": names, "refused": refused, "size": h.get_size(), "protocol": h.get_protocol()})
""",
    )
    assert [name for name, _ in told["names"]] == ["perdure"]
    assert told["refused"] == "ENOENT"
    assert (told["size"], told["protocol"]) == (SIZE, "newstyle-fixed")


def test_fua_is_durable_when_it_returns_whatever_it_comes_with(tmp_path):
    """The main program is killed by the client itself, in the very moment in which it has the answer."""
    with Rig(tmp_path, disks=3, threshold=2) as rig:
        uri = rig.up()["nbd_uri"]
        for number, change in enumerate(("pwrite", "zero", "trim"), 1):
            main, at = rig.process("main"), number << 20
            libnbd(
                uri,
                f"""
import os, signal
h = connected()
h.pwrite(b"y" * 20000, {at})
h.flush()
h.{change}({"b'n' * 9001" if change == "pwrite" else 9001}, {at} + 77, nbd.CMD_FLAG_FUA)
os.kill({main.pid}, signal.SIGKILL)
tell(None)
""",
            )
            assert main.wait(CLIENT_S)
            rig.up()
            new = b"n" if change == "pwrite" else b"\0"
            assert rig.read(at, 20000) == b"y" * 77 + new * 9001 + b"y" * (20000 - 9078)
