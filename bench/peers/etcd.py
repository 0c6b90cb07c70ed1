"""etcd: three members on tmpfs at ports of the loopback device, called over gRPC.

A durable write is a put of a 4 KiB value, which two of three members have logged and synced when it returns; a read is
a linearizable range of one key. At depth d there are d calls on the way at any time, on one connection to the leader.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import processes
from bench.model import GIB, KIB, Access, Kind, Result, Target, Work
from bench.peers.grpc import Connection, field, headers
from bench.stats import percentile

HOST = "127.0.0.1"
MEMBERS = 3
KEYS = 4096
VALUE_BYTES = 4 * KIB
_PUT = headers("/etcdserverpb.KV/Put")
_RANGE = headers("/etcdserverpb.KV/Range")


def takes(work: Work) -> bool:
    """Single values, put durably or read: it does nothing else."""
    is_single = work.kind is Kind.BLOCK and not work.sequential
    return is_single and (work.fsync or work.access is Access.READ)


class Client:
    """Calls on one connection."""

    def __init__(self, port: int) -> None:
        self._connection = Connection(HOST, port)
        self._draw = random.Random()  # noqa: S311  (which key is no secret)
        self._value = self._draw.randbytes(VALUE_BYTES)
        self.close = self._connection.close

    def begin(self, access: Access, number: int | None = None) -> int:
        """Put or read the key of this number, by default any."""
        key = field(1, b"key-%06d" % (self._draw.randrange(KEYS) if number is None else number))
        if access is Access.READ:
            return self._connection.call(_RANGE, key)
        stamp = self._draw.randbytes(16)  # so that no two values are the same
        return self._connection.call(_PUT, key + field(2, stamp + self._value[16:]))

    def fill(self) -> None:
        """Put every key once."""
        for number in range(KEYS):
            self.begin(Access.WRITE, number)
            if number >= 32:
                self._connection.next_reply()
        for _ in range(32):
            self._connection.next_reply()

    def run(self, work: Work, seconds: float) -> Result:
        """Keep `work.depth` calls on the way for so long. Raises RuntimeError when one fails or finds no value."""
        times_us, begun = [], {}
        clock, cpu = time.perf_counter, time.process_time()
        start = clock()
        for _ in range(work.depth):
            at = clock()
            begun[self.begin(work.access)] = at
        while begun:
            number, message = self._connection.next_reply()
            now = clock()
            times_us.append((now - begun.pop(number)) * 1e6)
            if work.access is Access.READ and len(message) < VALUE_BYTES:
                raise RuntimeError("etcd has lost a key")
            if now - start < seconds:
                begun[self.begin(work.access)] = now
        duration_s, cpu = clock() - start, time.process_time() - cpu
        times_us.sort()
        p50, p99 = percentile(times_us, 50), percentile(times_us, 99)
        return Result(len(times_us), duration_s, VALUE_BYTES, p50, p99, cpu)


@contextlib.contextmanager
def target() -> Iterator[Target]:
    """Three members, and a client of their leader."""
    with processes.scratch(in_memory=True, need_bytes=2 * GIB) as folder, contextlib.ExitStack() as stack:
        ports = processes.free_ports(2 * MEMBERS, HOST)
        clients, peers = ports[:MEMBERS], ports[MEMBERS:]
        members = [
            stack.enter_context(processes.started(*_command(folder, clients, peers, at), log=folder / f"{at}.log"))
            for at in range(MEMBERS)
        ]
        processes.until(lambda: _leader(clients) is not None, "etcd", process=members[0])
        leader = _leader(clients)
        assert leader is not None
        client = Client(clients[leader])
        stack.callback(client.close)
        client.fill()
        others = [members[at].pid for at in range(MEMBERS) if at != leader]
        yield Target(
            "etcd",
            "three members on tmpfs, 4 KiB values: put for a durable write, linearizable get for a read",
            client.run,
            lambda: {"main": processes.tree([members[leader].pid]), "disks": processes.tree(others)},
            takes=takes,
            has_tcp=True,
        )


def _command(folder: Path, clients: list[int], peers: list[int], at: int) -> list[object]:
    cluster = ",".join(f"m{number}=http://{HOST}:{port}" for number, port in enumerate(peers))
    client, peer = f"http://{HOST}:{clients[at]}", f"http://{HOST}:{peers[at]}"
    return [
        *("etcd", "--name", f"m{at}", "--data-dir", folder / f"m{at}", "--log-level", "error"),
        *("--listen-client-urls", client, "--advertise-client-urls", client),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", cluster),
        *("--quota-backend-bytes", 8 * GIB, "--auto-compaction-mode", "revision", "--auto-compaction-retention", KEYS),
        *("--max-wals", 2, "--max-snapshots", 1),
    ]


def _leader(clients: list[int]) -> int | None:
    """Which member leads; None while none does or any is not ready."""
    try:
        replies = [_status(port) for port in clients]
    except (OSError, ValueError):
        return None
    ids = [reply.get("header", {}).get("member_id") for reply in replies]
    leader = replies[0].get("leader")
    return ids.index(leader) if leader in ids else None


def _status(port: int) -> dict[str, Any]:
    url = f"http://{HOST}:{port}/v3/maintenance/status"
    with urllib.request.urlopen(urllib.request.Request(url, b"{}"), timeout=5) as reply:
        return dict(json.load(reply))
