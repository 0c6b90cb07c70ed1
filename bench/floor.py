"""The floor: processor time that the promise itself costs, whoever keeps it, and however well the rest is written.

For one durable 4 KiB write to 3 of 5 disks: seal it (cipher, hash, two MACs), code it, and for each disk sign its
command, hash and verify it there, have the hardware sign a document over the answer, and verify that. Nothing else is
counted: no copies, no system calls, no interpreter between them. Each operation is measured by itself, as processor
time, with a process on every core at once, since a busy sibling makes a core slower; the sum is divided by the
cores, as if all of it could be done at the same time.

Each operation is that of the fastest library here (docs/design.md, "Dependencies"): P-384 is AWS-LC's, which takes
half of OpenSSL's time. Documents are of the size that the simulated hardware makes. A write at greater depth shares
documents with others, so the floor is about depth 1.
"""

from __future__ import annotations

import hashlib
import hmac
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

from awscrt.crypto import EC, ECType
from coincurve import PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from pyeclib.ec_iface import ECDriver

from bench.model import KIB, K, N
from perdure.simtee.nsm import SimulatedNsm, new_module_id
from perdure.simtee.pki import SimulatedRoot

SECTOR_BYTES = 4 * KIB
FRAGMENT_BYTES = 1408
"""A third of a sector in whole disk sectors of 64 bytes (docs/spec.md, section 4)."""
COMMAND_BYTES = FRAGMENT_BYTES + 512
"""An EXECUTE with one sector's fragment, tag and journal entry."""
LEAF_BYTES = 200
MAC_BYTES = 96
SAMPLE_S = 0.06
"""How long each operation is repeated in each process."""
Costs = Mapping[str, float]
"""Microseconds of processor time by step."""


@dataclass(frozen=True, slots=True)
class Step:
    """One kind of operation, and how often a durable write, one with chains, and a read of known tags need it."""

    name: str
    where: str
    durable: int
    chains: int
    read: int


CIPHER = "AES-256-CTR, 4 KiB"
HASH = "SHA-256, 4 KiB"
MAC = "HMAC-SHA-256 of a tag"
ENCODE = "encode, 4 KiB to 5 fragments"
DIGEST = "SHA-256 of a command"
SIGN = "ECDSA secp256k1, sign"
VERIFY = "ECDSA secp256k1, verify"
LEAF = "SHA-512 of a leaf"
DOCUMENT = "SHA-384 of a document"
ATTEST = "ECDSA P-384, sign"
BELIEVE = "ECDSA P-384, verify"
LINK = "SHA-256 of a link"
STEPS = (
    Step(CIPHER, "main program", 1, 1, 1),
    Step(HASH, "main program", 1, 1, 1),
    Step(MAC, "main program", 2, 2, 2),
    Step(ENCODE, "main program", 1, 1, 0),
    Step(DIGEST, "main program and disks", 2 * N, 2 * N, 0),
    Step(SIGN, "main program", N, N, K),
    Step(VERIFY, "disks", N, N, K),
    Step(LEAF, "main program and disks", 2 * N, 0, 0),
    Step(DOCUMENT, "main program and hardware", 2 * N, 0, 0),
    Step(ATTEST, "hardware", N, 0, 0),
    Step(BELIEVE, "main program", N, 0, 0),
    Step(LINK, "main program and disks", 0, 2 * N, 0),
)
"""Chains replace the document by the preimage of a hash, which a disk looks up or makes and the main program checks."""


# What it comes to ------------------------------------------------------------------------------------------


def totals(costs: Costs, cores: int) -> dict[str, float]:
    """Microseconds for one operation: processor time of all steps, and that divided by the cores. Pure."""
    sums = {
        "durable": sum(step.durable * costs[step.name] for step in STEPS),
        "chains": sum(step.chains * costs[step.name] for step in STEPS),
        "read": sum(step.read * costs[step.name] for step in STEPS),
    }
    cpu = {f"{kind}_cpu_us": value for kind, value in sums.items()}
    return cpu | {f"{kind}_us": value / cores for kind, value in sums.items()}


