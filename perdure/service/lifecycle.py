"""Speaking with loaders: bring one a signed program, judge what it shows, give it the key, have one follow another.

The key leaves this machine only sealed to a key that verified evidence carries: evidence of a loader that the policy
for loaders allows, with the very manifest that it is about to run.
"""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from perdure.array.commands import Authority
from perdure.array.roster import NO_PROGRAM
from perdure.errors import Misuse, WrongCommitment
from perdure.evidence.policy import Policy
from perdure.evidence.verified import VerifiedEvidence
from perdure.evidence.verifier import Verifier
from perdure.loader.acceptance import program_of
from perdure.loader.child import READY_S_MAX, STOP_S_MAX
from perdure.loader.offer import NO_KEY, NONCE_BYTES, Offer, Purpose
from perdure.loader.sealed import Secret, seal
from perdure.loader.talk import PAYLOAD_BYTES_MAX, Talk, connected, packed, unpacked
from perdure.manifest.manifest import Manifest, ProgramKind
from perdure.service.site import artefacts

START_S_MAX: Final = READY_S_MAX + 60.0
"""How long a loader may take to mount the array and start the main program."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a host brings to a loader. Nothing in it is secret, and a loader believes what is signed."""

    manifest: Manifest
    signatures: tuple[bytes, ...]
    program: bytes
    addresses: tuple[str, ...]
    serve: str
    uid: int

    @classmethod
    def read(
        cls, manifest: Path, signatures: Sequence[Path], program: Path, addresses: Sequence[str], serve: str, uid: int
    ) -> Bundle:
        """From files; a program that is a directory is packed. Raises Misuse."""
        found = Manifest.from_json(artefacts.read_bounded(manifest, "manifest"))
        given = tuple(artefacts.read_bounded(path, "signature") for path in signatures)
        return cls(found, given, _packed_program(found, program), tuple(addresses), serve, uid)


def _packed_program(manifest: Manifest, program: Path) -> bytes:
    if not program.is_dir():
        return artefacts.read_bounded(program, "program", bytes_max=PAYLOAD_BYTES_MAX)
    if manifest.program.kind is ProgramKind.IMAGE:
        raise Misuse(f"The manifest's program is one file, and {program} is a directory; nothing was sent.")
    packed_files = _tarball(program)
    if len(packed_files) > PAYLOAD_BYTES_MAX:
        raise Misuse(f"{program} has more than a loader takes, {PAYLOAD_BYTES_MAX} bytes; nothing was sent.")
    return packed_files


