"""The program as it is started: what it prints, what it refuses to start with, and what its memory holds."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import cbor2
import pytest

import perdure
from perdure.disk import main as program
from perdure.disk.serve import Server
from perdure.disk.wire import DISK_SECTOR_BYTES, NO_EPOCH, Reason

from . import client
from .client import Client
from .running import EPOCH, KEY, ping, unix_address

ROOT = Path(perdure.__file__).parent.parent
START = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from perdure.disk.main import main; main()"
SIZE_BYTES = 1 << 20


def serve_evidence(platform: socket.socket) -> None:
    """Answer the module's requests until the disk has gone."""
    with platform, platform.makefile("rb") as requests:
        while len(length := requests.read(4)) == 4:
            request = cbor2.loads(requests.read(int.from_bytes(length, "big")))
            document = b"document over " + request["Attestation"]["user_data"]
            body = cbor2.dumps({"Attestation": {"document": document}})
            platform.sendall(len(body).to_bytes(4, "big") + body)


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    path = tmp_path / "authority"
    path.write_bytes(KEY.public_key.format())
    return path


@pytest.fixture
def process(tmp_path: Path, authority: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The program in a process of its own, and the address that it printed."""
    platform, disk = socket.socketpair()
    Thread(target=serve_evidence, args=(platform,), daemon=True).start()
    arguments = ["--listen", "tcp:127.0.0.1:0", "--size-bytes", str(SIZE_BYTES)]
    arguments += ["--evidence", f"nsm-socket:{disk.fileno()}", "--authority", str(authority)]
    command = [sys.executable, "-I", "-c", START, *arguments]
    with disk, subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=[disk.fileno()]) as started:
        try:
            assert started.stdout is not None
            line = started.stdout.readline()
            assert re.fullmatch(r"listening tcp:127\.0\.0\.1:\d+\n", line)
            yield started, line.split()[1]
        finally:
            started.kill()
            started.wait(10)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Hold the child `pid` still."""
    os.kill(pid, signal.SIGSTOP)
    try:
        os.waitpid(pid, os.WUNTRACED)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def memory_holds(pid: int, wanted: bytes) -> int:
    """How often `wanted` occurs in all that the process, a stopped child of ours, could write to."""
    count = 0
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            start, end, flags = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+)", line).groups()  # type: ignore[union-attr]
            if flags.startswith("rw"):
                memory.seek(int(start, 16))
                count += memory.read(int(end, 16) - int(start, 16)).count(wanted)
    return count


def test_the_program_serves_a_disk_with_a_fresh_instance(process: tuple[subprocess.Popen[str], str]) -> None:
    _, address = process
    with Client(address) as peer:
        frame = client.hello(KEY, b"n" * 32)
        reply = peer.ask(frame)
        assert (reply.epoch, reply.seq, reply.size) == (NO_EPOCH, 0, SIZE_BYTES // DISK_SECTOR_BYTES)
        assert len(set(reply.instance)) > 8
        evidence = client.parse_evidence(reply, frame)
        assert evidence.document == b"document over " + (evidence.root or b"")
    assert process[0].poll() is None


def test_an_interrupted_program_ends(process: tuple[subprocess.Popen[str], str]) -> None:
    """Whatever ends its loop ends the process, and so the disk; the thread that asks for evidence keeps nothing."""
    started, address = process
    with Client(address) as peer:
        peer.ask(client.hello(KEY, b"n" * 32))
    started.send_signal(signal.SIGINT)
    assert started.wait(10) != 0


def test_overwritten_and_trimmed_data_is_nowhere_in_the_process(process: tuple[subprocess.Popen[str], str]) -> None:
    started, address = process
    secrets = [os.urandom(DISK_SECTOR_BYTES) for _ in range(3)]
    with Client(address) as peer:
        instance = peer.ask(client.hello(KEY, b"n" * 32)).instance
        peer.ask(client.open_disk(KEY, instance, EPOCH, b"o" * 32))
        ops = [client.write(number, secret) for number, secret in enumerate(secrets)]
        peer.ask(client.execute(KEY, instance, EPOCH, 1, [*ops, client.copy(100, 3, 0)], b"e" * 32))
        for asked in (None, b"r" * 32):
            read = peer.ask(client.read(KEY, instance, EPOCH, [(0, 3), (100, 3)], asked))
            assert read.data == b"".join(secrets) * 2
        ping(peer)  # what was sent has been wiped before the next command is looked at
        with stopped(started.pid):
            assert [memory_holds(started.pid, secret) for secret in secrets] == [2, 2, 2]
        ops = [client.trim(0, 1), client.write(1, bytes(64)), client.copy(2, 1, 50), client.trim(100, 3)]
        peer.ask(client.execute(KEY, instance, EPOCH, 2, ops))
        # A command that is cut off and one that is refused must leave nothing either.
        bad = client.execute(KEY, instance, EPOCH, 9, [client.write(0, secrets[0])])
        assert peer.call(bad) is Reason.WRONG_SEQ
        with Client(address) as cut:
            cut.send(client.execute(KEY, instance, EPOCH, 3, [client.write(0, secrets[1])])[:-1])
        with Client(address) as other:
            ping(other)
            ping(other)
        # Nor any 16 bytes of it: no part survives in a hash state or a freed buffer.
        with stopped(started.pid):
            for secret in secrets:
                assert [memory_holds(started.pid, secret[at : at + 16]) for at in (0, 16, 32, 48)] == [0, 0, 0, 0]


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["perdure-disk", *arguments])
    program.main()


