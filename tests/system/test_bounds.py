"""However others behave, no process grows without limit, and whoever behaves is served. Measured on real processes.

The figures asserted are what the code allows: docs/testing.md, "Bounds and the soak", says where each comes from.
"""

import contextlib
import gc
import itertools
import os
import socket
import struct
import subprocess
import sys
import threading
import time

import psutil
import pytest
from coincurve import PrivateKey

from perdure.array.commands import Command
from perdure.disk import serve, wire
from perdure.image.build import build_simulated
from perdure.nbd.wire import PAYLOAD_BYTES_MAX
from perdure.service.control import REQUEST_BYTES_MAX, ask
from perdure.service.site import config, local
from perdure.service.site.local import Wish
from perdure.shell.channel import REPLY_BYTES_MAX
from tests.cli.rig import Rig
from tests.disk import client
from tests.lying_host.host import LyingHost
from tests.nbd import frames
from tests.service.furnished import Site
from tests.service.furnished import until as until_seen
from tests.system.proxy import HangUp, Raw, Way, unchanged

MIB = 1 << 20
SLACK = 16 * MIB
"""What the allocator keeps, and modules that are loaded late."""
FLOOD_S = 2.0
LOOK_S = 0.02
WAIT_S = 60

CACHE = 33 * MIB
"""Writes that are not home yet: 32 batches of 256 sectors, and one that is open (perdure/array/cache.py)."""
ENTRIES = 8 * 3 * MIB // 2
"""8 entries under way (perdure/array/committer.py) to 3 disks, to each half of their data, as k = 2."""
HELD = 64 * MIB
"""Data of one NBD client's requests, or of replies that it does not read (perdure/nbd/session.py)."""
REPLIES = 2 * 17 * MIB // 16
"""The longest reply on each of the two connections to a disk (perdure/shell/channel.py)."""
CONNECTIONS_PER_S = 2 * 10
"""Two to a disk, each tried again after 100 ms (perdure/array/session.py)."""
STUFF_MAX = 128 * MIB
CLIENTS = 4
"""Of NBD, that misbehave; up to 32 are served."""
CONTROL = 32 * (128 << 10)
"""32 clients of the control socket: a line, an answer, and what asyncio keeps of both (perdure/service/control.py)."""


class Watch(threading.Thread):
    """The most memory that a process had while the block ran, over what it had before, or when it was `idle`."""

    def __init__(self, pid, idle=None):
        super().__init__(daemon=True)
        self._process = psutil.Process(pid)
        self._stopping = threading.Event()
        self.most = self._process.memory_info().rss
        self.before = self.most if idle is None else idle

    def __enter__(self):
        self.start()
        return self

    def run(self):
        while not self._stopping.wait(LOOK_S):
            self.most = max(self.most, self._process.memory_info().rss)

    def __exit__(self, *_):
        self._stopping.set()
        self.join()

    @property
    def grown(self):
        return self.most - self.before


def assert_bounded(what, watch, bound):
    print(f"{what}: {watch.before / MIB:.0f} MiB before, {watch.grown / MIB:.1f} MiB more, bound {bound / MIB:.1f}")
    assert watch.grown <= bound, (what, watch.grown)


def until(what):
    give_up = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < give_up
        time.sleep(LOOK_S)


