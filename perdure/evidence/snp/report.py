"""AMD's attestation report: its fields, the rules for those that are reserved, and its signature.

Source: AMD, "SEV Secure Nested Paging Firmware ABI Specification" (publication 56860), tables ATTESTATION_REPORT,
TCB_VERSION, GUEST_POLICY and "ECDSA P-384 with SHA-384 signature". All numbers are little-endian.

Parsing trusts nothing and decides nothing about trust. What is signed is bytes 0x000 to 0x29F; of the 512 bytes after
them 144 are the signature, which is malleable (s and n - s both verify, so a report's bytes are no identifier), and
368 are padding that nobody signs: they must be zero, so nothing can be hidden there.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from perdure.errors import BadSignature, MalformedEvidence
from perdure.evidence.limits import Tcb

REPORT_BYTES: Final = 1184
SIGNED_BYTES: Final = 0x2A0
CHIP_ID_BYTES: Final = 64
TCB_BYTES: Final = 8
VERSION_MIN: Final = 2
VERSION_MAX: Final = 5
"""Higher ones are refused. A new version gives a meaning to bytes that had to be zero, and version 3 came with another
order of the TCB's bytes: to read tomorrow's report by today's table could take one number for another."""

_INTEGER_BYTES: Final = 72
_CPUID_SINCE: Final = 3
_MITIGATIONS_SINCE: Final = 5
_ECDSA_P384_SHA384: Final = 1
_POLICY_MUST_BE_ONE: Final = 1 << 17
_ALGORITHM: Final = ec.ECDSA(SHA384())


class Signer(enum.Enum):
    """Whose key signed: the value is the report's SIGNING_KEY."""

    VCEK = 0
    """The processor's own, derived from its fuses and the versions of its firmware."""
    VLEK = 1
    """A cloud's, loaded by its operator into all its processors of a kind."""


_UNSIGNED: Final = 7


class Product(enum.StrEnum):
    """A family of processors under one root of AMD's; the value is its name in certificates."""

    MILAN = "Milan"
    GENOA = "Genoa"
    TURIN = "Turin"


_MODELS: Final = (
    (Product.MILAN, 0x19, range(0x10)),
    (Product.GENOA, 0x19, range(0x10, 0x20)),
    (Product.GENOA, 0x19, range(0xA0, 0xB0)),  # Bergamo and Siena, which are certified as Genoa
    (Product.TURIN, 0x1A, range(0x20)),
)
"""Family and models as CPUID names them."""

BOOTLOADER, TEE, SNP, MICROCODE, FMC = 1, 2, 3, 8, 9
"""Numbers of the TCB's parts: those of the certificates' extensions. 4 to 7 are reserved."""

TCB_ORDER: Final[Mapping[Product, tuple[int, ...]]] = MappingProxyType(
    {
        Product.MILAN: (BOOTLOADER, TEE, 4, 5, 6, 7, SNP, MICROCODE),
        Product.GENOA: (BOOTLOADER, TEE, 4, 5, 6, 7, SNP, MICROCODE),
        Product.TURIN: (FMC, BOOTLOADER, TEE, SNP, 5, 6, 7, MICROCODE),
    }
)
"""Which part each byte of a TCB_VERSION is."""


def tcb_of(product: Product, raw: bytes) -> Tcb:
    """Return the numbers of a TCB_VERSION (8 bytes) of this product."""
    part = dict(zip(TCB_ORDER[product], raw, strict=True))
    return Tcb(part[BOOTLOADER], part[TEE], part[SNP], part[MICROCODE], part.get(FMC, 0))


@dataclass(frozen=True, slots=True)
class Report:
    """The fields of a well-formed report that anything is decided by. Nothing in it is verified until `verify` returns.

    `guest_policy` and `platform_info` are bit sets; the four TCBs are raw, because their order is the product's.
    `product` is what CPUID says, None in version 2, which does not say it.
    """

    guest_policy: int
    vmpl: int
    platform_info: int
    signer: Signer
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    product: Product | None
    chip_id: bytes
    current_tcb: bytes
    reported_tcb: bytes
    committed_tcb: bytes
    launch_tcb: bytes
    signed: bytes
    signature: tuple[int, int]

    def verify(self, key: ec.EllipticCurvePublicKey) -> None:
        """Return if `key` signed the report; raise BadSignature otherwise."""
        try:
            key.verify(encode_dss_signature(*self.signature), self.signed, _ALGORITHM)
        except InvalidSignature:
            raise BadSignature(
                "The evidence's signature does not verify: it was altered, or the processor did not make it."
            ) from None


