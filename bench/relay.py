"""What the relay costs: exchanges over one connection, direct and through it, and through a deliberately naive one.

All ways lead to the same peer on this machine and take turns within every round, because such machines drift: compare
the differences and ratios of one run. Request and reply sizes are those of a disk's commands. Then the same with a
real (simulated) disk behind the relay and signed commands. Prints a table; writes build/relay.json, or prints that
with --json. The way from the relay to its target is TCP, or a Unix socket with --back unix; no VM's socket is
measured here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from perdure.array import commands
from perdure.array.commands import Authority
from perdure.disk import address, wire
from perdure.disk.wire import Opcode, OpKind
from perdure.image.build import build_simulated

ROOT = Path(__file__).resolve().parent.parent
HEAD = struct.Struct(">II")
"""What a connection to the peer begins with: the bytes of every request and of every reply; 0 bytes: bulk."""
SHAPES = ((200, 200), (4096, 200), (200, 4096), (4096, 4096), (4296, 200))
"""Request and reply, in bytes. The last is 4 KiB with a header of 200: more than the naive relay's buffer."""
DEPTH = 16
WAIT_S = 60

Result = dict[str, float]


# The far end, and the naive relay --------------------------------------------------------------------------


def exactly(stream: socket.socket, buffer: memoryview) -> bool:
    """Fill `buffer`; False if the other end ends first."""
    filled = 0
    while filled < len(buffer):
        count = stream.recv_into(buffer[filled:])
        if not count:
            return False
        filled += count
    return True


def answer(stream: socket.socket) -> None:
    """One connection of the peer: answer every request, or count bulk to its end."""
    with stream, suppress(ConnectionError):
        no_delay(stream)
        head = memoryview(bytearray(HEAD.size))
        if not exactly(stream, head):
            return
        request_bytes, reply_bytes = HEAD.unpack(head)
        if request_bytes:
            request, reply = memoryview(bytearray(request_bytes)), bytes(reply_bytes)
            while exactly(stream, request):
                stream.sendall(reply)
        else:
            room, total = bytearray(1 << 20), 0
            while count := stream.recv_into(room):
                total += count
            stream.sendall(total.to_bytes(8, "big"))


def peer(listen: str) -> None:
    """Answer connections for ever."""
    listener, real = address.listen(listen)
    listener.setblocking(True)
    print("listening", real, flush=True)
    while True:
        threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()


