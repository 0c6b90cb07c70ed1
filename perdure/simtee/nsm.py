"""A simulated Nitro Security Module: requests in, responses out, in the CBOR of aws-nitro-enclaves-nsm-api.

It answers Attestation, DescribeNSM, DescribePCR and GetRandom as hardware does, and refuses the rest. Documents have
the exact form of Nitro's: untagged COSE_Sign1, ES384, absent fields null. Newer hosts write the payload as a map of
indefinite length and older ones of definite length; `is_indefinite` chooses.

No clock and no latency in here: time comes from `now_ms`, and whoever serves requests serves one at a time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from typing import Any, Final

import cbor2
from awscrt.crypto import EC
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from perdure.errors import MalformedEvidence
from perdure.evidence.nitro import cbor, cose
from perdure.simtee.pki import Draw, Leaf, LeafChain, SimulatedRoot

REQUEST_BYTES_MAX: Final = 4096
RESPONSE_BYTES_MAX: Final = 12_288
FIELD_BYTES_MAX: Final = 1024
PCR_BYTES: Final = 48
PCR_COUNT: Final = 16
PCR_COUNT_MAX: Final = 32
RANDOM_BYTES: Final = 256

_FIELDS: Final = ("public_key", "user_data", "nonce")
_ALGORITHM: Final = ec.ECDSA(SHA384(), deterministic_signing=True)


def new_module_id(instance_id: str, now_ms: int, draw: Draw = os.urandom) -> str:
    """Return the id of an enclave launched now: instance, 48 bits of Unix milliseconds, 16 random bits."""
    return f"{instance_id}-enc{now_ms:012x}{draw(2).hex()}"


def pcr4(module_id: str) -> bytes:
    """Return the PCR that names the parent instance: SHA-384(48 zeros || instance id)."""
    return hashlib.sha384(bytes(PCR_BYTES) + module_id.partition("-enc")[0].encode("ascii")).digest()


class SimulatedNsm:
    """The module of one launched enclave.

    `pcrs` are those the launch has measured; 4 follows from `module_id` unless given, all others of 0-15 are zero.
    `now_ms` is asked for the time, in Unix milliseconds, of every document. `is_repeatable`: the same draws and times
    make the same bytes (RFC 6979); otherwise signatures are made in half the time.
    """

    def __init__(
        self,
        root: SimulatedRoot,
        pcrs: Mapping[int, bytes],
        module_id: str,
        now_ms: Callable[[], int],
        *,
        draw: Draw = os.urandom,
        is_indefinite: bool = True,
        is_repeatable: bool = True,
    ) -> None:
        zeros = {index: bytes(PCR_BYTES) for index in range(PCR_COUNT)}
        self._pcrs = {**zeros, 4: pcr4(module_id), **pcrs}
        self._module_id = module_id
        self._now_ms = now_ms
        self._draw = draw
        self._chain = LeafChain(root, module_id, draw)
        self._map = (b"\xbf", b"\xff") if is_indefinite else (b"\xa9", b"")
        self._start = b"".join(map(cbor2.dumps, ("module_id", module_id, "digest", "SHA384", "timestamp")))
        self._pcrs_encoded = cbor2.dumps("pcrs") + cbor2.dumps(self._pcrs)
        self._is_repeatable = is_repeatable
        self._certificates = (b"", b"")  # of a leaf and what they encode to
        self._signers: dict[bytes, EC] = {}  # by certificate

    def attest(
        self, user_data: bytes | None = None, *, nonce: bytes | None = None, public_key: bytes | None = None
    ) -> bytes:
        """Return a signed document over these fields, made now. Costs little more than its P-384 signature."""
        now_ms = self._now_ms()
        leaf = self._chain.at(now_ms)
        fields = zip(_FIELDS, (public_key, user_data, nonce), strict=True)
        optional = b"".join(cbor2.dumps(name) + cbor2.dumps(value) for name, value in fields)
        head = self._map[0] + self._start + cbor2.dumps(now_ms) + self._pcrs_encoded
        payload = head + self._encoded_certificates(leaf) + optional + self._map[1]
        r, s = decode_dss_signature(self._sign(leaf, cose.signed_bytes(payload)))
        return cose.join(payload, r.to_bytes(48, "big") + s.to_bytes(48, "big"))

    def respond(self, request: bytes) -> bytes:
        """Return the response to one request, whatever its bytes."""
        if len(request) > REQUEST_BYTES_MAX:
            return _error("InputTooLarge")
        try:
            value = cbor.decode(request)
        except MalformedEvidence:
            return _error("InvalidOperation")
        if value == "DescribeNSM":
            return cbor2.dumps({"DescribeNSM": self._description()})
        if value == "GetRandom":
            return cbor2.dumps({"GetRandom": {"random": self._draw(RANDOM_BYTES)}})
        return self._respond_with_arguments(value)

    def _respond_with_arguments(self, value: cbor.Value) -> bytes:
        call = next(iter(value.items())) if isinstance(value, dict) and len(value) == 1 else None
        match call:
            case ("Attestation", dict(fields)):
                return self._attestation(fields)
            case ("DescribePCR", {"index": int(index)}):
                return self._describe_pcr(index)
        return _error("InvalidOperation")

    def _attestation(self, fields: Mapping[cbor.Key, cbor.Value]) -> bytes:
        given = {name: fields.get(name) for name in _FIELDS}
        if fields.keys() - given.keys() or not all(
            value is None or isinstance(value, bytes) for value in given.values()
        ):
            return _error("InvalidArgument")
        if any(isinstance(value, bytes) and len(value) > FIELD_BYTES_MAX for value in given.values()):
            return _error("InputTooLarge")
        arguments: dict[str, Any] = given
        return cbor2.dumps({"Attestation": {"document": self.attest(**arguments)}})

    def _describe_pcr(self, index: int) -> bytes:
        if index not in self._pcrs:
            return _error("InvalidIndex")
        return cbor2.dumps({"DescribePCR": {"lock": index < PCR_COUNT, "data": self._pcrs[index]}})

    def _description(self) -> dict[str, object]:
        return {
            "version_major": 1,
            "version_minor": 0,
            "version_patch": 0,
            "module_id": self._module_id,
            "max_pcrs": PCR_COUNT_MAX,
            "locked_pcrs": list(range(PCR_COUNT)),
            "digest": "SHA384",
        }

    def _sign(self, leaf: Leaf, signed: bytes) -> bytes:
        if self._is_repeatable:
            return leaf.key.sign(signed, _ALGORITHM)
        if leaf.certificate not in self._signers:
            key = leaf.key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
            self._signers = {leaf.certificate: EC.new_key_from_der_data(key)}
        return bytes(self._signers[leaf.certificate].sign(hashlib.sha384(signed).digest()))

    def _encoded_certificates(self, leaf: Leaf) -> bytes:
        """The two certificate fields; kept, since a leaf signs for hours."""
        if self._certificates[0] != leaf.certificate:
            fields = ("certificate", leaf.certificate, "cabundle", leaf.cabundle)
            self._certificates = (leaf.certificate, b"".join(map(cbor2.dumps, fields)))
        return self._certificates[1]


def _error(name: str) -> bytes:
    return cbor2.dumps({"Error": name})
