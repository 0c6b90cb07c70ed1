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
from perdure.service.site import artefacts, config, processes, template
from perdure.service.site.config import Acknowledgements, Config, Sealing
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
    spares: int = 0
    http: str | None = None
    sealing: Sealing = Sealing.PERDURE


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
        spares=tuple(f"unix:spare-{at}.sock" for at in range(wish.spares)),
        http=wish.http,
        sealing=wish.sealing,
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


def _process_file(directory: Path, name: str) -> Path:
    return directory / f"{name}.pid"


def is_local(found: Config) -> bool:
    """Whether `up` made this configuration's disks."""
    return (found.directory / IMAGE_FILE).exists()


def ended_seats(found: Config) -> list[int]:
    """The seats whose simulated disk does not run."""
    names = [_name(address, seat) for seat, address in enumerate(found.addresses)]
    return [seat for seat, name in enumerate(names) if processes.find(_process_file(found.directory, name)) is None]


def start_disks(found: Config, evidence_latency_ms: float) -> list[int]:
    """Start the disks and spares that do not run, blank, and return the disks' seats once all of them listen.

    Only before there is an array: never to replace a disk that held data. Raises Unavailable.
    """
    seats = ended_seats(found)
    addresses = [(_name(found.addresses[seat], seat), found.addresses[seat]) for seat in seats]
    spares = [(_name(address, at), address) for at, address in enumerate(found.spares)]
    blank = [one for one in spares if processes.find(_process_file(found.directory, one[0])) is None]
    what_now = "There is no array yet, so nothing is lost; `perdure down --destroy` clears what was begun."
    _start(found, [*addresses, *blank], evidence_latency_ms, what_now)
    return seats


def start_fresh_disk(found: Config, seat: int) -> None:
    """Start a blank disk at the address of a seat whose disk has ended, for `replace`. Raises Unavailable."""
    address = found.addresses[seat]
    _start(found, [(_name(address, seat), address)], 0.0, "The array goes on without it.")


def _name(address: str, seat: int) -> str:
    """What the files of the disk at `address` are called: a disk that has taken another's seat keeps its own."""
    kind, _, path = address.partition(":")
    return Path(path).stem if kind == "unix" else f"disk-{seat}"


def _start(found: Config, disks: Sequence[tuple[str, str]], evidence_latency_ms: float, what_now: str) -> None:
    """Start a disk for each name and address."""
    shape = found.array
    size = Geometry.for_size(shape.threshold, shape.disks, shape.size_bytes, HISTORY_SECTORS).disk_bytes
    started = [(name, _start_disk(found, name, address, size, evidence_latency_ms)) for name, address in disks]
    for name, process in started:
        assert process.stdout is not None
        with process.stdout as stream:
            line = stream.readline()
        if not line.startswith(b"listening "):
            process.wait()
            log = found.directory / f"{name}.log"
            raise Unavailable(f"The simulated {name} did not start: {processes.last_line(log)} {what_now}")
        process.returncode = 0  # it goes on without us


def _start_disk(
    found: Config, name: str, address: str, size_bytes: int, evidence_latency_ms: float
) -> subprocess.Popen[bytes]:
    directory = found.directory
    options = {
        "--image": directory / IMAGE_FILE,
        "--root-directory": directory / ROOT_DIRECTORY,
        "--listen": address,
        "--size-bytes": size_bytes,
        "--evidence-latency-ms": evidence_latency_ms,
    }
    command = [sys.executable, "-m", "perdure.simtee.launch", *(str(part) for pair in options.items() for part in pair)]
    process = processes.start_detached(command, log=directory / f"{name}.log", stdout=subprocess.PIPE)
    processes.remember(_process_file(directory, name), process.pid)
    return process


def lose_disks(found: Config, seats: Sequence[int]) -> list[int]:
    """Kill the simulated disks of these seats, as their machines' end would. Raises Misuse; then none was killed."""
    ended, shape = ended_seats(found), found.array
    if not is_local(found):
        raise Misuse(f"{found.path} is about disks that `perdure up` did not start; none was touched.")
    for seat in seats:
        if not 0 <= seat < shape.disks or seat in ended:
            raise Misuse(f"No simulated disk runs for a seat {seat}; none was touched.")
    if shape.disks - len(ended) - len(set(seats)) < shape.threshold:
        raise Misuse(
            f"{shape.disks - len(ended)} disks run and {shape.threshold} must: losing {len(set(seats))} would end the "
            "array for good; none was touched. `perdure down --destroy` is for that."
        )
    for seat in set(seats):
        process = processes.find(_process_file(found.directory, _name(found.addresses[seat], seat)))
        if process is not None:
            process.end(grace_s=0)
    return sorted(set(seats))


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
    for path in sorted([*directory.glob("disk-*.pid"), *directory.glob("spare-*.pid")]):
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
        artefacts.UNKEPT_FILE,
        artefacts.MAIN_LOCK_FILE,
        "nbd.sock",
        "control.sock",
        *(path.name for kind in ("disk", "spare") for path in directory.glob(f"{kind}-*.log")),
        *(path.name for kind in ("disk", "spare") for path in directory.glob(f"{kind}-*.sock")),
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