def parse(report: bytes) -> Report:
    """Take a report apart.

    Raises MalformedEvidence unless it has its one length, a version and an algorithm that are known, and zeros (in
    bit 17 of the policy a one) wherever the specification reserves them; BadSignature if it says that nobody signed.
    PLATFORM_INFO is taken as it is: firmware updates give it new bits within a version, and they describe, no more.
    """
    if len(report) != REPORT_BYTES:
        raise MalformedEvidence(f"The evidence's report has {len(report)} bytes instead of {REPORT_BYTES}.")
    version = _number(report, 0x000, 4)
    if not VERSION_MIN <= version <= VERSION_MAX:
        raise MalformedEvidence(
            f"The evidence's report is of version {version}; this release reads {VERSION_MIN} to {VERSION_MAX}."
        )
    if _number(report, 0x034, 4) != _ECDSA_P384_SHA384:
        raise MalformedEvidence("The evidence's report is not signed with ECDSA on P-384.")
    guest_policy = _number(report, 0x008, 8)
    if not guest_policy & _POLICY_MUST_BE_ONE:
        raise MalformedEvidence("The evidence's guest policy lacks the bit that is always one.")
    _require_zeros(report, version)
    return Report(
        guest_policy=guest_policy,
        vmpl=_number(report, 0x030, 4),
        platform_info=_number(report, 0x040, 8),
        signer=_signer(_number(report, 0x048, 4)),
        report_data=report[0x050:0x090],
        measurement=report[0x090:0x0C0],
        host_data=report[0x0C0:0x0E0],
        id_key_digest=report[0x0E0:0x110],
        author_key_digest=report[0x110:0x140],
        report_id=report[0x140:0x160],
        product=_product(report[0x188], report[0x189]) if version >= _CPUID_SINCE else None,
        chip_id=report[0x1A0:0x1E0],
        current_tcb=report[0x038:0x040],
        reported_tcb=report[0x180:0x188],
        committed_tcb=report[0x1E0:0x1E8],
        launch_tcb=report[0x1F0:0x1F8],
        signed=report[:SIGNED_BYTES],
        signature=(
            _number(report, SIGNED_BYTES, _INTEGER_BYTES),
            _number(report, SIGNED_BYTES + _INTEGER_BYTES, _INTEGER_BYTES),
        ),
    )


def _number(report: bytes, at: int, length: int) -> int:
    return int.from_bytes(report[at : at + length], "little")


def _require_zeros(report: bytes, version: int) -> None:
    for start, end in (
        (0x04C, 0x050),
        (0x18B if version >= _CPUID_SINCE else 0x188, 0x1A0),
        (0x1EB, 0x1EC),
        (0x1EF, 0x1F0),
        (0x208 if version >= _MITIGATIONS_SINCE else 0x1F8, SIGNED_BYTES),
        (SIGNED_BYTES + 2 * _INTEGER_BYTES, REPORT_BYTES),
    ):
        if any(report[start:end]):
            raise MalformedEvidence(f"The evidence's report has something where zeros belong, after byte {start}.")


def _signer(info: int) -> Signer:
    """Of SIGNER_INFO. Bits 0 and 1 say whether there is an author key and whether the operator hides the chip's."""
    key = info >> 2
    if key == _UNSIGNED:
        raise BadSignature("The evidence's report is not signed: its host turned signing off.")
    if key not in {one.value for one in Signer}:
        raise MalformedEvidence("The evidence's report is signed by a kind of key that is not known.")
    return Signer(key)


def _product(family: int, model: int) -> Product:
    for product, its_family, models in _MODELS:
        if family == its_family and model in models:
            return product
    raise MalformedEvidence(
        f"The evidence is of a processor that this release does not know (family {family:#x}, model {model:#x})."
    )
