"""Documents and paths to attack: a simulated enclave whose time and randomness are fixed, and real vectors."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from perdure.evidence.limits import Limits, SnpLimits, Tcb, TdxLimits
from perdure.evidence.measurement import REGISTERS, Measurement
from perdure.evidence.nitro import cose
from perdure.evidence.policy import Policy, TrustedRoot
from perdure.evidence.roots import Platform
from perdure.simtee.nsm import SimulatedNsm, new_module_id
from perdure.simtee.pki import Leaf, LeafChain, SimulatedRoot

VECTORS = Path(os.environ.get("PERDURE_VECTORS", Path(__file__).parents[3] / "shared" / "vectors"))
NOW_MS = 1_700_000_000_123
PCRS = {0: b"\x01" * 48, 1: b"\x02" * 48, 2: b"\x03" * 48}
COMMITMENT = bytes(range(64))
INSTANCE_ID = "i-0123456789abcdef0"


def needs_vectors(folder: str) -> pytest.MarkDecorator:
    reason = f"REAL EVIDENCE NOT TESTED: there is no folder {VECTORS / folder}; set PERDURE_VECTORS to where it is"
    return pytest.mark.skipif(not (VECTORS / folder).is_dir(), reason=reason)


def expected(folder: str) -> dict[str, dict[str, Any]]:
    path = VECTORS / folder / "expected.json"
    return json.loads(path.read_text()) if path.exists() else {}


def seeded(seed: str) -> Callable[[int], bytes]:
    """A stream of bytes that is the same for the same seed."""
    counter = 0

    def draw(length: int) -> bytes:
        nonlocal counter
        counter += 1
        return hashlib.shake_256(f"{seed}/{counter}".encode()).digest(length)

    return draw


ROOT = SimulatedRoot.create(seeded("root"))
MODULE_ID = new_module_id(INSTANCE_ID, NOW_MS - 60_000, seeded("module"))
POLICY = Policy(
    roots=(TrustedRoot("simulated", Platform.SIMULATED, ROOT.der),),
    measurements=(Measurement.enclave("simulated", PCRS[0], PCRS[1], PCRS[2]),),
)

LIMITS = {
    Platform.SEV_SNP: SnpLimits(Tcb(bootloader=4, tee=0, snp=24, microcode=219)),
    Platform.TDX: TdxLimits(),
}
"""Of each platform whose roots have some."""


def root_of(platform: Platform, name: str, certificate: bytes = ROOT.der, limits: Limits | None = None) -> TrustedRoot:
    """A root of any platform, with some limits where it needs them."""
    return TrustedRoot(name, platform, certificate, limits or LIMITS.get(platform))


def registers_of(platform: Platform, *optional: str) -> dict[str, bytes]:
    """What a measurement on this platform must have, and these registers; all differ, and from PCRS."""
    names = (*REGISTERS[platform].required, *optional)
    return {name: bytes([at]) * REGISTERS[platform].lengths[name] for at, name in enumerate(names, 0x21)}


def trusting(platform: Platform, certificate: bytes) -> Policy:
    """A policy whose one root is this, and which allows one program under it."""
    return Policy((root_of(platform, "only", certificate),), (Measurement.of("only", registers_of(platform)),))


def nsm(
    seed: str = "nsm", *, root: SimulatedRoot = ROOT, pcrs: dict[int, bytes] = PCRS, **options: Any
) -> SimulatedNsm:
    return SimulatedNsm(root, pcrs, MODULE_ID, lambda: NOW_MS, draw=seeded(seed), **options)


@functools.cache
def leaf(seed: str = "nsm") -> Leaf:
    """A leaf that was issued at NOW_MS under ROOT."""
    return LeafChain(ROOT, MODULE_ID, seeded(seed)).at(NOW_MS)


def sign(payload: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """The document of any payload at all, well signed."""
    r, s = decode_dss_signature(key.sign(cose.signed_bytes(payload), ec.ECDSA(SHA384(), deterministic_signing=True)))
    return cose.join(payload, r.to_bytes(48, "big") + s.to_bytes(48, "big"))


def fields(of: Leaf) -> dict[str, Any]:
    """The fields of a good payload, as an independent encoder takes them."""
    return {
        "module_id": MODULE_ID,
        "digest": "SHA384",
        "timestamp": NOW_MS,
        "pcrs": {index: PCRS.get(index, bytes(48)) for index in range(16)},
        "certificate": of.certificate,
        "cabundle": list(of.cabundle),
        "public_key": None,
        "user_data": COMMITMENT,
        "nonce": None,
    }


def document(**changes: Any) -> bytes:
    """A well signed document with some fields changed; a value of `...` removes the field."""
    of = leaf()
    changed = {name: value for name, value in {**fields(of), **changes}.items() if value is not ...}
    return sign(cbor2.dumps(changed), of.key)
