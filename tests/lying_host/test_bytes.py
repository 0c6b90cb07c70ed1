"""What the host does to the bytes on the way: order, bits, places, and what is no frame at all (A6, A7, A8, A16)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

import psutil
import pytest

from perdure.array.ports import Lane
from perdure.disk import wire
from perdure.disk.wire import FRAME_HEADER, Opcode
from perdure.errors import Disconnected
from perdure.shell.channel import SocketChannel
from tests.cli.rig import is_running
from tests.disk import client
from tests.lying_host.host import SECTOR, LyingHost, data_of, replay
from tests.system.proxy import HangUp, Raw, Way, unchanged
from tests.system.rig import seeded

MIB = 1 << 20
HEAD = wire.REPLY_HEADER.size + wire.RESULT.size
GROWTH_BYTES_MAX = 64 * MIB


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with LyingHost(tmp_path_factory.mktemp("bytes"), dead_after_ms=20_000) as host:  # nothing here is worth a disk
        yield host


@pytest.fixture
def host(shared):
    """One array for all tests, mounted and honest at the start of each."""
    shared.present_own()
    if not is_running(shared):
        shared.mount()
    shared.wait_for(lambda status: status["summary"] == "[UUU]")  # a line that the last test broke is made anew
    return shared


def use(host, rng, *, count):
    """Write and read for a while. Every write gets through; every read is what was last written, or an error.

    Returns what each sector holds, and how many reads failed: one fails when more than n - k disks' answers are bad.
    """
    held, failed = {}, 0
    for number in range(count):
        sector = rng.randrange(8)
        host.write(sector * SECTOR, data_of(number))
        held[sector] = data_of(number)
        sector = rng.choice(sorted(held))
        try:
            assert host.read(sector * SECTOR, SECTOR) == held[sector]
        except OSError:
            failed += 1
    return held, failed


def check(host, held):
    """With an honest host again, all that was flushed is there."""
    host.present_own()
    host.remount()
    for sector, content in held.items():
        assert host.read(sector * SECTOR, SECTOR) == content


# A6 -------------------------------------------------------------------------------------------------------


def test_a06_delayed_reordered_repeated_and_dropped_frames_lose_nothing(host):
    rng, tally = seeded(), dict.fromkeys(("pass", "delay", "reorder", "twice", "early", "again", "drop"), 0)

    def disturbed(proxy):
        async def delayed(frame):
            await asyncio.sleep(rng.uniform(0, 0.03))
            return (frame.payload,)

        def alter(frame):
            what = rng.choices(list(tally), (80, 8, 4, 4, 4, 4, 2))[0]
            tally[what] += 1
            if what == "delay":
                return delayed(frame)
            if what == "reorder":  # whatever comes meanwhile overtakes it
                later = asyncio.get_running_loop().call_later
                later(0.02, lambda: proxy.inject(frame.way, frame.payload, connection=frame.connection))
                return ()
            if what == "twice":
                return (frame.payload, frame.payload)
            if what == "early" and frame.way is Way.TO_DISK:  # over a connection of our own, then as it came
                replay(proxy.back, [frame])
            if what == "again":  # something that was carried out long ago
                replay(proxy.back, [rng.choice(proxy.commands()[-20:])])
            return (HangUp(),) if what == "drop" else (frame.payload,)

        return alter

    for proxy in host.proxies:
        proxy.alter = disturbed(proxy)
    held, failed = use(host, rng, count=40)
    print(tally, f"{failed} reads failed")
    assert failed < 5
    assert min(tally.values()) > 0
    check(host, held)


# A7 -------------------------------------------------------------------------------------------------------


def flipped(rng, payload):
    """With one bit changed: anywhere, or in what is answered, before the evidence."""
    length = rng.choice((len(payload), wire.REPLY_HEADER.unpack_from(payload)[1] + wire.REPLY_HEADER.size))
    at = rng.randrange(8 * min(length, len(payload)))
    changed = bytearray(payload)
    changed[at // 8] ^= 1 << at % 8
    return bytes(changed)


def test_a07_bits_flipped_in_answers_now_and_then_lose_nothing(host):
    """Also in those to a mount; never in two in a row, so that asking again helps."""
    rng, count = seeded(), 0

    def flipping():
        was_flipped = False

        def alter(frame):
            nonlocal was_flipped, count
            if frame.way is Way.TO_DISK:
                return (frame.payload,)
            was_flipped = not was_flipped and rng.random() < 0.3
            count += was_flipped
            return (flipped(rng, frame.payload) if was_flipped else frame.payload,)

        return alter

    for proxy in host.proxies:
        proxy.alter = flipping()
    held, failed = use(host, rng, count=15)
    assert host.remount()["summary"] == "[UUU]"
    for sector, content in held.items():
        with contextlib.suppress(OSError):
            assert host.read(sector * SECTOR, SECTOR) == content
    assert failed < 10
    assert count > 10
    check(host, held)


def test_a07_bits_flipped_in_every_answer_of_a_host_cost_that_disk_and_nothing_else(tmp_path):
    rng = seeded()
    with LyingHost(tmp_path) as host:
        host.mount()
        host.write(0, data_of(1))
        host.proxies[0].alter = lambda frame: (
            frame.payload if frame.way is Way.TO_DISK else flipped(rng, frame.payload),
        )
        host.write(0, data_of(2))
        assert host.status()["summary"] == "[_UU]"
        assert host.read(0, SECTOR) == data_of(2)
        host.kill_main()
        # A mount of two such disks and one that is honest: no k are left that prove anything.
        host.proxies[1].alter = host.proxies[0].alter
        assert "1 of the 2 disks" in host.refusal(2, 3)  # an altered answer may look like a replayed one
        host.proxies[1].alter = unchanged
        host.mount(code=None)
        assert host.read(0, SECTOR) == data_of(2)


# A8 -------------------------------------------------------------------------------------------------------


def test_a08_fragments_of_another_sector_another_disk_or_another_time_are_not_taken(host):
    count = 8
    for sector in range(count):
        host.write(sector * SECTOR, data_of(100 + sector))
    older = fragments_seen(host, count)
    for sector in range(count):
        host.write(sector * SECTOR, data_of(200 + sector))
    newer = fragments_seen(host, count)
    moves = (
        lambda seat, sector: newer[seat, (sector + 1) % count],
        lambda seat, sector: newer[(seat + 1) % host.k, sector],
        lambda seat, sector: older[seat, sector],
    )
    moved = moving(host, newer, lambda seat, sector: moves[sector % 3](seat, sector))
    host.remount()
    for sector in range(count):
        assert host.read(sector * SECTOR, SECTOR) == data_of(200 + sector)
    assert len(moved) >= count
    assert host.status()["disks"][0]["errors"]["checksum"] > 0
    check(host, {sector: data_of(200 + sector) for sector in range(count)})


def fragments_seen(host, count):
    """The fragment of each sector on each data seat, as the disk answers a READ of that one sector."""
    host.remount()
    seen = {}
    for sector in range(count):
        starts = [len(proxy.frames) for proxy in host.proxies]
        assert host.read(sector * SECTOR, SECTOR)
        for seat in range(host.k):
            answers = [frame for frame in host.proxies[seat].replies(start=starts[seat]) if is_plain_read(frame)]
            seen[seat, sector] = answers[-1]
    return seen


def is_plain_read(frame):
    command = frame.command
    return frame.way is Way.TO_MAIN and command.opcode is Opcode.READ and not command.wants_evidence


def moving(host, seen, move):
    """From now on plain READs of one sector are answered with the bytes that `move(seat, sector)` were answered."""
    moved = []

    def at(seat):
        places = {frame.command.body: sector for (owner, sector), frame in seen.items() if owner == seat}

        def alter(frame):
            sector = places.get(frame.command.body) if is_plain_read(frame) else None
            if sector is None:
                return (frame.payload,)
            moved.append(frame)
            return (frame.payload[:HEAD] + move(seat, sector).payload[HEAD:],)

        return alter

    for seat in range(host.k):
        host.proxies[seat].alter = at(seat)
    return moved


def test_a08_tags_of_other_sectors_are_not_taken(host):
    """Tags are read with evidence: shown in another place it is evidence for something else."""
    far = 1500  # in another group of tags than sector 0
    host.write(0, data_of(1))
    host.write(far * SECTOR, data_of(2))
    host.remount()
    starts = [len(proxy.frames) for proxy in host.proxies]
    assert host.read(0, SECTOR) == data_of(1)
    pairs = zip(host.proxies, starts, strict=True)
    kept = next(frame for proxy, start in pairs for frame in proxy.replies(start=start) if frame.command.wants_evidence)

    def alter(frame):
        command = frame.command
        is_tags = frame.way is Way.TO_MAIN and command.opcode is Opcode.READ and command.wants_evidence
        return (kept.payload if is_tags else frame.payload,)

    for proxy in host.proxies:
        proxy.alter = alter
    with pytest.raises(OSError):
        host.read(far * SECTOR, SECTOR)
    for proxy in host.proxies:
        proxy.alter = unchanged
    assert host.read(far * SECTOR, SECTOR) == data_of(2)


# A16 ------------------------------------------------------------------------------------------------------


def test_a16_torn_oversized_and_random_frames_to_the_disks_change_nothing(host):
    rng = seeded()
    host.write(0, data_of(1))
    junk = [
        FRAME_HEADER.pack(0xFFFFFFFF) + rng.randbytes(64),
        FRAME_HEADER.pack(1000) + rng.randbytes(10),
        FRAME_HEADER.pack(300) + rng.randbytes(300),
        rng.randbytes(5000),
        b"",
    ]
    processes = [process for seat in range(host.n) for process in host.disk_processes(seat)]
    memory = [process.memory_info().rss for process in processes]
    for number in range(40):
        for seat in range(host.n):
            with contextlib.suppress(ConnectionError), client.Client(f"unix:{host.disk(seat)}") as peer:
                peer.send(junk[number % len(junk)])
                assert number % len(junk) or peer.hung_up()  # at once, when such a length is announced
            if number % 10 == 0:  # in the middle of the main program's own stream too
                host.proxies[seat].inject(Way.TO_DISK, Raw(junk[number // 10]))
        host.write(number % 4 * SECTOR, data_of(number))
    for process, before in zip(processes, memory, strict=True):
        assert process.memory_info().rss < before + GROWTH_BYTES_MAX
    assert host.status()["summary"] == "[UUU]"
    check(host, {number % 4: data_of(number) for number in range(36, 40)})


def test_a16_torn_oversized_and_random_frames_to_the_main_program_lose_nothing(host):
    rng, tally = seeded(), dict.fromkeys(("torn", "oversized", "random", "empty", "twice", "unasked"), 0)

    def spoilt(kind, payload):
        whole = FRAME_HEADER.pack(len(payload)) + payload
        return {
            "torn": (Raw(whole[: len(whole) // 2]), HangUp()),
            "oversized": (Raw(FRAME_HEADER.pack(0xFFFFFFFF)), Raw(rng.randbytes(1000))),
            "random": (rng.randbytes(len(payload)),),
            "empty": (b"",),
            "twice": (payload, payload),
            "unasked": (payload, rng.randbytes(200)),
        }[kind]

    def alter(frame):
        if frame.way is Way.TO_DISK or rng.random() > 0.15:
            return (frame.payload,)
        kind = rng.choice(list(tally))
        tally[kind] += 1
        return spoilt(kind, frame.payload)

    main = psutil.Process(host.process("main").pid)
    before = main.memory_info().rss
    for proxy in host.proxies:
        proxy.alter = alter
    held, failed = use(host, rng, count=60)
    print(tally, f"{failed} reads failed")
    assert failed < 30
    assert min(tally.values()) > 0
    assert main.memory_info().rss < before + GROWTH_BYTES_MAX
    check(host, held)


def test_a16_a_peer_that_hangs_up_at_once_is_an_error_at_once(tmp_path):
    """As soon as it has accepted: the connection may be lost before it can be used."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "disk"))
        listener.listen()

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()

        thread = threading.Thread(target=serve)
        thread.start()

        async def ask():
            asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
            for _ in range(300):
                channel = SocketChannel(f"unix:{tmp_path}/disk", 2000)
                with pytest.raises(Disconnected) as raised:
                    await channel.exchange(Lane.WRITE, (bytes(200),))
                assert "no answer in time" not in str(raised.value)

        troubles = []
        try:
            asyncio.run(ask())
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
        assert troubles == []
