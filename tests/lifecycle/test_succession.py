"""One main program after another: killed at every step, either the old or the new one runs, and nothing is lost.

The messages between two loaders go through a host that ends one of the machines, whole, when it sees the n-th of them.
The main programs count, and say outside what they have kept; so what was acknowledged, and by whom, is known.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import socket
import threading
import time
from pathlib import Path

import psutil
import pytest

from perdure.errors import Corrupt, Disconnected, PerdureError
from perdure.loader.talk import LINE_BYTES_MAX
from tests.cli.rig import perdure
from tests.lifecycle.world import World, require_one_owner_at_a_time_and_nothing_lost, until

MESSAGES = ("challenge", "nonce", "succeed", "sealed", "running", "ended")
"""What passes between two loaders, in order."""


@pytest.fixture
def world():
    with World() as world:
        yield world


class Between:
    """A host that passes messages on, and calls `act` with the name of each before it does."""

    def __init__(self, path, target, act):
        self.address = f"unix:{path}"
        self._path, self._target, self._act = str(path), target.removeprefix("unix:"), act
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_unix_server(self._serve, self._path, limit=LINE_BYTES_MAX), self._loop
        ).result()

    async def _serve(self, reader, writer):
        theirs = await asyncio.open_unix_connection(self._target, limit=LINE_BYTES_MAX)
        ways = [(reader, theirs[1]), (theirs[0], writer)]
        await asyncio.gather(*(self._pass(*way) for way in ways))

    async def _pass(self, reader, writer):
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                value = json.loads(line)
                name = next(name for name in MESSAGES if name in (value.get("do"), *value))
                await asyncio.to_thread(self._act, name)
                writer.write(line)
                await writer.drain()
        writer.close()

    def close(self):
        self._server.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("victim", ["old", "new"])
@pytest.mark.parametrize("message", MESSAGES)
def test_a_machine_that_ends_at_any_message_leaves_one_that_runs(world, message, victim):
    v1, v2 = world.release(1), world.release(2)
    old, new = world.loader("old"), world.loader("new")
    old.load(v1, world.sign(v1, "alice", "bob"))
    old.provision()
    new.load(v2, world.sign(v2, "bob", "carol"))
    world.counts_on(version=1)
    seen, pid = [], old.health()["pid"]

    def act(name):
        seen.append(name)
        if name == "sealed":  # never two that have the key and could answer
            assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        if name == message:
            {"old": old, "new": new}[victim].kill()

    between = Between(world.place / "between.sock", old.address, act)
    try:
        with contextlib.suppress(PerdureError):
            new.follow(between.address)
        if victim == "old":
            _new_one_runs_alone(world, new, message)
        else:
            _old_one_goes_on_or_hands_over_again(world, old, v2, message)
    finally:
        between.close()
    assert seen[: MESSAGES.index(message) + 1] == list(MESSAGES[: MESSAGES.index(message) + 1])
    require_one_owner_at_a_time_and_nothing_lost(world.witness())


def _new_one_runs_alone(world, new, message):
    """With the old machine the key is gone, unless it had been handed over: then the operator gives it once more."""
    if MESSAGES.index(message) < MESSAGES.index("sealed"):
        assert new.health()["state"] == "loaded"
        new.provision()
    world.counts_on(version=2)
    assert new.health()["state"] == "running"


def _old_one_goes_on_or_hands_over_again(world, old, v2, message):
    """Once the old one was told that the new one serves it has ended: the new one's end is then like any other."""
    another = world.loader("another")
    another.load(v2, world.sign(v2, "bob", "carol"))
    if message in ("running", "ended"):
        until(lambda: not old.process.is_running() or old.process.status() == "zombie")
        another.provision()
    else:
        world.counts_on(version=1)
        assert old.health()["state"] == "running"
        another.follow(old)
    world.counts_on(version=2)


@pytest.mark.timeout(240)
def test_a_successor_that_ends_between_the_arrays_acceptance_and_its_service(world):
    """Version 2 was accepted and cannot run, nor may version 1 any more: version 3 gets the key without a ceremony."""
    v1, v3 = world.release(1), world.release(3)
    v2 = world.release(2, main='import sys\nsys.exit("a defect of version {version}: {witness}")\n')
    old, new, mended = (world.loader(name) for name in ("old", "new", "mended"))
    old.load(v1, world.sign(v1, "alice", "bob"))
    old.provision()
    world.counts_on(version=1)
    new.load(v2, world.sign(v2, "alice", "bob"))
    with pytest.raises(PerdureError, match="ended with 1 before it served; its last words: a defect of version 2"):
        new.follow(old)
    until(lambda: old.health()["state"] == "superseded")
    (place,) = _memory_of(old)
    assert not (place / "private").exists(), "what the main program was given is gone with it"
    mended.load(v3, world.sign(v3, "alice", "bob"))
    mended.follow(old)
    world.counts_on(version=3)
    assert {line.version for line in world.witness()} == {1, 3}
    require_one_owner_at_a_time_and_nothing_lost(world.witness())
    with pytest.raises(Disconnected):
        old.health()


def _memory_of(loader):
    """The loader's own file system, seen by way of its processes."""
    for process in loader.process.children():
        for line in Path(f"/proc/{process.pid}/mounts").read_text().splitlines():
            if "/perdure-loader-" in line:
                yield Path(f"/proc/{process.pid}/root{line.split()[1]}")