def measure() -> dict[str, float]:
    """Each step's microseconds of processor time, the mean over one process on each core, all at once."""
    cores = len(os.sched_getaffinity(0))
    forking = multiprocessing.get_context("fork")
    barrier = forking.Barrier(cores)
    pipes, workers = [], []
    for _ in range(cores):
        ours, theirs = forking.Pipe(duplex=False)
        worker = forking.Process(target=_work, args=(barrier, theirs), daemon=True)
        worker.start()
        theirs.close()
        pipes.append(ours)
        workers.append(worker)
    found = [pipe.recv() for pipe in pipes]
    for worker in workers:
        worker.join()
    return {step.name: statistics.mean(costs[step.name] for costs in found) for step in STEPS}


def medians(rounds: Sequence[Costs]) -> dict[str, float]:
    """Of each step over the rounds."""
    return {step.name: statistics.median(costs[step.name] for costs in rounds) for step in STEPS}


def _work(barrier: Barrier, result: Connection) -> None:
    """One process: every step together with the other processes."""
    costs = {}
    for name, operation in operations().items():
        barrier.wait(60)
        costs[name] = _cost_us(operation)
    result.send(costs)


def _cost_us(operation: Callable[[], object]) -> float:
    count, cpu, give_up = 0, time.process_time(), time.perf_counter() + SAMPLE_S
    while time.perf_counter() < give_up:
        for _ in range(20):
            operation()
        count += 20
    return (time.process_time() - cpu) * 1e6 / count


# The steps -------------------------------------------------------------------------------------------------


def operations() -> dict[str, Callable[[], object]]:
    """Each step, to be called."""
    return {**_sealing(), **_commands(), **_evidence()}


def _sealing() -> dict[str, Callable[[], object]]:
    sector, key, room, tag = os.urandom(SECTOR_BYTES), os.urandom(32), bytearray(SECTOR_BYTES), bytes(MAC_BYTES)
    code, columns = ECDriver(k=K, m=N - K, ec_type="isa_l_rs_cauchy"), os.urandom(K * FRAGMENT_BYTES)
    return {
        CIPHER: lambda: Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor().update_into(sector, room),
        HASH: lambda: hashlib.sha256(sector).digest(),
        MAC: lambda: hmac.digest(key, tag, "sha256"),
        ENCODE: lambda: code.encode(columns),
    }


def _commands() -> dict[str, Callable[[], object]]:
    command, digest, signer = os.urandom(COMMAND_BYTES), os.urandom(32), PrivateKey(os.urandom(32))
    verifier, signature = signer.public_key, signer.sign(digest, None)
    return {
        DIGEST: lambda: hashlib.sha256(command).digest(),
        SIGN: lambda: signer.sign(digest, None),
        VERIFY: lambda: verifier.verify(signature, digest, None),
        LINK: lambda: hashlib.sha256(digest).digest(),
    }


def _evidence() -> dict[str, Callable[[], object]]:
    leaf, document = os.urandom(LEAF_BYTES), os.urandom(document_bytes())
    digest, hardware = hashlib.sha384(document).digest(), EC.new_generate(ECType.P_384)
    signature = hardware.sign(digest)
    return {
        LEAF: lambda: hashlib.sha512(leaf).digest(),
        DOCUMENT: lambda: hashlib.sha384(document).digest(),
        ATTEST: lambda: hardware.sign(digest),
        BELIEVE: lambda: hardware.verify(digest, signature),
    }


def document_bytes() -> int:
    """How long a simulated document is."""
    with tempfile.TemporaryDirectory() as folder:
        root, now_ms = SimulatedRoot.load_or_create(Path(folder, "root")), time.time_ns() // 1_000_000
        module_id = new_module_id("i-" + "0" * 17, now_ms)
        return len(SimulatedNsm(root, {}, module_id, lambda: now_ms).attest(bytes(64)))
