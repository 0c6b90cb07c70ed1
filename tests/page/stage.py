"""The page's real server, showing statuses that a test makes: for states and texts that no simulated host produces."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from perdure.service.status import ArrayStatus
from perdure.service.telling import http
from perdure.service.telling.events import Event
from perdure.service.telling.views import Views


@dataclass
class Stage:
    """What is shown from now on."""

    status: ArrayStatus
    events: Sequence[Event] = field(default_factory=tuple)
    url: str = ""

    def since(self, number: int) -> list[Event]:
        """Those after it."""
        return [event for event in self.events if event.number > number]


@contextlib.contextmanager
def staged(status: ArrayStatus) -> Iterator[Stage]:
    """Serve it, in a thread of its own, until the block ends."""
    stage, ready, loop = Stage(status), threading.Event(), asyncio.new_event_loop()
    stopping = asyncio.Event()

    async def serve() -> None:
        server = await http.listen("127.0.0.1:0", Views(lambda: stage.status, stage.since))
        stage.url = server.url
        ready.set()
        await stopping.wait()
        await server.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(20)
        yield stage
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join(20)
        loop.close()
