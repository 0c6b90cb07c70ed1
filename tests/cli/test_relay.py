"""`perdure disk relay`: says where it listens, serves a disk, says what is wrong, and ends on a signal."""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import socket
import subprocess
import sys

import psutil
import pytest

from perdure.cli.main import run
from perdure.disk import address
from tests.cli.rig import perdure
from tests.disk import client
from tests.disk.client import Client
from tests.disk.running import EPOCH, INSTANCE, KEY, running

WAIT_S = 30


@contextlib.contextmanager
def relay(*words):
    """The process and the first line it printed; killed if the test did not end it."""
    command = [sys.executable, "-m", "perdure.cli.main", "disk", "relay", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process, process.stdout.readline()
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=WAIT_S)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_a_disk_until_a_signal(tmp_path, number):
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(running(f"unix:{tmp_path}/disk"))
        process, line = stack.enter_context(relay("--listen", "tcp:127.0.0.1:0", "--to", disk.address))
        word, real = line.split()
        assert word == "listening"
        with Client(real) as connection:
            nonce = secrets.token_bytes(32)
            assert connection.ask(client.open_disk(KEY, INSTANCE, EPOCH, nonce)).instance == INSTANCE
            write = client.write(1, b"relayed!" * 8)
            commands = [client.execute(KEY, INSTANCE, EPOCH, seq, [write]) for seq in range(1, 9)]
            connection.send(*commands)
            assert [connection.receive().seq for _ in commands] == list(range(1, 9))
            assert connection.ask(client.read(KEY, INSTANCE, EPOCH, [(1, 1)])).data == b"relayed!" * 8
            process.send_signal(number)
            assert process.wait(WAIT_S) == 0
            assert connection.hung_up()
        assert process.stderr.read() == ""
        assert process.stdout.read() == ""


def test_json_names_the_address_and_the_socket_file_goes_with_it(tmp_path):
    with relay("--json", "--listen", f"unix:{tmp_path}/front", "--to", "tcp:127.0.0.1:1") as (process, line):
        assert json.loads(line) == {"listening": f"unix:{tmp_path}/front"}
        assert (tmp_path / "front").is_socket()
        process.terminate()
        assert process.wait(WAIT_S) == 0
        assert not (tmp_path / "front").exists()


def test_a_disk_that_is_not_there_is_told_on_standard_error(tmp_path):
    with relay("--listen", "tcp:127.0.0.1:0", "--to", f"unix:{tmp_path}/disk") as (process, line):
        for _ in range(2):
            with Client(line.split()[1]) as connection:
                assert connection.hung_up()
        assert process.stderr.readline() == (
            f"The target unix:{tmp_path}/disk cannot be reached (No such file or directory); connections are closed "
            "until it can.\n"
        )
        with running(f"unix:{tmp_path}/disk") as disk, Client(line.split()[1]) as connection:
            assert connection.ask(client.open_disk(KEY, INSTANCE, EPOCH, b"n" * 32)).instance == INSTANCE
            assert process.stderr.readline() == f"The target {disk.address} answers again.\n"
        process.terminate()
        assert process.wait(WAIT_S) == 0
        assert process.stderr.read() == ""


def test_a_big_transfer_takes_no_memory():
    listener, target = address.listen("tcp:127.0.0.1:0")
    listener.settimeout(WAIT_S)
    with listener, relay("--listen", "tcp:127.0.0.1:0", "--to", target) as (process, line):
        family, where = address.parse(line.split()[1])
        with socket.socket(family) as near:
            near.connect(where)
            far, _ = listener.accept()
            with far:
                before = psutil.Process(process.pid).memory_info().rss
                far.settimeout(WAIT_S)
                near.setblocking(False)
                block, sent, taken, most = bytes(1 << 20), 0, 0, 0
                while sent < 200 << 20:  # as far ahead of the reader as the system lets us
                    with contextlib.suppress(BlockingIOError):
                        sent += near.send(block)
                        continue
                    taken += len(far.recv(1 << 16))
                    most = max(most, psutil.Process(process.pid).memory_info().rss)
                near.shutdown(socket.SHUT_WR)
                while piece := far.recv(1 << 20):
                    taken += len(piece)
                assert taken == sent
                assert most - before < 8 << 20


@pytest.mark.parametrize(
    "words",
    [
        ["--listen", "tcp:127.0.0.1:0", "--to", "16:7001"],
        ["--listen", "anywhere", "--to", "vsock:16:7001"],
        ["--listen", "unix:missing/s", "--to", "vsock:16:7001"],
        ["--listen", "vsock:3:7001", "--to", "vsock:3:7001"],
        ["--listen", "tcp:127.0.0.1:0"],
    ],
)
def test_a_mistake_is_one_sentence(capsys, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    assert run(["disk", "relay", "--json", *words]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["error"]["class"] == "Misuse"
    assert captured.err.startswith("perdure: ")
    assert captured.err.count("\n") == 1
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers


def test_it_runs_in_this_process_too(capsys, monkeypatch):
    """So that what comes after the signal is seen: the handlers that were there are there again."""
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    real = signal.signal
    monkeypatch.setattr("perdure.service.relay.Relay.run", lambda self: signal.raise_signal(signal.SIGTERM))
    assert run(["disk", "relay", "--listen", "tcp:127.0.0.1:0", "--to", "vsock:16:7001"]) == 0
    assert capsys.readouterr().out.startswith("listening tcp:127.0.0.1:")
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    assert real is signal.signal


def test_the_address_is_refused_like_any_other_when_taken():
    listener, taken = address.listen("tcp:127.0.0.1:0")
    with listener:
        done = perdure("disk", "relay", "--listen", taken, "--to", "vsock:16:7001")
    assert (done.code, done.out) == (2, "")
    assert done.sentence == f"Cannot listen at '{taken}': Address already in use; nothing is relayed."
