"""The certificates of AMD's processors: from a heap of hints to one chain that hangs on a root of the policy.

A chain has three: ARK (a product's root), ASK or ASVK, and the key's (VCEK or VLEK). Sources: AMD, "Versioned Chip
Endorsement Key (VCEK) Certificate and KDS Interface Specification" (57230); the host's table of certificates: AMD,
"SEV-ES Guest-Hypervisor Communication Block Standardization" (56421), section "SNP Extended Guest Request".

Hints come from hosts and files. None is trusted, and what cannot be used is passed over: a host must not be able to
hide a good certificate behind a bad one. Only the ARK is taken from the policy; that it signed itself proves nothing
and is not asked. AMD's key certificates have no key usage, so RFC 5280's path building (and `cryptography`'s, which
insists on it) does not fit: the depth is fixed here and each rule is written out. AMD's revocation lists are not read;
what revokes a processor with broken firmware is the policy's least TCB.
"""

from __future__ import annotations

import functools
import re
import uuid
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from perdure.errors import BadChain, MalformedEvidence, MissingCollateral, UntrustedRoot
from perdure.evidence import anchors
from perdure.evidence.policy import Policy, TrustedRoot
from perdure.evidence.roots import Platform
from perdure.evidence.snp.report import CHIP_ID_BYTES, TCB_ORDER, Product, Report, Signer

CERTIFICATE_BYTES_MAX: Final = 4096
"""AMD's have up to 1,700."""
RSA_BITS_MAX: Final = 4096
"""What AMD uses. Verifying under a longer key of a stranger's would cost much and prove nothing."""
TABLE_ENTRIES_MAX: Final = 16

_BUILTIN: Final = (
    anchors.AMD_ASK_MILAN,
    anchors.AMD_ASVK_MILAN,
    anchors.AMD_ASK_GENOA,
    anchors.AMD_ASVK_GENOA,
    anchors.AMD_ASK_TURIN,
    anchors.AMD_ASVK_TURIN,
)
_ENTRY_BYTES: Final = 24
_TABLE_KINDS: Final = {
    uuid.UUID(text).bytes_le
    for text in (
        "63da758d-e664-4564-adc5-f4b93be8accd",  # VCEK
        "a8074bc2-a25a-483e-aae6-39c045a0b8a1",  # VLEK
        "4ab7b379-bbac-4fe4-a02f-05aef327c782",  # ASK, and ASVK as well
        "c0b406a4-a803-4952-9743-3fb6014cd0ae",  # ARK
    )
}
_KEY_NAMES: Final = {"SEV-VCEK": Signer.VCEK, "SEV-VLEK": Signer.VLEK}
_ISSUER_NAMES: Final = {Signer.VCEK: "SEV-{}", Signer.VLEK: "SEV-VLEK-{}"}
_STRUCTURE_VERSIONS: Final = (0, 1)  # 1 came with Turin
_HARDWARE_ID_BYTES: Final = {Product.MILAN: CHIP_ID_BYTES, Product.GENOA: CHIP_ID_BYTES, Product.TURIN: 8}
_ARC: Final = "1.3.6.1.4.1.3704.1."
_ARC_STRUCTURE_VERSION: Final = f"{_ARC}1"
_ARC_PRODUCT: Final = f"{_ARC}2"
_ARC_TCB: Final = f"{_ARC}3."
_ARC_HARDWARE_ID: Final = f"{_ARC}4"
_ARC_CSP_ID: Final = f"{_ARC}5"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate that says it may issue others, named `name`. Nothing is verified."""

    certificate: x509.Certificate
    name: str


@dataclass(frozen=True, slots=True)
class KeyCertificate:
    """A certificate that says it is of a key which signs reports. Nothing is verified.

    `tcb` is the raw TCB_VERSION that the key is for; a VCEK has a `hardware_id`, a VLEK a `csp_id`, neither has both.
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePublicKey
    signer: Signer
    product: Product
    tcb: bytes
    hardware_id: bytes | None
    csp_id: str | None

    def fits(self, report: Report) -> bool:
        """Whether this is the key that `report` says it is signed with: its kind, product, TCB, and of a VCEK the chip.

        Equal TCBs byte by byte: the reserved bytes are certified like the others. A VLEK is of no chip, whatever
        CHIP_ID says (operators may blank it). A VCEK's must be there, so a report with a blank one does not fit.
        """
        chip = None if self.hardware_id is None else self.hardware_id.ljust(CHIP_ID_BYTES, b"\0")
        return (
            self.signer is report.signer
            and report.product in (None, self.product)
            and self.tcb == report.reported_tcb
            and chip in (None, report.chip_id)
        )


