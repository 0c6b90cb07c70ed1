"""The relay: every byte and every end arrives, cuts stay cuts, nothing grows, and trouble costs one connection."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import random
import resource
import select
import socket
import struct
import threading
import time
import warnings

import pytest

from perdure.disk import address
from perdure.errors import Misuse
from perdure.service import relay as relay_module
from perdure.service.relay import CONNECTIONS_MAX, ROOM_BYTES, Relay
from perdure.sockets import remove_stale

WAIT_S = 20
ANY = 0xFFFFFFFF
LOOPBACK_CID = 1


class Target:
    """A listening socket that the test accepts on."""

    def __init__(self, listen):
        self.listener, self.address = address.listen(listen)
        self.listener.settimeout(WAIT_S)
        if self.listener.family == socket.AF_VSOCK:
            self.address = f"vsock:{LOOPBACK_CID}:{self.listener.getsockname()[1]}"

    def accept(self):
        far, _ = self.listener.accept()
        far.settimeout(WAIT_S)
        return far


class Running:
    """A relay in a thread of its own; `said` is what it said."""

    def __init__(self, listen, to):
        self.said = []
        self.relay = Relay(listen, to, self.said.append)
        self.address = self.relay.address
        if self.address.startswith("vsock:"):
            self.address = f"vsock:{LOOPBACK_CID}:{self.relay._listener.getsockname()[1]}"
        self.failure = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        try:
            self.relay.run()
        except BaseException as failure:
            self.failure = failure

    def connect(self):
        family, target = address.parse(self.address)
        near = socket.socket(family, socket.SOCK_STREAM)
        near.connect(target)
        near.settimeout(WAIT_S)
        return near

    def links(self):
        return len(self.relay._links)

    def until(self, what):
        give_up = time.monotonic() + WAIT_S
        while not what():
            assert time.monotonic() < give_up, f"never happened; it said {self.said}"
            time.sleep(0.005)  # how often to look, not how long to wait

    def stop(self):
        self.relay.stop()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        if self.failure is not None:
            raise self.failure


@contextlib.contextmanager
def relayed(listen, to):
    running = Running(listen, to)
    try:
        yield running
    finally:
        running.stop()


@functools.cache
def has_vsock_loopback():
    """Whether this kernel connects AF_VSOCK sockets of one machine."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM))
        listener.bind((ANY, ANY))
        listener.listen()
        near = stack.enter_context(socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM))
        near.settimeout(1)
        near.connect((LOOPBACK_CID, listener.getsockname()[1]))
        return True
    return False


def needs_vsock():
    """Skip, loudly, where AF_VSOCK cannot be tried."""
    if not has_vsock_loopback():
        warnings.warn("SKIPPED: this kernel has no loopback for AF_VSOCK (modprobe vsock_loopback)", stacklevel=1)
        pytest.skip("this kernel has no loopback for AF_VSOCK; modprobe vsock_loopback brings it")


@contextlib.contextmanager
def way(folder, front="tcp", back="tcp"):
    """A target, and a relay before it."""
    if "vsock" in (front, back):
        needs_vsock()
    listens = {
        "tcp": "tcp:127.0.0.1:0",
        "unix": f"unix:{folder}/{{}}",
        "vsock": f"vsock:{ANY}:{ANY}",
    }
    target = Target(listens[back].format("target"))
    with target.listener, relayed(listens[front].format("relay"), target.address) as running:
        yield running, target


@contextlib.contextmanager
def connected(running, target):
    """Both ends of one connection through the relay."""
    with running.connect() as near:
        far = target.accept()
        with far:
            yield near, far


WAYS = [
    ("tcp", "tcp"),
    ("tcp", "unix"),
    ("unix", "tcp"),
    ("unix", "unix"),
    ("tcp", "vsock"),
    ("vsock", "tcp"),
]


def send_in_pieces(stream, data, seed):
    """Send `data` in pieces of random sizes, then end."""
    dice, at = random.Random(seed), 0
    while at < len(data):
        count = dice.choice((1, 7, 200, 4096, dice.randrange(1, 3 * ROOM_BYTES)))
        stream.sendall(data[at : at + count])
        at += count
    stream.shutdown(socket.SHUT_WR)


def receive_all(stream, seed=0, pause_s=0.0):
    """What comes until the end, read in pieces of random sizes."""
    dice, pieces = random.Random(seed), []
    while piece := stream.recv(dice.choice((1, 100, 4096, 1 << 20))):
        pieces.append(piece)
        if pause_s and dice.random() < 0.05:
            time.sleep(pause_s)
    return b"".join(pieces)


