"""The format of a TDX quote: taken apart strictly, and put together again. Verifies nothing.

Source: Intel, "TDX DCAP Quoting Library API", appendix 3 (quote versions 4 and 5), and the TDREPORT structures of the
"TDX Module ABI Specification". Everything is little-endian:

    header 48 | version 5 only: u16 type and u32 size of the body | body 584 (TD 1.0) or 648 (TD 1.5) |
    u32 length | signature 64 | attestation key 64 | u16 6, u32 length |
        report of the quoting enclave 384 | its signature 64 | u16 length, authentication data | u16 5, u32 length | PEM

Version 4 always has the body of TD 1.0. Of the key types only ECDSA on P-256 exists; of the certification data only
the whole chain of the PCK certificate (type 5) is accepted, since every other kind needs a network to be understood.

Each byte of a quote is signed, is bound by a hash in what is signed, or has one legal value, but for three freedoms
that real quotes take: zeros after the end (some drivers return a fixed buffer), a zero after the PEM text, and CR LF as
its line ends.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from perdure.errors import MalformedEvidence

QUOTE_BYTES_MAX: Final = 1 << 15
PEM_BYTES_MAX: Final = 1 << 14
"""Of a chain; real ones have less than 4 KiB."""
CERTIFICATES: Final = 3
"""Of a quote's chain: the processor's (PCK), its issuer's, the root's."""

_HEADER: Final = struct.Struct("<HHI4x16s20x")
_ECDSA_P256: Final = 2
_TEE_TDX: Final = 0x81
_QE_VENDOR_INTEL: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_VERSION_4, _VERSION_5 = 4, 5
_BODY_PREFIX: Final = struct.Struct("<HI")
_BODIES: Final = {2: 584, 3: 648}
"""Type in version 5 to length: TD 1.0 and TD 1.5. The latter is the former with `_SERVICE_TD` at its end."""
_TD: Final = struct.Struct("<16s48s48s8sQQ48s48s48s48s48s48s48s48s64s")
_SERVICE_TD: Final = struct.Struct("<16s48s")
_QE_REPORT: Final = struct.Struct("<16xI28x16s64x32s96xH62x64s")
_REGISTERS: Final = ("mrtd", "mrconfigid", "mrowner", "mrownerconfig", "rtmr0", "rtmr1", "rtmr2", "rtmr3")

_SIGNATURE_BYTES: Final = 64
_KEY_BYTES: Final = 64
_CERTIFIED_BY_QE: Final = 6
_CERTIFIED_BY_PCK_CHAIN: Final = 5
_AUTH_BYTES: Final = 32  # what Intel's quoting enclave writes

_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----\n([A-Za-z0-9+/=\n]+)\n-----END CERTIFICATE-----\n")
_PEM_COLUMNS: Final = 64


@dataclass(frozen=True, slots=True)
class QuotingEnclave:
    """The fields by which Intel describes its quoting enclave, from the enclave's own report."""

    misc_select: int
    attributes: bytes
    mrsigner: bytes
    isv_prod_id: int
    report_data: bytes


@dataclass(frozen=True, slots=True)
class Quote:
    """A quote taken apart. Nothing in it is verified.

    `signed` is what the attestation key signs. `registers` have 48 bytes each. `service_td` is the measurement of the
    service TD that is bound to the guest, all zeros if none is; TD 1.0 does not report it. `certificates` are DER, the
    processor's first, the root last.
    """

    signed: bytes
    td_attributes: int
    registers: Mapping[str, bytes]
    report_data: bytes
    service_td: bytes
    signature: bytes
    attestation_key: bytes
    qe_report: bytes
    qe_report_signature: bytes
    qe_auth_data: bytes
    certificates: tuple[bytes, ...]

    @property
    def quoting_enclave(self) -> QuotingEnclave:
        """What `qe_report` says."""
        return QuotingEnclave(*_QE_REPORT.unpack(self.qe_report))

    def to_bytes(self) -> bytes:
        """The quote in its one canonical form: without padding, its certificates as `to_pem` writes them."""
        pem = to_pem(self.certificates)
        certified = b"".join(
            (
                self.qe_report,
                self.qe_report_signature,
                struct.pack("<H", len(self.qe_auth_data)),
                self.qe_auth_data,
                struct.pack("<HI", _CERTIFIED_BY_PCK_CHAIN, len(pem)),
                pem,
            )
        )
        data = self.signature + self.attestation_key + struct.pack("<HI", _CERTIFIED_BY_QE, len(certified)) + certified
        return self.signed + struct.pack("<I", len(data)) + data


