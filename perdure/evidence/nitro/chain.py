"""Certificate paths of attestation keys: verified by `cryptography`'s RFC 5280 verifier, kept with their window.

A path is root first, leaf last, and must verify exactly as given: no certificate may be skipped, added or reordered.
Whether a path is good does not depend on the time once one asks about a time inside every certificate's validity; so
a path is verified once, at such a time, and kept with the window in which it holds. The caller compares the window
with the time it asks about, on every call. Only good paths are kept; a verdict about a document never is.

AWS's leaves have no alternative names, no key identifiers and a keyUsage that is not critical, so the verifier's
web profile is replaced by the requirements of `perdure.evidence.x509`. Revocation lists are off, as AWS instructs.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import Criticality, PolicyBuilder, Store

from perdure.errors import BadChain
from perdure.evidence.p384 import P384Key
from perdure.evidence.x509 import issuer_policy, leaf_policy

_EPOCH: Final = datetime(1970, 1, 1)  # UTC without a zone, as the verifier takes it


@dataclass(frozen=True, slots=True)
class VerifiedPath:
    """A leaf key that the root vouches for, from `not_before_ms` to `not_after_ms`, both inclusive, Unix milliseconds.

    The leaf's own window contains that of the path.
    """

    key: P384Key
    not_before_ms: int
    not_after_ms: int
    leaf_not_before_ms: int
    leaf_not_after_ms: int


class ChainCache:
    """The most recently used good paths, keyed by the SHA-256 of their certificates; safe to share between threads."""

    SIZE_MAX: Final = 256

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._paths: OrderedDict[bytes, VerifiedPath] = OrderedDict()

    def verify(self, path: Sequence[bytes]) -> VerifiedPath:
        """As `verify_path`, but verifies each path once. Two threads may both verify a path that is new."""
        digest = _digest(path)
        with self._lock:
            if digest in self._paths:
                self._paths.move_to_end(digest)
                return self._paths[digest]
        verified = verify_path(path)  # outside of the lock: it takes milliseconds
        with self._lock:
            self._paths[digest] = verified
            if len(self._paths) > self.SIZE_MAX:
                self._paths.popitem(last=False)
        return verified

    def __len__(self) -> int:
        with self._lock:
            return len(self._paths)


def verify_path(path: Sequence[bytes]) -> VerifiedPath:
    """Return the leaf key of `path` (DER certificates, a trusted root first, the leaf last) and when it holds.

    The caller has made sure that path[0] is trusted. Raises BadChain unless every signature, name, basicConstraints,
    pathLenConstraint and keyUsage is right, no unknown extension is critical, all certificates are valid at some
    common time, and the leaf's key is on P-384.
    """
    try:
        return _verify_path([x509.load_der_x509_certificate(der) for der in path])
    except BadChain:
        raise
    except Exception as error:
        # The parser and the verifier have many exceptions for hostile certificates; each of them means this one.
        # Its text may quote names from the certificates: one line, escaped, is all that a terminal gets to see.
        reason = str(error).partition(" (encountered")[0]
        raise BadChain(f"The evidence's certificate chain does not verify: {reason[:160]!a}.") from error


def _verify_path(certificates: list[x509.Certificate]) -> VerifiedPath:
    root, leaf = certificates[0], certificates[-1]
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise BadChain("The evidence's leaf certificate does not hold a P-384 key.")
    not_before = max(certificate.not_valid_before_utc.replace(tzinfo=None) for certificate in certificates)
    not_after = min(certificate.not_valid_after_utc.replace(tzinfo=None) for certificate in certificates)
    if not_before > not_after:
        raise BadChain("The evidence's certificates are at no time valid all at once.")
    policies = {"ca_policy": _CA_POLICY, "ee_policy": _LEAF_POLICY}
    builder = PolicyBuilder().store(Store([root])).time(not_before).extension_policies(**policies)
    found = builder.build_client_verifier().verify(leaf, certificates[1:-1]).chain
    if found != certificates[::-1]:
        raise BadChain("The evidence's certificate chain holds certificates that do not belong to the path.")
    return VerifiedPath(
        key=P384Key(key),
        not_before_ms=_unix_ms(not_before),
        not_after_ms=_unix_ms(not_after),
        leaf_not_before_ms=_unix_ms(leaf.not_valid_before_utc.replace(tzinfo=None)),
        leaf_not_after_ms=_unix_ms(leaf.not_valid_after_utc.replace(tzinfo=None)),
    )


def _unix_ms(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(milliseconds=1)


def _digest(path: Sequence[bytes]) -> bytes:
    # Every certificate is hashed on its own, so that bytes cannot move over a border between two.
    return hashlib.sha256(b"".join(hashlib.sha256(der).digest() for der in path)).digest()


_CA_POLICY: Final = issuer_policy(Criticality.CRITICAL)
_LEAF_POLICY: Final = leaf_policy(key_usage=Criticality.AGNOSTIC)