LEAVES_A_HELPER = """
import os, signal, socket, subprocess, sys
helper = subprocess.Popen(["sleep", "1000"], start_new_session=True)
print("helper", helper.pid, file=sys.stderr)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as news:
    news.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
signal.signal(signal.SIGTERM, lambda *_: os._exit(2))
signal.pause()
# {witness} {version}
"""


@pytest.mark.timeout(240)
def test_what_a_main_program_leaves_running_ends_with_it_and_its_status_is_told(world):
    """A helper of its own session that keeps the output open would else hold the loader, and the key in it."""
    v1 = world.release(1, main=LEAVES_A_HELPER)
    loader = world.loader("one")
    loader.load(v1, world.sign(v1, "alice", "bob"))
    loader.provision()
    helper = psutil.Process(int(until(lambda: re.search(r"helper (\d+)", loader.log.read_text()))[1]))
    stopped = perdure("loader", "stop", loader.address)
    assert stopped.code == 2
    assert "its main program ended with 2: what was flushed is safe" in stopped.sentence
    assert not helper.is_running() or helper.status() == psutil.STATUS_ZOMBIE


@pytest.mark.timeout(240)
def test_a_program_that_a_host_loads_into_the_successor_meanwhile_gets_no_key(world):
    """The old loader has judged version 2; the host loads version 3 into the successor before the key comes."""
    v1, v2, v3 = (world.release(version) for version in (1, 2, 3))
    old, new = world.loader("old"), world.loader("new")
    old.load(v1, world.sign(v1, "alice", "bob"))
    old.provision()
    world.counts_on(version=1)
    new.load(v2, world.sign(v2, "alice", "bob"))
    other = world.sign(v3, "alice", "bob")

    def act(name):
        if name == "sealed":
            new.load(v3, other)

    between = Between(world.place / "between.sock", old.address, act)
    try:
        with pytest.raises(Corrupt, match="Another program was loaded since the offer was judged"):
            new.follow(between.address)
        world.counts_on(version=1)
    finally:
        between.close()
    assert {line.version for line in world.witness()} == {1}


@pytest.mark.timeout(240)
def test_moves_back_and_forth_lose_nothing_and_how_long_nobody_counts(world, record_property):
    """The same manifest on another machine, five times; the pause is measured between two numbers that were kept."""
    v1 = world.release(1)
    signed = world.sign(v1, "alice", "bob")
    before = world.loader("machine-0")
    before.load(v1, signed)
    before.provision()
    for number in range(1, 6):
        world.counts_on()
        after = world.loader(f"machine-{number}")
        after.load(v1, signed)
        after.follow(before)
        before = after
    lines = world.counts_on()
    require_one_owner_at_a_time_and_nothing_lost(lines)
    kept = [line for line in lines if line.what == "kept"]
    pauses = [b.at_ns - a.at_ns for a, b in itertools.pairwise(kept) if a.pid != b.pid]
    assert len(pauses) == 5
    print("pauses of a move, s:", " ".join(f"{pause / 1e9:.2f}" for pause in sorted(pauses)))
    assert max(pauses) < 30e9


@pytest.mark.timeout(240)
def test_a_main_program_that_is_killed_is_run_again_and_one_that_means_to_end_is_not(world):
    v1 = world.release(1)
    loader = world.loader("one")
    loader.load(v1, world.sign(v1, "alice", "bob"))
    loader.provision()
    world.counts_on()
    first = loader.health()["pid"]
    for process in loader.process.children(recursive=True):
        if process.pid == first:
            process.kill()
    lines = world.counts_on()
    assert loader.health()["pid"] not in (None, first)
    require_one_owner_at_a_time_and_nothing_lost(lines)
    loader.process.terminate()  # forwarded: the main program brings everything home, and the loader ends with it
    until(lambda: not loader.process.is_running() or loader.process.status() == "zombie")
    require_one_owner_at_a_time_and_nothing_lost(world.witness())


@pytest.mark.timeout(240)
def test_how_long_nbd_is_not_served_while_one_version_follows_another(world):
    """Perdure's own main program; a client that connects as often as it can measures the pause."""
    serving = "import sys\nfrom perdure.cli.main import main\nmain(['serve', '--directory', sys.argv[1]])\n"
    socket_path = world.place / "nbd" / "nbd.sock"
    socket_path.parent.mkdir()
    socket_path.parent.chmod(0o777)
    before, greeted = None, []
    done = threading.Event()

    def greet():
        while not done.is_set():
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
                client.settimeout(1)
                client.connect(str(socket_path))
                if client.recv(8) == b"NBDMAGIC":
                    greeted.append(time.monotonic())
            time.sleep(0.01)

    asking = threading.Thread(target=greet)
    asking.start()
    try:
        for version in (1, 2, 3, 4):
            release = world.release(version, main=serving + f"# version {version}\n")
            loader = world.loader(f"serving-{version}")
            loader.load(release, world.sign(release, "alice", "bob"), serve=f"unix:{socket_path}")
            if before is None:
                loader.provision()
            else:
                loader.follow(before)
            before = loader
            seen = len(greeted)
            until(lambda seen=seen: len(greeted) > seen + 10)
    finally:
        done.set()
        asking.join()
    pauses = sorted((b - a for a, b in itertools.pairwise(greeted)), reverse=True)[:3]
    print("NBD was not served for, s:", " ".join(f"{pause:.2f}" for pause in pauses))
    assert 0.1 < pauses[2] <= pauses[0] < 30
