"""What a main program accepts as evidence: which roots, which programs, how much clock difference.

A policy is a set of facts that developers or the authority sign; never the host's to choose. It has one canonical
JSON form, so it can be signed, compared and named by its digest. A root that it does not name does not exist, and a
measurement counts only under the root that it names: a simulated root cannot vouch for a program on real hardware,
nor one maker's hardware for a program that is allowed on another's.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509

from perdure.errors import Misuse, WrongMeasurement
from perdure.evidence.limits import KINDS, Limits, limits_from_json
from perdure.evidence.measurement import REGISTERS, Measurement
from perdure.evidence.roots import BUILTIN_CERTIFICATES, Platform

VERSION: Final = 1
DIGEST_TAG: Final = b"perdure/policy/1"
SKEW_MS_DEFAULT: Final = 60_000
SKEW_MS_MAX: Final = 3 * 60 * 60 * 1000  # the lifetime of a Nitro leaf: more would say nothing
SEATS_MAX: Final = 16
POLICY_BYTES_MAX: Final = 1 << 17
"""A policy of some hundred programs; what JSON makes of more could be fifty times as large."""
_KEYS: Final = {
    "version",
    "roots",
    "measurements",
    "skew_ms_max",
    "seats_per_root_max",
    "seats_per_domain_max",
}
_CHAINS: Final = "acknowledgement_chains"
"""Its key is there only where it is true, so that older policies keep their digest."""
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


@dataclass(frozen=True, slots=True)
class TrustedRoot:
    """A trust anchor under the name that measurements and reports use for it; `certificate` is its DER.

    `limits` are those of its platform (`perdure.evidence.limits.KINDS`); None for a platform that has none.
    Raises Misuse if the name is malformed, belongs to a built-in root of other contents, the DER is no certificate or
    the limits are another platform's.
    """

    name: str
    platform: Platform
    certificate: bytes
    limits: Limits | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise Misuse(f"A root's name is 1 to 64 characters of a-z, 0-9 and '-', not {self.name!r:.80}.")
        if not isinstance(self.limits, KINDS.get(self.platform, type(None))):
            raise Misuse(f"The root {self.name} must have the limits of platform {self.platform}; most have none.")
        if self.is_builtin and BUILTIN_CERTIFICATES[self.name] != (self.platform, self.certificate):
            raise Misuse(f"The root name {self.name} belongs to a built-in root; choose another name for this one.")
        try:
            x509.load_der_x509_certificate(self.certificate)
        except (ValueError, x509.InvalidVersion) as error:
            raise Misuse(f"The certificate of root {self.name} is not an X.509 certificate in DER.") from error

    @property
    def is_builtin(self) -> bool:
        """Whether the name alone says it all."""
        return self.name in BUILTIN_CERTIFICATES

    @classmethod
    def builtin(cls, name: str, limits: Limits | None = None) -> TrustedRoot:
        """Return the root that this release knows as `name`; raise Misuse if it knows none."""
        if name not in BUILTIN_CERTIFICATES:
            raise Misuse(f"There is no built-in root {name!r:.80}; there are: {', '.join(BUILTIN_CERTIFICATES)}.")
        return cls(name, *BUILTIN_CERTIFICATES[name], limits)


@dataclass(frozen=True, slots=True)
class Policy:
    """The roots and programs that are trusted; both are sets and kept sorted. Equal policies have equal digests.

    `skew_ms_max` is how far a document's clock and the verifier's may differ, in milliseconds. `seats_per_root_max` and
    `seats_per_domain_max` are how many disks of one array may hang on one root, and on one host or zone; None is n - k.
    `acknowledgement_chains`: whether a main program may let FLUSHes rest on chains, which are weaker than evidence.
    Raises Misuse for two roots of one name or certificate, equal measurements, a measurement whose root is not named,
    a skew outside of 1 ms to 3 hours, or a number of seats that is not positive.
    """

    roots: tuple[TrustedRoot, ...]
    measurements: tuple[Measurement, ...]
    skew_ms_max: int = SKEW_MS_DEFAULT
    seats_per_root_max: int | None = None
    seats_per_domain_max: int | None = None
    acknowledgement_chains: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "roots", tuple(sorted(self.roots, key=lambda root: root.name)))
        object.__setattr__(self, "measurements", tuple(sorted(self.measurements)))
        names = {root.name for root in self.roots}
        # Enclaves and simulated ones write the same form: under one certificate nobody could tell them apart.
        alike = {Platform.SIMULATED: Platform.NITRO}
        anchors = {(alike.get(root.platform, root.platform), root.certificate) for root in self.roots}
        if len(names) != len(self.roots) or len(anchors) != len(self.roots):
            raise Misuse("The policy names a root twice: each has one name and, for its platform, one certificate.")
        if len(set(self.measurements)) != len(self.measurements):
            raise Misuse("The policy lists a measurement twice.")
        if strangers := sorted({measurement.root for measurement in self.measurements} - names):
            raise Misuse(f"The policy has a measurement under root {strangers[0]!r:.80}, which it does not name.")
        platforms = {root.name: root.platform for root in self.roots}
        for measurement in self.measurements:
            measurement.require_registers(platforms[measurement.root])
        if type(self.skew_ms_max) is not int or not 1 <= self.skew_ms_max <= SKEW_MS_MAX:
            raise Misuse(f"The policy's skew_ms_max is a whole number from 1 to {SKEW_MS_MAX}.")
        if type(self.acknowledgement_chains) is not bool:
            raise Misuse(f"The policy's {_CHAINS} is true or false.")
        for name, seats in (
            ("seats_per_root_max", self.seats_per_root_max),
            ("seats_per_domain_max", self.seats_per_domain_max),
        ):
            if seats is not None and (type(seats) is not int or not 1 <= seats <= SEATS_MAX):
                raise Misuse(f"The policy's {name} is a whole number from 1 to {SEATS_MAX}, or null for n - k.")

    def root_of(self, certificate: bytes, *platforms: Platform) -> TrustedRoot | None:
        """Return the trusted root of one of these platforms that has this very DER, or None."""
        fitting = (root for root in self.roots if root.certificate == certificate and root.platform in platforms)
        return next(fitting, None)

    def require_measurement(self, root: TrustedRoot, found: Mapping[str, bytes]) -> None:
        """Return if a program with these registers is allowed under `root`; raise WrongMeasurement otherwise."""
        allowed = [measurement for measurement in self.measurements if measurement.root == root.name]
        if any(measurement.fits(found) for measurement in allowed):
            return
        needed = REGISTERS[root.platform].required
        shown = next((name for name in needed if name in found), "none")
        pairs = {pair for one in allowed for pair in one.registers if pair[0] in needed}
        partly = {name for name, value in pairs if found.get(name) == value}
        what = (
            "an allowed program that was built for another authority, or with other contents "
            f"(of its registers, these fit: {', '.join(sorted(partly))})"
            if partly
            else f"a program that the policy does not allow under root {root.name}"
        )
        raise WrongMeasurement(
            f"The evidence is genuine but speaks for {what}; its {shown} is {found.get(shown, b'').hex()[:16]}..."
        )

    def to_json(self) -> bytes:
        """Return the canonical form: ASCII JSON, keys and lists sorted, no spaces, lower-case hexadecimal."""
        value = {
            "measurements": [
                {"root": one.root, **{name: value.hex() for name, value in one.registers}} for one in self.measurements
            ],
            "roots": [_root_to_json(root) for root in self.roots],
            "seats_per_domain_max": self.seats_per_domain_max,
            "seats_per_root_max": self.seats_per_root_max,
            "skew_ms_max": self.skew_ms_max,
            "version": VERSION,
        }
        if self.acknowledgement_chains:
            value[_CHAINS] = True
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")

    def digest(self) -> bytes:
        """Return the 32-byte tagged hash (BIP-340's construction) of the canonical form."""
        tag = hashlib.sha256(DIGEST_TAG).digest()
        return hashlib.sha256(tag + tag + self.to_json()).digest()

    @classmethod
    def from_json(cls, data: bytes) -> Policy:
        """Read a policy; order and white space are free, all else is strict. Raises Misuse that names the key."""
        if len(data) > POLICY_BYTES_MAX:
            raise Misuse(f"The policy has more than {POLICY_BYTES_MAX} bytes.")
        try:
            value = json.loads(data, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            raise Misuse(f"The policy is not JSON: {error}.") from error
        optional = {_CHAINS} if isinstance(value, dict) and _CHAINS in value else set()
        policy = _keys(value, "policy", _KEYS | optional)
        if type(policy["version"]) is not int or policy["version"] != VERSION:
            raise Misuse(f"The policy's version is {policy['version']!r:.40}; this release reads version {VERSION}.")
        roots = tuple(_root_from_json(root, at) for root, at in _list(policy["roots"], "roots"))
        platforms = {root.name: root.platform for root in roots}
        items = _list(policy["measurements"], "measurements")
        return cls(
            roots=roots,
            measurements=tuple(_measurement(item, at, platforms) for item, at in items),
            skew_ms_max=policy["skew_ms_max"],
            seats_per_root_max=policy["seats_per_root_max"],
            seats_per_domain_max=policy["seats_per_domain_max"],
            acknowledgement_chains=policy.get(_CHAINS, False),
        )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object has the same key twice")
    return value


def _keys(value: object, where: str, keys: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Misuse(f"The policy's {where} is not an object.")
    if missing := sorted(keys - value.keys()):
        raise Misuse(f"The policy's {where} lacks the key {missing[0]!r}.")
    if unknown := sorted(value.keys() - keys):
        raise Misuse(f"The policy's {where} has the unknown key {unknown[0]!r:.80}.")
    return value


def _list(value: object, where: str) -> Iterable[tuple[object, str]]:
    if not isinstance(value, list):
        raise Misuse(f"The policy's {where} is not a list.")
    return ((item, f"{where}[{index}]") for index, item in enumerate(value))


def _text(value: Mapping[str, Any], key: str, where: str) -> str:
    if not isinstance(value[key], str):
        raise Misuse(f"The policy's {where}.{key} is not text.")
    return str(value[key])


def _hex(value: Mapping[str, Any], key: str, where: str, length: int | None = None) -> bytes:
    text = _text(value, key, where)
    # One character repeated, not a group of two: for a group the matcher keeps 80 bytes each time.
    if not re.fullmatch(r"[0-9a-f]+", text) or len(text) % 2 or (length is not None and len(text) != 2 * length):
        size = "" if length is None else f" of {length} bytes"
        raise Misuse(f"The policy's {where}.{key} is not lower-case hexadecimal{size}.")
    return bytes.fromhex(text)


def _root_to_json(root: TrustedRoot) -> dict[str, Any]:
    common: dict[str, Any] = {"name": root.name, "platform": root.platform.value}
    if root.limits is not None:
        common["limits"] = root.limits.to_json()
    if root.is_builtin:
        return {**common, "kind": "builtin", "sha256": _fingerprint(root)}
    return {**common, "kind": "certificate", "certificate": root.certificate.hex()}


def _fingerprint(root: TrustedRoot) -> str:
    """In the canonical form, so that no later release can mean another certificate by the same name and digest."""
    return hashlib.sha256(root.certificate).hexdigest()


def _root_from_json(value: object, where: str) -> TrustedRoot:
    kind = value.get("kind") if isinstance(value, dict) else None
    if isinstance(value, dict) and kind not in ("builtin", "certificate"):
        raise Misuse(f"The policy's {where}.kind is neither 'builtin' nor 'certificate'.")
    extra = {"certificate" if kind == "certificate" else "sha256"}
    has_limits = isinstance(value, dict) and value.get("platform") in tuple(KINDS)
    fields = _keys(value, where, {"name", "platform", "kind", *extra, *({"limits"} if has_limits else set())})
    text, name = _text(fields, "platform", where), _text(fields, "name", where)
    if text not in {known.value for known in Platform}:
        raise Misuse(f"The policy's {where}.platform {text!r:.80} is not known to this release.")
    platform = Platform(text)
    limits = limits_from_json(fields["limits"], platform) if has_limits else None
    if kind == "certificate":
        return TrustedRoot(name, platform, _hex(fields, "certificate", where), limits)
    if name in BUILTIN_CERTIFICATES and BUILTIN_CERTIFICATES[name][0] is not platform:
        known = BUILTIN_CERTIFICATES[name][0]
        raise Misuse(f"The policy's {where}.platform is {text!r}, but {name} is of platform {known}.")
    root = TrustedRoot.builtin(name, limits)
    if _hex(fields, "sha256", where, 32).hex() != _fingerprint(root):
        raise Misuse(f"The policy's {where}.sha256 is not the fingerprint of what this release knows as {name}.")
    return root


def _measurement(value: object, where: str, platforms: Mapping[str, Platform]) -> Measurement:
    if not isinstance(value, dict):
        raise Misuse(f"The policy's {where} is not an object.")
    root = value.get("root")
    if "root" not in value:
        raise Misuse(f"The policy's {where} lacks the key 'root'.")
    if not isinstance(root, str) or root not in platforms:
        raise Misuse(f"The policy's {where} is under root {root!r:.80}, which the policy does not name.")
    registers = REGISTERS[platforms[root]]
    listed = {name for name in registers.optional if name in value}
    fields = _keys(value, where, {"root", *registers.required, *listed})
    names = (*registers.required, *sorted(listed))
    return Measurement.of(root, {name: _hex(fields, name, where, registers.lengths[name]) for name in names})
