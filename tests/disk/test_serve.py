"""The server over real sockets: order, shared evidence, bounds, wiping, and peers that misbehave."""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import random
import resource
import select
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from perdure.disk import serve, wire
from perdure.disk.address import listen
from perdure.disk.serve import Reply
from perdure.disk.wire import DISK_SECTOR_BYTES, Reason

from . import client
from .client import Client, Result
from .running import EPOCH, INSTANCE, KEY, WAIT_S, Running, ping, running, unix_address

SEED = int(os.environ.get("PERDURE_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
BIG_SECTORS = wire.READ_BYTES_MAX // DISK_SECTOR_BYTES


def listens(address: str) -> bool:
    try:
        listener, _ = listen(address)
    except OSError:
        return False
    listener.close()
    return True


VSOCK = pytest.param(
    "vsock:1:23457",
    marks=pytest.mark.skipif(not listens("vsock:1:23457"), reason="AF_VSOCK loopback is missing: load vsock_loopback"),
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Running]:
    """An opened disk on a Unix socket."""
    with running(unix_address(tmp_path)) as disk:
        disk.open()
        yield disk


@pytest.fixture
def tcp_disk() -> Iterator[Running]:
    """An opened disk on TCP."""
    with running("tcp:127.0.0.1:0") as disk:
        disk.open()
        yield disk


@pytest.fixture
def big_disk(tmp_path: Path) -> Iterator[Running]:
    """An opened disk of one largest READ, filled with random bytes."""
    with running(unix_address(tmp_path), BIG_SECTORS) as disk:
        disk.open()
        disk.memory[:] = random.Random(1).randbytes(len(disk.memory))
        yield disk


def nonce(number: int) -> bytes:
    return number.to_bytes(32, "big")


def hello(number: int) -> bytes:
    return client.hello(KEY, nonce(number))


def execute(seq: int, *ops: client.Op, asking: int | None = None) -> bytes:
    return client.execute(KEY, INSTANCE, EPOCH, seq, ops, None if asking is None else nonce(asking))


def read(*runs: tuple[int, int], asking: int | None = None) -> bytes:
    return client.read(KEY, INSTANCE, EPOCH, runs, None if asking is None else nonce(asking))


def sector(letter: str) -> bytes:
    return letter.encode() * DISK_SECTOR_BYTES


def result(reply: Result | Reason) -> Result:
    assert isinstance(reply, Result), reply
    return reply


def attested(reply: Result | Reason, frame: bytes) -> bytes:
    """The root that the document of `reply` is over, which is checked to be where its path leads."""
    evidence = client.parse_evidence(result(reply), frame)
    assert evidence.root is not None
    assert evidence.document == b"document over " + evidence.root
    return evidence.root


def is_silent(connection: Client) -> bool:
    """Whether nothing has come in on `connection`."""
    return not select.select([connection.socket], [], [], 0)[0]


# Order and evidence -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["unix", "tcp:127.0.0.1:0", "tcp:[::1]:0", VSOCK])
def test_pipelined_commands_are_answered_in_their_order(address: str, tmp_path: Path) -> None:
    if address == "tcp:[::1]:0" and not listens(address):
        pytest.skip("this kernel has no IPv6 loopback")
    with running(unix_address(tmp_path) if address == "unix" else address) as disk, disk.connect() as peer:
        frames = [hello(0), client.open_disk(KEY, INSTANCE, EPOCH, nonce(1))]
        for seq in range(1, 9):
            frames += [execute(seq, client.write(seq, sector(f"{seq}")), asking=seq % 2 or None), read((seq, 1))]
        peer.send(*frames)
        replies = [result(peer.receive()) for _ in frames]
        assert [reply.epoch for reply in replies] == [wire.NO_EPOCH] + [EPOCH] * 17
        assert [reply.seq for reply in replies] == [0, 0] + [seq for seq in range(1, 9) for _ in range(2)]
        assert [reply.data for reply in replies[3::2]] == [sector(f"{seq}") for seq in range(1, 9)]
        for frame, reply in zip(frames, replies, strict=True):
            asked = frame[4 + 64 + 2]
            assert bool(reply.evidence) is bool(asked)
            if asked:
                attested(reply, frame)


def test_requests_that_wait_share_one_document(disk: Running) -> None:
    disk.notary.asked.clear()
    disk.notary.hold()
    with disk.connect() as one, disk.connect() as two:
        one.send(hello(0))
        disk.settle()  # the platform now works on a document for the first request alone
        first, second = [hello(n) for n in range(1, 6)], [read((n, 2), asking=n) for n in range(6)]
        one.send(*first)
        two.send(*second)
        disk.settle()
        disk.notary.release()
        roots = {attested(one.receive(), frame) for frame in [hello(0)]}
        shared = {attested(one.receive(), frame) for frame in first}
        shared |= {attested(two.receive(), frame) for frame in second}
    assert len(shared) == 1
    assert disk.notary.asked == [*roots, *shared]


def test_a_reply_never_overtakes_one_that_waits_for_evidence(disk: Running) -> None:
    disk.notary.hold()
    with disk.connect() as peer:
        frames = [execute(1, client.write(0, sector("a"))), hello(1), read((0, 1)), hello(2), client.frame(b"")]
        peer.send(*frames)
        assert result(peer.receive()).seq == 1
        disk.settle()
        assert is_silent(peer)
        disk.notary.release()
        attested(peer.receive(), frames[1])
        assert result(peer.receive()).data == sector("a")
        attested(peer.receive(), frames[3])
        assert peer.receive() is Reason.MALFORMED


def test_a_server_that_waits_for_evidence_does_not_spin(disk: Running) -> None:
    """A socket is nearly always writable: to be told so before there is something to send would never end."""
    disk.notary.hold()
    with disk.connect() as peer:
        peer.send(hello(1), client.frame(b""))
        disk.settle()
        (connection,) = disk.connections()[:1]
        assert len(connection.replies) == 2
        assert connection.wants() == selectors.EVENT_READ


def test_a_server_does_not_spin_over_a_peer_that_left_while_it_waits(tmp_path: Path) -> None:
    """Of a watched socket the kernel tells its end again and again, whatever else one asks to be told."""
    with running(unix_address(tmp_path), stepped=True) as disk:
        peer = disk.connect()
        disk.server.step(0)
        disk.notary.hold()
        peer.send(hello(1) * serve.REPLIES_MAX)
        disk.server.step(0)
        assert disk.connections()[0].wants() == 0
        peer.socket.close()
        start = time.monotonic()
        disk.server.step(0.05)
        assert time.monotonic() - start > 0.04


def test_waiting_for_evidence_holds_up_no_other_connection(disk: Running) -> None:
    disk.notary.hold()
    with disk.connect() as waiting, disk.connect() as other:
        waiting.send(hello(0))
        disk.settle()
        assert other.ask(execute(1, client.write(3, sector("x")))).seq == 1
        assert other.ask(read((3, 1))).data == sector("x")
        assert is_silent(waiting)
        disk.notary.release()
        attested(waiting.receive(), hello(0))


def test_a_burst_of_evidence_requests_needs_few_documents(disk: Running) -> None:
    disk.notary.asked.clear()
    frames = [hello(n) for n in range(200)]
    with disk.connect() as peer:
        peer.send(*frames)
        roots = {attested(peer.receive(), frame) for frame in frames}
    assert roots == set(disk.notary.asked)
    disk.notary.asked.clear()
    disk.notary.hold()
    with disk.connect() as peer:
        peer.send(*frames)
        disk.settle()
        disk.notary.release()
        for frame in frames:
            attested(peer.receive(), frame)
    assert len(disk.notary.asked) <= 5  # what came first, then as many as may wait at a time


def test_all_that_may_wait_on_all_connections_fits_one_document(disk: Running) -> None:
    assert serve.CONNECTIONS_MAX * serve.REPLIES_MAX <= wire.LEAVES_MAX


@pytest.mark.parametrize(
    "failure", [OSError("the device is gone"), ValueError("a document of no form"), TimeoutError()]
)
def test_a_platform_failure_is_told_and_the_connection_goes_on(disk: Running, failure: Exception) -> None:
    with disk.connect() as peer:
        disk.notary.failure = failure
        peer.send(hello(1), read((0, 1)), execute(1, client.write(0, sector("z")), asking=2), read((0, 1), asking=3))
        assert peer.receive() is Reason.NO_EVIDENCE
        assert result(peer.receive()).data == bytes(64)
        assert peer.receive() is Reason.NO_EVIDENCE  # but it was carried out, as a HELLO tells
        assert peer.receive() is Reason.NO_EVIDENCE
        disk.notary.failure = None
        assert peer.ask(hello(4)).seq == 1
        assert peer.ask(read((0, 1), asking=5)).data == sector("z")
        ping(peer)
        assert buffers_are_zero(disk)


# Framing ------------------------------------------------------------------------------------------------------


def test_a_frame_may_be_split_anywhere(disk: Running) -> None:
    with disk.connect() as peer, disk.connect() as other:
        for cut in range(1, len(read((0, 1)))):
            frame = execute(cut, client.write(0, nonce(cut) * 2))
            peer.send(frame[:cut])
            ping(other)
            ping(other)
            peer.send(frame[cut:], read((0, 1)))
            assert result(peer.receive()).seq == cut
            assert result(peer.receive()).data == nonce(cut) * 2


def test_a_refusal_leaves_the_bytes_of_a_read_that_waits_behind_it_alone(disk: Running) -> None:
    with disk.connect() as peer:
        peer.ask(execute(1, client.write(0, sector("a"))))
        peer.send(client.frame(b"") * 3, read((0, 1)), client.frame(b""), read((0, 1)))
        assert [peer.receive() for _ in range(3)] == [Reason.MALFORMED] * 3
        assert result(peer.receive()).data == sector("a")
        assert peer.receive() is Reason.MALFORMED
        assert result(peer.receive()).data == sector("a")


def test_frames_may_come_byte_by_byte(tcp_disk: Running) -> None:
    with tcp_disk.connect() as peer:
        peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in execute(1, client.write(0, sector("a"))) + read((0, 1)):
            peer.send(bytes([byte]))
        assert result(peer.receive()).seq == 1
        assert result(peer.receive()).data == sector("a")


def test_many_small_frames_in_one_segment_are_all_answered(tcp_disk: Running) -> None:
    with tcp_disk.connect() as idle, tcp_disk.connect() as peer:
        ping(idle)
        peer.send(client.frame(b"") * 1000, execute(1), client.frame(b"x") * 1000, hello(1))
        assert [peer.receive() for _ in range(1000)] == [Reason.MALFORMED] * 1000
        assert result(peer.receive()).seq == 1
        assert [peer.receive() for _ in range(1000)] == [Reason.MALFORMED] * 1000
        attested(peer.receive(), hello(1))


@pytest.mark.parametrize("length", [wire.COMMAND_BYTES_MAX + 1, 1 << 31, (1 << 32) - 1])
def test_a_peer_that_announces_too_long_a_frame_is_dropped(disk: Running, length: int) -> None:
    with disk.connect() as bad, disk.connect() as good:
        bad.send(execute(1, client.write(0, sector("a"))), wire.FRAME_HEADER.pack(length))
        while not is_dropped(bad):
            pass
        assert good.ask(read((0, 1))).seq == 1
        assert good.ask(read((0, 1))).data == sector("a")
        # Behind replies that must go out first, it is found only when the peer's turn comes again.
    with disk.connect() as bad:
        bad.send(client.frame(b"") * serve.REPLIES_MAX, wire.FRAME_HEADER.pack(length))
        assert is_dropped(bad)


def is_dropped(peer: Client) -> bool:
    """Read on to the end of the connection."""
    with contextlib.suppress(ConnectionError):
        while peer.socket.recv(4096):
            pass
    return True


def test_the_longest_command_is_taken_and_wiped(big_disk: Running) -> None:
    room = wire.COMMAND_BYTES_MAX - 64 - wire.COMMAND_HEADER.size - wire.COUNT.size - wire.OP.size
    data = random.Random(2).randbytes(room // 64 * 64)
    with big_disk.connect() as peer:
        assert peer.ask(execute(1, client.write(0, data))).seq == 1
        assert big_disk.memory[: len(data)] == data
        assert peer.call(client.frame(bytes(wire.COMMAND_BYTES_MAX))) is Reason.BAD_SIGNATURE
        peer.send(client.frame(bytes(wire.COMMAND_BYTES_MAX)) * 3, hello(1))
        assert [peer.receive() for _ in range(3)] == [Reason.BAD_SIGNATURE] * 3
        assert result(peer.receive()).seq == 1
        assert buffers_are_zero(big_disk)


def test_a_truncated_command_does_nothing(disk: Running) -> None:
    before = bytes(disk.memory)
    frame = execute(1, client.write(0, sector("x")))
    for cut in (1, 4, 5, 68, len(frame) - 65, len(frame) - 1):
        with disk.connect() as peer:
            peer.send(frame[:cut])
    with disk.connect() as peer:
        assert peer.ask(hello(1)).seq == 0
        assert bytes(disk.memory) == before
        assert peer.ask(frame).seq == 1


def test_random_frames_change_nothing(disk: Running) -> None:
    chance = random.Random(SEED)
    good = [hello(0), read((0, 1)), execute(7, client.write(0, sector("q"))), client.frame(b"")]
    before = disk.core.epoch, disk.core.seq, bytes(disk.memory)
    answered = 0
    with disk.connect() as peer:
        for _ in range(120):
            frames = []
            for _ in range(25):
                body = bytearray(chance.choice(good)[4:])
                if chance.random() < 0.5 and body:
                    body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
                else:
                    body = bytearray(chance.randbytes(chance.randrange(300)))
                frames.append(client.frame(bytes(body)))
            peer.send(*frames)
            refused = [peer.receive() for _ in frames]
            assert set(refused) <= {Reason.BAD_SIGNATURE, Reason.MALFORMED}, f"seed {SEED}"
            answered += len(refused)
    assert answered == 3000
    assert (disk.core.epoch, disk.core.seq, bytes(disk.memory)) == before, f"seed {SEED}"


def test_random_streams_change_nothing_and_hang_no_one(disk: Running) -> None:
    chance = random.Random(SEED)
    before = disk.core.epoch, disk.core.seq, bytes(disk.memory)
    for _ in range(400):
        with disk.connect() as peer, contextlib.suppress(ConnectionError):
            size = chance.choice([1, 3, 4, 100, 5000])
            peer.send(bytes(chance.choice([0, 2])) + chance.randbytes(size))
    with disk.connect() as peer:
        assert peer.ask(hello(1)).seq == 0
    assert (disk.core.epoch, disk.core.seq, bytes(disk.memory)) == before, f"seed {SEED}"


# Wiping -------------------------------------------------------------------------------------------------------


def buffers_are_zero(disk: Running) -> bool:
    """Whether no connection's buffers hold a byte. True of a server that waits, with no reply under way."""
    return not any(any(c._received.tobytes()) or any(c._arena.tobytes()) for c in disk.connections())


def test_buffers_are_zero_after_use(disk: Running) -> None:
    with disk.connect() as peer:
        peer.send(*[execute(n, client.write(n, os.urandom(192))) for n in range(1, 40)])
        peer.send(read((0, 64)), read((1, 9), asking=1), client.frame(b"garbage"), read((7, 7)))
        for _ in range(43):
            peer.receive()
        ping(peer)
        assert buffers_are_zero(disk)


def test_a_part_of_a_command_is_kept_and_everything_before_it_wiped(disk: Running) -> None:
    start = execute(2, client.write(1, sector("b")))[:90]
    with disk.connect() as peer:
        peer.send(execute(1, client.write(0, sector("a"))), start)
        assert result(peer.receive()).seq == 1
        disk.settle()
        received = bytes(disk.connections()[0]._received)
        assert received == start + bytes(len(received) - len(start))


def test_buffers_of_a_dropped_connection_are_zero(disk: Running) -> None:
    disk.memory[:] = b"m" * len(disk.memory)
    disk.notary.hold()
    with disk.connect() as peer:
        peer.send(read((0, 64), asking=1), execute(1, client.write(0, sector("a")))[:-1])
        disk.settle()
        (dropped,) = disk.connections()[:1]
        assert b"m" in bytes(dropped._arena)
        assert b"a" in bytes(dropped._received)
    disk.settle()
    assert not any(bytes(dropped._arena))
    assert not any(bytes(dropped._received))


# Bounds -------------------------------------------------------------------------------------------------------


def test_reads_of_the_largest_size_may_be_pipelined(big_disk: Running) -> None:
    frames = [read((0, BIG_SECTORS), asking=n if n % 2 else None) for n in range(12)]
    with big_disk.connect() as peer:
        peer.send(*frames)
        for frame in frames:
            reply = result(peer.receive())
            assert reply.data == big_disk.memory
            if reply.evidence:
                attested(reply, frame)
        ping(peer)
        assert buffers_are_zero(big_disk)


def stuff(peer: Client, disk: Running, frame: bytes) -> tuple[int, bytes]:
    """Send `frame` again and again until the server takes no more; return how often, and the rest of the last."""
    pending, sent, refused = memoryview(b""), 0, 0
    peer.socket.setblocking(False)
    while refused < 3:
        if not pending:
            pending, sent = memoryview(frame), sent + 1
        try:
            pending = pending[peer.socket.send(pending) :]
            refused = 0
        except BlockingIOError:
            disk.settle()
            refused += 1
    peer.socket.settimeout(WAIT_S)
    return sent, bytes(pending)


@pytest.mark.parametrize("holding", [True, False])
def test_a_peer_that_does_not_read_costs_bounded_memory_and_blocks_nobody(big_disk: Running, holding: bool) -> None:
    frame = read((0, BIG_SECTORS), asking=1 if holding else None)
    with big_disk.connect() as slow:
        if holding:
            assert len(slow.ask(read((0, 1))).data) == 64  # room that was used once is there again
            big_disk.notary.hold()
        count, rest = stuff(slow, big_disk, frame)
        (connection,) = big_disk.connections()[:1]
        assert len(connection.replies) == 2 or (not holding and len(connection.replies) == 1)
        assert connection._used <= serve.SEND_BYTES
        with big_disk.connect() as other:
            assert other.ask(execute(1, client.write(0, sector("a")))).seq == 1
        big_disk.notary.release()
        sender = threading.Thread(target=slow.send, args=(rest,))
        sender.start()
        replies = [result(slow.receive()) for _ in range(count)]
        sender.join()
    assert replies[0].seq == 0
    assert replies[-1].seq == 1
    assert replies[-1].data == big_disk.memory


def test_a_peer_that_does_not_read_is_read_no_further_when_others_get_evidence(big_disk: Running) -> None:
    with big_disk.connect() as slow, big_disk.connect() as other:
        stuff(slow, big_disk, read((0, BIG_SECTORS)))
        filled = big_disk.connections()[0]._filled
        for number in range(3):
            attested(other.call(hello(number)), hello(number))
        big_disk.settle()
        assert big_disk.connections()[0]._filled == filled


def test_a_peer_that_sends_much_while_it_reads_slowly_is_not_dropped(big_disk: Running) -> None:
    """To take more each time that the peer has read a little would fill the receive buffer."""
    frames = [read((0, BIG_SECTORS))] * 2 + [client.frame(bytes(100_000))] * 30
    end = serve.refusal(Reason.BAD_SIGNATURE) * 30
    left = 2 * (wire.FRAME_HEADER.size + wire.REPLY_HEADER.size + wire.RESULT.size + len(big_disk.memory)) + len(end)
    with big_disk.connect() as slow:
        sender = threading.Thread(target=slow.send, args=frames)
        sender.start()
        received = b"start"
        while left and received:
            received = slow.socket.recv(1 << 18)
            left -= len(received)
            big_disk.settle()
        sender.join()
    assert (left, received[-10:]) == (0, end[-10:])


def test_a_server_with_nothing_to_do_waits(tmp_path: Path) -> None:
    with running(unix_address(tmp_path), stepped=True) as disk:
        start = time.monotonic()
        disk.server.step(0.05)
        assert time.monotonic() - start > 0.04


def test_replies_leave_at_once(tcp_disk: Running) -> None:
    with tcp_disk.connect() as peer:
        ping(peer)
        (connection,) = [one for one in tcp_disk.connections() if one.peer.getpeername() == peer.socket.getsockname()]
        assert connection.peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_peer_that_sends_small_frames_and_does_not_read_is_read_no_further(disk: Running) -> None:
    disk.notary.hold()
    with disk.connect() as slow:
        stuff(slow, disk, hello(1) + client.frame(b"") * 100)
        (connection,) = disk.connections()[:1]
        assert len(connection.replies) == serve.REPLIES_MAX


def test_a_flood_of_commands_leaves_every_other_connection_its_turn(tmp_path: Path) -> None:
    reply_bytes = len(serve.refusal(Reason.MALFORMED))
    with running(unix_address(tmp_path), stepped=True) as disk, disk.connect() as flood, disk.connect() as other:
        disk.server.step(0)
        disk.server.step(0)
        flood.send(client.frame(b"") * 2000)
        other.send(client.frame(b""))
        disk.server.step(0)
        assert other.receive() is Reason.MALFORMED
        answered = len(flood.socket.recv(1 << 20)) // reply_bytes
        assert 0 < answered <= serve.REPLIES_MAX
        while answered < 2000:
            disk.server.step(0)
            answered += len(flood.socket.recv(1 << 20)) // reply_bytes
        assert is_silent(flood)


def test_a_full_buffer_is_emptied_before_more_is_received(disk: Running) -> None:
    """To receive into no room would return nothing, which reads as the peer's end of file."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    connection = serve.Connection(ours)
    stream, sent = client.frame(bytes(1020)) * 1200, 0
    while connection._filled < serve.RECEIVE_BYTES:
        sent += theirs.send(stream[sent : sent + 65536])
        connection.receive()
    turns: list[tuple[bool, int]] = []
    while not turns or turns[-1] != (False, selectors.EVENT_READ):
        connection.handle(disk.core)
        connection.look_ahead()
        assert (connection.behind, connection.wants()) == (False, selectors.EVENT_WRITE)  # as many as may wait do
        connection.send()
        assert theirs.recv(1 << 20) == serve.refusal(Reason.BAD_SIGNATURE) * serve.REPLIES_MAX
        connection.look_ahead()
        turns.append((connection.behind, connection.wants()))
    assert turns == [(True, 0)] * (1024 // serve.REPLIES_MAX - 1) + [(False, selectors.EVENT_READ)]
    connection.close()
    theirs.close()


def test_an_event_of_a_connection_that_had_to_make_room_is_ignored(tmp_path: Path) -> None:
    with running(unix_address(tmp_path), stepped=True) as disk, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(disk.connect()) for _ in range(serve.CONNECTIONS_MAX)]
        for _ in peers:
            disk.server.step(0)
        late = stack.enter_context(disk.connect())
        peers[0].send(client.frame(b""))
        disk.server.step(0)  # the listener comes first, then the connection that the late one displaced
        assert peers[0].hung_up()
        late.send(client.frame(b""))
        disk.server.step(0)
        assert late.receive() is Reason.MALFORMED


def test_an_event_of_a_closed_connection_does_no_harm_to_the_next_with_its_number(tmp_path: Path) -> None:
    with running(unix_address(tmp_path), stepped=True) as disk, contextlib.ExitStack() as stack:
        old = disk.connect()
        disk.server.step(0)
        number = disk.connections()[0].peer.fileno()
        disk.notary.hold()
        old.send(hello(1))
        disk.server.step(0)
        disk.server.step(0)
        disk.notary.release()
        assert select.select([disk.server._attester.wake_fd], [], [], WAIT_S)[0]
        new = stack.enter_context(disk.connect())
        old.socket.close()
        gc.collect()
        while (filler := os.dup(0)) < number:  # leave the server no lower number to take than the one it frees
            stack.callback(os.close, filler)
        stack.callback(os.close, filler)
        disk.server.step(0)  # evidence came, and the old one is found gone; the new one accepted; the old one's event
        assert [connection.peer.fileno() for connection in disk.connections()] == [number]
        new.send(client.frame(b""))
        disk.server.step(0)
        assert new.receive() is Reason.MALFORMED


def test_only_so_many_connections_are_kept_and_the_one_idle_longest_makes_room(disk: Running) -> None:
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(disk.connect()) for _ in range(serve.CONNECTIONS_MAX)]
        for peer in peers:
            peer.ask(read((0, 1)))
        peers[0].ask(read((0, 1)))  # the second is now the one idle longest
        late = []
        for _ in range(2):
            late.append(stack.enter_context(disk.connect()))
            late[-1].ask(read((0, 1)))
        assert peers[1].hung_up()
        assert peers[2].hung_up()
        assert len(disk.connections()) == serve.CONNECTIONS_MAX
        for peer in [peers[0], *peers[3:], *late]:
            peer.ask(read((0, 1)))


def test_strangers_displace_one_another_and_not_the_authority(disk: Running) -> None:
    with disk.connect() as authority, contextlib.ExitStack() as strangers:
        authority.ask(read((0, 1)))
        for _ in range(5 * serve.CONNECTIONS_MAX):
            ping(strangers.enter_context(disk.connect()))
        assert authority.ask(read((0, 1))).seq == 0


def test_one_that_waits_for_evidence_may_have_to_make_room_too(disk: Running) -> None:
    disk.notary.hold()
    with contextlib.ExitStack() as stack:
        waiting = stack.enter_context(disk.connect())
        waiting.send(hello(1))
        disk.settle()
        for _ in range(serve.CONNECTIONS_MAX):
            stack.enter_context(disk.connect()).ask(read((0, 1)))
        assert waiting.hung_up()
        disk.notary.release()
        last = stack.enter_context(disk.connect())
        attested(last.call(hello(2)), hello(2))


def waiting_replies() -> int:
    gc.collect()
    return sum(isinstance(thing, Reply) for thing in gc.get_objects())


def test_connections_that_ask_for_evidence_and_leave_cost_bounded_memory(disk: Running) -> None:
    """Whoever recorded a HELLO can do this for ever while the platform does not answer."""
    disk.notary.hold()
    for _ in range(40):
        with disk.connect() as peer:
            peer.send(hello(1) * serve.REPLIES_MAX)
            disk.settle()
    assert waiting_replies() <= wire.LEAVES_MAX + serve.CONNECTIONS_MAX * serve.REPLIES_MAX
    disk.notary.release()
    with disk.connect() as peer:
        attested(peer.call(hello(2)), hello(2))
    assert len(disk.notary.asked) <= 5  # of the forty that left, hardly any had a document made


def test_threads_and_descriptors_do_not_grow(disk: Running) -> None:
    this = psutil.Process()
    disk.settle()
    before = this.num_threads(), this.num_fds()
    for number in range(300):
        with disk.connect() as peer:
            if number % 3:
                peer.send(hello(number))
            if number % 2 and number % 3:
                peer.receive()
    disk.settle()
    assert this.num_threads() == before[0]
    assert this.num_fds() <= before[1] + serve.CONNECTIONS_MAX


# Peers that break off -----------------------------------------------------------------------------------------


def reset(peer: Client) -> None:
    """Close with a TCP reset."""
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.socket.close()


def test_peers_that_reset_end_only_themselves(tcp_disk: Running) -> None:
    tcp_disk.notary.hold()
    for frames in (b"", b"\0", hello(1), hello(1) * 100, read((0, 64)) * 5000, read((0, 64), asking=1) * 1000):
        peer = tcp_disk.connect()
        peer.socket.setblocking(False)
        if frames:
            with contextlib.suppress(BlockingIOError):
                peer.socket.send(frames)
        tcp_disk.settle()
        reset(peer)
    for _ in range(20):
        reset(tcp_disk.connect())  # some of them before they are accepted
    tcp_disk.notary.release()
    with tcp_disk.connect() as peer:
        attested(peer.call(hello(2)), hello(2))


def test_a_peer_that_stops_sending_is_dropped_after_its_commands_were_carried_out(tcp_disk: Running) -> None:
    count = 3 * serve.REPLIES_MAX
    with tcp_disk.connect() as peer:
        peer.send(*[execute(seq, client.write(0, sector("a"))) for seq in range(1, count + 1)])
        peer.socket.shutdown(socket.SHUT_WR)
        assert [result(peer.receive()).seq for _ in range(count)] == [*range(1, count + 1)]
        assert peer.hung_up()
    tcp_disk.settle()
    assert tcp_disk.memory[:64] == sector("a")


def test_a_peer_that_stops_reading_for_good_is_dropped(disk: Running) -> None:
    with disk.connect() as peer:
        peer.socket.shutdown(socket.SHUT_RD)
        peer.send(client.frame(b""))
        disk.settle()
        assert len(disk.connections()) <= 2  # those that only settled, at most
        assert is_dropped(peer)


def test_a_lack_of_descriptors_ends_nothing(disk: Running) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with disk.connect() as old, socket.socket(socket.AF_UNIX) as new:
        ping(old)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            new.connect(disk.address.removeprefix("unix:"))
            new.sendall(client.frame(b""))
            for _ in range(50):
                ping(old)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        new.settimeout(10)
        assert new.recv(100) == serve.refusal(Reason.MALFORMED)
        ping(old)


class Unmappable:
    """Refuses one mapping, as a machine without free memory does, and makes all others."""

    def __init__(self) -> None:
        self.left = 1

    def __call__(self, *arguments: int) -> mmap.mmap:
        if self.left:
            self.left -= 1
            raise OSError(12, "Cannot allocate memory")
        return REAL_MMAP(*arguments)


REAL_MMAP = mmap.mmap


def test_a_lack_of_memory_for_a_new_connection_ends_nothing(disk: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    with disk.connect() as old:
        ping(old)
        monkeypatch.setattr("mmap.mmap", Unmappable())
        with disk.connect() as unlucky:
            assert unlucky.hung_up()
        ping(old)
        with disk.connect() as new:
            ping(new)


# Two connections, recorded bytes --------------------------------------------------------------------------------


def test_seq_is_one_line_over_all_connections(disk: Running) -> None:
    with disk.connect() as one, disk.connect() as two:
        for seq in range(1, 20, 2):
            assert one.ask(execute(seq, client.write(0, nonce(seq) * 2))).seq == seq
            assert two.call(execute(seq, client.write(0, bytes(64)))) is Reason.WRONG_SEQ
            assert two.ask(execute(seq + 1)).seq == seq + 1
            assert one.ask(read((0, 1))).data == nonce(seq) * 2


def test_everything_recorded_and_played_again_changes_nothing(disk: Running) -> None:
    log = [execute(seq, client.write(seq, sector("r")), client.trim(0, 1), asking=seq) for seq in range(1, 10)]
    log += [client.open_disk(KEY, INSTANCE, EPOCH, b"o" * 32), read((0, 9), asking=3), hello(0)]
    with disk.connect() as peer:
        peer.send(*log)
        before = [peer.receive() for _ in log]
        peer.ask(execute(10, client.write(1, sector("n"))))
        state = disk.core.epoch, disk.core.seq, bytes(disk.memory)
        with disk.connect() as thief:
            thief.send(*log, *reversed(log))
            again = [thief.receive() for _ in range(2 * len(log))]
        assert (disk.core.epoch, disk.core.seq, bytes(disk.memory)) == state
    assert again[:10] == [Reason.WRONG_SEQ] * 9 + [Reason.WRONG_EPOCH]
    assert result(again[10]).data != result(before[10]).data
    assert (
        client.parse_evidence(result(again[11]), log[11]).root
        != client.parse_evidence(result(before[11]), log[11]).root
    )


def test_evidence_of_one_command_fits_no_other(disk: Running) -> None:
    with disk.connect() as peer:
        frames = [read((0, 1), asking=1), read((0, 1), asking=2), read((1, 1), asking=1), hello(1)]
        replies = [result(peer.call(frame)) for frame in frames]
    for reply, frame in zip(replies, frames, strict=True):
        document = client.parse_evidence(reply, frame).document
        for other in frames:
            evidence = client.parse_evidence(reply, other)
            assert (document == b"document over " + (evidence.root or b"")) is (other is frame)
        altered = reply._replace(seq=reply.seq + 1)
        assert document != b"document over " + (client.parse_evidence(altered, frame).root or b"")
        altered = reply._replace(data=b"\1" + reply.data[1:])
        assert document != b"document over " + (client.parse_evidence(altered, frame).root or b"")
