"""The disk's door to its evidence: the Nitro Security Module, a device, or in simulation a socket.

Standard library only. The same CBOR goes through both; on the socket, each way, after its length as u32 big-endian.
Trusts the platform behind the door, as every program in a TEE must; refuses replies of any other form.
"""

import fcntl
import os
import re
from array import array

REPORT_DATA_BYTES = 64
RESPONSE_BYTES_MAX = 12_288
IOCTL_RAW = 0xC0200A00  # _IOWR(0x0A, 0, 32 bytes) of Linux's include/uapi/linux/nsm.h

# {"Attestation": {"user_data": 64 bytes, "nonce": null, "public_key": null}}
_REQUEST_START = b"\xa1\x6bAttestation\xa3\x69user_data\x58\x40"
_REQUEST_END = b"\x65nonce\xf6\x6apublic_key\xf6"
# {"Attestation": {"document": bytes}} and {"Error": name}; maps of definite (a1) or indefinite length (bf ... ff).
_REPLY = re.compile(rb"([\xa1\xbf])\x6bAttestation([\xa1\xbf])\x68document(?:\x58(.)|\x59(..))", re.DOTALL)
_ERROR = re.compile(rb"[\xa1\xbf]\x65Error[\x60-\x77]([A-Za-z]{1,23})\xff?")


class NsmDevice:
    """The driver's device at `path`, which serves one call at a time, whoever asks. Raises OSError if there is none."""

    def __init__(self, path: str = "/dev/nsm") -> None:
        self._fd = os.open(path, os.O_RDWR)

    def attest(self, report_data: bytes) -> bytes:
        """As `NsmSocket.attest`. The driver itself gives up, with an OSError, after two minutes."""
        request = array("B", _request(report_data))
        response = array("B", bytes(RESPONSE_BYTES_MAX))  # the longest there is: a longer one would be cut silently
        # Each buffer's address and length. Only the names hold the buffers alive until the call has returned.
        message = array("Q", (*request.buffer_info(), *response.buffer_info()))
        fcntl.ioctl(self._fd, IOCTL_RAW, message)
        length = message[3]
        if length > RESPONSE_BYTES_MAX:
            raise ValueError("the evidence module's reply is too long")
        return document_of(response[:length].tobytes())


class NsmSocket:
    """The evidence socket `fd`. One call at a time: the module behind it serves no two at once."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._replies = open(fd, "rb", closefd=False)  # noqa: SIM115  (open as long as the program runs)

    def attest(self, report_data: bytes) -> bytes:
        """Return a document over these 64 bytes. Raises OSError if the module refuses, ValueError if it misspeaks."""
        request = _request(report_data)
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


def _request(report_data: bytes) -> bytes:
    if len(report_data) != REPORT_DATA_BYTES:
        raise ValueError("report data has 64 bytes")
    return _REQUEST_START + report_data + _REQUEST_END


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
