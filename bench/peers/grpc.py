"""Just enough gRPC over HTTP/2 (RFC 9113) to call etcd many times at once on one connection, cheaply. A client.

etcd speaks gRPC by itself; its HTTP gateway translates JSON to that and back, which would be measured with it. Here a
request is bytes made beforehand, and of a reply only the message is looked at, so that what is measured is etcd. The
headers of replies are not decoded: a call has succeeded when a message came before its stream ended.
"""

from __future__ import annotations

import socket
from collections import deque
from struct import Struct

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_ACK = END_STREAM = 1
_END_HEADERS = 4
_INITIAL_WINDOW_SETTING = 4
_WINDOW_BYTES = 1 << 30
_GIVE_BACK_BYTES = 1 << 20
_FRAME = Struct(">BHBBI")
"""Length (24 bits, as 8 and 16), type, flags, stream: 9 bytes."""
_MESSAGE = Struct(">BI")
"""Before each gRPC message: not compressed, its length."""
_SETTING = Struct(">HI")
_U32 = Struct(">I")


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One HTTP/2 frame."""
    return _FRAME.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


def field(number: int, value: bytes) -> bytes:
    """One field of bytes of a protobuf message."""
    return bytes([number << 3 | 2]) + varint(len(value)) + value


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def headers(path: str) -> bytes:
    """The header block of a call, HPACK without Huffman codes or a dynamic table (RFC 7541, 6.1 and 6.2.2)."""

    def text(value: str) -> bytes:
        return bytes([len(value)]) + value.encode()

    method_post, scheme_http = b"\x83", b"\x86"
    path_is, authority_is, content_type_is, new_name = b"\x04", b"\x01", b"\x0f\x10", b"\0"
    return b"".join(
        (
            *(method_post, scheme_http, path_is, text(path), authority_is, text("etcd")),
            *(content_type_is, text("application/grpc"), new_name, text("te"), text("trailers")),
        )
    )


class Connection:
    """One connection, blocking. `call` sends as far as the server's window allows; `next_reply` waits for any reply."""

    def __init__(self, host: str, port: int, timeout_s: float = 30) -> None:
        self._socket = socket.create_connection((host, port), timeout=timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = bytearray()
        self._next_stream = 1
        self._may_send = 65_535  # RFC 9113, 6.9.2
        self._waiting: deque[tuple[bytes, bytes]] = deque()
        self._messages: dict[int, bytearray] = {}
        self._done: deque[tuple[int, bytes]] = deque()
        self._taken_bytes = 0
        window = frame(_WINDOW, 0, 0, _U32.pack(_WINDOW_BYTES))
        settings = frame(_SETTINGS, 0, 0, _SETTING.pack(_INITIAL_WINDOW_SETTING, _WINDOW_BYTES))
        self._socket.sendall(_PREFACE + settings + window)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def call(self, header_block: bytes, message: bytes) -> int:
        """Begin a call; its number, which comes back with the reply. A message has at most 16,379 bytes."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        opening = frame(_HEADERS, _END_HEADERS, stream, header_block)
        data = frame(_DATA, END_STREAM, stream, _MESSAGE.pack(0, len(message)) + message)
        self._messages[stream] = bytearray()
        self._waiting.append((opening, data))
        self._send()
        return stream

    def next_reply(self) -> tuple[int, bytes]:
        """The number and the message of the next call that ends. Raises RuntimeError for one that failed."""
        while not self._done:
            self._receive()
        stream, message = self._done.popleft()
        if len(message) < _MESSAGE.size:
            raise RuntimeError("the server refused a call")
        return stream, message[_MESSAGE.size :]

    def _send(self) -> None:
        parts = []
        while self._waiting and len(self._waiting[0][1]) - _FRAME.size <= self._may_send:
            opening, data = self._waiting.popleft()
            self._may_send -= len(data) - _FRAME.size
            parts += [opening, data]
        if parts:
            self._socket.sendall(b"".join(parts))

    def _receive(self) -> None:
        data = self._socket.recv(1 << 18)
        if not data:
            raise RuntimeError("the server hung up")
        self._received += data
        at = 0
        while len(self._received) >= at + _FRAME.size:
            high, low, kind, flags, stream = _FRAME.unpack_from(self._received, at)
            end = at + _FRAME.size + (high << 16 | low)
            if len(self._received) < end:
                break
            self._take(kind, flags, stream, bytes(self._received[at + _FRAME.size : end]))
            at = end
        del self._received[:at]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA:
            self._messages[stream] += payload
            self._give_back(len(payload))
        elif kind in (_SETTINGS, _PING) and not flags & _ACK:
            self._socket.sendall(frame(kind, _ACK, 0, payload if kind == _PING else b""))
        elif kind == _WINDOW and stream == 0:
            self._may_send += _U32.unpack(payload)[0]
            self._send()
        elif kind == _GOAWAY:
            raise RuntimeError("the server ends the connection")
        if (kind in (_DATA, _HEADERS) and flags & END_STREAM) or kind == _RESET:
            self._done.append((stream, bytes(self._messages.pop(stream))))

    def _give_back(self, count: int) -> None:
        self._taken_bytes += count
        if self._taken_bytes > _GIVE_BACK_BYTES:
            self._socket.sendall(frame(_WINDOW, 0, 0, _U32.pack(self._taken_bytes)))
            self._taken_bytes = 0
