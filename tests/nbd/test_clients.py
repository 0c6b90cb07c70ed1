"""The real clients against the server on uvloop: what libnbd, qemu and fio make of it."""

import asyncio
import json
import os
import shutil
import subprocess

import pytest

from perdure.nbd.server import serve
from tests.nbd.client import run_on
from tests.nbd.memory import MemoryBackend, QuietMemoryBackend

SIZE = 64 << 20


@pytest.fixture
def address(tmp_path):
    return f"unix:{tmp_path}/nbd.sock"


@pytest.fixture
def fio():
    path = needed("fio")
    if subprocess.run([path, "--enghelp=nbd"], capture_output=True, check=False).returncode:
        pytest.skip("this fio has no nbd engine")
    return path


def needed(tool):
    path = shutil.which(tool)
    if path is None:
        pytest.skip(f"{tool} is not installed, and nothing can stand in for the real client")
    return path


async def call(*argv, cwd=None):
    """Run a client to its end; return what it printed. Fails the test with its output if it failed."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*map(str, argv), stdout=pipe, stderr=pipe, cwd=cwd)
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, f"{argv}\n{out.decode()}\n{err.decode()}"
    return out.decode()


def with_server(backend, address, use):
    """Run `use(uri)` against a server of `backend` and return its result."""

    async def main():
        server = await serve(backend, address=address)
        try:
            return await use(server.uri)
        finally:
            await server.close()

    return run_on("uvloop", main())


def test_nbdinfo_reports_what_the_server_is(address):
    tool = needed("nbdinfo")
    told = json.loads(with_server(MemoryBackend(SIZE), address, lambda uri: call(tool, "--json", uri)))
    assert told["protocol"] == "newstyle-fixed"
    assert told["structured"] is True
    (export,) = told["exports"]
    expected = {
        "export-name": "perdure",
        "description": "Perdure array",
        "export-size": SIZE,
        "is_read_only": False,
        "can_df": True,
        "can_flush": True,
        "can_fua": True,
        "can_multi_conn": True,
        "can_trim": True,
        "can_zero": True,
        "can_fast_zero": False,
        "can_cache": False,
        "contexts": [],
        "block_size_minimum": 1,
        "block_size_preferred": 4096,
        "block_size_maximum": 32 << 20,
    }
    assert {key: export[key] for key in expected} == expected


def test_nbdinfo_lists_the_export(address):
    tool = needed("nbdinfo")
    told = json.loads(with_server(MemoryBackend(SIZE), address, lambda uri: call(tool, "--list", "--json", uri)))
    assert [export["export-name"] for export in told["exports"]] == ["perdure"]


@pytest.mark.parametrize("place", ["unix", "tcp"])
def test_nbdcopy_brings_a_file_there_and_back(address, tmp_path, place):
    tool = needed("nbdcopy")
    original, copy = tmp_path / "original", tmp_path / "copy"
    data = os.urandom(3 << 20) + bytes(3 << 20) + os.urandom((2 << 20) + 77)
    original.write_bytes(data)
    backend = MemoryBackend(len(data))

    async def use(uri):
        await call(tool, "--flush", original, uri)
        await call(tool, uri, copy)

    with_server(backend, address if place == "unix" else "tcp:127.0.0.1:0", use)
    assert backend.data == data
    assert copy.read_bytes() == data
    assert ("flush",) in backend.log
    assert any(line[0] == "zeroes" for line in backend.log)


def test_qemu_img_sees_the_size(address):
    tool = needed("qemu-img")
    told = json.loads(with_server(MemoryBackend(SIZE), address, lambda uri: call(tool, "info", "--output=json", uri)))
    assert (told["virtual-size"], told["format"]) == (SIZE, "raw")


def test_qemu_img_converts_onto_it_and_compares(address, tmp_path):
    tool = needed("qemu-img")
    image = tmp_path / "image"
    image.write_bytes(os.urandom(1 << 20) + bytes(1 << 20) + os.urandom(1 << 20))

    async def use(uri):
        await call(tool, "convert", "-n", "-f", "raw", "-O", "raw", image, uri)
        return await call(tool, "compare", "-f", "raw", "-F", "raw", image, uri)

    assert "identical" in with_server(MemoryBackend(3 << 20), address, use)


def test_qemu_io_patterns_at_unaligned_offsets(address):
    tool = needed("qemu-io")
    backend = MemoryBackend(SIZE)
    commands = (
        "write -P 0xab 1 4095",
        "write -P 0xcd -f 5000 70001",
        "write -z 100 50",
        "write -z -u 200 50",
        "discard 8k 8k",
        "flush",
        "read -P 0xab 1 99",
        "read -P 0 100 50",
        "read -P 0xab 150 50",
        "read -P 0 200 50",
        "read -P 0xcd 5000 3192",
        "read -P 0xcd 16384 58617",
        f"write -P 0xef {SIZE - 3} 3",
        f"read -P 0xef {SIZE - 3} 3",
    )

    async def use(uri):
        return await call(
            tool, "-t", "writeback", "-f", "raw", *(word for command in commands for word in ("-c", command)), uri
        )

    said = with_server(backend, address, use)
    assert "verification failed" not in said
    assert ("write", 5000, 70001, True) in backend.log
    assert ("zeroes", 100, 50, False, False) in backend.log
    assert ("zeroes", 200, 50, False, True) in backend.log
    assert ("trim", 8192, 8192, False) in backend.log


@pytest.mark.parametrize("place", ["unix", "tcp"])
def test_fio_verifies_random_writes_of_mixed_sizes(fio, address, tmp_path, place):
    job = ["--name=verify", "--ioengine=nbd", "--rw=randwrite", "--bsrange=512-256k", "--blockalign=512", "--size=32m"]
    job += ["--iodepth=32", "--verify=crc32c", "--verify_fatal=1", "--verify_backlog=64", "--output-format=json"]

    async def use(uri):
        return await call(fio, *job, f"--uri={uri}", cwd=tmp_path)

    said = with_server(QuietMemoryBackend(SIZE), address if place == "unix" else "tcp:127.0.0.1:0", use)
    (done,) = json.loads(said[said.index("{") :])["jobs"]
    assert done["error"] == 0
    assert done["read"]["io_bytes"] >= 16 << 20
