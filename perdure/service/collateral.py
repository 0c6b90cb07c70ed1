"""A folder of what verifiers need beside evidence: certificates, and Intel's statements about its processors.

Untrusted hints, as addresses are: all of it is signed by somebody whom the policy's roots vouch for. Statements live a
month, so the folder is looked at again while the main program runs.
"""

from __future__ import annotations

import base64
import binascii
import logging
import re
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography import x509

from perdure.errors import MalformedEvidence, Misuse
from perdure.evidence.collateral import NONE, Collateral
from perdure.evidence.snp.certificates import certificate_table
from perdure.evidence.tdx import collateral as statements
from perdure.service.site import artefacts

logger = logging.getLogger("perdure")
LOOK_S: Final = 1.0
CERTIFICATES_MAX: Final = 200
"""In a folder: verifiers look at no more than 256, those that come with the evidence included."""
STATEMENTS_MAX: Final = 32
"""In a folder: the parsed form of 64 is kept."""
FILES_MAX: Final = 1000
_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----\s(.*?)-----END CERTIFICATE-----", re.DOTALL)
_DER_SEQUENCE: Final = b"\x30"


def read_certificates(path: Path) -> tuple[bytes, ...]:
    """The certificates (DER) in a file: DER, PEM of one or more, or the kernel's table (auxblob). Raises Misuse."""
    data = artefacts.read_bounded(path, "certificate file")
    try:
        if b"-----BEGIN" in data:
            return tuple(_well_formed(base64.b64decode(text)) for text in _pem_texts(data))
        if data[:1] == _DER_SEQUENCE:
            return (_well_formed(data),)
        return certificate_table(data)
    except (ValueError, x509.InvalidVersion, binascii.Error, MalformedEvidence):
        raise Misuse(
            f"{path} holds no certificates, neither DER nor PEM nor a table of the kernel's; nothing was verified."
        ) from None


def _pem_texts(data: bytes) -> list[bytes]:
    texts = _PEM.findall(data)
    if not texts:
        raise ValueError("PEM of something else")
    return texts


def _well_formed(der: bytes) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # AMD's key certificates have the serial number 0, of which the parser warns
        x509.load_der_x509_certificate(der)
    return der


def read_statement(path: Path) -> str:
    """One of Intel's statements, as JSON, in a file. Raises Misuse."""
    text = artefacts.read_bounded(path, "collateral").decode(errors="replace")
    if statements.read(text) is None:
        raise Misuse(
            f"{path} does not hold Intel's statements in the form of dcap-qvl's QuoteCollateralV3; "
            "nothing was verified."
        )
    return text


def read_collateral(directory: Path) -> Collateral:
    """Read `*.der`, `*.pem` and `*.crt` (certificates) and `*.json` (statements); other files are left alone.

    Raises Misuse that names a file which is not what its name says, or when there are too many.
    """
    return _joined(directory, [_read(path) for path in _files(directory)])


def _read(path: Path) -> Collateral:
    if path.suffix == ".json":
        return Collateral(tdx=(read_statement(path),))
    return Collateral(read_certificates(path))


def _joined(directory: Path, parts: Sequence[Collateral]) -> Collateral:
    certificates = tuple(der for part in parts for der in part.certificates)
    texts = tuple(text for part in parts for text in part.tdx)
    if len(certificates) > CERTIFICATES_MAX or len(texts) > STATEMENTS_MAX:
        raise Misuse(
            f"The folder {directory} holds more than {CERTIFICATES_MAX} certificates or {STATEMENTS_MAX} of Intel's "
            "statements; leave out what is old."
        )
    return Collateral(certificates, texts)


class CollateralFolder:
    """The folder's contents as of now; call it as often as you like, from any thread.

    It must be whole at first. Later a file that is not what its name says counts for what it held before, with a line
    in the log: one bad file must not keep a renewed one from being used. So does a folder that cannot be read.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._seen = self._state()
        self._parts = {path: _read(path) for path in _files(directory)}
        self._collateral = _joined(directory, list(self._parts.values()))
        self._looked_s = time.monotonic()
        self._told = ""

    def __call__(self) -> Collateral:
        """What is there now."""
        with self._lock:
            if time.monotonic() - self._looked_s >= LOOK_S:
                self._looked_s = time.monotonic()
                self._look()
            return self._collateral

    def _look(self) -> None:
        try:
            state = self._state()
            if state == self._seen:
                return
            self._seen = state  # whatever comes of it is told once
            parts = {path: self._renewed(path) for path in _files(self._directory)}
            self._collateral, self._parts = _joined(self._directory, list(parts.values())), parts
        except Misuse as error:
            if str(error) != self._told:
                logger.warning("%s What was read before stays in use.", error)
            self._told = str(error)

    def _renewed(self, path: Path) -> Collateral:
        try:
            return _read(path)
        except Misuse as error:
            logger.warning("%s What it held before stays in use.", error)
            return self._parts.get(path, NONE)

    def _state(self) -> frozenset[tuple[str, int, int]]:
        try:
            return frozenset(
                (path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in _files(self._directory)
            )
        except OSError as error:
            raise Misuse(f"The folder {self._directory} cannot be read ({error.strerror}).") from None


def _files(directory: Path) -> list[Path]:
    try:
        found = [
            path for path in directory.iterdir() if path.suffix in (".der", ".pem", ".crt", ".json") and path.is_file()
        ]
    except OSError as error:
        raise Misuse(
            f"The folder of collateral {directory} cannot be read ({error.strerror}); nothing was changed."
        ) from None
    if len(found) > FILES_MAX:
        raise Misuse(f"The folder of collateral {directory} has more than {FILES_MAX} files: it is another folder.")
    return sorted(found)