def stuff(peer, piece):
    """Send `piece` again and again until the other side takes no more for a while, or hangs up; it must do either."""
    peer.settimeout(0.3)
    with contextlib.suppress(OSError):
        for _ in range(STUFF_MAX // len(piece)):
            peer.sendall(piece)
        raise AssertionError("it takes whatever comes")


# A disk ---------------------------------------------------------------------------------------------------


KEY = PrivateKey(b"\x11" * 32)
DISK_BYTES = 2 * MIB
BUFFERS = 24 * MIB
"""8 connections, each with 1 MiB for what comes and 2 MiB for what goes (perdure/disk/serve.py)."""


class Disk:
    """A disk on the simulated platform; `pid` is the program's, not the launcher's."""

    def __init__(self, directory):
        (directory / "disk.eif").write_bytes(build_simulated(KEY.public_key.format()))
        self.path = directory / "disk.sock"
        words = ["--image", directory / "disk.eif", "--root-directory", directory / "root"]
        words += ["--listen", f"unix:{self.path}", "--size-bytes", DISK_BYTES]
        command = [sys.executable, "-m", "perdure.simtee.launch", *map(str, words)]
        self.launcher = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.launcher.stdout.readline().startswith(b"listening ")
        (program,) = psutil.Process(self.launcher.pid).children()
        self.pid = program.pid
        with self.connect() as peer:
            self.instance = peer.ask(client.hello(KEY, os.urandom(32))).instance
            self.epoch = os.urandom(16)
            peer.ask(client.open_disk(KEY, self.instance, self.epoch, os.urandom(32)))

    def connect(self):
        return client.Client(f"unix:{self.path}", WAIT_S)

    def read(self, count, nonce=None):
        return client.read(KEY, self.instance, self.epoch, [(0, count)], nonce)

    def end(self):
        self.launcher.terminate()
        self.launcher.wait(WAIT_S)
        self.launcher.stdout.close()


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path)
    yield disk
    disk.end()