@dataclass(frozen=True, slots=True)
class Chain:
    """A key that `root` vouches for, from `not_before_ms` to `not_after_ms`, both inclusive, Unix milliseconds."""

    root: TrustedRoot
    leaf: KeyCertificate
    not_before_ms: int
    not_after_ms: int


def certificate_table(auxblob: bytes) -> tuple[bytes, ...]:
    """Return the certificates in the table that the host gave the guest, as configfs-tsm's auxblob holds it.

    The table is entries of a GUID (its first three fields little-endian), a u32 offset from the table's start and a
    u32 length, ended by an entry of zeros. An empty blob is no table and gives none. Entries of other kinds are
    skipped. Raises MalformedEvidence if there is no end, or an entry's bytes are not all after it and in the blob, are
    more than a certificate has, or are of a kind that came before: so at most four come out.
    """
    if not auxblob:
        return ()
    entries: dict[bytes, tuple[int, int]] = {}
    for index in range(TABLE_ENTRIES_MAX + 1):
        entry = auxblob[index * _ENTRY_BYTES :][:_ENTRY_BYTES]
        kind, start = entry[:16], int.from_bytes(entry[16:20], "little")
        if len(entry) < _ENTRY_BYTES:
            break
        if not any(entry):
            return _table_contents(auxblob, (index + 1) * _ENTRY_BYTES, entries)
        if kind in entries:
            raise MalformedEvidence("The evidence's table of certificates has two of one kind.")
        if kind in _TABLE_KINDS:
            entries[kind] = (start, start + int.from_bytes(entry[20:24], "little"))
    raise MalformedEvidence("The evidence's table of certificates has no end.")


def _table_contents(blob: bytes, contents_at: int, entries: dict[bytes, tuple[int, int]]) -> tuple[bytes, ...]:
    for start, end in entries.values():
        if not contents_at <= start < end <= len(blob) or end - start > CERTIFICATE_BYTES_MAX:
            raise MalformedEvidence("The evidence's table of certificates points to where no certificate can be.")
    return tuple(blob[start:end] for start, end in entries.values())


def fitting(hints: Iterable[bytes], report: Report) -> list[KeyCertificate]:
    """Return the key certificates among `hints` that `report` may be signed under, each once.

    Raises MissingCollateral if there is none.
    """
    read_ones = (read(der) for der in dict.fromkeys(hints))
    found = [one for one in read_ones if isinstance(one, KeyCertificate) and one.fits(report)]
    if not found:
        chip = f"processor {report.chip_id.hex()[:16]}..." if report.signer is Signer.VCEK else "the cloud"
        raise MissingCollateral(
            f"The {report.signer.name} certificate of {chip} for TCB {report.reported_tcb.hex()} is not at hand. "
            "The host can send it along; AMD's key server has those of processors."
        )
    return found


def chain_of(leaf: KeyCertificate, hints: Sequence[bytes], policy: Policy) -> Chain:
    """Return the chain from `leaf` over an issuer among the hints, or one built in, to a root of `policy`.

    Raises UntrustedRoot if the policy has no root of the product or the issuer hangs on another than it names,
    MissingCollateral if no issuer of its root is known, BadChain if none of them signed the leaf.
    """
    issuer_name = _ISSUER_NAMES[leaf.signer].format(leaf.product)
    issuers = _authorities((*hints, *_BUILTIN), issuer_name)
    roots = [
        (trusted, authority)
        for trusted in policy.roots
        if trusted.platform is Platform.SEV_SNP
        for authority in _authorities((trusted.certificate,), f"ARK-{leaf.product}")
    ]
    # From the top, so that the keys of strangers are used only where nothing good was found, to say what is wrong.
    vouched = [(*root, one) for root in roots for one in issuers if _issued(one.certificate, root[1].certificate)]
    for trusted, ark, issuer in vouched:
        if _issued(leaf.certificate, issuer.certificate):
            chain = [ark.certificate, issuer.certificate, leaf.certificate]
            not_before_ms = max(_unix_ms(one.not_valid_before_utc) for one in chain)
            return Chain(trusted, leaf, not_before_ms, min(_unix_ms(one.not_valid_after_utc) for one in chain))
    if not roots or (not vouched and any(_issued(leaf.certificate, one.certificate) for one in issuers)):
        raise UntrustedRoot(
            f"The evidence comes from a processor of AMD's {leaf.product}, or one that claims to be, under a root "
            "certificate that the policy does not name; nothing it says is used."
        )
    if not vouched:
        raise MissingCollateral(
            f"The certificate {issuer_name} under the policy's root of {leaf.product} is not at hand."
        )
    raise BadChain(f"The evidence's {leaf.signer.name} certificate is not signed by {issuer_name}, which it names.")


