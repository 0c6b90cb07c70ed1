"""What changes from one manifest to the next, in sentences for those who are asked to sign the next.

Each change says whether it matters beyond a release: another array, more that is trusted, less that is lost with fewer
disks, fewer settings that are fixed. A new program and a higher version are what a release is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from perdure.evidence.measurement import Measurement
from perdure.evidence.policy import Policy, TrustedRoot
from perdure.manifest.manifest import OVERRIDES, Manifest


@dataclass(frozen=True, slots=True)
class Change:
    """One change, as a sentence. `matters`: a developer should know why before he signs."""

    text: str
    matters: bool


def difference(old: Manifest, new: Manifest) -> tuple[Change, ...]:
    """All that changes from `old` to `new`; what matters stands first. Empty if they are equal."""
    changes = [*_release(old, new), *_array(old, new), *_policy(old.policy, new.policy), *_overrides(old, new)]
    return tuple(sorted(changes, key=lambda change: not change.matters))


def _release(old: Manifest, new: Manifest) -> Iterator[Change]:
    if new.name != old.name:
        yield Change(f"The name is {new.name}, before {old.name}.", matters=True)
    if new.version > old.version:
        yield Change(f"The version rises from {old.version} to {new.version}.", matters=False)
    elif old != new:
        yield Change(
            f"The version does not rise: {new.version}, before {old.version}. A loader takes no manifest back.",
            matters=True,
        )
    if new.program != old.program:
        before, after = (f"{one.kind} {one.sha256.hex()}" for one in (old.program, new.program))
        yield Change(f"The program is another one: {after}, before {before}.", matters=False)
    if new.command != old.command:
        yield Change(f"The command is {list(new.command)}, before {list(old.command)}.", matters=True)


def _array(old: Manifest, new: Manifest) -> Iterator[Change]:
    if new.array_id != old.array_id:
        yield Change(
            f"It is another array: {new.array_id.hex()}, before {old.array_id.hex()}. It holds nothing of the old one.",
            matters=True,
        )
    if (new.threshold, new.disks) == (old.threshold, old.disks):
        return
    fewer = []
    if new.threshold < old.threshold:
        fewer.append("fewer disks in one hand are enough to go on")
    if new.disks - new.threshold < old.disks - old.threshold:
        fewer.append("fewer may be lost")
    weaker = f": weaker, {' and '.join(fewer)}" if fewer else ""
    yield Change(
        f"Any {new.threshold} of {new.disks} disks hold the array, before {old.threshold} of {old.disks}{weaker}.",
        matters=True,
    )


# The policy -----------------------------------------------------------------------------------------------


def _policy(old: Policy, new: Policy) -> Iterator[Change]:
    if old == new:
        return
    yield Change(
        f"The policy is another one: {new.digest().hex()}, before {old.digest().hex()}. An array has one for its life.",
        matters=True,
    )
    yield from _roots(old, new)
    for one in sorted({*new.measurements} - {*old.measurements}):
        yield Change(f"One more disk program is believed, under root {one.root}: {_registers(one)}.", matters=True)
    for one in sorted({*old.measurements} - {*new.measurements}):
        yield Change(f"A disk program is believed no more, under root {one.root}: {_registers(one)}.", matters=False)
    yield from _bounds(old, new)


def _registers(measurement: Measurement) -> str:
    return ", ".join(f"{name} {value.hex()}" for name, value in measurement.registers)


def _roots(old: Policy, new: Policy) -> Iterator[Change]:
    before = {root.name: root for root in old.roots}
    after = {root.name: root for root in new.roots}
    for name, root in after.items():
        if name not in before:
            yield Change(f"One more root is trusted: {_root(root)}.", matters=True)
        elif root != before[name]:
            yield Change(f"The root {name} is another certificate, platform or set of limits.", matters=True)
    for name, root in before.items():
        if name not in after:
            yield Change(f"A root is trusted no more: {_root(root)}.", matters=False)


def _root(root: TrustedRoot) -> str:
    return f"{root.name} ({root.platform})"


def _bounds(old: Policy, new: Policy) -> Iterator[Change]:
    if new.skew_ms_max != old.skew_ms_max:
        is_weaker = new.skew_ms_max > old.skew_ms_max
        yield Change(
            f"Clocks may differ by {new.skew_ms_max} ms, before {old.skew_ms_max}{_weaker(is_weaker)}.", is_weaker
        )
    for what, after, before in (
        ("root", new.seats_per_root_max, old.seats_per_root_max),
        ("host or zone", new.seats_per_domain_max, old.seats_per_domain_max),
    ):
        if after != before:
            is_weaker = after is None or (before is not None and after > before)
            yield Change(
                f"On one {what} may be {_seats(after)}, before {_seats(before)}{_weaker(is_weaker)}.", is_weaker
            )
    if new.acknowledgement_chains != old.acknowledgement_chains:
        may = "may" if new.acknowledgement_chains else "may not"
        yield Change(f"FLUSHes {may} rest on chains{_weaker(new.acknowledgement_chains)}.", new.acknowledgement_chains)


def _seats(count: int | None) -> str:
    return "n - k disks" if count is None else f"{count} disks"


def _weaker(is_weaker: bool) -> str:
    return ": weaker" if is_weaker else ""


# Overrides ------------------------------------------------------------------------------------------------


def _overrides(old: Manifest, new: Manifest) -> Iterator[Change]:
    before, after = old.overrides.to_json(), new.overrides.to_json()
    for key in OVERRIDES:
        if before.get(key) != after.get(key):
            now = f"is {after[key]}" if key in after else "is as usual"
            was = before.get(key, "as usual")
            yield Change(f"The setting {key} {now}, before {was}.", matters=True)
