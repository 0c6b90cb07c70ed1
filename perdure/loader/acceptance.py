"""Acceptance: the array itself says whether this manifest may run, and remembers it from then on.

The array is mounted under the manifest's version and digest, and let go. A mount is refused, before anything of the
array is changed, when it has accepted a higher version, or another manifest of the same one (docs/spec.md, 8.2, step
2); when it succeeds, every later mount knows. No host can put that back, as it can put nothing else in the array back.
"""

from __future__ import annotations

from collections.abc import Sequence

from perdure.api import Host, Settings
from perdure.array.geometry import Geometry
from perdure.array.roster import Program
from perdure.errors import Misuse
from perdure.loader.sealed import Secret
from perdure.manifest.manifest import Manifest

ANSWER_MS_MAX = 5_000
DEAD_AFTER_MS = 10_000


async def accept(secret: Secret, manifest: Manifest, addresses: Sequence[str]) -> Geometry:
    """Have the array accept `manifest`; its shape. Whoever owned it is fenced by this; nothing acknowledged is lost.

    Raises Misuse when key, array and manifest are not about one another, OldProgram when the array has accepted a
    higher version, and whatever a mount raises.
    """
    if manifest.array_id != secret.array_id:
        raise Misuse(
            f"The manifest is for array {manifest.array_id.hex()}, and the key came for array "
            f"{secret.array_id.hex()}; nothing was started and the array was not touched."
        )
    host = Host(settings_of(secret, manifest, addresses))
    try:
        array = await host.mount(secret.array_id)
        await array.close()
    finally:
        await host.close()
    shape = array.geometry
    if (shape.k, shape.n) != (manifest.threshold, manifest.disks):
        raise Misuse(
            f"The manifest says {manifest.threshold} of {manifest.disks} disks and the array has {shape.k} of "
            f"{shape.n}; nothing was started. The developers must sign a higher version with the true numbers."
        )
    if not array.opened.genesis.is_sealed:
        raise Misuse("The array is in the clear, and no main program runs on such a one under a loader.")
    return shape


def program_of(manifest: Manifest) -> Program:
    """What an array remembers of a manifest."""
    return Program(manifest.version, manifest.digest())


def settings_of(secret: Secret, manifest: Manifest, addresses: Sequence[str]) -> Settings:
    """What a mount needs. Addresses are the host's hints, all else is from the developers or the operator."""
    return Settings(
        tuple(addresses),
        secret.private_key,
        manifest.policy,
        DEAD_AFTER_MS,
        ANSWER_MS_MAX,
        program=program_of(manifest),
    )
