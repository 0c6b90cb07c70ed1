"""The directory of `perdure up`: simulated disks on this machine, with everything that an array of them needs.

The simulated platform protects nothing: it is for trying Perdure out and for tests. Its disks hold their data in RAM,
as real ones do, so a disk that has ended is never started again by itself: it would be blank, and only hide the loss.
`perdure replace` starts a fresh one in its place.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from perdure.array.geometry import HISTORY_SECTORS, Geometry
from perdure.errors import Misuse, Unavailable
from perdure.evidence.measurement import Measurement
from perdure.evidence.policy import SEATS_MAX, Policy, TrustedRoot
from perdure.evidence.roots import Platform
from perdure.image import eif
from perdure.image.build import build_simulated
from perdure.service import artefacts, config, processes, template
from perdure.service.config import Acknowledgements, Config
from perdure.simtee.pki import CERTIFICATE_FILE, KEY_FILE, SimulatedRoot
from perdure.simtee.tpm import expected_pcrs

AUTHORITY_FILE: Final = "authority.key"
IMAGE_FILE: Final = "disk.eif"
POLICY_FILE: Final = "policy.json"
ROOT_DIRECTORY: Final = "simulated-root"
ROOT_NAME: Final = "simulated"
TPM_ROOT_NAME: Final = "simulated-tpm"
MOUNT_POINT: Final = "mnt"
"""Where the printed nbdfuse line would mount."""
DISK_END_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Wish:
    """What a new directory's array shall be."""

    size: str
    disks: int
    threshold: int
    listen: str
    dead_after_ms: int
    acknowledgements: Acknowledgements = Acknowledgements.EVIDENCE


def prepare(directory: Path, wish: Wish) -> None:
    """Write key, image, policy and configuration, the configuration last. Raises Misuse; then there is none."""
    try:
        Geometry.for_size(wish.threshold, wish.disks, config.parse_size(wish.size), HISTORY_SECTORS)
        for address in ("unix:control.sock", f"unix:disk-{wish.disks - 1}.sock", wish.listen):
            config.absolute_address(address, directory)
    except Misuse as error:
        raise Misuse(str(error) if str(error).endswith(".") else f"{error}; nothing was created.") from None
    key_path = directory / AUTHORITY_FILE
    authority = artefacts.read_key(key_path) if key_path.exists() else artefacts.new_key(key_path)
    image = build_simulated(authority.public_key)
    root = SimulatedRoot.load_or_create(directory / ROOT_DIRECTORY)
    has_chains = wish.acknowledgements is Acknowledgements.CHAINS
    policy = replace(policy_of(image, root.der), acknowledgement_chains=has_chains)
    artefacts.write_atomic(directory / IMAGE_FILE, image)
    artefacts.write_atomic(directory / POLICY_FILE, policy.to_json())
    text = template.render(
        disks=wish.disks,
        threshold=wish.threshold,
        size=wish.size,
        addresses=tuple(f"unix:disk-{seat}.sock" for seat in range(wish.disks)),
        listen=wish.listen,
        dead_after_ms=wish.dead_after_ms,
        acknowledgements=wish.acknowledgements,
    )
    config.parse(text.encode(), directory / config.NAME)
    artefacts.write_atomic(directory / config.NAME, text.encode())


def policy_of(image: bytes, root: bytes, tpm_root: bytes | None = None) -> Policy:
    """The policy that accepts this image on a simulated platform with this root certificate, and nothing else.

    With `tpm_root` it accepts it on simulated machines with a TPM too, whose keys that root certifies. All disks may
    hang on one root, and on this machine: it is simulated, so nothing else can be had.
    """
    parts = eif.parse(image)
    pcrs = eif.measure(parts)
    roots = [TrustedRoot(ROOT_NAME, Platform.SIMULATED, root)]
    measured = [Measurement.enclave(ROOT_NAME, pcrs.pcr0, pcrs.pcr1, pcrs.pcr2)]
    if tpm_root is not None:
        roots.append(TrustedRoot(TPM_ROOT_NAME, Platform.TPM, tpm_root))
        measured.append(Measurement.of(TPM_ROOT_NAME, expected_pcrs(parts)))
    return Policy(tuple(roots), tuple(measured), seats_per_root_max=SEATS_MAX)


# Disks ----------------------------------------------------------------------------------------------------


def _process_file(directory: Path, seat: int) -> Path:
    return directory / f"disk-{seat}.pid"


def is_local(found: Config) -> bool:
    """Whether `up` made this configuration's disks."""
    return (found.directory / IMAGE_FILE).exists()


def ended_seats(found: Config) -> list[int]:
    """The seats whose simulated disk does not run."""
    count = found.array.disks
    return [seat for seat in range(count) if processes.find(_process_file(found.directory, seat)) is None]


