"""What a platform will measure of a virtual machine that boots our initramfs, where that can be known beforehand.

Nitro's registers follow from the image alone (`perdure.image.eif`). SEV-SNP's MEASUREMENT covers firmware, kernel,
initramfs and command line where the hypervisor hashes the last three in (QEMU's `kernel-hashes=on` and firmware made
for it). A TPM's PCR9 covers command line and initramfs, by the kernel's own EFI stub. All else depends on firmware and
machine, and is read from a first boot that one trusts: TDX's registers, a TPM's PCR0 (firmware) and PCR4 (kernel).
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Final

from sevsnpmeasure.guest import calc_launch_digest
from sevsnpmeasure.sev_mode import SevMode
from sevsnpmeasure.vcpu_types import CPU_SIGS

from perdure.errors import Misuse

CPU_TYPES: Final = tuple(CPU_SIGS)
"""QEMU's names of the processors for which `sev_snp` can compute."""
SNP_ACTIVE: Final = 1
"""The guest features that QEMU sets for SEV-SNP (SEV_FEATURES bit 0)."""
_OVMF_INITRD: Final = " initrd=initrd"


def sev_snp(*, firmware: Path, kernel: Path, initramfs: bytes, cmdline: str, cpu_count: int, cpu_type: str) -> bytes:
    """Return the 48-byte MEASUREMENT of a QEMU guest with `kernel-hashes=on`; computed by `sev-snp-measure`.

    Raises Misuse for an unknown processor, files that cannot be read, or firmware that does not take the hashes: then
    kernel and initramfs would not be measured, and evidence would say nothing of the program.
    """
    if cpu_type not in CPU_SIGS or cpu_count < 1:
        raise Misuse(f"{cpu_type!r:.40} is no processor that SEV-SNP runs on; there are {', '.join(CPU_TYPES)}.")
    with tempfile.NamedTemporaryFile(prefix="perdure-initramfs-") as file:
        file.write(initramfs)
        file.flush()
        paths = (str(firmware), str(kernel), file.name)
        try:
            digest = calc_launch_digest(SevMode.SEV_SNP, cpu_count, CPU_SIGS[cpu_type], *paths, cmdline, SNP_ACTIVE)
            return bytes(digest)
        except (OSError, RuntimeError, ValueError, AssertionError) as error:
            why = str(error) or "the firmware's pages are not whole"
            raise Misuse(f"The measurement cannot be computed ({why:.160}); nothing was written.") from None


def tpm_pcr9(cmdline: str, initramfs: bytes) -> bytes:
    """Return PCR9 of the SHA-256 bank after a boot by QEMU's `-kernel -initrd -append` with UEFI firmware.

    Linux's EFI stub extends it by the hash of its load options, UTF-16 with the final zero, then by that of the
    initramfs (drivers/firmware/efi/libstub/efi-stub-helper.c, seen on 6.1); OVMF adds " initrd=initrd" to the options.
    """
    options = (cmdline + _OVMF_INITRD).encode("utf-16-le") + b"\0\0"
    pcr = bytes(32)
    for event in (options, initramfs):
        pcr = hashlib.sha256(pcr + hashlib.sha256(event).digest()).digest()
    return pcr