def reset(stream):
    """Break the connection off as a crash does."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()


# Bytes and ends -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("front", "back"), WAYS)
def test_bytes_arrive_unchanged_both_ways_at_once(tmp_path, front, back):
    there, back_again = random.Random(1).randbytes(3_000_001), random.Random(2).randbytes(2_000_003)
    with way(tmp_path, front, back) as (running, target), connected(running, target) as (near, far):
        senders = [
            threading.Thread(target=send_in_pieces, args=(near, there, 3)),
            threading.Thread(target=send_in_pieces, args=(far, back_again, 4)),
        ]
        got = {}
        reader = threading.Thread(target=lambda: got.update(far=receive_all(far, 5, pause_s=0.001)))
        for thread in (*senders, reader):
            thread.start()
        assert receive_all(near, 6) == back_again
        for thread in (*senders, reader):
            thread.join(WAIT_S)
        assert got["far"] == there
        running.until(lambda: running.links() == 0)
        assert running.said == []


@pytest.mark.parametrize(("front", "back"), WAYS)
def test_one_side_may_end_and_the_other_go_on(tmp_path, front, back):
    data = random.Random(7).randbytes(1 << 20)
    with way(tmp_path, front, back) as (running, target):
        for which in (0, 1):
            with connected(running, target) as ends:
                first, second = ends[which], ends[1 - which]
                first.sendall(b"the last word")
                first.shutdown(socket.SHUT_WR)
                assert receive_all(second) == b"the last word"
                sender = threading.Thread(target=send_in_pieces, args=(second, data, 8))
                sender.start()
                assert receive_all(first) == data
                sender.join(WAIT_S)
                running.until(lambda: running.links() == 0)


def test_a_message_is_passed_on_before_the_next_is_there(tmp_path):
    """No waiting for a reply, none for more bytes: many small messages are on the way at once."""
    with way(tmp_path) as (running, target), connected(running, target) as (near, far):
        for number in range(50):
            near.sendall(bytes([number]))
            assert far.recv(10) == bytes([number])
        far.sendall(b"first reply")
        assert near.recv(100) == b"first reply"


@pytest.mark.parametrize("which", [0, 1], ids=["the one who came", "the target"])
def test_a_cut_is_not_taken_for_an_end(tmp_path, which):
    with way(tmp_path) as (running, target), connected(running, target) as ends:
        ends[which].sendall(b"half a repl")
        assert ends[1 - which].recv(100) == b"half a repl"
        reset(ends[which])
        with pytest.raises(ConnectionResetError):
            ends[1 - which].recv(100)
        running.until(lambda: running.links() == 0)


def test_a_cut_is_found_while_bytes_wait_for_the_one_who_is_gone(tmp_path):
    with way(tmp_path) as (running, target), connected(running, target) as (near, far):
        fill(far)
        reset(near)
        running.until(lambda: running.links() == 0)
        with pytest.raises(ConnectionError):
            far.recv(100)


def test_sending_to_a_side_that_closed_breaks_off_the_sender(tmp_path):
    with way(tmp_path) as (running, target), connected(running, target) as (near, far):
        far.close()
        assert near.recv(1) == b""
        with pytest.raises(ConnectionError):
            for _ in range(1000):
                near.sendall(b"is anybody there?")
                time.sleep(0.001)  # for the answer to come, or the loop is over too soon
        running.until(lambda: running.links() == 0)


def test_readiness_that_was_a_false_alarm_does_no_harm(tmp_path):
    with way(tmp_path) as (running, target), connected(running, target) as (near, far):
        near.sendall(b"x")
        assert far.recv(1) == b"x"
        for side in list(running.relay._sides.values()):
            running.relay._turn(side, select.EPOLLIN)
        running.relay._accept()
        near.sendall(b"y")
        assert far.recv(1) == b"y"
        assert running.links() == 1


def test_a_false_alarm_of_room_in_a_full_socket_keeps_what_waits(tmp_path):
    relay = Relay("tcp:127.0.0.1:0", "tcp:127.0.0.1:1", print)
    near, far = socket.socketpair()
    with near, far:
        fill(near)
        near.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while near.send(b"x"):
                pass
        side = relay_module._Side(near, None)
        side.waiting = memoryview(b"waits")
        relay._send_waiting(side, side.waiting)
        assert side.waiting == b"waits"
    relay.stop()
    relay.run()


# Bounds ---------------------------------------------------------------------------------------------------


def fill(stream):
    """Send until nothing more is taken for a while; what was sent."""
    stream.setblocking(False)
    sent, last = 0, time.monotonic()
    while time.monotonic() < last + 0.3:
        with contextlib.suppress(BlockingIOError):
            sent += stream.send(bytes(1 << 16))
            last = time.monotonic()
            continue
        time.sleep(0.005)
    stream.settimeout(WAIT_S)
    return sent


@pytest.mark.parametrize("which", [0, 1], ids=["the one who came", "the target"])
def test_a_slow_reader_stops_its_peer_and_memory_stays_bounded(tmp_path, which):
    with way(tmp_path) as (running, target), connected(running, target) as ends:
        slow, fast = ends[which], ends[1 - which]
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        sent = fill(fast)
        assert sent < 64 << 20  # what the system's own socket buffers take
        (full,) = [side for side in list(running.relay._sides.values()) if side.waiting is not None]
        assert 0 < len(full.waiting) <= ROOM_BYTES
        used = time.process_time()
        time.sleep(0.3)  # the time in which a loop that does not wait would be seen
        assert time.process_time() - used < 0.15
        slow.sendall(b"the other way is free")
        assert fast.recv(100) == b"the other way is free"
        rest = random.Random(9).randbytes(8 << 20)
        sender = threading.Thread(target=send_in_pieces, args=(fast, rest, 10))
        sender.start()
        got = receive_all(slow, 11)
        sender.join(WAIT_S)
        assert len(got) == sent + len(rest)
        assert hashlib.sha256(got[sent:]).digest() == hashlib.sha256(rest).digest()


def test_a_target_that_ended_and_left_bytes_for_a_slow_reader_costs_no_time(tmp_path):
    """Both directions of the target's socket are shut then, which the system tells again and again if asked."""
    with way(tmp_path) as (running, target), connected(running, target) as (near, far):
        near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        near.shutdown(socket.SHUT_WR)
        assert far.recv(1) == b""
        sent = fill(far)
        far.close()
        used = time.process_time()
        time.sleep(0.3)  # the time in which a loop that does not wait would be seen
        assert time.process_time() - used < 0.15
        assert len(receive_all(near)) == sent
        running.until(lambda: running.links() == 0)


