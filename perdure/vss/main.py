"""The VSS server as a program: one database, one event loop, until a signal ends it.

When the database ends while it runs (fenced, too few disks, a fork), the server stays: every request is answered with
INTERNAL_SERVER, and the log says why. It never mounts again by itself: that is a decision for whoever runs it.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from typing import Final

from perdure.kv.database import Database
from perdure.vss import objects
from perdure.vss.auth import Authorizer, nobody
from perdure.vss.http import listen
from perdure.vss.turns import Turns

DATABASE: Final = "vss.db"
"""Its name in a volume."""

logger = logging.getLogger("perdure")


def run(database: Database, place: str, authorizer: Authorizer, on_ready: Callable[[str], None]) -> int:
    """Serve until SIGTERM or SIGINT; the exit code, which is that of what ended the database. Raises PerdureError.

    `on_ready` is called with the URL when clients can connect.
    """
    database.do(objects.make)
    asyncio.run(_serve(database, place, authorizer, on_ready))
    return 0 if database.failure is None else database.failure.exit_code


async def _serve(database: Database, place: str, authorizer: Authorizer, on_ready: Callable[[str], None]) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    turns = Turns(database)
    try:
        server = await listen(place, turns, authorizer)
        if not database.is_rollback_proof:
            logger.warning("NOT ROLLBACK-PROOF: an ordinary file, in whose place anybody may put yesterday's")
        if authorizer is nobody:
            logger.warning("nobody has to prove who they are: every program on this machine is the same user")
        logger.info("serving %s", server.url)
        on_ready(server.url)
        await stopping.wait()
        await server.close()
    finally:
        await turns.close()
