"""One request: which call it is, for which user, and what is answered. No socket here.

Every failure is an ErrorResponse; what ended the database is told as INTERNAL_SERVER without a word more, as the
public server does, and said in the log.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import apsw

from perdure.errors import Conflict, Misuse, NotAuthorised, PerdureError
from perdure.vss import messages, objects
from perdure.vss.messages import ErrorCode
from perdure.vss.objects import NoSuchKey

PREFIX: Final = "/vss"
_T = TypeVar("_T")
Work = Callable[[apsw.Connection], bytes]
"""What is to be done in a turn of the database; gives the reply's body."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP status, and a message of VSS."""

    status: int
    body: bytes


def work(target: str, user: str, body: bytes) -> Work:
    """What the request `body` to the path `target` asks for. Raises Misuse."""
    match target.removeprefix(PREFIX) if target.startswith(PREFIX) else "":
        case "/getObject":
            get = messages.parse_get(body)
            return lambda connection: messages.got(objects.get(connection, user, get))
        case "/putObjects":
            put = messages.parse_put(body)
            return lambda connection: _empty(objects.put, connection, user, put)
        case "/deleteObject":
            delete = messages.parse_delete(body)
            return lambda connection: _empty(objects.delete, connection, user, delete)
        case "/listKeyVersions":
            wanted = messages.parse_list(body)
            return lambda connection: messages.page(objects.list_keys(connection, user, wanted))
    raise Misuse("There is no such path: what is known is /vss/getObject, putObjects, deleteObject, listKeyVersions.")


def _empty(
    act: Callable[[apsw.Connection, str, _T], None], connection: apsw.Connection, user: str, request: _T
) -> bytes:
    """Do it; a PutObjectResponse and a DeleteObjectResponse have no fields."""
    act(connection, user, request)
    return b""


def refusal(error: PerdureError) -> Reply:
    """How an error is told."""
    match error:
        case Conflict():
            return Reply(409, messages.error(ErrorCode.CONFLICT, str(error)))
        case NoSuchKey():
            return Reply(404, messages.error(ErrorCode.NO_SUCH_KEY, str(error)))
        case NotAuthorised():
            return Reply(401, messages.error(ErrorCode.AUTH, str(error)))
        case Misuse():
            return invalid(400, str(error))
    return failed()


def failed() -> Reply:
    """INTERNAL_SERVER."""
    return Reply(500, messages.error(ErrorCode.INTERNAL_SERVER, "The server failed; try again later."))


def invalid(status: int, sentence: str) -> Reply:
    """INVALID_REQUEST with an HTTP status that says more."""
    return Reply(status, messages.error(ErrorCode.INVALID_REQUEST, sentence))
