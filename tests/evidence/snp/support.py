"""Processors to attack: AMD's hierarchy of certificates with keys of our own, and reports that these keys sign.

Every certificate and report is made of plain parts, so that each test reads as what it changes. The certificates have
AMD's forms: RSA-PSS with SHA-384, serial number 0 in those of keys, and extensions without critical ones.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384, HashAlgorithm
from cryptography.x509.oid import NameOID

from perdure.evidence.limits import SnpLimits, Tcb
from perdure.evidence.measurement import Measurement
from perdure.evidence.policy import Policy, TrustedRoot
from perdure.evidence.roots import Platform
from perdure.evidence.snp.report import Product, Signer

SERIAL_WARNING = "Parsed a serial number which wasn't positive"
START = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
NOW_MS = int((START + 5 * DAY).timestamp() * 1000)
ARC = "1.3.6.1.4.1.3704.1."
CSP_ID = "CN=cloud.example"
SIGNATURE_AT = 0x2A0
REPORT_BYTES = 1184
PARTS = {1: 4, 2: 1, 3: 24, 8: 217, 9: 2}
"""The TCB that everything here has: bootloader, TEE, SNP, microcode and (on Turin) FMC."""
ORDERS = {
    Product.MILAN: (1, 2, 4, 5, 6, 7, 3, 8),
    Product.GENOA: (1, 2, 4, 5, 6, 7, 3, 8),
    Product.TURIN: (9, 1, 2, 3, 5, 6, 7, 8),
}
CPUIDS = {Product.MILAN: b"\x19\x01\x01", Product.GENOA: b"\x19\x11\x01", Product.TURIN: b"\x1a\x02\x01"}
CHIP_IDS = {
    Product.MILAN: bytes(range(1, 65)),
    Product.GENOA: bytes(range(65, 129)),
    Product.TURIN: b"turinid!" + bytes(56),
}
MEASUREMENT, HOST_DATA = b"\x11" * 48, b"\x22" * 32
ID_KEY_DIGEST, AUTHOR_KEY_DIGEST = b"\x33" * 48, b"\x44" * 48
REPORT_DATA, REPORT_ID = bytes(range(64)), bytes(range(100, 132))
LEAF_KEY = ec.derive_private_key(0xABCDEF, ec.SECP384R1())
OTHER_KEY = ec.derive_private_key(0xFEDCBA, ec.SECP384R1())

FIELDS = {
    "version": (0x000, 4),
    "guest_svn": (0x004, 4),
    "policy": (0x008, 8),
    "family_id": (0x010, 16),
    "image_id": (0x020, 16),
    "vmpl": (0x030, 4),
    "signature_algorithm": (0x034, 4),
    "current_tcb": (0x038, 8),
    "platform_info": (0x040, 8),
    "signer_info": (0x048, 4),
    "reserved_4c": (0x04C, 4),
    "report_data": (0x050, 64),
    "measurement": (0x090, 48),
    "host_data": (0x0C0, 32),
    "id_key_digest": (0x0E0, 48),
    "author_key_digest": (0x110, 48),
    "report_id": (0x140, 32),
    "report_id_ma": (0x160, 32),
    "reported_tcb": (0x180, 8),
    "cpuid": (0x188, 3),
    "reserved_18b": (0x18B, 21),
    "chip_id": (0x1A0, 64),
    "committed_tcb": (0x1E0, 8),
    "current_version": (0x1E8, 3),
    "reserved_1eb": (0x1EB, 1),
    "committed_version": (0x1EC, 3),
    "reserved_1ef": (0x1EF, 1),
    "launch_tcb": (0x1F0, 8),
    "launch_mitigations": (0x1F8, 8),
    "current_mitigations": (0x200, 8),
    "reserved_208": (0x208, 152),
}
"""Every byte that is signed, by the specification's table: offset and length."""


@functools.cache
def rsa_key(which: str) -> rsa.RSAPrivateKey:
    """One key for each name and test run. Shorter than AMD's, which takes seconds to make."""
    return rsa.generate_private_key(65537, 2048)


def name(common: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test"), x509.NameAttribute(NameOID.COMMON_NAME, common)]
    )


def usage(*used: str) -> x509.KeyUsage:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    names += ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{one: one in used for one in names})


CA = x509.BasicConstraints(ca=True, path_length=None)
AUTHORITY = ((CA, True), (usage("key_cert_sign", "crl_sign"), True))
PSS = padding.PSS(padding.MGF1(SHA384()), 48)


def certificate(
    subject: str,
    issuer: str,
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
    signed_by: rsa.RSAPrivateKey,
    extensions: tuple[tuple[x509.ExtensionType, bool], ...],
    *,
    start: datetime = START,
    end: datetime = START + 10 * DAY,
    algorithm: HashAlgorithm | None = None,
    scheme: padding.AsymmetricPadding = PSS,
) -> bytes:
    builder = x509.CertificateBuilder(name(issuer), name(subject), key, 1, start, end)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    made = builder.sign(signed_by, algorithm or SHA384(), rsa_padding=scheme)
    return made.public_bytes(serialization.Encoding.DER)


def with_serial_zero(der: bytes, signed_by: rsa.RSAPrivateKey) -> bytes:
    """The same certificate, signed anew, with a serial number that no library makes but AMD does."""
    before = x509.load_der_x509_certificate(der).tbs_certificate_bytes
    tbs = before.replace(b"\x02\x01\x01", b"\x02\x01\x00", 1)
    signature = signed_by.sign(tbs, PSS, SHA384())
    return der[: -len(signature)].replace(before, tbs) + signature


