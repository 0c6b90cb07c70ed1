"""The disk's door to its evidence: the Nitro Security Module, over a socket on the simulated platform.

Standard library only. A frame is a u32 big-endian length and that many bytes of the NSM's CBOR, both ways.
Trusts the platform behind the door, as every program in a TEE must; refuses replies of any other form.
"""

import os
import re

REPORT_DATA_BYTES = 64
RESPONSE_BYTES_MAX = 12_288

# {"Attestation": {"user_data": 64 bytes, "nonce": null, "public_key": null}}
_REQUEST_START = b"\xa1\x6bAttestation\xa3\x69user_data\x58\x40"
_REQUEST_END = b"\x65nonce\xf6\x6apublic_key\xf6"
# {"Attestation": {"document": bytes}} and {"Error": name}; maps of definite (a1) or indefinite length (bf ... ff).
_REPLY = re.compile(rb"([\xa1\xbf])\x6bAttestation([\xa1\xbf])\x68document(?:\x58(.)|\x59(..))", re.DOTALL)
_ERROR = re.compile(rb"[\xa1\xbf]\x65Error[\x60-\x77]([A-Za-z]{1,23})\xff?")


class NsmSocket:
    """The evidence socket `fd`. One call at a time: the module behind it serves no two at once."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._replies = open(fd, "rb", closefd=False)  # noqa: SIM115  (open as long as the program runs)

    def attest(self, report_data: bytes) -> bytes:
        """Return a document over these 64 bytes. Raises OSError if the module refuses, ValueError if it misspeaks."""
        if len(report_data) != REPORT_DATA_BYTES:
            raise ValueError("report data has 64 bytes")
        request = _REQUEST_START + report_data + _REQUEST_END
        os.write(self._fd, len(request).to_bytes(4, "big") + request)  # far below any socket buffer: never partial
        length = int.from_bytes(self._read(4), "big")
        if length > RESPONSE_BYTES_MAX:
            raise ValueError("the evidence module's reply is too long")
        return document_of(self._read(length))

    def _read(self, length: int) -> bytes:
        data = self._replies.read(length)
        if len(data) != length:
            raise OSError("the evidence module is gone")
        return data


def document_of(reply: bytes) -> bytes:
    """Return the document inside an NSM reply; raise OSError with the module's refusal, ValueError for other bytes."""
    if error := _ERROR.fullmatch(reply):
        raise OSError(f"the evidence module refuses: {error[1].decode()}")
    if not (match := _REPLY.match(reply)):
        raise ValueError("the evidence module's reply is malformed")
    end = match.end() + int.from_bytes(match[3] or match[4], "big")
    if reply[end:] != b"\xff" * (match[1] + match[2]).count(0xBF) or end > len(reply):
        raise ValueError("the evidence module's reply has a wrong length")
    return reply[match.end() : end]
