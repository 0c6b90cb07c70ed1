"""What Intel states about its processors, as the text that travels with a quote: read, and verified under a root.

A text is JSON with the nine keys of `dcap_qvl.QuoteCollateralV3`: Intel's TCB info for one kind of processor, the
identity of its quoting enclave for TDX, the revocation lists of the root and of one issuer of PCK certificates, each
with what is needed to verify it. Source: Intel, "PCS API", version 4. Nothing in a text is trusted. Other keys are not
read (one of them could put other certificates in the place of the quote's), and neither is `pck_crl_issuer_chain`: the
list of a quote's issuer must be signed by that very issuer.
"""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cryptography import x509

from perdure.errors import BadEvidence, MalformedEvidence, UntrustedRoot
from perdure.evidence.tdx import chain
from perdure.evidence.tdx.chain import VerifiedPath, Window
from perdure.evidence.tdx.quote import QuotingEnclave, from_pem

TEXT_CHARS_MAX: Final = 1 << 18
"""Of one text; Intel's have about 20,000."""
_SIGNATURE_BYTES: Final = 64
_CACHED: Final = 64
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class Statement:
    """One signed JSON object, as it was signed; `path` are the certificates (DER), the signer first, the root last."""

    signed: bytes
    signature: bytes
    path: tuple[bytes, ...]
    window: Window

    def verify(self, root: bytes, what: str) -> VerifiedPath:
        """Return the signer's path, if Intel's signer under `root` (DER) signed this; raise BadEvidence otherwise."""
        if self.path[-1] != root:
            raise UntrustedRoot(f"Intel's {what} has another root than the quote, one that vouches for nothing here.")
        path = chain.verify_path(self.path[::-1], chain.SIGNERS)
        chain.verify_signature(path.key, self.signature, self.signed, f"The signature of Intel's {what}")
        return path


@dataclass(frozen=True, slots=True)
class EnclaveIdentity:
    """Which quoting enclave is Intel's: values, and masks for the bits that count."""

    mrsigner: bytes
    isv_prod_id: int
    attributes: int
    attributes_mask: int
    misc_select: int
    misc_select_mask: int

    def fits(self, enclave: QuotingEnclave) -> bool:
        """Whether `enclave` is this one, and not under debugging. How new it is, is a matter of its TCB."""
        attributes = int.from_bytes(enclave.attributes, "little")
        return (
            (enclave.mrsigner, enclave.isv_prod_id) == (self.mrsigner, self.isv_prod_id)
            and (attributes ^ self.attributes) & self.attributes_mask == 0
            and (enclave.misc_select ^ self.misc_select) & self.misc_select_mask == 0
        )


@dataclass(frozen=True, slots=True)
class Statements:
    """The contents of one text. Nothing in it is verified."""

    fmspc: bytes
    pce_id: bytes
    enclave: EnclaveIdentity
    tcb_info: Statement
    qe_identity: Statement
    root_crl_der: bytes
    pck_crl_der: bytes
    root_crl: x509.CertificateRevocationList
    pck_crl: x509.CertificateRevocationList

    def is_for(self, fmspc: bytes, pce_id: bytes, issuer: x509.Certificate) -> bool:
        """Whether this speaks of processors of this kind, whose certificates `issuer` issued."""
        return (self.fmspc, self.pce_id, self.pck_crl.issuer) == (fmspc, pce_id, issuer.subject)

    def verify(self, root: x509.Certificate, root_der: bytes, issuer: x509.Certificate) -> Window:
        """Return when all of this holds, if Intel stated it; whether that is now is for the caller.

        `issuer` is that of the PCK certificates, itself verified under `root`. Raises UntrustedRoot, BadChain,
        BadSignature, MalformedEvidence.
        """
        windows = [chain.verify_crl(self.root_crl, root), chain.verify_crl(self.pck_crl, issuer)]
        for statement, what in ((self.tcb_info, "TCB info"), (self.qe_identity, "QE identity")):
            path = statement.verify(root_der, what)
            chain.require_unrevoked(self.root_crl, path.leaf)
            windows += [statement.window, path.window]
        return windows[0].and_(*windows[1:])


def read(text: str) -> Statements | None:
    """The contents of a text; None if it is not of the form that Intel's statements have.

    The last few are kept: what they say, never whether it is true.
    """
    return _read_cached(text) if len(text) <= TEXT_CHARS_MAX else None


@functools.lru_cache(maxsize=_CACHED)
def _read_cached(text: str) -> Statements | None:
    try:
        return _read(text)
    except (BadEvidence, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None  # there are many ways to be something else


def _read(text: str) -> Statements:
    outer = json.loads(text)
    tcb_info, tcb_fields = _statement(outer, "tcb_info", "TDX")
    qe_identity, qe_fields = _statement(outer, "qe_identity", "TD_QE")
    root_crl_der, pck_crl_der = bytes.fromhex(outer["root_ca_crl"]), bytes.fromhex(outer["pck_crl"])
    return Statements(
        fmspc=bytes.fromhex(tcb_fields["fmspc"]),
        pce_id=bytes.fromhex(tcb_fields["pceId"]),
        enclave=EnclaveIdentity(
            mrsigner=bytes.fromhex(qe_fields["mrsigner"]),
            isv_prod_id=operator.index(qe_fields["isvprodid"]),
            attributes=_flags(qe_fields["attributes"]),
            attributes_mask=_flags(qe_fields["attributesMask"]),
            misc_select=_flags(qe_fields["miscselect"]),
            misc_select_mask=_flags(qe_fields["miscselectMask"]),
        ),
        tcb_info=tcb_info,
        qe_identity=qe_identity,
        root_crl_der=root_crl_der,
        pck_crl_der=pck_crl_der,
        root_crl=chain.read_crl(root_crl_der),
        pck_crl=chain.read_crl(pck_crl_der),
    )


def _statement(outer: Mapping[str, Any], name: str, kind: str) -> tuple[Statement, Mapping[str, Any]]:
    text, signature = outer[name], bytes.fromhex(outer[f"{name}_signature"])
    path = from_pem(outer[f"{name}_issuer_chain"].encode())
    signed, fields = text.encode(), json.loads(text)
    if fields["id"] != kind or len(signature) != _SIGNATURE_BYTES or len(path) != len(("signer", "root")):
        raise MalformedEvidence(f"The {name} is not one of TDX.")
    window = Window.of(_time(fields["issueDate"]), _time(fields["nextUpdate"]))
    return Statement(signed, signature, path, window), fields


def _time(text: str) -> datetime:
    return datetime.strptime(text, _TIME).replace(tzinfo=UTC)


def _flags(text: str) -> int:
    """Of bytes in hexadecimal, the first one lowest."""
    return int.from_bytes(bytes.fromhex(text), "little")
