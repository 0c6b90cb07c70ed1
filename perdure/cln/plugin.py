"""The conversation with lightningd: JSON-RPC 2.0 over standard input and output, messages apart by an empty line.

A core: bytes in, bytes out. The hook `db_write` comes before `init`, and lightningd does nothing else until it is
answered. It is answered "continue" when the write is proved, and with an error otherwise, at which lightningd stops
without a commit (`doc/developers-guide/plugin-development/hooks.md` of ElementsProject/lightning).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, Final

from perdure.errors import Misuse, PerdureError

MESSAGE_BYTES_MAX: Final = 64 << 20
_END: Final = b"\n\n"
_READ_BYTES: Final = 1 << 20
_NO_METHOD: Final = -32601
_INVALID: Final = -32602
_FAILED: Final = -32000
_MANIFEST: Final[dict[str, Any]] = {
    "options": [],
    "rpcmethods": [],
    "subscriptions": [],
    "hooks": [{"name": "db_write"}],
    "dynamic": False,  # a plugin that could be stopped would let the node write without it
    "nonnumericids": True,
}

logger = logging.getLogger("perdure")
Write = Callable[[int, Sequence[str]], None]


class Plugin:
    """Answers what lightningd asks; `write` keeps a transaction, as `Replica.write`."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._buffer = b""

    def receive(self, data: bytes) -> bytes:
        """The answers to all requests that are whole now. Raises Misuse for what is not the protocol."""
        *messages, self._buffer = (self._buffer + data).split(_END)
        if len(self._buffer) > MESSAGE_BYTES_MAX:
            raise Misuse(f"lightningd sent more than {MESSAGE_BYTES_MAX} bytes in one message; nothing of it was kept.")
        return b"".join(self._answer(message) for message in messages if message.strip())

    def _answer(self, message: bytes) -> bytes:
        try:
            request = json.loads(message)
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict) or not isinstance(request.get("method"), str):
            raise Misuse("What came is not a request of lightningd; nothing of it was kept.")
        if "id" not in request:
            return b""  # a notification
        reply = {"jsonrpc": "2.0", "id": request["id"], **self._done(request["method"], request.get("params"))}
        return json.dumps(reply).encode() + _END

    def _done(self, method: str, params: object) -> dict[str, Any]:
        match method:
            case "getmanifest":
                return {"result": _MANIFEST}
            case "init":
                return {"result": {}}
            case "db_write":
                return self._db_write(params)
        return {"error": {"code": _NO_METHOD, "message": f"there is no method {method[:40]!r}"}}

    def _db_write(self, params: object) -> dict[str, Any]:
        version, writes = (
            (params.get("data_version"), params.get("writes")) if isinstance(params, dict) else (None, None)
        )
        if type(version) is not int or not isinstance(writes, list) or not all(isinstance(one, str) for one in writes):
            return {"error": {"code": _INVALID, "message": "db_write wants data_version and writes; nothing was kept"}}
        try:
            self._write(version, writes)
        except PerdureError as error:
            logger.critical("THE NODE IS STOPPED: %s", error)
            return {"error": {"code": _FAILED, "message": str(error)}}
        return {"result": {"result": "continue"}}


def run(write: Write, source: BinaryIO, target: BinaryIO) -> None:
    """Answer until lightningd is gone. Raises Misuse."""
    plugin = Plugin(write)
    while data := source.read1(_READ_BYTES):  # type: ignore[attr-defined]
        answers = plugin.receive(data)
        if answers:
            target.write(answers)
            target.flush()
