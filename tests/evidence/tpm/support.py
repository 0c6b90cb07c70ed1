"""Quotes to attack: a TPM in a few lines, whose keys and certificates the tests hold."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID

from perdure.evidence.measurement import Measurement
from perdure.evidence.policy import Policy, TrustedRoot
from perdure.evidence.roots import Platform
from perdure.evidence.tpm.verifier import Quote, verify
from tests.evidence.support import COMMITMENT, NOW_MS

NOW = datetime.fromtimestamp(NOW_MS // 1000, UTC)
DAY = timedelta(days=1)
PCRS = {index: hashlib.sha256(b"pcr%d" % index).digest() for index in range(24)}
VALUES = b"".join(PCRS.values())
EXTRA_DATA = COMMITMENT[:32]
HASHES = {0x000B: hashes.SHA256(), 0x000C: hashes.SHA384(), 0x000D: hashes.SHA512()}


def ec_key(seed, curve=None):
    return ec.derive_private_key(int.from_bytes(hashlib.sha256(seed.encode()).digest()) >> 40, curve or ec.SECP256R1())


def rsa_key(bits=2048):
    return rsa.generate_private_key(65537, bits)


def name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)] if text else [])


def usage(**allowed):
    every = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign "
        "crl_sign encipher_only decipher_only"
    )
    return x509.KeyUsage(**{one: allowed.get(one, False) for one in every.split()})


@dataclass(frozen=True)
class Authority:
    """Somebody who has a key and a certificate, and can issue more."""

    key: Any
    certificate: x509.Certificate

    @property
    def der(self):
        return self.certificate.public_bytes(Encoding.DER)

    def issue(self, subject, public_key, extensions=(), *, start=NOW - DAY, end=NOW + DAY):
        """A certificate with `extensions`: (extension, is critical)."""
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(self.certificate.subject if self.certificate else name(subject))
            .public_key(public_key)
            .serial_number(int.from_bytes(hashlib.sha256(subject.encode()).digest()[:8]) + 1)
            .not_valid_before(start)
            .not_valid_after(end)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, hashes.SHA256())

    def authority(self, subject, key=None, *, path_length=None, extensions=None, **validity):
        """An authority below this one."""
        key = key or ec_key(subject)
        extensions = CA_EXTENSIONS(path_length) if extensions is None else extensions
        return Authority(key, self.issue(subject, key.public_key(), extensions, **validity))


def CA_EXTENSIONS(path_length=None, *, ca=True, critical=True, **allowed):
    return (
        (x509.BasicConstraints(ca=ca, path_length=path_length), critical),
        (usage(**allowed) if allowed else usage(key_cert_sign=True, crl_sign=True), critical),
    )


AK_EXTENSIONS = (
    (x509.BasicConstraints(ca=False, path_length=None), True),
    (usage(digital_signature=True), True),
)


def self_signed(subject, key=None, extensions=None, **validity):
    key = key or ec_key(subject)
    extensions = CA_EXTENSIONS() if extensions is None else extensions
    return Authority(key, Authority(key, None).issue(subject, key.public_key(), extensions, **validity))


ROOT = self_signed("TPM root", start=NOW - 9 * DAY, end=NOW + 9 * DAY)
ISSUER = ROOT.authority("TPM issuer", path_length=0, start=NOW - 5 * DAY, end=NOW + 5 * DAY)
AK = ISSUER.authority("AK", extensions=AK_EXTENSIONS)
HINTS = (AK.der, ISSUER.der)


def policy_for(*roots, pcrs=(0, 2, 4, 9), **changed):
    """Allows a machine with these PCRs as in PCRS, but for those that are changed, under each of the roots."""
    registers = {f"pcr{index}": PCRS[index] for index in pcrs} | changed
    trusted = tuple(TrustedRoot(f"root{at}", Platform.TPM, der) for at, der in enumerate(roots))
    return Policy(trusted, tuple(Measurement.of(root.name, registers) for root in trusted))


POLICY = policy_for(ROOT.der)


def sized(data):
    return len(data).to_bytes(2, "big") + data


def number(value, length):
    return value.to_bytes(length, "big")


def selection(indexes, bank=0x000B, length=3):
    bits = sum(1 << index for index in indexes)
    return number(bank, 2) + number(length, 1) + bits.to_bytes(length, "little")


def attest(pcrs=VALUES, *, indexes=range(24), hash_id=0x000B, **changes):
    """A TPMS_ATTEST over `pcrs`, of which each field can be given otherwise."""
    digest = hashlib.new(HASHES[hash_id].name, pcrs).digest()
    fields = {
        "magic": bytes.fromhex("ff544347"),
        "type": bytes.fromhex("8018"),
        "qualified_signer": sized(b"\0\x0b" + b"q" * 32),
        "extra_data": sized(EXTRA_DATA),
        "clock": number(123_456, 8),
        "reset_count": number(7, 4),
        "restart_count": number(3, 4),
        "safe": b"\x01",
        "firmware": number(0x2019102300163636, 8),
        "count": number(1, 4),
        "selection": selection(indexes),
        "pcr_digest": sized(digest),
    }
    assert changes.keys() <= fields.keys()
    return b"".join((fields | changes).values())


def sign(data, key, *, hash_id=0x000B, scheme=None):
    """The TPMT_SIGNATURE of any bytes at all."""
    algorithm = HASHES[hash_id]
    if isinstance(key, ec.EllipticCurvePrivateKey):
        length = (key.key_size + 7) // 8
        values = decode_dss_signature(key.sign(data, ec.ECDSA(algorithm, deterministic_signing=True)))
        return number(0x0018, 2) + number(hash_id, 2) + b"".join(sized(number(value, length)) for value in values)
    is_pss = scheme == 0x0016
    salt = padding.PSS(padding.MGF1(algorithm), padding.PSS.DIGEST_LENGTH)
    signature = key.sign(data, salt if is_pss else padding.PKCS1v15(), algorithm)
    return number(0x0016 if is_pss else 0x0014, 2) + number(hash_id, 2) + sized(signature)


def quote(key=None, *, hash_id=0x000B, scheme=None, indexes=range(24), pcrs=None, **changes):
    """A well signed quote."""
    pcrs = b"".join(PCRS[index] for index in indexes) if pcrs is None else pcrs
    statement = attest(pcrs, indexes=indexes, hash_id=hash_id, **changes)
    return Quote(statement, sign(statement, key or AK.key, hash_id=hash_id, scheme=scheme), pcrs)


def judge(evidence=None, hints=HINTS, *, policy=POLICY, at_ms=NOW_MS):
    return verify(evidence or quote(), hints, policy=policy, at_ms=at_ms)


def private_key(pem):
    return load_pem_private_key(pem, password=None)
