"""The payload of an AWS attestation document: shape, types and lengths; nothing is verified here.

Source: "Verifying the root of trust" in the AWS Nitro Enclaves user guide, corrected where real documents differ:
absent optional fields are null, and the map may have an indefinite length. Unknown keys are tolerated because AWS may
add some. NitroTPM documents share root, format and chain with those of enclaves but speak for a whole virtual machine.
The two are told apart by the key `pcrs` or `nitrotpm_pcrs` and by the form of `module_id`, which have to agree; whether
either is trusted is for the policy to say.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from perdure.errors import MalformedEvidence
from perdure.evidence.nitro import cbor

PCR_BYTES: Final = 48
PCR_COUNT_MAX: Final = 32
CERTIFICATE_BYTES_MAX: Final = 1024
CABUNDLE_COUNT_MAX: Final = 8
OPTIONAL_BYTES_MAX: Final = 4096
"""AWS states 512 and 1,024, but hardware signed more; a whole NSM request has at most 4,096 bytes."""
TIME_MS_MAX: Final = 253_402_300_799_999  # the end of the year 9999, where certificate times end too
_MODULE_ID_CHARS_MAX: Final = 128


class Kind(enum.Enum):
    """What a document speaks for; the value is the payload's key for its registers."""

    ENCLAVE = "pcrs"
    NITROTPM = "nitrotpm_pcrs"


_MODULE_IDS: Final = {
    Kind.ENCLAVE: re.compile(r"i-[0-9a-f]{1,32}-enc[0-9a-f]{1,32}"),
    Kind.NITROTPM: re.compile(r"i-[0-9a-f]{1,32}-tpm[0-9a-f]{1,32}"),
}
_PCRS_NEEDED: Final = {Kind.ENCLAVE: {0, 1, 2}, Kind.NITROTPM: {2, 4, 7, 12}}


@dataclass(frozen=True, slots=True)
class Payload:
    """The fields of a well-formed payload. Nothing in it is verified."""

    kind: Kind
    module_id: str
    time_ms: int
    pcrs: Mapping[int, bytes]
    certificate: bytes
    cabundle: tuple[bytes, ...]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None


def parse(payload: bytes) -> Payload:
    """Return the payload's fields; raise MalformedEvidence that names the field which is wrong."""
    fields = cbor.decode(payload)
    if not isinstance(fields, dict):
        raise MalformedEvidence("The evidence's payload is not a map.")
    kind = Kind.NITROTPM if Kind.NITROTPM.value in fields else Kind.ENCLAVE
    if all(one.value in fields for one in Kind):
        raise MalformedEvidence("The evidence has the registers of an enclave and of a NitroTPM at once.")
    if fields.get("digest") != "SHA384":
        raise _wrong("digest")
    return Payload(
        kind=kind,
        module_id=_module_id(fields.get("module_id"), _MODULE_IDS[kind]),
        time_ms=_time_ms(fields.get("timestamp")),
        pcrs=_pcrs(fields.get(kind.value), kind),
        certificate=_bytes(fields.get("certificate"), "certificate", 1, CERTIFICATE_BYTES_MAX),
        cabundle=_cabundle(fields.get("cabundle")),
        public_key=_optional(fields, "public_key"),
        user_data=_optional(fields, "user_data"),
        nonce=_optional(fields, "nonce"),
    )


def _wrong(field: str) -> MalformedEvidence:
    return MalformedEvidence(f"The evidence's field {field} is missing or not of the form that AWS writes.")


def _module_id(value: cbor.Value, form: re.Pattern[str]) -> str:
    if not isinstance(value, str) or len(value) > _MODULE_ID_CHARS_MAX or not form.fullmatch(value):
        raise _wrong("module_id")
    return value


def _time_ms(value: cbor.Value) -> int:
    if type(value) is not int or not 0 < value <= TIME_MS_MAX:
        raise _wrong("timestamp")
    return value


def _bytes(value: cbor.Value, field: str, bytes_min: int, bytes_max: int) -> bytes:
    if not isinstance(value, bytes) or not bytes_min <= len(value) <= bytes_max:
        raise _wrong(field)
    return value


def _optional(fields: Mapping[cbor.Key, cbor.Value], field: str) -> bytes | None:
    value = fields.get(field)
    return None if value is None else _bytes(value, field, 0, OPTIONAL_BYTES_MAX)


def _cabundle(value: cbor.Value) -> tuple[bytes, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= CABUNDLE_COUNT_MAX:
        raise _wrong("cabundle")
    return tuple(_bytes(certificate, "cabundle", 1, CERTIFICATE_BYTES_MAX) for certificate in value)


def _pcrs(value: cbor.Value, kind: Kind) -> dict[int, bytes]:
    if not isinstance(value, dict) or not 1 <= len(value) <= PCR_COUNT_MAX:
        raise _wrong(kind.value)
    pcrs: dict[int, bytes] = {}
    for index, pcr in value.items():
        if type(index) is not int or not 0 <= index < PCR_COUNT_MAX:
            raise _wrong(kind.value)
        pcrs[index] = _bytes(pcr, kind.value, PCR_BYTES, PCR_BYTES)
    if not _PCRS_NEEDED[kind] <= pcrs.keys():
        raise _wrong(kind.value)
    return pcrs