def _authorities(ders: Iterable[bytes], name: str) -> list[Authority]:
    read_ones = (read(der) for der in dict.fromkeys(ders))
    return [one for one in read_ones if isinstance(one, Authority) and one.name == name]


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether `issuer` is whom `certificate` names and its key signed it."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def _unix_ms(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(milliseconds=1)


@functools.lru_cache(maxsize=256)  # of at most 4 KiB each; a certificate is the same whoever asks
def _read(der: bytes) -> KeyCertificate | Authority | None:
    # The parser warns of the serial number 0, which AMD gives its VCEKs and VLEKs, and of what strangers write into
    # names. Set anew each time, in front of whatever the application set since, and for this module alone.
    warnings.filterwarnings("ignore", "", UserWarning, re.escape(__name__))
    try:
        certificate = x509.load_der_x509_certificate(der)
        if certificate.signature_algorithm_oid != SignatureAlgorithmOID.RSASSA_PSS:
            return None
        if not isinstance(certificate.signature_hash_algorithm, SHA384):
            return None
        if der[-len(certificate.signature) - 1]:
            return None  # how many bits of the signature do not count: the one byte that nobody signs and nobody reads
        return _key_certificate(certificate) if _common_name(certificate) in _KEY_NAMES else _authority(certificate)
    except Exception:
        # The parser has many exceptions for hostile certificates; each means that this hint is of no use.
        return None


def read(der: bytes) -> KeyCertificate | Authority | None:
    """Return what a hint is, if it is of any use: an authority's or a key's certificate, signed with RSA-PSS and
    SHA-384 as all of AMD's are. That signature is not verified. Whatever the bytes, nothing is raised.
    """
    return _read(der) if len(der) <= CERTIFICATE_BYTES_MAX else None


def _common_name(certificate: x509.Certificate) -> str:
    (attribute,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(attribute.value)


def _authority(certificate: x509.Certificate) -> Authority | None:
    key, extensions = certificate.public_key(), certificate.extensions
    known = (x509.BasicConstraints, x509.KeyUsage)
    if any(one.critical and not isinstance(one.value, known) for one in extensions):
        return None
    may_issue = (
        extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        and extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
        and isinstance(key, rsa.RSAPublicKey)
        and key.key_size <= RSA_BITS_MAX
    )
    return Authority(certificate, _common_name(certificate)) if may_issue else None


def _key_certificate(certificate: x509.Certificate) -> KeyCertificate | None:
    """Raises what it likes, KeyError among it, for what is not of AMD's form; `_read` makes it None."""
    values: dict[str, bytes] = {}
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.UnrecognizedExtension) and extension.oid.dotted_string.startswith(_ARC):
            values[extension.oid.dotted_string] = extension.value.value
        elif extension.critical or isinstance(extension.value, x509.BasicConstraints):
            return None  # a rule that is not understood, or an authority's: AMD's keys are certified with neither
    key, signer = certificate.public_key(), _KEY_NAMES[_common_name(certificate)]
    product = Product(_text(values[_ARC_PRODUCT]).partition("-")[0])  # of VCEKs also "Milan-B0", with the stepping
    parts = [f"{_ARC_TCB}{part}" for part in TCB_ORDER[product]]
    hardware_id, csp_id = values.get(_ARC_HARDWARE_ID), values.get(_ARC_CSP_ID)
    of_vcek = hardware_id is not None and len(hardware_id) == _HARDWARE_ID_BYTES[product] and csp_id is None
    of_vlek = hardware_id is None and csp_id is not None
    if (
        not (of_vcek if signer is Signer.VCEK else of_vlek)
        or not isinstance(key, ec.EllipticCurvePublicKey)
        or not isinstance(key.curve, ec.SECP384R1)
        or _byte(values[_ARC_STRUCTURE_VERSION]) not in _STRUCTURE_VERSIONS
        or {name for name in values if name.startswith(_ARC_TCB)} != set(parts)
    ):
        return None
    tcb = bytes(_byte(values[name]) for name in parts)
    csp = None if csp_id is None else _text(csp_id)
    return KeyCertificate(certificate, key, signer, product, tcb, hardware_id, csp)


def _byte(der: bytes) -> int:
    """Of a DER INTEGER from 0 to 255."""
    number = int.from_bytes(der[2:], "big")
    if der not in (bytes((2, 1, number & 0x7F)), bytes((2, 2, 0, number & 0x7F | 0x80))):
        raise ValueError("not a DER INTEGER from 0 to 255")
    return number


def _text(der: bytes) -> str:
    """Of a DER IA5String shorter than 128 characters."""
    if der[:2] != bytes((0x16, len(der) - 2)) or len(der) - 2 > 0x7F:
        raise ValueError("not a short IA5String")
    return der[2:].decode("ascii")
