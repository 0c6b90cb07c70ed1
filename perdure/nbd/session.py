"""One NBD client on an asyncio transport: moves bytes between the socket, the protocol core and the backend. Shell.

Requests run at once and are answered as they finish. At most 128 of them and 64 MiB of their data are in flight
per connection; then nothing more is read until some are answered. A client that does not read its replies stops
being read, so at most as much again waits for it. A client that is leaving has ten seconds to read the last of it.

A session can be paused: then it takes nothing more, and once all that it took is answered it can be carried into
another program, which goes on with the same socket. The client sees nothing but the wait.

How work is scheduled: a read nearly always waits for disks, so it gets a task at once, and those that arrived together
start in the same turn of the loop, together. The other requests go to a queue, and one worker task takes them one
after another; before it awaits the backend with others still queued, it asks for a successor. So a backend that takes
writes at once is served by one task per batch, and one that waits gets a task per waiting request, all of them
ordinary tasks in which timeouts and task groups work.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, cast

from perdure.errors import Corrupt, Fenced, Misuse, PerdureError
from perdure.nbd.backend import Backend, Buffer
from perdure.nbd.carried import Carried
from perdure.nbd.events import Close, Flush, Read, Request, Send, Trim, Write, WriteZeroes
from perdure.nbd.handshake import Export
from perdure.nbd.protocol import Connection
from perdure.nbd.wire import PAYLOAD_BYTES_MAX, Error

REQUESTS_IN_FLIGHT_MAX = 128
HELD_BYTES_MAX = 64 << 20
CLIENT_DRAIN_SECONDS_MAX = 10.0  # for the last replies, once a connection is to be closed
# One more request adds at most PAYLOAD_BYTES_MAX, so taking one below this keeps within HELD_BYTES_MAX.
_HELD_BYTES_TO_TAKE = HELD_BYTES_MAX - PAYLOAD_BYTES_MAX
_WRITE_BUFFER_BYTES = 1 << 20  # replies the transport may hold before the client must read some

logger = logging.getLogger(__name__)


class Session(asyncio.BufferedProtocol):
    """Serves `backend` to one client; `on_end(self)` is called once when the socket is closed and all is answered.

    With `carried` it goes on with a client that another program has greeted.
    """

    def __init__(
        self,
        backend: Backend,
        export: Export,
        on_end: Callable[[Session], None],
        carried: Carried | None = None,
    ) -> None:
        self._backend = backend
        self._is_new = carried is None
        self._core = Connection(export) if carried is None else Connection.resumed(export, carried)
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._queue: deque[Request] = deque()
        self._workers: set[asyncio.Task[None]] = set()
        self._successor_asked = False
        self._in_flight = 0
        self._held_bytes = 0
        self._replies: list[Buffer] = []
        self._send_planned = False
        self._reading = True
        self._client_is_slow = False
        self._paused = False
        self._ending = False
        self._connected = True
        self._deadline: asyncio.TimerHandle | None = None

    # What the transport calls -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the client, or go on with what it had sent to another program."""
        if not self._is_new:
            # Before anything more is received: the buffer may be full. A loop starts to read only after this call, so
            # whether it shall is told to it in the next turn.
            self._take_events()
            self._loop.call_soon(self._take_events)
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        if self._is_new:
            self._transport.write(self._core.greeting)
        if self._ending:  # the server began to close between the accept and this call
            self._end_if_idle()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  (the core knows better)
        """Hand out the core's memory, so that nothing is received twice."""
        return self._core.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Take what arrived."""
        self._core.received(nbytes)
        self._take_events()

    def eof_received(self) -> bool:
        """Finish what was asked: a client may close its sending side before it has all replies."""
        self.finish()
        return True

    def pause_writing(self) -> None:
        """Stop taking requests of a client that does not read its replies."""
        self._client_is_slow = True
        self._set_reading(False)

    def resume_writing(self) -> None:
        """Go on once it reads again."""
        self._client_is_slow = False
        self._take_events()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let running requests end; their replies have no reader. A broken client loses nothing of others."""
        if exc is not None:
            logger.info("An NBD client broke its connection: %s", exc)
        if self._deadline is not None:
            self._deadline.cancel()
        self._connected = False
        self._ending = True
        self._end_if_idle()

    # What the server calls --------------------------------------------------------------------------------

    def finish(self) -> None:
        """Take no more requests; close the connection once those taken are answered."""
        self._ending = True
        self._set_reading(False)
        self._end_if_idle()

    def pause(self) -> None:
        """Take no more requests until `resume`; those taken are answered meanwhile."""
        self._paused = True
        self._set_reading(False)

    def resume(self) -> None:
        """Go on after `pause`."""
        self._paused = False
        self._take_events()

    @property
    def is_busy(self) -> bool:
        """Whether something that was asked for is not yet answered, or it begins or ends."""
        is_between = self._transport is None or self._transport.is_closing() or self._ending
        return bool(is_between or self._in_flight or self._replies or self._send_planned)

    @property
    def is_unsent(self) -> bool:
        """Whether answers wait for the client to read."""
        return self._transport is not None and self._transport.get_write_buffer_size() > 0

    def abort(self) -> None:
        """Drop the client, and what it did not read."""
        if self._transport is not None:
            self._transport.abort()

    def carried(self) -> tuple[int, Carried]:
        """A descriptor of the client's socket, the caller's own, and where its connection stands: paused, not busy."""
        assert self._transport is not None
        stands = self._core.carried()
        return os.dup(self._transport.get_extra_info("socket").fileno()), stands

    # Requests in ------------------------------------------------------------------------------------------

    def _take_events(self) -> None:
        """Take events until the core needs more bytes or the limits are reached; read on in the first case only."""
        while not self._is_full():
            event = self._core.next_event()
            if event is None:
                self._set_reading(True)
                break
            if isinstance(event, Send):
                self._reply(event.data)
            elif isinstance(event, Close):
                if event.reason is not None:
                    logger.warning("An NBD client broke the protocol and was disconnected: %s", event.reason)
                self.finish()
            else:
                self._in_flight += 1
                self._held_bytes += _held_bytes(event)
                if isinstance(event, Read):
                    self._start(self._carry_out(event))
                else:
                    self._queue.append(event)
        else:
            self._set_reading(False)
        if self._queue:
            self._ask_successor()

    def _is_full(self) -> bool:
        return (
            self._in_flight >= REQUESTS_IN_FLIGHT_MAX
            or self._held_bytes > _HELD_BYTES_TO_TAKE
            or self._client_is_slow
            or self._paused
            or self._ending
        )

    def _set_reading(self, reading: bool) -> None:
        if reading == self._reading or self._transport is None or self._transport.is_closing():
            return
        self._reading = reading
        if reading:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    # Requests through the backend -------------------------------------------------------------------------

    def _ask_successor(self) -> None:
        if not self._successor_asked:
            self._successor_asked = True
            self._start(self._work())

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._workers.add(task)
        task.add_done_callback(self._workers.discard)

    async def _work(self) -> None:
        self._successor_asked = False
        while self._queue:
            request = self._queue.popleft()
            if self._queue:
                self._ask_successor()
            await self._carry_out(request)

    async def _carry_out(self, request: Request) -> None:
        try:
            await self._serve(request)
        finally:
            self._in_flight -= 1
            self._held_bytes -= _held_bytes(request)
            self._plan_send()

    async def _serve(self, request: Request) -> None:
        """Carry out one request and put its reply in the queue, whatever happens."""
        try:
            if isinstance(request, Read):
                self._reply_data(request, await self._backend.pread(request.offset, request.length))
                return
            await self._change(request)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            logger.exception("The backend cancelled a request by itself: %s", _described(request))
            self._replies.append(self._core.failed(request, Error.EIO, "The request was cancelled."))
        except PerdureError as error:
            logger.warning("NBD request failed: %s: %s", type(error).__name__, error)
            self._replies.append(self._core.failed(request, _error_value(error), str(error)))
        except Exception:
            logger.exception("The backend failed in a way it should not: %s", _described(request))
            self._replies.append(self._core.failed(request, Error.EIO, "The server failed; its log says more."))
        else:
            self._replies.append(self._core.done(request))

    async def _change(self, request: Write | Flush | Trim | WriteZeroes) -> None:
        backend = self._backend
        if isinstance(request, Write):
            await backend.pwrite(request.offset, request.data, fua=request.fua)
        elif isinstance(request, Flush):
            await backend.flush()
        elif isinstance(request, Trim):
            await backend.trim(request.offset, request.length, fua=request.fua)
        else:
            await backend.write_zeroes(request.offset, request.length, fua=request.fua, may_trim=request.may_trim)

    # Replies out ------------------------------------------------------------------------------------------

    def _reply(self, data: bytes) -> None:
        self._replies.append(data)
        self._plan_send()

    def _reply_data(self, request: Read, data: Buffer) -> None:
        if len(data) != request.length:
            raise Corrupt(f"A read of {request.length} bytes came back with {len(data)}; nothing was sent.")
        self._replies += (self._core.data_header(request), data)

    def _plan_send(self) -> None:
        """Send once per turn of the loop: replies that finish together leave together."""
        if not self._send_planned:
            self._send_planned = True
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        self._send_planned = False
        replies, self._replies = self._replies, []
        if self._transport is not None and self._connected and replies:
            self._transport.writelines(replies)
        if self._ending:
            self._end_if_idle()
        elif not self._reading:
            self._take_events()

    def _end_if_idle(self) -> None:
        """Close, or report the end, if nothing is left to do or to say."""
        if self._in_flight or self._replies or self._send_planned:
            return
        if not self._connected:
            self._on_end(self)
        elif self._transport is not None and not self._transport.is_closing():
            self._transport.close()
            self._deadline = self._loop.call_later(CLIENT_DRAIN_SECONDS_MAX, self._transport.abort)


def _held_bytes(request: Request) -> int:
    if isinstance(request, Read):
        return request.length
    if isinstance(request, Write):
        return len(request.data)
    return 0


def _error_value(error: PerdureError) -> Error:
    if isinstance(error, Misuse):
        return Error.EINVAL
    return Error.ESHUTDOWN if isinstance(error, Fenced) else Error.EIO


def _described(request: Request) -> str:
    """Name the request for the log, without the data it carries."""
    where = "" if isinstance(request, Flush) else f" at byte {request.offset}"
    return f"{type(request).__name__}{where}, {_held_bytes(request)} bytes of data"
