"""Judgements about this machine. A core: facts come as arguments, from `look`; nothing here reads a file or a clock.

The main program holds the plaintext and the key, so what matters is where its memory could end up (swap, core dumps),
that its clock is right (evidence is valid for a time), and what it needs of the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from perdure.array.geometry import SEATS_MAX
from perdure.nbd.server import CONNECTIONS_MAX
from perdure.service.doctor.finding import Finding, fail, ok, warn

MAIN_BYTES: Final = 128 << 20
"""The main program without tags: 70 to 110 MiB measured (docs/benchmarks.md, "Memory"), and room."""
TAG_SHARE: Final = 50
"""Tags of an array take a fiftieth of its size at most (docs/performance.md, section 5)."""
FILES_MIN: Final = 2 * SEATS_MAX + CONNECTIONS_MAX + 64
"""Two connections to each disk, NBD's clients, and what is always open: logs, sockets, modules."""
TIME_ERROR: Final = 5
"""What adjtimex(2) returns for a clock that nothing keeps right (TIME_ERROR, once called TIME_BAD)."""
_DISCARDING: Final = ("/bin/false", "/bin/true", "/usr/bin/false", "/usr/bin/true")
_PROCESSOR: Final = {"x86_64": ("aes", "pclmulqdq", "sha_ni", "avx2"), "aarch64": ("aes", "pmull", "sha2", "asimd")}


class Keeps(StrEnum):
    """What a swap area does with what it is given."""

    PLAIN = "plain"
    ENCRYPTED = "encrypted"
    IN_RAM = "in RAM"


@dataclass(frozen=True, slots=True)
class SwapArea:
    """One line of /proc/swaps."""

    name: str
    keeps: Keeps


def swap(areas: Sequence[SwapArea], lockable_bytes: int | None) -> Finding:
    """Whether memory could reach a disk. `lockable_bytes` is RLIMIT_MEMLOCK, None for no limit."""
    lockable = "without limit" if lockable_bytes is None else f"up to {lockable_bytes >> 10} KiB"
    plain = [area.name for area in areas if area.keeps is Keeps.PLAIN]
    if plain:
        return warn(
            "swap",
            f"Swap is on, in clear: {', '.join(plain)} (memory may be locked {lockable}; Perdure locks none)",
            "Plaintext and the authority's key are in the main program's memory. What is swapped out stays on a disk "
            "that the host keeps, and no erasing reaches it.",
            "Run `swapoff -a` and take swap out of /etc/fstab, or encrypt it with a key that is drawn at each start "
            "(crypttab(5), option `swap`), or keep the main program out of it (MemorySwapMax=0 in its unit).",
        )
    kept = ", ".join(f"{area.name} ({area.keeps})" for area in areas)
    return ok("swap", f"Nothing is swapped to a disk in clear: {kept}" if kept else "No swap is on")


def core_dumps(pattern: str, soft_bytes: int | None) -> Finding:
    """Whether a crash could write the memory down. `soft_bytes` is RLIMIT_CORE, None for no limit.

    That limit does not count where the pattern names a program, core(5).
    """
    pattern = pattern.strip()
    piped = pattern.removeprefix("|").split(" ")[0] if pattern.startswith("|") else None
    if piped in _DISCARDING or (piped is None and (soft_bytes == 0 or not pattern)):
        return ok("core dumps", f"A crash leaves no core dump (core_pattern {pattern!r:.60})")
    where = f"goes to the program {piped}" if piped else f"is written as {pattern!r:.60}"
    return warn(
        "core dumps",
        f"A core dump {where}",
        "A dump of the main program holds plaintext and the authority's key, and outlives every erasing.",
        "Run the main program with LimitCORE=0 in its unit, or `ulimit -c 0`; where a program takes the dumps, give it "
        "none: `sysctl kernel.core_pattern=core`, or Storage=none in coredump.conf(5).",
    )


def open_files(soft: int | None) -> Finding:
    """Whether the main program may open as many files as it needs. `soft` is RLIMIT_NOFILE, None for no limit."""
    found = f"A process may have {'any number of' if soft is None else soft} files open"
    if soft is None or soft >= FILES_MIN:
        return ok("open files", found)
    return fail(
        "open files",
        found,
        f"A main program with {SEATS_MAX} disks and {CONNECTIONS_MAX} NBD clients needs {FILES_MIN}; with fewer it "
        "refuses clients, or loses sight of disks.",
        "Raise it: LimitNOFILE=1024 in its unit, or `ulimit -n 1024`.",
    )


def clock(state: int | None, error_us: int) -> Finding:
    """Whether something keeps the clock right: what adjtimex(2) returned, None where it could not be asked."""
    if state is not None and state != TIME_ERROR:
        return ok("clock", f"The clock is synchronised, within {error_us / 1_000_000:.3f} s")
    return warn(
        "clock",
        "Nothing says that the clock is synchronised" if state is None else "The clock is not synchronised",
        "Evidence and certificates are valid for a time. A clock that is wrong by a minute refuses good evidence; one "
        "that a host sets back accepts collateral that has expired.",
        "Run chrony or systemd-timesyncd, and look again once it has set the clock (`timedatectl`).",
    )


def memory(available_bytes: int, size_bytes: int | None, *, is_running: bool) -> Finding:
    """Whether the main program of an array of `size_bytes` (None for no array) fits."""
    found = f"{available_bytes >> 20} MiB of memory are free"
    if is_running:
        return ok("memory", f"{found}; the main program has its own already")
    needed = MAIN_BYTES + (size_bytes or 0) // TAG_SHARE
    if available_bytes >= needed:
        return ok("memory", f"{found}; a main program needs up to {needed >> 20}")
    return warn(
        "memory",
        f"{found}, and the main program may need {needed >> 20}",
        "Tags, 64 bytes for each 4,096, are kept in memory once they are known; when memory runs out the kernel ends "
        "the program. Nothing that was flushed is lost by that, but nothing is served.",
        "Give the machine more memory, or end what else needs it.",
    )


def processor(architecture: str, flags: frozenset[str]) -> Finding:
    """Whether the processor has the instructions that sealing, hashing and coding are fast with."""
    wanted = _PROCESSOR.get(architecture, ())
    missing = [flag for flag in wanted if flag not in flags]
    if not missing:
        return ok("processor", f"{architecture}, with {', '.join(wanted) or 'instructions that are not known here'}")
    slow = "aes" in missing
    text = f"{architecture}, without {', '.join(missing)}"
    if not slow:
        return ok("processor", f"{text}: right, and somewhat slower")
    return warn(
        "processor",
        text,
        "Every sector is encrypted; without the processor's AES instructions that is several times slower, and takes a "
        "time that depends on the data.",
        "Expose the host's processor to this machine (QEMU: -cpu host), or use another.",
    )