def test_as_many_connections_as_promised_and_no_more(tmp_path):
    with way(tmp_path) as (running, target), contextlib.ExitStack() as stack:
        pairs = [stack.enter_context(connected(running, target)) for _ in range(CONNECTIONS_MAX)]
        for number, (near, far) in enumerate(pairs):
            near.sendall(b"%d" % number)
            far.sendall(b"re %d" % number)
        for number, (near, far) in enumerate(pairs):
            assert far.recv(100) == b"%d" % number
            assert near.recv(100) == b"re %d" % number
        for _ in range(3):
            with running.connect() as refused:
                assert refused.recv(1) == b""
        assert running.said == ["All 64 connections are taken; new ones are closed until one ends."]
        for near, far in pairs[: CONNECTIONS_MAX // 2]:
            near.close()
            far.close()
        running.until(lambda: running.links() == CONNECTIONS_MAX // 2)
        stack.enter_context(connected(running, target))
        for _ in range(CONNECTIONS_MAX // 2 - 1):
            stack.enter_context(connected(running, target))
        with running.connect() as refused:
            assert refused.recv(1) == b""
        assert len(running.said) == 2  # it was a change again


def test_a_connection_that_ended_on_one_side_makes_room(tmp_path):
    with way(tmp_path) as (running, target), contextlib.ExitStack() as stack:
        pairs = [stack.enter_context(connected(running, target)) for _ in range(CONNECTIONS_MAX)]
        for number in (5, 3):  # the target has ended; those who came hold on to what they have
            pairs[number][1].shutdown(socket.SHUT_WR)
            assert pairs[number][0].recv(1) == b""
        near, far = stack.enter_context(connected(running, target))
        near.sendall(b"let in")
        assert far.recv(10) == b"let in"
        assert running.links() == CONNECTIONS_MAX
        with pytest.raises(ConnectionError):
            pairs[5][1].recv(1)
        pairs[3][0].sendall(b"it ended later")
        assert pairs[3][1].recv(100) == b"it ended later"
        assert running.said == []


@contextlib.contextmanager
def descriptors_left(count):
    """Let this process open `count` descriptors more."""
    free = os.dup(0)
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("left", [0, 1])
def test_without_descriptors_it_rests_and_goes_on(tmp_path, monkeypatch, left):
    monkeypatch.setattr(relay_module, "REST_S", 0.3)
    with way(tmp_path) as (running, target), connected(running, target) as (near, far):
        with socket.socket() as late, socket.socket() as later:
            with descriptors_left(left):
                late.connect(near.getpeername())
                running.until(lambda: running.said)
                near.sendall(b"served")
                assert far.recv(10) == b"served"
            later.connect(near.getpeername())
            with target.accept():
                pass
        assert running.said == ["A connection could not be accepted (Too many open files); the next ones wait."]


# The target -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("back", ["tcp", "unix"])
def test_a_target_that_goes_and_comes_is_told_once_each(tmp_path, back):
    with way(tmp_path, back=back) as (running, target):
        target.listener.close()
        for _ in range(3):
            with running.connect() as near, contextlib.suppress(ConnectionError):
                assert near.recv(1) == b""
        remove_stale(target.address)
        listener, _ = address.listen(target.address)
        with listener:
            for _ in range(2):
                with running.connect() as near:
                    listener.settimeout(WAIT_S)
                    far, _ = listener.accept()
                    with far:
                        near.sendall(b"x")
                        assert far.recv(1) == b"x"
        for _ in range(2):
            with running.connect() as near, contextlib.suppress(ConnectionError):
                assert near.recv(1) == b""
        down = f"The target {target.address} cannot be reached (Connection refused); connections are closed until it "
        assert running.said == [f"{down}can.", f"The target {target.address} answers again.", f"{down}can."]


def test_a_target_that_never_answers_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(relay_module, "CONNECT_S", 0.2)
    target = Target("tcp:127.0.0.1:0")
    with target.listener, contextlib.ExitStack() as stack:
        target.listener.listen(0)  # one waits to be accepted; to the next the system does not answer
        stack.enter_context(socket.create_connection(target.listener.getsockname(), WAIT_S))
        with relayed("tcp:127.0.0.1:0", target.address) as running:
            for _ in range(2):
                with running.connect() as near, pytest.raises(ConnectionError):
                    near.recv(1)
            assert running.said == [
                f"The target {target.address} cannot be reached (no answer in 0.2 s); connections are closed until "
                "it can."
            ]


def test_a_target_whose_queue_is_full_is_one_that_cannot_be_reached(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        listener.bind(f"{tmp_path}/target")
        listener.listen(0)
        stack.enter_context(socket.socket(socket.AF_UNIX)).connect(f"{tmp_path}/target")
        with relayed("tcp:127.0.0.1:0", f"unix:{tmp_path}/target") as running:
            with running.connect() as near, pytest.raises(ConnectionError):
                near.recv(1)
            assert "(Resource temporarily unavailable)" in running.said[0]


def test_nobody_who_listens_to_what_it_says_is_no_reason_to_end(tmp_path):
    def broken(_):
        raise BrokenPipeError(errno.EPIPE, "gone")

    with way(tmp_path) as (running, target):
        running.relay._say = broken
        target.listener.close()
        for _ in range(2):
            with running.connect() as near, contextlib.suppress(ConnectionError):
                assert near.recv(1) == b""
        assert running.failure is None


def test_a_vsock_target_is_connected_with_its_cid_and_port(monkeypatch):
    seen = []

    def start(stream, target):
        seen.append((stream.family, stream.type, stream.getblocking(), target))
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(relay_module, "_start_to_connect", start)
    with relayed("tcp:127.0.0.1:0", "vsock:16:7001") as running, running.connect() as near:
        with contextlib.suppress(ConnectionError):
            assert near.recv(1) == b""
        assert seen == [(socket.AF_VSOCK, socket.SOCK_STREAM, False, (16, 7001))]
        assert running.said == [
            "The target vsock:16:7001 cannot be reached (No such device); connections are closed until it can."
        ]


def test_the_kernel_s_word_about_a_vsock_target_is_passed_on(monkeypatch):
    """CID 0xFFFFFFFF means any, so nobody is there, whatever the kernel can do."""
    monkeypatch.setattr(relay_module, "CONNECT_S", 0.5)
    with relayed("tcp:127.0.0.1:0", f"vsock:{ANY}:7001") as running, running.connect() as near:
        with contextlib.suppress(ConnectionError):
            assert near.recv(1) == b""
        (sentence,) = running.said
        assert sentence.startswith(f"The target vsock:{ANY}:7001 cannot be reached (")


@pytest.mark.parametrize(("front", "back"), [("tcp", "tcp"), ("tcp", "unix")])
def test_sockets_send_at_once_and_notice_the_dead(tmp_path, front, back):
    with way(tmp_path, front, back) as (running, target), connected(running, target):
        sides = [side.stream for side in list(running.relay._sides.values())]
        internet = [stream for stream in sides if stream.family == socket.AF_INET]
        assert len(internet) == (front, back).count("tcp")
        for stream in internet:
            assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert stream.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
            assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 10
            assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 3
            assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
        assert not any(stream.getblocking() for stream in sides)


def test_a_host_name_is_looked_up_once(monkeypatch):
    asked = []
    real = socket.getaddrinfo

    def look_up(host, *rest, **more):
        asked.append(host)
        return real("127.0.0.1", *rest, **more)

    target = Target("tcp:127.0.0.1:0")
    monkeypatch.setattr(relay_module.socket, "getaddrinfo", look_up)
    port = target.listener.getsockname()[1]
    with target.listener, relayed("tcp:127.0.0.1:0", f"tcp:disk.example:{port}") as running:
        for _ in range(2):
            with connected(running, target) as (near, far):
                near.sendall(b"x")
                assert far.recv(1) == b"x"
        assert asked == ["disk.example"]


# The end, and bad input -----------------------------------------------------------------------------------


def test_stopping_breaks_off_every_connection_and_closes_everything(tmp_path):
    target = Target(f"unix:{tmp_path}/target")
    before = len(os.listdir("/proc/self/fd"))
    with target.listener:
        running = Running("tcp:127.0.0.1:0", target.address)
        with connected(running, target) as (near, far):
            near.sendall(b"x")
            assert far.recv(1) == b"x"
            running.stop()
            with pytest.raises(ConnectionResetError):
                near.recv(1)
            assert far.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            running.connect()
        assert len(os.listdir("/proc/self/fd")) == before


def test_stopping_before_it_runs_counts_too(tmp_path):
    relay = Relay(f"unix:{tmp_path}/relay", "tcp:127.0.0.1:1", print)
    relay.stop()
    relay.run()
    assert not (tmp_path / "relay").exists()
    relay.stop()  # a second signal


def test_a_socket_file_of_someone_else_is_left_alone(tmp_path):
    relay = Relay(f"unix:{tmp_path}/relay", "tcp:127.0.0.1:1", print)
    (tmp_path / "relay").rename(tmp_path / "aside")
    (tmp_path / "relay").write_bytes(b"precious")
    relay.stop()
    relay.run()
    assert (tmp_path / "relay").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("listen", "to", "sentence"),
    [
        ("tcp:127.0.0.1", "vsock:16:7001", "not an address: 'tcp:127.0.0.1'; .*; nothing is relayed."),
        ("tcp:127.0.0.1:0", "16:7001", "not an address: '16:7001'; .*; nothing is relayed."),
        ("tcp:127.0.0.1:0", "vsock:any:7001", "not an address: .*; nothing is relayed."),
        ("tcp:127.0.0.1:0", "tcp:a..b:1", "Cannot find the target 'tcp:a..b:1': .*; nothing is relayed."),
        ("tcp:127.0.0.1:0", "tcp:[::x]:1", "Cannot find the target 'tcp:.*; nothing is relayed."),
        ("tcp:192.0.2.1:1", "vsock:16:7001", "Cannot listen at 'tcp:192.0.2.1:1': .*; nothing is relayed."),
        ("tcp:a..b:1", "vsock:16:7001", "Cannot listen at 'tcp:a..b:1': .*; nothing is relayed."),
        (f"unix:/tmp/{'x' * 200}", "vsock:16:7001", "Cannot listen at .*too long; nothing is relayed."),
        ("unix:/missing/folder/s", "vsock:16:7001", "Cannot listen at .*: No such file.*; nothing is relayed."),
        ("vsock:3:7001", "vsock:3:7001", "The relay cannot be its own target: 'vsock:3:7001'; nothing is relayed."),
    ],
)
def test_bad_addresses_are_refused_in_one_sentence(listen, to, sentence):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Misuse, match=sentence) as caught:
        Relay(listen, to, print)
    assert "\n" not in str(caught.value)
    assert len(os.listdir("/proc/self/fd")) == before
