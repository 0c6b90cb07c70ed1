"""What a policy demands of a platform beside the program: how new its firmware is, and how the guest was launched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from perdure.errors import Misuse
from perdure.evidence.roots import Platform

VMPL_MAX: Final = 3
_BYTE_MAX: Final = 0xFF

TDX_STATUSES: Final = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
)
"""Intel's words for how a platform's TCB stands, those under which something is still proved. `Revoked` is never
accepted (Intel, "PCK Certificate and CRL Profile"; TCB Info API, tcbStatus)."""


@dataclass(frozen=True, slots=True)
class Tcb:
    """Security version numbers of AMD's firmware, 0 to 255 each; `fmc` exists on Turin and later, else it is 0."""

    bootloader: int
    tee: int
    snp: int
    microcode: int
    fmc: int = 0

    def __post_init__(self) -> None:
        for name, number in asdict(self).items():
            if type(number) is not int or not 0 <= number <= _BYTE_MAX:
                raise Misuse(f"The policy's tcb_min.{name} is a whole number from 0 to 255.")

    def is_at_least(self, floor: Tcb) -> bool:
        """Whether no number is below the floor's."""
        return all(number >= getattr(floor, name) for name, number in asdict(self).items())


@dataclass(frozen=True, slots=True)
class SnpLimits:
    """Under a root of SEV-SNP. Debugging and migration are never allowed, whatever stands here.

    `tcb_min`: the least that REPORTED_TCB must be, number by number. `vmpl_max`: the highest (weakest) privilege level
    that may ask for evidence, 0 to 3. `smt_allowed`: whether a neighbour may run on the other thread of a core.
    `alias_checked`: whether the firmware must have made sure at boot that no two addresses are one place in memory
    (BadRAM, AMD-SB-3015); older firmware does not say. `csp_id`: the cloud whose VLEK signs, as in its certificate;
    None accepts the processor's own VCEK alone. Raises Misuse.
    """

    tcb_min: Tcb
    vmpl_max: int = 0
    smt_allowed: bool = True
    alias_checked: bool = True
    csp_id: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.tcb_min, Tcb):
            raise Misuse("The policy's tcb_min is a TCB.")
        if type(self.vmpl_max) is not int or not 0 <= self.vmpl_max <= VMPL_MAX:
            raise Misuse(f"The policy's vmpl_max is a whole number from 0 to {VMPL_MAX}.")
        for name, value in (("smt_allowed", self.smt_allowed), ("alias_checked", self.alias_checked)):
            if type(value) is not bool:
                raise Misuse(f"The policy's {name} is true or false.")
        if self.csp_id is not None and (not isinstance(self.csp_id, str) or not self.csp_id):
            raise Misuse("The policy's csp_id is text, or null for a processor's own key.")

    def to_json(self) -> dict[str, Any]:
        """For the policy's canonical form."""
        return {
            "tcb_min": asdict(self.tcb_min),
            "vmpl_max": self.vmpl_max,
            "smt_allowed": self.smt_allowed,
            "alias_checked": self.alias_checked,
            "csp_id": self.csp_id,
        }


@dataclass(frozen=True, slots=True)
class TdxLimits:
    """Under Intel's root: the TCB statuses that are accepted, a set of `TDX_STATUSES`. Debugging never is."""

    statuses: tuple[str, ...] = ("UpToDate",)

    def __post_init__(self) -> None:
        if not self.statuses or any(status not in TDX_STATUSES for status in self.statuses):
            raise Misuse(f"The policy's statuses are one or more of {', '.join(TDX_STATUSES)}.")
        object.__setattr__(self, "statuses", tuple(sorted(set(self.statuses))))

    def to_json(self) -> dict[str, Any]:
        """For the policy's canonical form."""
        return {"statuses": list(self.statuses)}


Limits = SnpLimits | TdxLimits
KINDS: Final[Mapping[Platform, type[SnpLimits | TdxLimits]]] = {Platform.SEV_SNP: SnpLimits, Platform.TDX: TdxLimits}
"""The platforms whose roots have limits, and which."""


def limits_from_json(value: object, platform: Platform) -> Limits:
    """Read what `to_json` wrote for a platform of `KINDS`; strict. Raises Misuse that names what is wrong."""
    if platform is Platform.TDX:
        fields = _exactly(value, "limits", {"statuses"})
        if not isinstance(fields["statuses"], list) or not all(isinstance(one, str) for one in fields["statuses"]):
            raise Misuse("The policy's limits.statuses is not a list of texts.")
        return TdxLimits(tuple(fields["statuses"]))
    fields = _exactly(value, "limits", {"tcb_min", "vmpl_max", "smt_allowed", "alias_checked", "csp_id"})
    tcb = _exactly(fields["tcb_min"], "tcb_min", {"bootloader", "tee", "snp", "microcode", "fmc"})
    return SnpLimits(Tcb(**tcb), fields["vmpl_max"], fields["smt_allowed"], fields["alias_checked"], fields["csp_id"])


def _exactly(value: object, where: str, keys: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict) or value.keys() != keys:
        raise Misuse(f"The policy's {where} must be an object with exactly the keys {', '.join(sorted(keys))}.")
    return value