def start_disks(found: Config, evidence_latency_ms: float) -> list[int]:
    """Start the disks that do not run, blank, and return their seats once all of them listen. Raises Unavailable.

    Only before there is an array: never to replace a disk that held data.
    """
    seats = ended_seats(found)
    _start(
        found,
        seats,
        evidence_latency_ms,
        "There is no array yet, so nothing is lost; `perdure down --destroy` clears what was begun.",
    )
    return seats


def start_fresh_disk(found: Config, seat: int) -> None:
    """Start a blank disk at the address of a seat whose disk has ended, for `replace`. Raises Unavailable."""
    _start(found, [seat], 0.0, "The array goes on without it.")


def _start(found: Config, seats: Sequence[int], evidence_latency_ms: float, what_now: str) -> None:
    shape = found.array
    size = Geometry.for_size(shape.threshold, shape.disks, shape.size_bytes, HISTORY_SECTORS).disk_bytes
    started = [(seat, _start_disk(found, seat, size, evidence_latency_ms)) for seat in seats]
    for seat, process in started:
        assert process.stdout is not None
        with process.stdout as stream:
            line = stream.readline()
        if not line.startswith(b"listening "):
            process.wait()
            log = found.directory / f"disk-{seat}.log"
            raise Unavailable(f"The disk for seat {seat} did not start: {processes.last_line(log)} {what_now}")
        process.returncode = 0  # it goes on without us


def _start_disk(found: Config, seat: int, size_bytes: int, evidence_latency_ms: float) -> subprocess.Popen[bytes]:
    directory = found.directory
    options = {
        "--image": directory / IMAGE_FILE,
        "--root-directory": directory / ROOT_DIRECTORY,
        "--listen": found.addresses[seat],
        "--size-bytes": size_bytes,
        "--evidence-latency-ms": evidence_latency_ms,
    }
    command = [sys.executable, "-m", "perdure.simtee.launch", *(str(part) for pair in options.items() for part in pair)]
    log = directory / f"disk-{seat}.log"
    process = processes.start_detached(command, log=log, stdout=subprocess.PIPE)
    processes.remember(_process_file(directory, seat), process.pid)
    return process


def require_enough(found: Config) -> None:
    """Raise Unavailable, saying what is lost, when fewer than k simulated disks run."""
    ended, shape = ended_seats(found), found.array
    if shape.disks - len(ended) >= shape.threshold:
        return
    seats = ", ".join(str(seat) for seat in ended)
    raise Unavailable(
        f"{len(ended)} of the {shape.disks} disks have ended (seats {seats}) and {shape.threshold} must run: they held "
        "the array in RAM, so it is missing what was on them and stays closed; nothing old is served in its place. "
        "`perdure down --destroy`, then `perdure up`, starts a new, EMPTY array."
    )


# The end --------------------------------------------------------------------------------------------------


def end_disks(directory: Path) -> int:
    """End every simulated disk of the directory; how many still ran. What they held is gone."""
    count = 0
    for path in sorted(directory.glob("disk-*.pid")):
        process = processes.find(path)
        count += process is not None and process.end(grace_s=DISK_END_S)
        path.unlink()
    return count


def remove_artefacts(directory: Path) -> list[str]:
    """Remove what `up` and its processes wrote, and the directory if nothing else is in it; what was left there."""
    if _is_our_root(directory):
        shutil.rmtree(directory / ROOT_DIRECTORY)
    names = [
        config.NAME,
        artefacts.ARRAY_FILE,
        AUTHORITY_FILE,
        IMAGE_FILE,
        POLICY_FILE,
        artefacts.MAIN_PROCESS_FILE,
        artefacts.MAIN_LOG_FILE,
        artefacts.MAIN_LOCK_FILE,
        "nbd.sock",
        "control.sock",
        *(path.name for path in directory.glob("disk-*.log")),
        *(path.name for path in directory.glob("disk-*.sock")),
        processes.LOCK_FILE,  # last: whoever waits for it finds everything gone
    ]
    for name in names:
        (directory / name).unlink(missing_ok=True)
    for empty in (directory / MOUNT_POINT, directory):
        with suppress(OSError):  # absent, or something is in there that is not ours to remove
            empty.rmdir()
    left = {path.name for path in directory.iterdir()} if directory.exists() else set()
    return sorted(left - {processes.LOCK_FILE})  # that is another command's by now


def _is_our_root(directory: Path) -> bool:
    root = directory / ROOT_DIRECTORY
    return root.is_dir() and {path.name for path in root.iterdir()} <= {KEY_FILE, CERTIFICATE_FILE, f"{KEY_FILE}.new"}
