"""What is answered to each path: the page, the status, the events, the metrics, and two probes. It does no I/O.

All of it is for whoever may look at the array: states, addresses, sizes, measurements, latencies, sentences. No key,
no data, no evidence that was not public anyway. Nothing here changes anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

from perdure.service.status import ArrayStatus, DiskState, State
from perdure.service.telling import metrics
from perdure.service.telling.events import Event

PAGE_FILE: Final = "page.html"
NOT_READY: Final = (State.SUSPENDED, State.UNUSABLE, State.FENCED, State.FORKED)
_SINCE: Final = re.compile("since=([0-9]{1,18})")
_SECURITY: Final = (
    ("Cache-Control", "no-store"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
)


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply. `headers` lack those that every reply of a server has."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class Views:
    """The views of one array."""

    status: Callable[[], ArrayStatus]
    events: Callable[[int], Sequence[Event]]
    """Those after a number, oldest first, bounded."""

    def __call__(self, target: str) -> Reply:
        """Answer a request's target."""
        path, _, query = target.partition("?")
        match path:
            case "/":
                return page()
            case "/api/status":
                return _json(self.status().to_json())
            case "/api/events":
                return self._events(query)
            case "/metrics":
                return _reply(200, metrics.render(self.status()), metrics.CONTENT_TYPE)
            case "/healthz":
                return _reply(200, b"the main program turns\n")
            case "/readyz":
                return _ready(self.status())
        return refusal(
            404, "There is nothing here; / is the page, and /metrics, /api/status, /api/events are for programs."
        )

    def _events(self, query: str) -> Reply:
        since = _SINCE.fullmatch(query or "since=0")
        if since is None:
            return refusal(400, "The query is `since=NUMBER`, for the events after that one.")
        return _json({"events": [event.to_json() for event in self.events(int(since[1]))]})


def refusal(status: int, sentence: str) -> Reply:
    """A reply that says why there is no other."""
    more = (("Allow", "GET, HEAD"),) if status == 405 else ()
    reply = _reply(status, f"{sentence}\n".encode())
    return Reply(reply.status, reply.headers + more, reply.body)


def _ready(status: ArrayStatus) -> Reply:
    """200 while what clients ask is carried out; a degraded array serves."""
    is_waiting = sum(disk.state is DiskState.ONLINE for disk in status.disks) < status.k
    if status.state not in NOT_READY and not is_waiting:
        return _reply(200, f"{status.state} {status.summary}\n".encode())
    why = status.action if status.failure is None else status.failure["message"]
    return refusal(503, f"{status.state} {status.summary}: {why}")


def _json(value: Mapping[str, Any]) -> Reply:
    return _reply(200, json.dumps(value).encode(), "application/json")


def _reply(
    status: int, body: bytes, kind: str = "text/plain; charset=utf-8", policy: str = "default-src 'none'"
) -> Reply:
    always = ("Content-Security-Policy", f"{policy}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
    return Reply(status, (("Content-Type", kind), always, *_SECURITY), body)


# The page -------------------------------------------------------------------------------------------------


@cache
def page() -> Reply:
    """The page. A browser runs its own script and style and no others, and lets it ask this server only.

    `trusted-types 'none'` takes from it every way to make markup of text, so what a host wrote stays text.
    """
    body = resources.files("perdure.service.telling").joinpath(PAGE_FILE).read_bytes()
    policy = (
        f"default-src 'none'; script-src {_hash(body, b'script')}; style-src {_hash(body, b'style')}; img-src data:; "
        "connect-src 'self'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return _reply(200, body, "text/html; charset=utf-8", policy)


def _hash(body: bytes, tag: bytes) -> str:
    """The source expression of the page's one element of that name (Content Security Policy 3, section 2.3.1)."""
    (content,) = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), body, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"
