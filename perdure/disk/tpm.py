"""The disk's door to a TPM 2.0: quotes of all PCRs over the report data, signed by the platform's attestation key.

Standard library only. Commands and replies are those of TCG's "TPM 2.0 Library", parts 2 and 3; all integers are
big-endian. The key and its certificate are where Azure's confidential VMs have them. Trusts the platform behind the
door, as every program in a TEE must; refuses replies of any other form.
"""

import hashlib
import os
import struct
import time

REPORT_DATA_BYTES = 64
QUALIFYING_DATA_BYTES = 32  # the start of the report data: no TPM takes all 64
ATTESTATION_KEY = 0x81000003
CERTIFICATE_INDEX = 0x01C101D0
OWNER = 0x40000001
REPLY_BYTES_MAX = 4096
NV_PIECE_BYTES = 512  # every TPM for PCs reads as many at once
QUOTES_MAX = 4
PAUSES_S = (0.02, 0.1, 0.5, 1.0)  # before each time that a command is sent again

NO_SESSIONS, SESSIONS = 0x8001, 0x8002
HEADER = struct.Struct(">HII")  # tag, size of all, command or response code
EMPTY_PASSWORD = bytes.fromhex("00000009 40000009 0000 00 0000")  # size; the session TPM_RS_PW, nonce, flags, password
SHA256_BANK = bytes.fromhex("00000001 000b 03")  # one selection; of SHA-256; three bytes with one bit for each PCR
_PCR_READ, _QUOTE, _NV_READ, _NV_READ_PUBLIC = 0x17E, 0x158, 0x14E, 0x169
_PCR_VALUES = struct.Struct(">I10sI" + "H32s" * 8)  # update counter, selection, count, then length and value of each
_KEYS_OWN_SCHEME = b"\x00\x10"
_NV_AUTHREAD = 1 << 18
_AGAIN = {0x908, 0x90A, 0x922}  # TPM_RC_YIELDED, TESTING, RETRY
_NO_CERTIFICATE = {0x18B, 0x14A}  # TPM_RC_HANDLE of the first handle: no such index; NV_UNINITIALIZED: never written