async def naive(target: str) -> None:
    """Streams, 4 KiB at a time, each waiting until it is sent, with Nagle's algorithm."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        where = address.parse(target)[1]
        if isinstance(where, str):
            other_reader, other_writer = await asyncio.open_unix_connection(where)
        else:
            other_reader, other_writer = await asyncio.open_connection(*where)
        for one in (writer, other_writer):
            stream = one.get_extra_info("socket")
            if stream.family == socket.AF_INET:
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)  # asyncio sets it
        with suppress(ConnectionError):
            await asyncio.gather(pump(reader, other_writer), pump(other_reader, writer))
        writer.close()
        other_writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    print(f"listening tcp:{host}:{port}", flush=True)
    await server.serve_forever()


# Processes -------------------------------------------------------------------------------------------------


@contextmanager
def started(*words: object) -> Iterator[str]:
    """A process of this Python that prints `listening ADDRESS`; the address."""
    process = subprocess.Popen([sys.executable, *map(str, words)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline().split()
        if len(line) != 2:
            raise RuntimeError(f"{words} did not start")
        yield line[1]
    finally:
        process.terminate()
        process.wait(10)


def relay(target: str) -> tuple[object, ...]:
    """The command of the relay that is measured."""
    return ("-m", "perdure.cli.main", "disk", "relay", "--listen", "tcp:127.0.0.1:0", "--to", target)


def naive_relay(target: str) -> tuple[object, ...]:
    """The command of the naive one."""
    return (__file__, "--naive", target)


WAYS = {"relay": relay, "naive": naive_relay}


# Measuring -------------------------------------------------------------------------------------------------


def no_delay(stream: socket.socket) -> None:
    """Send at once what is given to the socket."""
    if stream.family in (socket.AF_INET, socket.AF_INET6):
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def connect(where: str) -> socket.socket:
    """A connection with a bound on every wait."""
    family, target = address.parse(where)
    stream = socket.socket(family, socket.SOCK_STREAM)
    stream.connect(target)
    no_delay(stream)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", WAIT_S, 0))
    return stream


def percentiles(times_ns: list[int]) -> Result:
    """The median and the 99th percentile, in microseconds."""
    times_ns.sort()
    return {"p50_us": times_ns[len(times_ns) // 2] / 1000, "p99_us": times_ns[len(times_ns) * 99 // 100] / 1000}


def exchanges(where: str, shape: tuple[int, int], count: int) -> Result:
    """One after another."""
    request, reply, times = bytes(shape[0]), memoryview(bytearray(shape[1])), []
    with connect(where) as stream:
        stream.sendall(HEAD.pack(*shape))
        for _ in range(count):
            start = time.perf_counter_ns()
            stream.sendall(request)
            if not exactly(stream, reply):
                raise ConnectionError("the peer hung up")
            times.append(time.perf_counter_ns() - start)
    return percentiles(times[count // 10 :])  # the first warm up


def pipelined(where: str, shape: tuple[int, int], count: int) -> Result:
    """DEPTH requests on the way at all times."""
    request, reply = bytes(shape[0]), memoryview(bytearray(shape[1]))
    with connect(where) as stream:
        stream.sendall(HEAD.pack(*shape))
        start = time.perf_counter()
        stream.sendall(request * DEPTH)
        for number in range(count):
            if not exactly(stream, reply):
                raise ConnectionError("the peer hung up")
            if number < count - DEPTH:
                stream.sendall(request)
        return {"per_s": count / (time.perf_counter() - start)}


def bulk(where: str, mib: int) -> Result:
    """One way, until the peer has counted the last byte."""
    block = bytes(1 << 20)
    with connect(where) as stream:
        start = time.perf_counter()
        stream.sendall(HEAD.pack(0, 0))
        for _ in range(mib):
            stream.sendall(block)
        stream.shutdown(socket.SHUT_WR)
        total = memoryview(bytearray(8))
        if not exactly(stream, total) or int.from_bytes(total, "big") != mib << 20:
            raise ConnectionError("the peer counted wrong")
        return {"mib_s": mib / (time.perf_counter() - start)}


class SignedDisk:
    """Commands to a running simulated disk, and what each takes. Signing is not in the time, checking it is."""

    def __init__(self, authority: Authority, where: str) -> None:
        self._authority, self._where = authority, where
        self._epoch = (0).to_bytes(16, "big")

    def _call(self, stream: socket.socket, command: commands.Command) -> tuple[int, commands.Answer]:
        frame = b"".join(command.parts)
        frame = wire.FRAME_HEADER.pack(len(frame)) + frame
        start = time.perf_counter_ns()
        stream.sendall(frame)
        head = memoryview(bytearray(wire.FRAME_HEADER.size))
        if not exactly(stream, head):
            raise ConnectionError("the disk hung up")
        reply = memoryview(bytearray(wire.FRAME_HEADER.unpack(head)[0]))
        exactly(stream, reply)
        return time.perf_counter_ns() - start, commands.parse_reply(command, reply)

    def measure(self, through: str, count: int) -> dict[str, Result]:
        """Take the disk over in a new epoch and time READ and EXECUTE of 4 KiB, and HELLO with its evidence."""
        sectors = 4096 // wire.DISK_SECTOR_BYTES
        times: dict[str, list[int]] = {"READ 4 KiB": [], "WRITE 4 KiB": [], "HELLO with evidence": []}
        with connect(through) as stream:
            hello = commands.build(self._authority, Opcode.HELLO, nonce=secrets.token_bytes(32))
            instance = self._call(stream, hello)[1].instance
            epoch = time.time_ns().to_bytes(16, "big")
            opening = commands.build(
                self._authority, Opcode.OPEN, instance=instance, epoch=epoch, nonce=secrets.token_bytes(32)
            )
            self._call(stream, opening)
            read = commands.build(
                self._authority,
                Opcode.READ,
                instance=instance,
                epoch=epoch,
                body=[wire.COUNT.pack(1), wire.RUN.pack(0, sectors)],
                data_bytes=4096,
            )
            for number in range(count):
                times["READ 4 KiB"].append(self._call(stream, read)[0])
                write = commands.build(
                    self._authority,
                    Opcode.EXECUTE,
                    instance=instance,
                    epoch=epoch,
                    seq=number + 1,
                    body=[wire.COUNT.pack(1), wire.OP.pack(OpKind.WRITE, 0, sectors, 0), bytes(4096)],
                )
                times["WRITE 4 KiB"].append(self._call(stream, write)[0])
                if number % 10 == 0:
                    hello = commands.build(self._authority, Opcode.HELLO, nonce=secrets.token_bytes(32))
                    times["HELLO with evidence"].append(self._call(stream, hello)[0])
        return {name: percentiles(some) for name, some in times.items()}


@contextmanager
def simulated_disk(back: str) -> Iterator[tuple[Authority, str]]:
    """A running disk, its authority and its address."""
    with tempfile.TemporaryDirectory(prefix="perdure-bench-") as folder:
        authority = Authority(secrets.token_bytes(32))
        image = Path(folder, "disk.eif")
        image.write_bytes(build_simulated(authority.public_key))
        listen = f"unix:{folder}/disk.sock" if back == "unix" else "tcp:127.0.0.1:0"
        words = ["-m", "perdure.simtee.launch", "--image", image, "--root-directory", f"{folder}/root"]
        with started(*words, "--listen", listen, "--size-bytes", 1 << 20) as where:
            yield authority, where


def measure(options: argparse.Namespace) -> dict[str, dict[str, list[Result]]]:
    """All rounds: work, way, one result a round."""
    count, mib = (300, 64) if options.quick else (2000, 512)
    results: dict[str, dict[str, list[Result]]] = {}

    def note(work: str, way: str, result: Result) -> None:
        results.setdefault(work, {}).setdefault(way, []).append(result)

    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="perdure-bench-"))
        back = f"unix:{folder}/peer.sock" if options.back == "unix" else "tcp:127.0.0.1:0"
        target = stack.enter_context(started(__file__, "--peer", back))
        authority, disk = stack.enter_context(simulated_disk(options.back))
        ways = {"direct": target} | {n: stack.enter_context(started(*way(target))) for n, way in WAYS.items()}
        disk_ways = {"direct": disk} | {n: stack.enter_context(started(*way(disk))) for n, way in WAYS.items()}
        names = list(ways)
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            for shape in SHAPES:
                for way in names:
                    fewer = count // 10 if way == "naive" and shape[0] > 4096 else count  # it may take 40 ms each
                    note(f"{shape[0]} B -> {shape[1]} B", way, exchanges(ways[way], shape, fewer))
            for shape in SHAPES[:3]:
                for way in names:
                    work = f"{shape[0]} B -> {shape[1]} B, depth {DEPTH}"
                    note(work, way, pipelined(ways[way], shape, count * 2))
            for way in names:
                note("bulk, one way", way, bulk(ways[way], mib))
            for way in names:
                for work, result in SignedDisk(authority, disk).measure(disk_ways[way], max(count // 10, 100)).items():
                    note(f"disk: {work}", way, result)
            names = names[1:] + names[:1]  # nobody is always first
    return results


def summarise(results: dict[str, dict[str, list[Result]]]) -> dict[str, dict[str, Result]]:
    """Medians over the rounds; differences and ratios to the direct way are taken within each round first."""
    summary: dict[str, dict[str, Result]] = {}
    for work, ways in results.items():
        for way, rounds in ways.items():
            row = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
            pairs = list(zip(rounds, ways["direct"], strict=True))
            for key in rounds[0]:
                row[f"{key}_ratio"] = statistics.median(ours[key] / direct[key] for ours, direct in pairs)
                row[f"{key}_difference"] = statistics.median(ours[key] - direct[key] for ours, direct in pairs)
            summary.setdefault(work, {})[way] = row
    return summary


def report(summary: dict[str, dict[str, Result]]) -> None:
    """One line for each kind of work and way."""
    for work, ways in summary.items():
        print(f"\n{work}")
        for way, row in ways.items():
            if "p50_us" in row:
                text = f"p50 {row['p50_us']:8.0f} us ({row['p50_us_difference']:+7.0f})   p99 {row['p99_us']:8.0f} us"
                text += f" ({row['p99_us_difference']:+7.0f})   p50 x {row['p50_us_ratio']:.2f}"
            else:
                key, unit = ("per_s", "/s") if "per_s" in row else ("mib_s", "MiB/s")
                text = f"{row[key]:10.0f} {unit}   x {row[f'{key}_ratio']:.2f}"
            print(f"  {way:12}{text}")


def main() -> int:
    """Run all, print, and write build/relay.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, help="default 9, with --quick 3")
    parser.add_argument("--quick", action="store_true", help="fewer of everything")
    parser.add_argument("--back", choices=("tcp", "unix"), default="tcp", help="from the relay to its target")
    parser.add_argument("--json", action="store_true", help="print JSON and no table")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--naive", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        peer(options.peer)
    if options.naive:
        asyncio.run(naive(options.naive))
    options.rounds = options.rounds or (3 if options.quick else 9)
    results = measure(options)
    summary = summarise(results)
    value = {"version": 1, "rounds": options.rounds, "back": options.back, "cpus": os.cpu_count(), "medians": summary}
    if options.json:
        print(json.dumps(value, indent=2))
    else:
        report(summary)
    target = ROOT / "build" / "relay.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(value, indent=2) + "\n")
    print(f"\n{options.rounds} rounds; written to {target.relative_to(ROOT)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
