"""`python -m bench.vss`: puts of 1 KiB over HTTP, on an array of simulated disks beside an ordinary file on a tmpfs."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from pathlib import Path

from tests.vss.client import Client
from tests.vss.served import Served, array_place, file_place, serving

PUTS = 200
CLIENTS = 8
WARM_UP = 20
VALUE = bytes(range(256)) * 4


def _puts(client: Client, count: int) -> list[float]:
    """How long each took, in milliseconds."""
    taken = []
    for at in range(count):
        began = time.perf_counter()
        client.put([(f"k{at}", VALUE, -1)])
        taken.append(1000 * (time.perf_counter() - began))
    return taken


def measure(name: str, served: Served) -> None:
    """Print one row: one client, then several at once."""
    client = served.client()
    _puts(client, WARM_UP)
    taken = _puts(client, PUTS)
    cuts = statistics.quantiles(taken, n=100)
    threads = [threading.Thread(target=_puts, args=(served.client(), PUTS // 4)) for _ in range(CLIENTS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = CLIENTS * (PUTS // 4) / (time.perf_counter() - began)
    print(f"| {name} | {1000 / statistics.mean(taken):.0f} | {cuts[49]:.1f} | {cuts[98]:.1f} | {together:.0f} |")


def main() -> None:
    """Print a table."""
    print(f"| where | puts/s, 1 client | p50 ms | p99 ms | puts/s, {CLIENTS} clients |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory, tempfile.TemporaryDirectory() as folder:
        with serving(file_place(Path(memory))) as served:
            measure("SQLite file on tmpfs", served)
        with array_place(Path(folder)) as place, serving(place) as served:
            measure("array", served)


if __name__ == "__main__":
    main()
