"""Events posted to a URL, one at a time, in order. Somebody else's server: it may be slow, wrong or gone, and no more.

Posting is done by the standard library's client in a thread of its own that the program's end does not wait for: it is
rare, small, and a server that answers a byte at a time must hold up nothing. What is given up is counted and logged.
Redirects are refused: they would turn the post into a question to whatever address the server names.
"""

from __future__ import annotations

import asyncio
import json
import logging
import urllib.request
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from email.message import Message
from threading import Thread
from typing import IO, Any, Final
from urllib.error import HTTPError, URLError

WAITING_MAX: Final = 1000
"""Events that wait for a server which does not answer; then the oldest are given up."""
TRIES: Final = 4
FIRST_WAIT_S: Final = 0.5
TIMEOUT_S: Final = 5.0
"""For one try, as a whole; and how long a main program that stops waits for the rest."""

logger = logging.getLogger("perdure")


class Webhook:
    """One URL."""

    def __init__(self, url: str) -> None:
        self.dropped = 0
        """Events that were given up."""
        self._url = url
        self._waiting: deque[bytes] = deque()
        self._task: asyncio.Task[None] | None = None
        self._thread: Thread | None = None

    def post(self, value: Mapping[str, Any]) -> None:
        """Have `value` posted as JSON, after what was given before."""
        if len(self._waiting) == WAITING_MAX:
            self._waiting.popleft()
            self._give_up(1, f"{WAITING_MAX} wait for it")
        self._waiting.append(json.dumps(value).encode())
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._run())

    def _give_up(self, count: int, why: str) -> None:
        self.dropped += count
        logger.warning("the webhook did not take an event: %s; %d given up so far", why, self.dropped)

    async def _run(self) -> None:
        while self._waiting:
            if not await self._is_delivered(self._waiting.popleft()):
                self._give_up(1, f"{TRIES} tries have failed")

    async def _is_delivered(self, body: bytes) -> bool:
        for attempt in range(TRIES):
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    await self._sent(body)
            except Exception as error:
                logger.info("the webhook did not take an event: %s", _why(error))
                await asyncio.sleep(FIRST_WAIT_S * 2**attempt)
            else:
                return True
        return False

    async def _sent(self, body: bytes) -> None:
        """Return when the server has taken `body`. Raises TimeoutError, and whatever a server can provoke."""
        if self._thread is not None and self._thread.is_alive():
            raise TimeoutError("the last try is still under way")
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[None] = loop.create_future()

        def work() -> None:
            error = _tried(self._url, body)
            with suppress(RuntimeError):  # the program has ended meanwhile
                loop.call_soon_threadsafe(_settled, outcome, error)

        self._thread = Thread(target=work, name="perdure-webhook", daemon=True)
        self._thread.start()
        await outcome

    async def settle(self) -> None:
        """Return when nothing waits any more, or after a few seconds: a main program that stops waits no longer."""
        if self._task is None:
            return
        await asyncio.wait((self._task,), timeout=TIMEOUT_S)
        if not self._task.done():
            self._task.cancel()
            self._give_up(len(self._waiting) + 1, "there was no more time")  # one is under way
            self._waiting.clear()


def _why(error: Exception) -> str:
    """Without a word of the server's, which could be anything, or of the URL, which may have a secret in its path."""
    if isinstance(error, HTTPError):
        return f"HTTP status {error.code}"
    if isinstance(error, URLError) and isinstance(error.reason, Exception):
        error = error.reason
    return type(error).__name__


def _settled(outcome: asyncio.Future[None], error: Exception | None) -> None:
    if outcome.done():
        return
    if error is None:
        outcome.set_result(None)
    else:
        outcome.set_exception(error)


def _tried(url: str, body: bytes) -> Exception | None:
    """Post once; what went wrong. In a thread."""
    request = urllib.request.Request(  # noqa: S310  (the configuration takes http and https only)
        url, data=body, headers={"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_S) as reply:
            reply.read(1)
    except Exception as error:  # whatever a server can provoke in a client is for who waits to judge
        return error
    return None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        del req, fp, code, msg, headers, newurl
