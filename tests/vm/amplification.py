"""How many bytes go to the disks for each byte that an application writes, for LUKS in several stacks on an array.

`python -m tests.vm.amplification` prints the table of docs/recipes/luks.md. What is counted are the EXECUTE commands on
the wire to all five disks (3-of-5, so 1.67 is the least), from the first write until all is at home and the volume is
closed. Ratios of bytes hold anywhere; the machine is emulated, so nothing here says how long anything takes.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from perdure.disk.wire import Opcode
from tests.cli.rig import Rig
from tests.system.proxy import Proxy

from . import initramfs
from .conftest import CACHE
from .guest import Disk, Guest
from .kernel import debian_kernel

SIZE = "32M"
DEAD_AFTER_MS = 30_000
RANDOM_WRITES = 40
SEQUENTIAL_MIB = 4
PASSPHRASE = "data.passphrase"
FORMAT = f"cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file {PASSPHRASE}"
OPEN = f"cryptsetup open --key-file {PASSPHRASE}"
RANDOM = f"""for number in $(seq {RANDOM_WRITES}); do
    dd if=/dev/urandom of=$device bs=4k count=1 seek=$((RANDOM % 2048)) oflag=direct conv=fsync,notrunc status=none
done"""
SEQUENTIAL = f"dd if=/dev/urandom of=$device bs=1M count={SEQUENTIAL_MIB} oflag=direct conv=fsync,notrunc status=none"
WORK = ((RANDOM, RANDOM_WRITES << 12), (SEQUENTIAL, SEQUENTIAL_MIB << 20))


@dataclass(frozen=True, slots=True)
class Stack:
    """`luks` has the options of luksFormat, or is None where the application writes to the array itself."""

    name: str
    sealing: str
    luks: str | None = None


STACKS = (
    Stack("Perdure's own sealing", "perdure"),
    Stack("LUKS2 on an array in the clear", "none", "--sector-size 4096"),
    Stack("LUKS2 on a sealed array", "perdure", "--sector-size 4096"),
    Stack("LUKS2 with integrity, in the clear", "none", "--sector-size 4096 --integrity hmac-sha256"),
    Stack("the same in sectors of 512 bytes", "none", "--sector-size 512 --integrity hmac-sha256"),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one workload: bytes to all disks per byte of the application, and entries of the array's journal."""

    ratio: float
    entries: int


@dataclass(frozen=True, slots=True)
class Array:
    """One, the machine's device for it, and what stands before each of its disks."""

    rig: Rig
    device: str
    proxies: Sequence[Proxy]

    def settled(self) -> tuple[int, int]:
        """Bytes sent to the disks so far, and the journal's last entry, once everything is at home."""
        status = self.rig.wait_for(lambda status: status["dirty_sectors"] == 0)
        executes = [frame for proxy in self.proxies for frame in proxy.commands() if frame.opcode is Opcode.EXECUTE]
        return sum(frame.wire_bytes for frame in executes), status["journal_last"]


def measure(guest: Guest, array: Array, stack: Stack) -> list[Cost]:
    """Random synchronous writes of 4 KiB, then a sequential write in pieces of 1 MiB with one flush at its end."""
    if stack.luks is not None:
        guest.call(f"{FORMAT} {stack.luks} {array.device}")
    return [_run(guest, array, stack, work, length) for work, length in WORK]


def _run(guest: Guest, array: Array, stack: Stack, work: str, length: int) -> Cost:
    target = array.device
    if stack.luks is not None:
        guest.call(f"{OPEN} {array.device} data")
        target = "/dev/mapper/data"
    before = array.settled()
    guest.call(f"device={target}; {work}")
    if stack.luks is not None:
        guest.call("cryptsetup close data")  # which empties the journal of dm-integrity
    guest.call(f"blockdev --flushbufs {array.device}; sync")
    after = array.settled()
    return Cost((after[0] - before[0]) / length, after[1] - before[1])


@contextlib.contextmanager
def arrays(directory: Path) -> Iterator[dict[str, Array]]:
    """A sealed one and one in the clear, by their sealing; in this order they are the machine's disks."""
    with contextlib.ExitStack() as stack:
        made = {}
        for sealing, device in (("perdure", "/dev/vda"), ("none", "/dev/vdb")):
            (directory / sealing).mkdir()
            rig = stack.enter_context(Rig(directory / sealing))
            rig.up("--sealing", sealing, size=SIZE, dead_after_ms=DEAD_AFTER_MS)
            rig.down()
            proxies = [stack.enter_context(Proxy.before(rig.directory / f"disk-{seat}.sock")) for seat in range(5)]
            rig.run("up")
            stack.callback(rig.down)
            made[sealing] = Array(rig, device, proxies)
        yield made


def table(rows: Sequence[tuple[Stack, Sequence[Cost]]]) -> str:
    """In Markdown."""
    lines = [
        "| stack | 4 KiB, random, each synced | entries per write | 1 MiB, sequential, synced at the end |",
        "|---|---:|---:|---:|",
    ]
    for stack, (random, sequential) in rows:
        each = random.entries / RANDOM_WRITES
        lines.append(f"| {stack.name} | {random.ratio:.1f} | {each:.1f} | {sequential.ratio:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    kernel = debian_kernel(CACHE / "kernel")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        ramdisk = directory / "guest.initramfs"
        ramdisk.write_bytes(initramfs.build(kernel))
        with arrays(directory) as made, Guest(directory / "guest", kernel.image, ramdisk) as guest:
            guest.boot(*(Disk(array.rig.nbd_uri) for array in made.values()))
            guest.put(PASSPHRASE, b"0" * 64)
            rows = [(stack, measure(guest, made[stack.sealing], stack)) for stack in STACKS]
    print(table(rows))


if __name__ == "__main__":
    main()