class Enough(Exception):
    """Ends the endless loop of `main`."""


def test_main_serves_until_it_is_ended(
    tmp_path: Path, authority: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replies: list[object] = []
    steps = Server.step

    def step(server: Server, timeout_s: float | None = None) -> None:
        if replies:
            server._listener.close()
            raise Enough
        steps(server, timeout_s)

    def ask() -> None:
        with Client(unix_address(tmp_path)) as peer:
            replies.append(peer.ask(client.hello(KEY, b"n" * 32)))

    monkeypatch.setattr(Server, "step", step)
    monkeypatch.setattr("builtins.print", lambda *_, **__: Thread(target=ask).start())  # it listens when it prints
    platform, disk = socket.socketpair()
    Thread(target=serve_evidence, args=(platform,), daemon=True).start()
    options = {"--listen": unix_address(tmp_path), "--size-bytes": "128", "--evidence": f"nsm-socket:{disk.fileno()}"}
    arguments = [word for option in options.items() for word in option]
    with disk, pytest.raises(Enough):
        run_main(monkeypatch, *arguments, "--authority", str(authority))
    assert isinstance(replies[0], client.Result)
    assert replies[0].size == 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("size_bytes", [0, -64, 1, 63, 65, (1 << 32) * 64])
def test_a_size_that_no_disk_can_have_is_refused(size_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above 2^32 - 1 disk sectors, the size itself would not fit a reply."""
    others = ["--listen", "tcp:127.0.0.1:0", "--evidence", "nsm-socket:0", "--authority", "/dev/null"]
    with pytest.raises(SystemExit, match="size must be a multiple of 64 bytes up to 274877906880: "):
        run_main(monkeypatch, "--size-bytes", str(size_bytes), *others)


def test_memory_that_is_not_there_is_told_at_the_start(authority: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest size is legal, and more than this process may map."""
    usual = resource.getrlimit(resource.RLIMIT_AS)
    options = ["--listen", "tcp:127.0.0.1:0", "--evidence", "nsm-socket:0", "--authority", str(authority)]
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, usual[1]))
    try:
        with pytest.raises(SystemExit, match=r"the disk cannot start: .*Cannot allocate memory"):
            run_main(monkeypatch, "--size-bytes", str(((1 << 32) - 1) * 64), *options)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, usual)


@pytest.mark.parametrize("missing", ["--listen", "--size-bytes", "--evidence", "--authority"])
def test_every_option_must_be_given(
    missing: str, authority: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"--listen": "nowhere", "--size-bytes": "64", "--evidence": "nsm-socket:0", "--authority": str(authority)}
    del options[missing]
    with pytest.raises(SystemExit):
        run_main(monkeypatch, *[word for pair in options.items() for word in pair])
    assert f"required: {missing}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--listen", "nowhere", "not an address: 'nowhere'"),
        ("--listen", "unix:/nonexistent/folder/disk", "No such file"),
        ("--authority", "/nonexistent/key", "No such file"),
        ("--authority", "/dev/null", "public key could not be parsed"),
        ("--evidence", "nsm-socket:99999", "Bad file descriptor"),
        ("--evidence", "nsm:/nowhere/nsm", "No such file or directory"),
        ("--evidence", "tsm:/nowhere/report", "No such file or directory"),
        ("--evidence", "tpm:/nowhere/tpm", "No such file or directory"),
        ("--evidence", "tpm-fd:99999", "Bad file descriptor"),
        ("--evidence", "nsm-socket:x", "invalid literal"),
        ("--evidence", "sgx:/dev/sgx", "no platform is called 'sgx'"),
    ],
)
def test_what_keeps_the_disk_from_starting_is_told_in_one_line(
    option: str, value: str, message: str, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"--listen": "tcp:127.0.0.1:0", "--size-bytes": "64", "--authority": str(authority)}
    with open(os.devnull, "rb") as device:
        options |= {"--evidence": f"nsm-socket:{device.fileno()}", option: value}
        with pytest.raises(SystemExit, match=f"the disk cannot start: .*{message}"):
            run_main(monkeypatch, *[word for pair in options.items() for word in pair])
