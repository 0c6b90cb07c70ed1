"""A maker of processors, in small: quotes and collateral in Intel's formats, under a root of the tests' own."""

from __future__ import annotations

import functools
import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from perdure.evidence.limits import TDX_STATUSES, TdxLimits
from perdure.evidence.measurement import Measurement
from perdure.evidence.policy import Policy, TrustedRoot
from perdure.evidence.roots import Platform
from perdure.evidence.tdx import verifier

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
DAY = timedelta(days=1)
DAY_MS = 86_400_000
FMSPC = bytes.fromhex("90c06f000000")
PCE_ID = bytes(2)
SEPT_VE_DISABLE = 1 << 28
QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
QE_MRSIGNER = hashlib.sha256(b"the maker's enclaves").digest()
QE_ATTRIBUTES = bytes.fromhex("1500000000000000e700000000000000")
REPORT_DATA = bytes(range(64))
REGISTERS = {
    name: hashlib.sha384(name.encode()).digest()
    for name in ("mrtd", "mrconfigid", "mrowner", "mrownerconfig", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
}
CPU_SVN = bytes((3, 3, 2, 2, 4, 1, 0, 5)) + bytes(8)
PCE_SVN = 11
TEE_TCB_SVN = bytes((6, 1, 3)) + bytes(13)
ROOT_NAME, PLATFORM_CA, PROCESSOR_CA = "Intel SGX Root CA", "Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA"
PCK, TCB_SIGNING = "Intel SGX PCK Certificate", "Intel SGX TCB Signing"
SGX_EXTENSION = "1.2.840.113741.1.13.1"
SIGN_CERTIFICATES = {"key_cert_sign": True, "crl_sign": True}
SIGN_DOCUMENTS = {"digital_signature": True, "content_commitment": True}


def der(tag: int, *contents: bytes) -> bytes:
    content = b"".join(contents)
    length = len(content)
    head = bytes([length]) if length < 128 else bytes([0x82]) + length.to_bytes(2, "big")
    return bytes([tag]) + head + content


def oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    out = bytes([first * 40 + second])
    for arc in rest:
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(arc & 0x7F | 0x80)
        out += bytes(groups[::-1])
    return der(6, out)


def number(value: int) -> bytes:
    return der(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def sgx_extension(*, fmspc: bytes = FMSPC, pce_id: bytes = PCE_ID, ppid: bytes = b"\x11" * 16) -> bytes:
    """As in Intel's "PCK Certificate and CRL Profile"."""

    def item(arc: str, value: bytes) -> bytes:
        return der(0x30, oid(f"{SGX_EXTENSION}.{arc}"), value)

    svns = [item(f"2.{index}", number(svn)) for index, svn in enumerate(CPU_SVN, 1)]
    tcb = der(0x30, *svns, item("2.17", number(PCE_SVN)), item("2.18", der(4, CPU_SVN)))
    configuration = der(0x30, *(item(f"7.{index}", der(1, b"\xff")) for index in (1, 2, 3)))
    return der(
        0x30,
        item("1", der(4, ppid)),
        item("2", tcb),
        item("3", der(4, pce_id)),
        item("4", der(4, fmspc)),
        item("5", der(10, b"\x01")),
        item("6", der(4, b"\x22" * 16)),
        item("7", configuration),
    )


@functools.cache
def key(name: str, curve: type[ec.EllipticCurve] = ec.SECP256R1) -> ec.EllipticCurvePrivateKey:
    """The same key for the same name; of the tests, and secret from nobody."""
    return ec.derive_private_key(int.from_bytes(hashlib.sha256(name.encode()).digest(), "big") >> 8, curve())


def raw_signature(signer: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    r, s = decode_dss_signature(signer.sign(data, ec.ECDSA(SHA256(), deterministic_signing=True)))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def point(of: ec.EllipticCurvePrivateKey) -> bytes:
    return of.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


def name(common: str) -> x509.Name:
    attributes = ((NameOID.COMMON_NAME, common), (NameOID.ORGANIZATION_NAME, "Intel Corporation"))
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in attributes])


@dataclass(frozen=True)
class Holder:
    """A certificate and its key."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)


def certify(
    common: str,
    issuer: Holder | None = None,
    *,
    seed: str = "",
    path_length: int | None = None,
    ca: bool = False,
    usage: dict[str, bool] | None = None,
    not_before: datetime = NOW - 100 * DAY,
    not_after: datetime = NOW + 1000 * DAY,
    extension: bytes | None = None,
    curve: type[ec.EllipticCurve] = ec.SECP256R1,
    serial: int | None = None,
) -> Holder:
    own = key(seed or common, curve)
    by = issuer.key if issuer else own
    flags = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    flags += ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    uses = usage if usage is not None else SIGN_CERTIFICATES if ca else SIGN_DOCUMENTS
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(common))
        .issuer_name(issuer.certificate.subject if issuer else name(common))
        .public_key(own.public_key())
        .serial_number(serial or int.from_bytes(hashlib.sha256(f"{common}/{seed}".encode()).digest()[:16], "big"))
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca, path_length), True)
        .add_extension(x509.KeyUsage(**{flag: uses.get(flag, False) for flag in flags}), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), False)
    )
    if extension is not None:
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier(SGX_EXTENSION), extension)
        builder = builder.add_extension(unknown, False)
    return Holder(own, builder.sign(by, SHA256(), ecdsa_deterministic=True))


def revocation_list(
    issuer: Holder,
    revoked: Sequence[Holder] = (),
    *,
    signer: Holder | None = None,
    not_before: datetime = NOW - DAY,
    not_after: datetime = NOW + 29 * DAY,
) -> bytes:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(not_before)
        .next_update(not_after)
        .add_extension(x509.CRLNumber(1), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), False)
    )
    for one in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(one.certificate.serial_number)
        builder = builder.add_revoked_certificate(entry.revocation_date(not_before).build())
    signed = builder.sign((signer or issuer).key, SHA256(), ecdsa_deterministic=True)
    return signed.public_bytes(Encoding.DER)


ROOT = certify(ROOT_NAME, ca=True, path_length=1)
OTHER_ROOT = certify(ROOT_NAME, seed="other root", ca=True, path_length=1)
PLATFORM = certify(PLATFORM_CA, ROOT, ca=True, path_length=0)
PROCESSOR = certify(PROCESSOR_CA, ROOT, ca=True, path_length=0)
LEAF = certify(PCK, PLATFORM, extension=sgx_extension())
SIGNER = certify(TCB_SIGNING, ROOT)
ATTESTATION_KEY = key("attestation key")


@dataclass(frozen=True)
class Machine:
    """All that goes into a quote; `replace` one piece to have a machine that is wrong in it."""

    version: int = 4
    body_type: int = 2
    registers: dict[str, bytes] = field(default_factory=lambda: dict(REGISTERS))
    report_data: bytes = REPORT_DATA
    td_attributes: int = SEPT_VE_DISABLE
    tee_tcb_svn: bytes = TEE_TCB_SVN
    tee_tcb_svn2: bytes = TEE_TCB_SVN
    mrsignerseam: bytes = bytes(48)
    service_td: bytes = bytes(48)
    key_type: int = 2
    tee_type: int = 0x81
    vendor: bytes = QE_VENDOR
    body_length: int | None = None
    qe_mrsigner: bytes = QE_MRSIGNER
    qe_attributes: bytes = QE_ATTRIBUTES
    qe_misc_select: int = 0
    qe_product: int = 2
    qe_svn: int = 6
    qe_report_data: bytes | None = None
    auth_data: bytes = bytes(range(32))
    attestation_key: ec.EllipticCurvePrivateKey = ATTESTATION_KEY
    attestation_point: bytes | None = None
    quote_signer: ec.EllipticCurvePrivateKey = ATTESTATION_KEY
    qe_signer: ec.EllipticCurvePrivateKey | None = None
    chain: tuple[Holder, ...] = (LEAF, PLATFORM, ROOT)
    pem: bytes | None = None
    outer_type: int = 6
    inner_type: int = 5
    tail: bytes = b""

    def body(self) -> bytes:
        r = self.registers
        body = b"".join(
            (
                self.tee_tcb_svn + b"\x33" * 48 + self.mrsignerseam + bytes(8),
                struct.pack("<QQ", self.td_attributes, 0x602E7),
                r["mrtd"] + r["mrconfigid"] + r["mrowner"] + r["mrownerconfig"],
                r["rtmr0"] + r["rtmr1"] + r["rtmr2"] + r["rtmr3"] + self.report_data,
            )
        )
        return body if self.body_type == 2 else body + self.tee_tcb_svn2 + self.service_td

    def qe_report(self) -> bytes:
        where = self.attestation_point or point(self.attestation_key)
        bound = hashlib.sha256(where + self.auth_data).digest() + bytes(32)
        return struct.pack(
            "<16sI28x16s32s32x32s96xHH60x64s",
            CPU_SVN,
            self.qe_misc_select,
            self.qe_attributes,
            b"\x44" * 32,
            self.qe_mrsigner,
            self.qe_product,
            self.qe_svn,
            self.qe_report_data or bound,
        )

    def quote(self) -> bytes:
        body = self.body()
        head = struct.pack("<HHIHH16s20x", self.version, self.key_type, self.tee_type, 0, 0, self.vendor)
        if self.version == 5:
            head += struct.pack("<HI", self.body_type, len(body) if self.body_length is None else self.body_length)
        signed, report = head + body, self.qe_report()
        pem = b"".join(one.pem for one in self.chain) + b"\0" if self.pem is None else self.pem
        certified = b"".join(
            (
                report + raw_signature(self.qe_signer or self.chain[0].key, report),
                struct.pack("<H", len(self.auth_data)) + self.auth_data,
                struct.pack("<HI", self.inner_type, len(pem)) + pem,
            )
        )
        data = b"".join(
            (
                raw_signature(self.quote_signer, signed) + (self.attestation_point or point(self.attestation_key)),
                struct.pack("<HI", self.outer_type, len(certified)) + certified,
            )
        )
        return signed + struct.pack("<I", len(data)) + data + self.tail


V4 = Machine()
V5_TD10 = Machine(version=5)
V5_TD15 = Machine(version=5, body_type=3)


def stamp(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def level(status: str, cpu: bytes = CPU_SVN, tdx: bytes = TEE_TCB_SVN, pce: int = PCE_SVN) -> dict[str, Any]:
    tcb = {
        "sgxtcbcomponents": [{"svn": svn} for svn in cpu],
        "pcesvn": pce,
        "tdxtcbcomponents": [{"svn": svn} for svn in tdx],
    }
    return {"tcb": tcb, "tcbDate": "2025-01-01T00:00:00Z", "tcbStatus": status}


def svn_level(status: str, svn: int) -> dict[str, Any]:
    return {"tcb": {"isvsvn": svn}, "tcbDate": "2025-01-01T00:00:00Z", "tcbStatus": status}


@dataclass(frozen=True)
class Maker:
    """All that goes into a text of collateral; `tcb` and `qe` replace fields of the statements before they are signed.

    `altered` replaces values of the finished text.
    """

    root: Holder = ROOT
    issuer: Holder = PLATFORM
    signer: Holder = SIGNER
    qe_signer: Holder | None = None
    fmspc: bytes = FMSPC
    not_before: datetime = NOW - DAY
    not_after: datetime = NOW + 29 * DAY
    status: str = "UpToDate"
    module_status: str = "UpToDate"
    qe_status: str = "UpToDate"
    tcb: dict[str, Any] = field(default_factory=dict)
    qe: dict[str, Any] = field(default_factory=dict)
    root_crl: bytes | None = None
    pck_crl: bytes | None = None
    altered: dict[str, Any] = field(default_factory=dict)

    def tcb_info(self) -> dict[str, Any]:
        plain = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
        return {
            "id": "TDX",
            "version": 3,
            "issueDate": stamp(self.not_before),
            "nextUpdate": stamp(self.not_after),
            "fmspc": self.fmspc.hex().upper(),
            "pceId": PCE_ID.hex(),
            "tcbType": 0,
            "tcbEvaluationDataNumber": 18,
            "tdxModule": plain,
            "tdxModuleIdentities": [{"id": "TDX_01", **plain, "tcbLevels": [svn_level(self.module_status, 5)]}],
            "tcbLevels": [level(self.status)],
            **self.tcb,
        }

    def identity(self) -> dict[str, Any]:
        return {
            "id": "TD_QE",
            "version": 2,
            "issueDate": stamp(self.not_before),
            "nextUpdate": stamp(self.not_after),
            "tcbEvaluationDataNumber": 18,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": QE_MRSIGNER.hex().upper(),
            "isvprodid": 2,
            "tcbLevels": [svn_level(self.qe_status, 4)],
            **self.qe,
        }

    def text(self) -> str:
        tcb, qe = (json.dumps(one, separators=(",", ":")) for one in (self.tcb_info(), self.identity()))
        qe_signer = self.qe_signer or self.signer
        window = {"not_before": self.not_before, "not_after": self.not_after}
        root_crl = revocation_list(self.root, **window) if self.root_crl is None else self.root_crl
        pck_crl = revocation_list(self.issuer, **window) if self.pck_crl is None else self.pck_crl
        return json.dumps(
            {
                "pck_crl_issuer_chain": (self.issuer.pem + self.root.pem).decode(),
                "root_ca_crl": root_crl.hex(),
                "pck_crl": pck_crl.hex(),
                "tcb_info_issuer_chain": (self.signer.pem + self.root.pem).decode(),
                "tcb_info": tcb,
                "tcb_info_signature": raw_signature(self.signer.key, tcb.encode()).hex(),
                "qe_identity_issuer_chain": (qe_signer.pem + self.root.pem).decode(),
                "qe_identity": qe,
                "qe_identity_signature": raw_signature(qe_signer.key, qe.encode()).hex(),
                **self.altered,
            }
        )


MAKER = Maker()
MEASUREMENT = Measurement.of("test-tdx", {one: REGISTERS[one] for one in ("mrtd", "rtmr0", "rtmr1", "rtmr2")})


def policy(*statuses: str, root: Holder = ROOT, measurement: Measurement = MEASUREMENT) -> Policy:
    limits = TdxLimits(statuses or ("UpToDate",))
    return Policy((TrustedRoot("test-tdx", Platform.TDX, root.der, limits),), (measurement,))


POLICY = policy()
TOLERANT = policy(*TDX_STATUSES)


def verify(machine: Machine = V4, *makers: Maker, at_ms: int = NOW_MS, under: Policy = POLICY):
    texts = [maker.text() for maker in makers or (MAKER,)]
    return verifier.verify(machine.quote(), texts, policy=under, at_ms=at_ms)
