"""Events posted to a URL, one at a time, in order. Somebody else's server: it may be slow, wrong or gone, and no more.

Posting is done in a thread, by the standard library's client: it is rare, small, and nothing waits for it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

WAITING_MAX: Final = 1000
"""Events that wait for a server which does not answer; then the oldest are dropped, and the log says how many."""
TRIES: Final = 4
FIRST_WAIT_S: Final = 0.5
TIMEOUT_S: Final = 5.0

logger = logging.getLogger("perdure")


class Webhook:
    """One URL."""

    def __init__(self, url: str) -> None:
        self.dropped = 0
        """Events that were given up."""
        self._url = url
        self._waiting: deque[bytes] = deque()
        self._task: asyncio.Task[None] | None = None

    def post(self, value: Mapping[str, Any]) -> None:
        """Have `value` posted as JSON, after what was given before."""
        if len(self._waiting) == WAITING_MAX:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(json.dumps(value).encode())
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        while self._waiting:
            body = self._waiting.popleft()
            if not await self._delivered(body):
                self.dropped += 1
                logger.warning("the webhook did not take an event in %d tries; %d given up so far", TRIES, self.dropped)

    async def _delivered(self, body: bytes) -> bool:
        for attempt in range(TRIES):
            try:
                await asyncio.to_thread(self._send, body)
            except (OSError, ValueError) as error:  # URLError and HTTPError are OSErrors
                logger.info("the webhook did not take an event: %s", error)
                await asyncio.sleep(FIRST_WAIT_S * 2**attempt)
            else:
                return True
        return False

    def _send(self, body: bytes) -> None:
        request = urllib.request.Request(  # noqa: S310  (the configuration takes http and https only)
            self._url, data=body, headers={"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:  # noqa: S310  (as above)
            reply.read(1)

    async def settle(self) -> None:
        """Return when nothing waits any more, or after a few seconds: a main program that stops waits no longer."""
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=TIMEOUT_S)
            self._task.cancel()
