"""The payload of a Nitro Enclaves attestation document: shape, types and lengths; nothing is verified here.

Source: "Verifying the root of trust" in the AWS Nitro Enclaves user guide, corrected where real documents differ:
absent optional fields are null, and the map may have an indefinite length. Unknown keys are tolerated because AWS may
add some. NitroTPM documents share root, format and chain but speak for a whole virtual machine, not for an enclave:
they are refused by their key `nitrotpm_pcrs` and by the form of `module_id`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from perdure.errors import MalformedEvidence
from perdure.evidence import cbor

PCR_BYTES: Final = 48
PCR_COUNT_MAX: Final = 32
CERTIFICATE_BYTES_MAX: Final = 1024
CABUNDLE_COUNT_MAX: Final = 8
OPTIONAL_BYTES_MAX: Final = 4096
"""AWS states 512 and 1,024, but hardware signed more; a whole NSM request has at most 4,096 bytes."""
TIME_MS_MAX: Final = 253_402_300_799_999  # the end of the year 9999, where certificate times end too
_MODULE_ID: Final = re.compile(r"i-[0-9a-f]{1,32}-enc[0-9a-f]{1,32}")
_MODULE_ID_CHARS_MAX: Final = 128


@dataclass(frozen=True, slots=True)
class Payload:
    """The fields of a well-formed payload. Nothing in it is verified."""

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
    if "nitrotpm_pcrs" in fields:
        raise MalformedEvidence("The evidence is a NitroTPM's: it speaks for a virtual machine, not for an enclave.")
    if fields.get("digest") != "SHA384":
        raise _wrong("digest")
    return Payload(
        module_id=_module_id(fields.get("module_id")),
        time_ms=_time_ms(fields.get("timestamp")),
        pcrs=_pcrs(fields.get("pcrs")),
        certificate=_bytes(fields.get("certificate"), "certificate", 1, CERTIFICATE_BYTES_MAX),
        cabundle=_cabundle(fields.get("cabundle")),
        public_key=_optional(fields, "public_key"),
        user_data=_optional(fields, "user_data"),
        nonce=_optional(fields, "nonce"),
    )


def _wrong(field: str) -> MalformedEvidence:
    return MalformedEvidence(f"The evidence's field {field} is missing or not of the form that Nitro enclaves write.")


def _module_id(value: cbor.Value) -> str:
    if not isinstance(value, str) or len(value) > _MODULE_ID_CHARS_MAX or not _MODULE_ID.fullmatch(value):
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


def _pcrs(value: cbor.Value) -> dict[int, bytes]:
    if not isinstance(value, dict) or not 1 <= len(value) <= PCR_COUNT_MAX:
        raise _wrong("pcrs")
    pcrs: dict[int, bytes] = {}
    for index, pcr in value.items():
        if type(index) is not int or not 0 <= index < PCR_COUNT_MAX:
            raise _wrong("pcrs")
        pcrs[index] = _bytes(pcr, "pcrs", PCR_BYTES, PCR_BYTES)
    if not {0, 1, 2} <= pcrs.keys():
        raise _wrong("pcrs")
    return pcrs
