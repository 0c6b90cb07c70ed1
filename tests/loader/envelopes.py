"""CMS messages made by hand from RFC 5652, in any form and with anything in them wrong; the opposite of the parser."""

import os

from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256

NULL = b"\x05\0"
ENVELOPED_DATA = bytes.fromhex("06092a864886f70d010703")
DATA = bytes.fromhex("06092a864886f70d010701")
RSAES_OAEP = bytes.fromhex("06092a864886f70d010107")
RSA_PKCS1 = bytes.fromhex("06092a864886f70d010101")
MGF1 = bytes.fromhex("06092a864886f70d010108")
P_SPECIFIED = bytes.fromhex("06092a864886f70d010109")
SHA_1 = bytes.fromhex("06052b0e03021a")
SHA_256 = bytes.fromhex("0609608648016503040201")
AES_256_CBC = bytes.fromhex("060960864801650304012a")
AES_256_GCM = bytes.fromhex("060960864801650304012e")


def der(tag, *parts):
    content = b"".join(parts)
    if len(content) < 128:
        return bytes((tag, len(content))) + content
    digits = len(content).to_bytes(2, "big").lstrip(b"\0")
    return bytes((tag, 128 | len(digits))) + digits + content


def streamed(tag, *parts):
    return bytes((tag, 128)) + b"".join(parts) + b"\0\0"


def padded(plaintext):
    count = 16 - len(plaintext) % 16
    return plaintext + bytes((count,)) * count


def oaep_parameters(digest=SHA_256, mask=SHA_256, null=NULL, label=b""):
    source = [der(0xA2, der(0x30, P_SPECIFIED, der(4, label)))] if label else []
    hash_ = der(0xA0, der(0x30, digest, null))
    return der(0x30, hash_, der(0xA1, der(0x30, MGF1, der(0x30, mask, null))), *source)


class Parts:
    """The pieces of a message to `public`, each of which a test may replace before `message` joins them."""

    def __init__(self, public, block_multiple):
        key, self.iv = os.urandom(32), os.urandom(16)
        encryptor = Cipher(algorithms.AES256(key), modes.CBC(self.iv)).encryptor()
        self.ciphertext = encryptor.update(block_multiple) + encryptor.finalize()
        self.encrypted_key = public.encrypt(key, padding.OAEP(padding.MGF1(SHA256()), SHA256(), None))
        self.kind, self.content_kind = ENVELOPED_DATA, DATA
        self.version = self.recipient_version = 2
        self.recipient = der(0x80, os.urandom(32))
        self.key_algorithm, self.parameters = RSAES_OAEP, oaep_parameters()
        self.content_algorithm = AES_256_CBC
        self.pieces = 1
        self.recipients = 1
        self.after = b""

    def message(self, make=der):
        """`make` is `der`, or `streamed`: indefinite lengths where KMS has them, with 0 pieces but for the content."""
        size = -(-len(self.ciphertext) // max(1, self.pieces))
        pieces = [self.ciphertext[at : at + size] for at in range(0, len(self.ciphertext), size)]
        content = (
            der(0x80, self.ciphertext)
            if make is der or not self.pieces
            else make(0xA0, *(der(4, piece) for piece in pieces))
        )
        version, recipient_version = (der(2, bytes((one,))) for one in (self.version, self.recipient_version))
        key = der(0x30, self.key_algorithm, self.parameters)
        recipient = der(0x30, recipient_version, self.recipient, key, der(4, self.encrypted_key))
        encryption = der(0x30, self.content_algorithm, der(4, self.iv))
        enveloped = make(
            0x30,
            version,
            der(0x31, *[recipient] * self.recipients),
            make(0x30, self.content_kind, encryption, content),
            self.after,
        )
        return make(0x30, self.kind, make(0xA0, enveloped))
