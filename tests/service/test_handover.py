"""What travels from one program to the next in the same process: through memory without a name, and nothing else."""

import json
import os
import socket
import struct
import subprocess
import sys

import pytest

from perdure.errors import Misuse
from perdure.nbd.server import CarriedServer
from perdure.service import handover
from perdure.service.handover import VARIABLE, Handover, inherited
from tests.nbd import frames as f
from tests.nbd.test_protocol_fuzz import connection


@pytest.fixture
def left():
    """A hand-over of two clients, one in the middle of a large write; its descriptors are closed in the end."""
    sockets = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(4)]
    lock = os.memfd_create("lock")
    cores = [connection(), connection()]
    f.feed(cores[0], f.opening() + f.request(f.WRITE, 1, 0, 200_000) + b"secret plaintext" * 5000)
    f.feed(cores[1], f.flags())
    clients = tuple((sock.fileno(), core.carried()) for sock, core in zip(sockets[2:], cores, strict=True))
    repairs = ({"id": "ab", "do": "replace", "seat": 1, "address": "unix:/x", "bytes_per_s_max": None},)
    yield Handover(lock, sockets[0].fileno(), CarriedServer(sockets[1].fileno(), clients), 3, repairs)
    os.close(lock)
    for sock in sockets:
        sock.close()


def test_it_arrives_as_it_left_and_the_variable_is_gone(left):
    environment = {VARIABLE: str(left.write()), "HOME": "/root"}
    found = inherited(environment)
    assert environment == {"HOME": "/root"}
    assert (found.lock, found.control, found.nbd.listener) == (left.lock, left.control, left.nbd.listener)
    assert (found.upgrades, found.repairs) == (3, left.repairs)
    for (fd, client), (left_fd, left_client) in zip(found.nbd.clients, left.nbd.clients, strict=True):
        assert (fd, client.head()) == (left_fd, left_client.head())
        assert [bytes(blob) for blob in client.blobs()] == [bytes(blob) for blob in left_client.blobs()]
    assert [os.get_inheritable(fd) for fd in found.descriptors] == [False] * 5


def test_it_has_no_name_anywhere_and_is_overwritten_once_it_is_read(left):
    memory = left.write()
    assert os.readlink(f"/proc/self/fd/{memory}").startswith("/memfd:")
    assert os.fstat(memory).st_nlink == 0
    same = os.dup(memory)
    assert b"secret plaintext" in os.pread(same, 1 << 20, 0)
    inherited({VARIABLE: str(memory)})
    assert not any(os.pread(same, 1 << 20, 0))
    os.close(same)


def test_without_the_variable_there_is_nothing():
    assert inherited({"HOME": "/root"}) is None


def test_what_another_version_or_nobody_wrote_is_refused(left):
    memory = left.write()
    data = os.pread(memory, 1 << 20, 0)
    os.close(memory)
    (length,) = struct.unpack(">Q", data[:8])
    head = json.loads(data[8 : 8 + length])

    def changed(**values):
        text = json.dumps({**head, **values}).encode()
        return struct.pack(">Q", len(text)) + text + data[8 + length :]

    for wrong in (
        b"",
        data[:7],
        data[:100],
        data[:-1],
        struct.pack(">Q", 1 << 40) + data[8:],
        changed(version=handover.VERSION + 1),
        changed(listener=left.lock),
        changed(control=99999),
        changed(clients=[{**head["clients"][0], "unread": -1}]),
        changed(clients=[{"fd": left.control}]),
    ):
        memory = os.memfd_create("x")
        os.write(memory, wrong)
        with pytest.raises(Misuse):
            inherited({VARIABLE: str(memory)})


@pytest.mark.parametrize("number", ["x", "-1", "99999", ""])
def test_a_number_that_names_no_such_memory_is_refused(number):
    with pytest.raises(Misuse, match="can follow"):
        inherited({VARIABLE: number})
    read, write = os.pipe()
    with pytest.raises(Misuse, match="can follow"):
        inherited({VARIABLE: str(read)})
    os.close(read)
    os.close(write)


def test_it_survives_execve_and_no_child_of_the_next_program_gets_it(left):
    """The real thing: another program image in the same process."""
    memory = left.write()
    program = (
        "import os, subprocess, sys\n"
        "from perdure.service.handover import inherited\n"
        "found = inherited(os.environ)\n"
        "print(found.upgrades, len(found.nbd.clients), sum(len(b) for b in found.nbd.clients[0][1].blobs()))\n"
        "sys.stdout.flush()\n"
        "subprocess.run(['ls', '/proc/self/fd'], close_fds=False)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, VARIABLE: str(memory)},
        pass_fds=(memory, *left.descriptors),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    os.close(memory)
    first, *fds = done.stdout.split("\n")
    assert first == "3 2 80000"
    assert set(fds) & {str(fd) for fd in left.descriptors} == set()