def parse(quote: bytes) -> Quote:
    """Take a quote apart; raise MalformedEvidence unless it is exactly one, of TDX, with nothing after it but zeros."""
    if len(quote) > QUOTE_BYTES_MAX:
        raise MalformedEvidence(f"The TDX quote has {len(quote)} bytes; {QUOTE_BYTES_MAX} are the most.")
    reader = _Reader(quote)
    body = _body(reader, _version(reader.take(_HEADER.size)))
    signed = quote[: reader.at]
    data = _Reader(reader.take(reader.number(4)))
    if any(quote[reader.at :]):
        raise MalformedEvidence("The TDX quote has bytes after its end that are not zero.")

    signature, attestation_key = data.take(_SIGNATURE_BYTES), data.take(_KEY_BYTES)
    certified = data.certification(_CERTIFIED_BY_QE)
    qe_report, qe_report_signature = certified.take(_QE_REPORT.size), certified.take(_SIGNATURE_BYTES)
    auth_data = certified.take(certified.number(2))
    if len(auth_data) != _AUTH_BYTES:
        raise MalformedEvidence(f"The TDX quote's authentication data has {len(auth_data)} bytes, not {_AUTH_BYTES}.")
    chain = certified.certification(_CERTIFIED_BY_PCK_CHAIN)
    certificates = from_pem(chain.rest())
    if len(certificates) != CERTIFICATES:
        raise MalformedEvidence(f"The TDX quote carries {len(certificates)} certificates, not {CERTIFICATES}.")

    fields = _TD.unpack(body[: _TD.size])
    service = _SERVICE_TD.unpack(body[_TD.size :])[1] if len(body) > _TD.size else bytes(48)
    return Quote(
        signed=signed,
        td_attributes=fields[4],
        registers=dict(zip(_REGISTERS, fields[6:14], strict=True)),
        report_data=fields[14],
        service_td=service,
        signature=signature,
        attestation_key=attestation_key,
        qe_report=qe_report,
        qe_report_signature=qe_report_signature,
        qe_auth_data=auth_data,
        certificates=certificates,
    )


def to_pem(certificates: Sequence[bytes]) -> bytes:
    """Certificates (DER) as PEM: lines of 64 characters, LF at the end of each, nothing in between."""
    parts = []
    for der in certificates:
        text = base64.b64encode(der)
        lines = [text[at : at + _PEM_COLUMNS] for at in range(0, len(text), _PEM_COLUMNS)]
        parts += [b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----"]
    return b"\n".join((*parts, b""))


def from_pem(text: bytes) -> tuple[bytes, ...]:
    """The certificates (DER) of a PEM text; raise MalformedEvidence unless it is as `to_pem` writes it.

    Line ends may be CR LF, and line ends or one zero byte may follow. Whether the contents are certificates is not
    looked at.
    """
    if len(text) > PEM_BYTES_MAX:
        raise MalformedEvidence(f"A chain of certificates has {len(text)} bytes; {PEM_BYTES_MAX} are the most.")
    plain = text.removesuffix(b"\0").replace(b"\r\n", b"\n").rstrip(b"\n") + b"\n"
    try:
        certificates = tuple(base64.b64decode(found.replace(b"\n", b"")) for found in _PEM.findall(plain))
    except binascii.Error as error:
        raise MalformedEvidence("A chain of certificates is not base64.") from error
    if not certificates or to_pem(certificates) != plain:
        raise MalformedEvidence("A chain of certificates is not in PEM's plain form.")
    return certificates


class _Reader:
    """Reads from the front; raises MalformedEvidence at the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def take(self, length: int) -> bytes:
        end = self.at + length
        if end > len(self._data):
            raise MalformedEvidence("The TDX quote is cut short.")
        taken, self.at = self._data[self.at : end], end
        return taken

    def number(self, length: int) -> int:
        return int.from_bytes(self.take(length), "little")

    def rest(self) -> bytes:
        return self.take(len(self._data) - self.at)

    def certification(self, kind: int) -> _Reader:
        """What follows, which must be one certification data of this type and fill the rest exactly."""
        found, length = self.number(2), self.number(4)
        if found != kind:
            raise MalformedEvidence(f"The TDX quote has certification data of type {found} where {kind} must be.")
        if length != len(self._data) - self.at:
            raise MalformedEvidence("The TDX quote's lengths do not fit into each other.")
        return _Reader(self.rest())


def _version(header: bytes) -> int:
    version, key_type, tee, vendor = _HEADER.unpack(header)[:4]
    if version not in (_VERSION_4, _VERSION_5):
        raise MalformedEvidence(f"The TDX quote is of version {version}; known are {_VERSION_4} and {_VERSION_5}.")
    if tee != _TEE_TDX:
        raise MalformedEvidence(f"The quote is of TEE type {tee:#x}, which is not TDX.")
    if key_type != _ECDSA_P256:
        raise MalformedEvidence(f"The TDX quote's key is of type {key_type}; only ECDSA on P-256 (2) exists.")
    if vendor != _QE_VENDOR_INTEL:
        raise MalformedEvidence("The TDX quote was not made by Intel's quoting enclave.")
    return int(version)


def _body(reader: _Reader, version: int) -> bytes:
    if version == _VERSION_4:
        return reader.take(_TD.size)
    kind, length = _BODY_PREFIX.unpack(reader.take(_BODY_PREFIX.size))
    if _BODIES.get(kind) != length:
        raise MalformedEvidence(f"The TDX quote's body is of type {kind} and {length} bytes, which is not known.")
    return reader.take(length)