def _tarball(directory: Path) -> bytes:
    """The files of a directory, as a loader takes them; it refuses what is neither file nor directory."""
    packed_files = io.BytesIO()
    with tarfile.open(fileobj=packed_files, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(path for path in directory.rglob("*") if not path.is_dir() or path.is_symlink()):
            archive.add(path, arcname=str(path.relative_to(directory)), recursive=False)
    return packed_files.getvalue()


@dataclass(frozen=True, slots=True)
class Shown:
    """What a loader has shown, judged: who it is, and which manifest it has verified."""

    verified: VerifiedEvidence
    manifest: Manifest | None
    health: dict[str, Any]


async def health(address: str) -> dict[str, Any]:
    """What the loader at `address` says of itself; nothing of it is proved."""
    async with connected(address) as loader:
        return _checked(await loader.ask("health"))


async def identity(address: str, loaders: Policy) -> Shown:
    """The same with evidence, made now, that it is a loader which `loaders` allows; and that its main program serves,
    if it says so. Raises BadEvidence."""
    async with connected(address) as loader:
        says = _checked(await loader.ask("health"))
        return await _proof(loader, loaders, is_running=says["state"] == "running")


async def _proof(loader: Talk, loaders: Policy, *, is_running: bool) -> Shown:
    """What a loader proves now. The evidence covers the manifest and, with `is_running`, that its program serves."""
    nonce, purpose = os.urandom(NONCE_BYTES), Purpose.RUNNING if is_running else Purpose.IDENTITY
    answer = _checked(await loader.ask(purpose.name.lower(), nonce=packed(nonce)))
    manifest = None if answer["manifest"] is None else Manifest.from_json(unpacked(answer, "manifest"))
    offer = Offer(purpose, nonce, NO_KEY, NO_PROGRAM if manifest is None else program_of(manifest))
    return Shown(_judged(loaders, unpacked(answer, "evidence"), offer), manifest, answer)


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer about a loader's health, if it has that form. Raises Misuse."""
    kinds: dict[str, Any] = {
        "state": str,
        "manifest": (str, type(None)),
        "signers": list,
        "pid": (int, type(None)),
        "says": str,
    }
    if not all(name in answer and isinstance(answer[name], kind) for name, kind in kinds.items()):
        raise Misuse("What answers there is no loader, or one of another release; nothing is known of it.")
    return {**answer, "signers": [str(name) for name in answer["signers"]]}


def _judged(loaders: Policy, evidence: bytes, offer: Offer) -> VerifiedEvidence:
    return Verifier(loaders).verify(evidence, offer.commitment(), time.time_ns() // 1_000_000)


async def load(address: str, bundle: Bundle) -> dict[str, Any]:
    """Bring the bundle to the loader. Raises what it refuses with."""
    async with connected(address) as loader:
        return await _load(loader, bundle)


async def _load(loader: Talk, bundle: Bundle) -> dict[str, Any]:
    return await loader.ask(
        "load",
        payload=bundle.program,
        timeout_s=START_S_MAX,
        manifest=packed(bundle.manifest.to_json()),
        signatures=[packed(one) for one in bundle.signatures],
        addresses=list(bundle.addresses),
        serve=bundle.serve,
        uid=bundle.uid,
    )


async def provision(
    address: str, authority: Authority, array_id: bytes, loaders: Policy, expected: Manifest | None = None
) -> Shown:
    """The ceremony: judge the loader's offer, seal the key to it, and return when it proves that its program serves.

    Raises BadEvidence for a loader that `loaders` does not allow, Misuse for a manifest that is not for this array, or
    not `expected`; then nothing was sent. Raises what the loader refuses with, such as OldProgram.
    """
    nonce = os.urandom(NONCE_BYTES)
    async with connected(address) as loader:
        answer = await loader.ask("offer", nonce=packed(nonce))
        manifest = Manifest.from_json(unpacked(answer, "manifest"))
        offer = Offer(Purpose.CEREMONY, nonce, unpacked(answer, "public_key"), program_of(manifest))
        _judged(loaders, unpacked(answer, "evidence"), offer)
        if manifest.array_id != array_id:
            raise Misuse(
                f"The loader would run {manifest.name} on array {manifest.array_id.hex()}, and the key is for "
                f"{array_id.hex()}; nothing was sent."
            )
        if expected is not None and expected != manifest:
            raise Misuse(
                f"The loader has another manifest than the one that was given: {manifest.name} version "
                f"{manifest.version}; nothing was sent."
            )
        sealed = seal(Secret(authority.private_key, array_id, loaders), offer)
        await loader.ask("provide", sealed=packed(sealed), timeout_s=START_S_MAX)
        shown = await _proof(loader, loaders, is_running=True)
    if shown.manifest != manifest:
        raise WrongCommitment(
            "A loader serves, but with another manifest than the one that was judged; the key went to the one that was "
            "judged and to no other. Look at both."
        )
    return shown


async def follow(address: str, before: str) -> dict[str, Any]:
    """Have the loader at `address`, which is loaded, take over from the one at `before`, which runs."""
    async with connected(address) as loader:
        return await loader.ask("follow", address=before, timeout_s=START_S_MAX + STOP_S_MAX)


async def stop(address: str) -> dict[str, Any]:
    """Have the main program bring everything home, and the loader end; the key is gone with it."""
    async with connected(address) as loader:
        return await loader.ask("stop", timeout_s=STOP_S_MAX + 10)
