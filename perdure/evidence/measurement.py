"""Which program: the registers that a platform's hardware signs, by name, and the values that a policy allows.

A register that a measurement does not list is not looked at. So each platform has some that must be listed: without
them a host could run another program under the same measurement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from perdure.errors import Misuse
from perdure.evidence.roots import Platform


@dataclass(frozen=True, slots=True)
class Registers:
    """The registers of a platform: name to length in bytes. All of `required` stand in every measurement."""

    required: Mapping[str, int]
    optional: Mapping[str, int]

    @property
    def lengths(self) -> Mapping[str, int]:
        """Of all of them."""
        return {**self.required, **self.optional}


def _pcrs(*numbers: int, length: int) -> dict[str, int]:
    return {f"pcr{number}": length for number in numbers}


# Nitro joins contents without borders, so one PCR alone does not fix what lies in which part: all three must be named.
_ENCLAVE: Final = Registers(_pcrs(0, 1, 2, length=48), _pcrs(*range(3, 32), length=48))

REGISTERS: Final[Mapping[Platform, Registers]] = {
    Platform.NITRO: _ENCLAVE,
    Platform.SIMULATED: _ENCLAVE,
    Platform.SEV_SNP: Registers({"measurement": 48}, {"host_data": 32, "id_key_digest": 48, "author_key_digest": 48}),
    # RTMR3 belongs to what runs later; without RTMR0-2 the firmware's tables, kernel, command line and initrd are open.
    Platform.TDX: Registers(
        {"mrtd": 48, "rtmr0": 48, "rtmr1": 48, "rtmr2": 48},
        {"rtmr3": 48, "mrconfigid": 48, "mrowner": 48, "mrownerconfig": 48},
    ),
    # The bank of SHA-256. PCR0 is the firmware, which measures what it starts; PCR2 is the code that it loads from
    # devices and as drivers; PCR4 is what it boots, a kernel; PCR9 is what that is given: the initramfs, hence program
    # and authority, and the command line.
    Platform.TPM: Registers(
        _pcrs(0, 2, 4, 9, length=32), _pcrs(*(number for number in range(24) if number not in (0, 2, 4, 9)), length=32)
    ),
    # The bank of SHA-384. AWS names 4 (the boot image), 7 (secure boot) and 12 (the kernel's command line) meaningful;
    # drivers are in 2 there too.
    Platform.NITROTPM: Registers(
        _pcrs(2, 4, 7, 12, length=48),
        _pcrs(*(number for number in range(24) if number not in (2, 4, 7, 12)), length=48),
    ),
}


@dataclass(frozen=True, slots=True, order=True)
class Measurement:
    """One program that is allowed under the root named `root`: (register, value) pairs, sorted by name.

    Whether these are the registers of the root's platform is for the policy to say: see `require_registers`.
    """

    root: str
    registers: tuple[tuple[str, bytes], ...]

    @classmethod
    def of(cls, root: str, registers: Mapping[str, bytes]) -> Measurement:
        """The measurement of these registers."""
        return cls(root, tuple(sorted(registers.items())))

    @classmethod
    def enclave(cls, root: str, pcr0: bytes, pcr1: bytes, pcr2: bytes) -> Measurement:
        """That of an enclave image, 48 bytes each."""
        return cls.of(root, {"pcr0": pcr0, "pcr1": pcr1, "pcr2": pcr2})

    def fits(self, found: Mapping[str, bytes]) -> bool:
        """Whether each register that is listed was found with its value."""
        return all(found.get(name) == value for name, value in self.registers)

    def require_registers(self, platform: Platform) -> None:
        """Return if these are registers of `platform`, and those that must be listed are; raise Misuse otherwise."""
        known, listed = REGISTERS[platform], dict(self.registers)
        if missing := [name for name in known.required if name not in listed]:
            raise Misuse(f"A measurement under root {self.root} lacks {missing[0]}, which {platform} needs.")
        if self.registers != tuple(sorted(listed.items())):
            raise Misuse(f"The registers of a measurement under root {self.root} are sorted, and each is listed once.")
        for name, value in self.registers:
            if name not in known.lengths:
                raise Misuse(f"A measurement under root {self.root} has {name!r:.40}, which {platform} does not have.")
            if len(value) != known.lengths[name]:
                raise Misuse(f"The {name} of a measurement under root {self.root} has {known.lengths[name]} bytes.")