def test_a_disk_flooded_by_every_kind_of_bad_peer_keeps_to_its_buffers_and_answers_the_authority(disk):
    largest = wire.FRAME_HEADER.pack(wire.COMMAND_BYTES_MAX)
    recorded = disk.read(wire.READ_BYTES_MAX // wire.DISK_SECTOR_BYTES)
    with disk.connect() as honest, Watch(disk.pid) as watch, contextlib.ExitStack() as peers:
        answered, stopping = itertools.count(), threading.Event()

        def be_served():
            while not stopping.is_set():
                nonce = os.urandom(32)
                assert honest.ask(disk.read(1, nonce)).evidence
                next(answered)

        with working(be_served, stopping):
            for _ in range(12):
                announcing, half, deaf, gone, junk = (peers.enter_context(disk.connect()).socket for _ in range(5))
                for peer, data in (
                    (announcing, largest),
                    (half, largest + bytes(wire.COMMAND_BYTES_MAX - 1)),
                    (gone, largest + bytes(1000)),
                    (junk, wire.FRAME_HEADER.pack(300) + os.urandom(300)),
                ):
                    peer.settimeout(WAIT_S)
                    with contextlib.suppress(OSError):  # others have taken its place
                        peer.sendall(data)
                gone.close()
                stuff(deaf, recorded * 64)
        served = next(answered)
    print("the authority was answered", served, "times")
    assert served > 8
    assert_bounded("disk", watch, BUFFERS + 2 * MIB)


@contextlib.contextmanager
def working(work, stopping):
    """`work` in a thread that ends when `stopping` is set; fails if it failed."""
    failures = []

    def run():
        try:
            work()
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(WAIT_S)
    assert not thread.is_alive()
    assert not failures, failures


# Clients of the main program ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """An array of 64 MiB, nearly empty; its main program, and what that needs before anybody troubles it."""
    with Rig(tmp_path_factory.mktemp("served"), disks=3, threshold=2) as rig:
        rig.up(size="64M", dead_after_ms=20_000)
        rig.write(0, b"honest")
        assert rig.read(0, 6) == b"honest"
        pid = rig.process("main").pid
        yield rig, pid, psutil.Process(pid).memory_info().rss


def be_honest(rig):
    """For a while, a client that is to be served."""
    end = time.monotonic() + FLOOD_S
    while time.monotonic() < end:
        assert rig.read(0, 6) == b"honest"


def nbd_socket(rig):
    """A connection in the transmission phase, to be used without reading."""
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(WAIT_S)
    peer.connect(str(rig.directory / "nbd.sock"))
    peer.sendall(frames.opening(structured=False))
    left = 18 + 32 + 20
    while left:
        left -= len(peer.recv(left))
    return peer


def test_a_flooded_control_socket_costs_little_and_data_are_served(served):
    rig, pid, idle = served
    path = rig.directory / "control.sock"
    longest, asking = b"x" * (REQUEST_BYTES_MAX - 1), b'{"do": "status"}\n' * 100 + b"\n" * 100_000
    with contextlib.ExitStack() as peers, Watch(pid, idle) as watch:
        for number in range(96):
            peer = peers.enter_context(socket.socket(socket.AF_UNIX))
            peer.settimeout(WAIT_S)
            peer.connect(str(path))
            with contextlib.suppress(OSError):  # one too many: it was hung up on
                peer.sendall(longest)
                if number < 4:
                    stuff(peer, b"\n" + asking)
                elif number % 2:
                    peer.sendall(b"\n" + asking)
        be_honest(rig)
    assert_bounded("main, control socket", watch, CONTROL + SLACK // 4)
    assert ask(path, "status")["failure"] is None


def test_nbd_clients_that_send_part_of_their_payloads_hold_one_each_and_others_are_served(served):
    rig, pid, idle = served
    with contextlib.ExitStack() as peers, Watch(pid, idle) as watch:
        for _ in range(CLIENTS):
            peer = peers.enter_context(contextlib.closing(nbd_socket(rig)))
            head = struct.pack(">IHHQQI", 0x25609513, 0, frames.WRITE, 1, 0, PAYLOAD_BYTES_MAX)
            peer.sendall(head + bytes(PAYLOAD_BYTES_MAX - 1))
        assert rig.read(0, 6) == b"honest"
    assert watch.grown > CLIENTS * PAYLOAD_BYTES_MAX // 2, "nothing was tried"
    assert_bounded("main, NBD clients with part of a payload", watch, CLIENTS * (PAYLOAD_BYTES_MAX + MIB) + SLACK)


def test_nbd_clients_that_read_no_replies_hold_so_much_each_and_others_are_served(served):
    rig, pid, idle = served
    # Nothing was ever written there: such reads cost the main program least, so it gets furthest.
    reading = [frames.request(frames.READ, number, 32 * MIB, PAYLOAD_BYTES_MAX) for number in range(128)]
    for _ in range(2):
        with contextlib.ExitStack() as peers, Watch(pid, idle) as watch:
            for number in range(CLIENTS):
                peer = peers.enter_context(contextlib.closing(nbd_socket(rig)))
                peer.sendall(b"".join(reading))
                if number == 0:
                    stuff(peer, b"".join(reading))
            be_honest(rig)
        assert watch.grown > CLIENTS * PAYLOAD_BYTES_MAX // 2, "nothing was tried"
        assert_bounded("main, NBD clients that do not read", watch, CLIENTS * (HELD + 2 * MIB) + SLACK)
        until(lambda: psutil.Process(pid).memory_info().rss <= idle + SLACK)  # it is given back once they have gone


# Disks, as main sees them ---------------------------------------------------------------------------------


def be_impatient(rig):
    """Let the main program try a silent disk again after a second, not five."""
    path = rig.directory / config.NAME
    text = path.read_text()
    assert "answer-ms-max = 5000" in text
    path.write_text(text.replace("answer-ms-max = 5000", "answer-ms-max = 1000"))


class Writer:
    """A client that keeps sixteen writes of a mebibyte under way, and flushes now and then."""

    DEPTH = 16

    def __init__(self, rig):
        self.peer, self.done, self.stopping = nbd_socket(rig), 0, threading.Event()

    def run(self):
        data = os.urandom(MIB)
        with contextlib.closing(self.peer):
            for number in itertools.count():
                kind = frames.FLUSH if number % 50 == 49 else frames.WRITE
                where = (number % 7) * MIB
                sent = frames.request(kind, number) if kind == frames.FLUSH else frames.write(number, where, data)
                self.peer.sendall(sent)
                if number >= self.DEPTH - 1:
                    self.reply()
                if self.stopping.is_set():
                    return

    def reply(self):
        head = self.peer.recv(16, socket.MSG_WAITALL)
        assert struct.unpack(">II", head[:8]) == (0x67446698, 0)
        self.done += 1


WRITING = CACHE + ENTRIES + Writer.DEPTH * MIB + SLACK


def test_a_disk_that_takes_commands_and_never_answers_costs_the_cache_and_is_voted_off(tmp_path):
    with Rig(tmp_path, disks=3, threshold=2) as rig:
        rig.directory.mkdir(mode=0o700)
        local.prepare(rig.directory, Wish("16M", 3, 2, "unix:nbd.sock", 1000))
        be_impatient(rig)
        rig.up(size="16M", dead_after_ms=1000)
        writer = Writer(rig)
        with Watch(rig.process("main").pid) as watch, working(writer.run, writer.stopping):
            until(lambda: writer.done >= 4)
            rig.pause_disk(2)
            rig.wait_for(lambda status: status["disks"][2]["state"] == "dead")
            count = writer.done
            until(lambda: writer.done > count + 40)
        rig.resume_disk(2)
        assert rig.status()["failure"] is None
        assert_bounded("main, a silent disk and a fast writer", watch, WRITING)


def test_whatever_a_disks_host_sends_without_end_costs_little_and_few_connections(tmp_path):
    junk = os.urandom(MIB)
    longest = wire.FRAME_HEADER.pack(REPLY_BYTES_MAX)
    refusal = serve.refusal(wire.Reason.MALFORMED)
    kinds = {
        "garbage": [Raw(junk)] * 64,
        "replies too long": [Raw(wire.FRAME_HEADER.pack(64 * MIB)), *[Raw(junk)] * 64],
        "the longest replies": [Raw(longest + (junk * 2)[:REPLY_BYTES_MAX])] * 64,
        "half replies": [Raw(longest + junk[: MIB // 2])],
        "refusals": [Raw(refusal * 100_000)],
        "ends of the connection": [HangUp()],
    }
    with LyingHost(tmp_path, disks=3, threshold=2, dead_after_ms=30_000) as host:
        be_impatient(host)
        host.mount()
        proxy = host.proxies[0]
        idle = psutil.Process(host.main_pid).memory_info().rss
        for number, (kind, answers) in enumerate(kinds.items()):
            made, began = len(proxy._links), time.monotonic()
            with Watch(host.main_pid, idle) as watch:
                proxy.alter = lambda frame, answers=answers: answers if frame.way is Way.TO_MAIN else [frame.payload]
                host.write(number * 4096, kind.encode(), flush=False)
                host.wait_for(lambda status: status["disks"][0]["state"] == "suspect")
                time.sleep(1.0)  # so long it goes on
            made, took = len(proxy._links) - made, time.monotonic() - began
            print(f"{kind}: {made} connections in {took:.1f} s")
            assert 0 < made <= 4 + CONNECTIONS_PER_S * took
            assert_bounded(f"main, {kind}", watch, REPLIES + SLACK)
            proxy.alter = unchanged
            proxy.cut()
            host.wait_for(lambda status: status["disks"][0]["state"] == "online")
        for number, kind in enumerate(kinds):
            assert host.read(number * 4096, len(kind)) == kind.encode()


def test_a_disk_whose_host_sends_garbage_without_end_is_voted_off_and_writing_goes_on(tmp_path):
    junk = [Raw(os.urandom(MIB))] * 64
    with LyingHost(tmp_path, disks=3, threshold=2, dead_after_ms=1000) as host:
        host.mount()
        with Watch(host.main_pid) as watch:
            host.proxies[0].alter = lambda frame: junk if frame.way is Way.TO_MAIN else [frame.payload]
            host.write(0, b"goes on")  # its FLUSH returns after the vote
        assert host.status()["disks"][0]["state"] == "dead"
        assert host.read(0, 7) == b"goes on"
        assert_bounded("main, garbage up to the vote", watch, REPLIES + SLACK)


def test_a_disk_that_was_lost_with_commands_under_way_leaves_none_of_them_behind(tmp_path):
    """Else every loss would cost the main program some megabytes for good, and hold what may be erased later."""

    async def story(array, repairs):
        del repairs
        data = os.urandom(MIB // 2)
        for number in range(32):
            await array.pwrite((number % 4) * len(data), data)
        site.kill(1)
        for number in range(32):
            await array.pwrite((number % 4) * len(data), data)
        await array.flush()
        await until_seen(lambda: array.members.roster.seats[1] is None)
        await array.flush()
        gc.collect()
        left = [kept for kept in gc.get_objects() if isinstance(kept, Command)]
        assert sum(len(memoryview(part)) for command in left for part in command.parts) < 100_000

    site = Site(tmp_path)
    try:
        site.run(story)
    finally:
        site.end()