def ark(product: Product, key: str = "ark", **options: object) -> bytes:
    common = f"ARK-{product}"
    return certificate(common, common, rsa_key(key).public_key(), rsa_key(key), AUTHORITY, **options)


def ask(product: Product, signer: Signer = Signer.VCEK, key: str = "ask", by: str = "ark", **options: object) -> bytes:
    common = f"SEV-{product}" if signer is Signer.VCEK else f"SEV-VLEK-{product}"
    options.setdefault("extensions", AUTHORITY)
    public = options.pop("public", rsa_key(key).public_key())
    return certificate(options.pop("subject", common), f"ARK-{product}", public, rsa_key(by), **options)


def integer(number: int) -> bytes:
    return bytes((2, 1, number)) if number < 0x80 else bytes((2, 2, 0, number))


def text(content: str) -> bytes:
    return bytes((0x16, len(content))) + content.encode()


def arcs(product: Product, signer: Signer, parts: dict[int, int] = PARTS) -> dict[str, bytes]:
    """AMD's extensions of a key's certificate: last numbers of their names, and values."""
    found = {"1": integer(product is Product.TURIN), "2": text(product.value)}
    found |= {f"3.{part}": integer(parts.get(part, 0)) for part in ORDERS[product]}
    if signer is Signer.VCEK:
        return {**found, "4": CHIP_IDS[product][: 8 if product is Product.TURIN else 64]}
    return {**found, "5": text(CSP_ID)}


def leaf(
    product: Product,
    signer: Signer = Signer.VCEK,
    *,
    parts: dict[int, int] = PARTS,
    changes: dict[str, bytes | None] | None = None,
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | None = None,
    by: str = "ask",
    more: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    critical: bool = False,
    subject: str | None = None,
    **options: object,
) -> bytes:
    """A VCEK's or VLEK's certificate; `changes` are of AMD's extensions, None leaves one out."""
    values = {**arcs(product, signer, parts), **(changes or {})}
    extensions = tuple(
        (x509.UnrecognizedExtension(x509.ObjectIdentifier(ARC + arc), value), critical)
        for arc, value in values.items()
        if value is not None
    )
    issuer = f"SEV-{product}" if signer is Signer.VCEK else f"SEV-VLEK-{product}"
    public = LEAF_KEY.public_key() if key is None else key
    made = certificate(subject or f"SEV-{signer.name}", issuer, public, rsa_key(by), (*extensions, *more), **options)
    return made if options.keys() & {"algorithm", "scheme"} else with_serial_zero(made, rsa_key(by))


def tcb(product: Product, parts: dict[int, int] = PARTS) -> bytes:
    return bytes(parts.get(part, 0) for part in ORDERS[product])


def sign(report: bytes, key: ec.EllipticCurvePrivateKey = LEAF_KEY) -> bytes:
    """The report with a good signature over its signed area, and zeros after that."""
    signed = report[:SIGNATURE_AT]
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(SHA384(), deterministic_signing=True)))
    return signed + r.to_bytes(72, "little") + s.to_bytes(72, "little") + bytes(368)


def report(product: Product, signer: Signer = Signer.VCEK, *, version: int = 3, **changes: int | bytes) -> bytes:
    """A well signed report with some fields changed."""
    values: dict[str, int | bytes] = {
        "version": version,
        "policy": 0x30000,
        "signature_algorithm": 1,
        "platform_info": 0x27,
        "signer_info": signer.value << 2,
        "report_data": REPORT_DATA,
        "measurement": MEASUREMENT,
        "host_data": HOST_DATA,
        "id_key_digest": ID_KEY_DIGEST,
        "author_key_digest": AUTHOR_KEY_DIGEST,
        "report_id": REPORT_ID,
        "report_id_ma": b"\xff" * 32,
        "cpuid": CPUIDS[product] if version >= 3 else b"",
        "chip_id": CHIP_IDS[product] if signer is Signer.VCEK else b"",
        "current_version": b"\x1d\x37\x01",
        "committed_version": b"\x1d\x37\x01",
    }
    values |= dict.fromkeys(("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"), tcb(product))
    unsigned = bytearray(REPORT_BYTES)
    for field, value in (values | changes).items():
        at, length = FIELDS[field]
        unsigned[at : at + length] = (
            value.to_bytes(length, "little") if isinstance(value, int) else value.ljust(length, b"\0")
        )
    return sign(bytes(unsigned))


def limits(product: Product = Product.MILAN, signer: Signer = Signer.VCEK, **changes: object) -> SnpLimits:
    floor = Tcb(PARTS[1], PARTS[2], PARTS[3], PARTS[8], PARTS[9] if product is Product.TURIN else 0)
    values = {"tcb_min": floor, "csp_id": CSP_ID if signer is Signer.VLEK else None, **changes}
    return SnpLimits(**values)


ROOT_NAME = "test-root"


def policy(root: bytes, its_limits: SnpLimits, platform: Platform = Platform.SEV_SNP, **registers: bytes) -> Policy:
    """One that trusts `root`, and under it a program with MEASUREMENT unless `registers` say another."""
    trusted = TrustedRoot(ROOT_NAME, platform, root, its_limits)
    return Policy((trusted,), (Measurement.of(ROOT_NAME, {"measurement": MEASUREMENT, **registers}),))


@dataclass(frozen=True)
class Machine:
    """All that a verifier gets from one good guest."""

    product: Product
    signer: Signer
    report: bytes
    hints: tuple[bytes, ...]
    root: bytes


@functools.cache
def machine(product: Product = Product.MILAN, signer: Signer = Signer.VCEK, version: int = 3) -> Machine:
    hints = (leaf(product, signer), ask(product, signer))
    return Machine(product, signer, report(product, signer, version=version), hints, ark(product))