class Tpm:
    """The TPM behind `fd`: a resource manager's device, or a stream socket that carries commands and replies alone.

    One call at a time. Reads the key's certificate at once; raises OSError and ValueError as `attest` does.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        try:
            self._certificate = self._read_certificate()
        except OSError as refusal:
            if refusal.errno not in _NO_CERTIFICATE:
                raise
            self._certificate = b""

    def attest(self, report_data: bytes) -> bytes:
        """Return "PTPM" and, each after its u32 length: TPMS_ATTEST, TPMT_SIGNATURE, PCR values 0-23, certificate.

        The quote is over the first 32 of these 64 bytes; the certificate is empty if the TPM holds none. Raises OSError
        if the TPM refuses (`errno` is its response code) or its PCRs never hold still, ValueError if it misspeaks.
        """
        _require(len(report_data) == REPORT_DATA_BYTES, "report data has 64 bytes")
        data = QUALIFYING_DATA_BYTES.to_bytes(2, "big") + report_data[:QUALIFYING_DATA_BYTES]
        quote = data + _KEYS_OWN_SCHEME + SHA256_BANK + b"\xff\xff\xff"
        for _ in range(QUOTES_MAX):
            pcrs = b"".join(self._pcrs(eight) for eight in (b"\xff\0\0", b"\0\xff\0", b"\0\0\xff"))
            attest, signature = _sized(self._authorised(_QUOTE, (ATTESTATION_KEY,), quote))
            # It ends with the PCRs' digest by the key's hash; by none of them, a PCR has changed in between.
            if any(attest.endswith(by(pcrs).digest()) for by in (hashlib.sha256, hashlib.sha384, hashlib.sha512)):
                parts = (attest, signature, pcrs, self._certificate)
                return b"PTPM" + b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        raise OSError("the TPM's PCRs do not hold still")

    def _pcrs(self, eight: bytes) -> bytes:
        """The values of eight PCRs; a TPM gives no more at once."""
        reply = exchange(self._fd, NO_SESSIONS, _PCR_READ, SHA256_BANK + eight)
        _require(len(reply) == _PCR_VALUES.size, "the TPM does not give its PCRs of SHA-256")
        _, *given = _PCR_VALUES.unpack(reply)
        _require((*given[:2], *given[2::2]) == (SHA256_BANK + eight, 8, *[32] * 8), "the TPM gives other PCRs")
        return b"".join(given[3::2])

    def _read_certificate(self) -> bytes:
        public, _ = _sized(exchange(self._fd, NO_SESSIONS, _NV_READ_PUBLIC, CERTIFICATE_INDEX.to_bytes(4, "big")))
        # u32 index, u16 algorithm of its name, u32 attributes, sized policy, u16 size of the data
        _require(len(public) == 14 + int.from_bytes(public[10:12], "big"), "the certificate's index is malformed")
        own = int.from_bytes(public[6:10], "big") & _NV_AUTHREAD
        handles = (CERTIFICATE_INDEX if own else OWNER, CERTIFICATE_INDEX)
        size, data = int.from_bytes(public[-2:], "big"), b""
        while len(data) < size:
            wanted = min(size - len(data), NV_PIECE_BYTES)
            piece, rest = _sized(self._authorised(_NV_READ, handles, struct.pack(">HH", wanted, len(data))))
            _require(len(piece) == wanted and not rest, "the TPM gives another part of the certificate")
            data += piece
        end = 4 + int.from_bytes(data[2:4], "big")
        _require(data[:2] == b"\x30\x82" and end <= size, "the TPM holds no whole certificate")
        return data[:end]  # the rest is padding

    def _authorised(self, command: int, handles: tuple[int, ...], parameters: bytes) -> bytes:
        """Execute a command under an empty password; return the parameters of its reply."""
        body = b"".join(handle.to_bytes(4, "big") for handle in handles) + EMPTY_PASSWORD + parameters
        reply = exchange(self._fd, SESSIONS, command, body)
        end = 4 + int.from_bytes(reply[:4], "big")
        _require(len(reply) == end + 5, "the TPM's reply has a wrong length")  # the session: nonce, flags, HMAC
        return reply[4:end]


def exchange(fd: int, tag: int, command: int, body: bytes) -> bytes:
    """Send a command, again if the TPM asks for that; return its reply without the header. Raises as `attest` does."""
    pauses_s = list(PAUSES_S)
    while True:
        os.write(fd, HEADER.pack(tag, HEADER.size + len(body), command) + body)
        reply = b""
        # A device gives the whole reply at once and forgets what is not taken; a socket may give it in pieces.
        while len(reply) < HEADER.size or len(reply) < HEADER.unpack_from(reply)[1] <= REPLY_BYTES_MAX:
            if not (piece := os.read(fd, REPLY_BYTES_MAX)):
                raise OSError("the TPM is gone")
            reply += piece
        reply_tag, size, code = HEADER.unpack_from(reply)
        good = (tag, len(reply)) if code == 0 else (NO_SESSIONS, HEADER.size)
        _require(size == len(reply) and (reply_tag, size) == good, "the TPM's reply is malformed")
        if code == 0:
            return reply[HEADER.size :]
        if code not in _AGAIN or not pauses_s:
            raise OSError(code, f"the TPM refuses command {command:#x} with code {code:#x}")
        time.sleep(pauses_s.pop(0))


def _sized(data: bytes) -> tuple[bytes, bytes]:
    """Take apart what starts with its u16 length, and what follows."""
    end = 2 + int.from_bytes(data[:2], "big")
    _require(end <= len(data), "the TPM's reply is cut short")
    return data[2:end], data[end:]


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
