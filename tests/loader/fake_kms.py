"""A KMS that does what AWS's documentation says of kms:Decrypt with a Recipient, with the real OpenSSL for its CMS.

Sources: AWS KMS developer guide, "Cryptographic attestation for AWS Nitro Enclaves" and "Condition keys for attested
platforms"; API reference of Decrypt and RecipientInfo; names of errors from the same. KMS itself was never asked.
"""

import hashlib
import json
import shutil
import subprocess
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.x509.oid import NameOID

from perdure.errors import BadEvidence
from perdure.evidence.nitro import verifier

OAEP = ("rsa_padding_mode:oaep", "rsa_oaep_md:sha256", "rsa_mgf1_md:sha256")
KEY_ID = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="OpenSSL's program is not here")


def certificate_for(public_key):
    """What OpenSSL wants to know of a recipient: a certificate, by whomever, with a key identifier as long as KMS's."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "recipient")])
    day = datetime(2026, 1, 1, tzinfo=UTC)
    key = load_der_public_key(public_key)
    builder = x509.CertificateBuilder(name, name, key, 1, day, day + timedelta(days=36_500))
    identifier = x509.SubjectKeyIdentifier(hashlib.sha256(public_key).digest())
    builder = builder.add_extension(identifier, critical=False)
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), SHA256()).public_bytes(Encoding.PEM)


def encrypt(folder, public_key, plaintext, *words, cipher="-aes256", options=OAEP, keyid=("-keyid",)):
    """`openssl cms -encrypt` to this key, in DER, or in BER of indefinite lengths with the word `-stream`."""
    (folder / "recipient.pem").write_bytes(certificate_for(public_key))
    options = [word for option in options for word in ("-keyopt", option)]
    command = ["openssl", "cms", "-encrypt", "-binary", "-outform", "DER", cipher, *words]
    command += ["-recip", str(folder / "recipient.pem"), *keyid, *options]
    return subprocess.run(command, input=plaintext, check=True, capture_output=True, timeout=30).stdout


@dataclass
class FakeKms:
    """Keeps secrets under a key whose policy allows kms:Decrypt to `pcrs` alone; `policy` says which roots are AWS's.

    It has to name every measurement that a test uses: KMS itself believes any genuine document.
    """

    folder: object
    policy: object
    pcrs: dict
    now_ms: int
    words: tuple = ()
    secrets: dict = field(default_factory=dict)
    asked: list = field(default_factory=list)

    def store(self, secret):
        """kms:Encrypt: a ciphertext blob for the secret."""
        blob = hashlib.sha256(b"blob" + secret).digest() * 4
        self.secrets[blob] = secret
        return blob

    def send(self, target, body):
        """kms:Decrypt, over whatever transport."""
        self.asked.append((target, body))
        request = json.loads(body)
        if target != "TrentService.Decrypt":
            return self.refusal("UnknownOperationException")
        if (secret := self.secrets.get(b64decode(request["CiphertextBlob"]))) is None:
            return self.refusal("InvalidCiphertextException")
        if request["KeyId"] != KEY_ID:
            return self.refusal("IncorrectKeyException")
        if request["Recipient"]["KeyEncryptionAlgorithm"] != "RSAES_OAEP_SHA_256":
            return self.refusal("ValidationException")
        return self.answer(secret, b64decode(request["Recipient"]["AttestationDocument"]))

    def answer(self, secret, document):
        try:
            verified = verifier.verify(document, policy=self.policy, at_ms=self.now_ms)
        except BadEvidence:
            return self.refusal("ValidationException")
        if any(verified.measurement[name] != value for name, value in self.pcrs.items()):
            return self.refusal("AccessDeniedException")
        message = encrypt(self.folder, verified.public_key, secret, *self.words)
        return answer_of(message)

    @staticmethod
    def refusal(name):
        return json.dumps({"__type": name, "message": "refused"}).encode()


def answer_of(message):
    """KMS's answer around a CMS message; `Plaintext` is empty beside it."""
    fields = {"CiphertextForRecipient": b64encode(message).decode(), "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}
    return json.dumps({**fields, "KeyId": KEY_ID, "Plaintext": ""}).encode()
