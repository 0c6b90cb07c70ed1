"""An array whose main program serves the page, and work for it to show."""

from __future__ import annotations

import contextlib
import random
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from perdure.service.site import artefacts, config, local
from perdure.service.site.local import Wish
from tests.cli.rig import Rig, _Nbd

SECTOR = 4096
DEAD_AFTER_MS = 1000


def with_page(directory: Path, zones: Sequence[str] = ()) -> None:
    """Have the page served by the configuration in `directory`, at any free port."""
    path = directory / config.NAME
    text = re.sub("(?m)^# http = .*", 'http = "127.0.0.1:0"', path.read_text())
    if zones:
        names = ", ".join(f'"{zone}"' for zone in zones)
        text = re.sub("(?m)^# zones = .*", f"zones = [{names}]", text)
    path.write_text(text)


def up(rig: Rig, *, size: str = "16M", zones: Sequence[str] = ()) -> str:
    """`perdure up` with the page; its URL."""
    rig.directory.mkdir(mode=0o700)
    _, disks, _, threshold = rig.shape
    local.prepare(rig.directory, Wish(size, int(disks), int(threshold), "unix:nbd.sock", DEAD_AFTER_MS))
    with_page(rig.directory, zones)
    rig.up(size=size, dead_after_ms=DEAD_AFTER_MS)
    return url(rig.directory)


def url(directory: Path) -> str:
    """Where the main program that was started last says that the page is."""
    return re.findall(r"the page is at (\S+)", (directory / artefacts.MAIN_LOG_FILE).read_text())[-1]


@contextlib.contextmanager
def clients(rig: Rig, count: int = 2, sectors: int = 2048) -> Iterator[None]:
    """Programs that read, write and flush through NBD until the block ends."""
    stopping = threading.Event()
    threads = [threading.Thread(target=_client, args=(rig, seed, sectors, stopping)) for seed in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)


def _client(rig: Rig, seed: int, sectors: int, stopping: threading.Event) -> None:
    rng = random.Random(seed)
    with _Nbd(rig.directory / "nbd.sock") as nbd:
        while not stopping.wait(rng.expovariate(40)):
            at, count = rng.randrange(sectors - 8) * SECTOR, rng.choice((1, 1, 1, 2, 4, 8))
            nbd.request(1, at, data=rng.randbytes(count * SECTOR))
            for _ in range(rng.randrange(4)):
                nbd.request(0, rng.randrange(sectors) * SECTOR, length=SECTOR)
            if rng.random() < 0.6:
                nbd.request(3, 0)
