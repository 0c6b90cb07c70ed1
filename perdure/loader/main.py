"""The loader's entry: keep to itself, mount memory, listen, and be asked, until the main program's end.

    python -m perdure.loader.main --listen ADDRESS --evidence KIND:WHERE --developers FILE

Everything on the command line is a hint from the host. What the hardware measures is the image: this program, and in a
ramdisk of its own the list of developers who may sign (`developers.json`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Final

from perdure.disk import address
from perdure.disk.main import evidence
from perdure.disk.serve import Platform
from perdure.errors import PerdureError
from perdure.loader import memory
from perdure.loader.loader import Loader
from perdure.loader.talk import LINE_BYTES_MAX, Talk
from perdure.manifest.developers import Developers

CONNECTIONS_MAX: Final = 16
_FORWARDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main() -> None:
    """Serve as a loader; exits with the main program's status."""
    parser = argparse.ArgumentParser(prog="perdure-loader", description="Run what the developers have signed.")
    parser.add_argument("--listen", required=True, metavar="ADDRESS")
    parser.add_argument("--evidence", required=True, metavar="KIND:WHERE")
    parser.add_argument("--developers", required=True, type=Path, metavar="FILE")
    options = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s loader: %(message)s")
    try:
        developers = Developers.from_json(options.developers.read_bytes())
        door = evidence(options.evidence)
        memory.seclude()
        with tempfile.TemporaryDirectory(prefix="perdure-loader-") as place:
            status = _in_memory(Path(place), options.listen, developers, door)
    except (PerdureError, OSError, ValueError) as error:
        sys.exit(f"the loader cannot start: {error}")
    sys.exit(status)


def _in_memory(place: Path, listen: str, developers: Developers, door: Platform) -> int:
    memory.mount_memory(place)
    try:
        listener, where = address.listen(listen)
        return asyncio.run(_serve(listener, where, developers, door, place))
    finally:
        memory.wipe_all(place)
        memory.unmount(place)


async def _serve(listener: socket.socket, where: str, developers: Developers, door: Platform, place: Path) -> int:
    loader = Loader(door, developers, place)
    talking: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talking.add(task)
        task.add_done_callback(talking.discard)
        try:
            if len(talking) <= CONNECTIONS_MAX:
                with contextlib.suppress(ConnectionError, asyncio.CancelledError):  # who asks may leave, or we do
                    await loader.serve(Talk(reader, writer))
        finally:
            writer.close()

    for number in _FORWARDED:
        asyncio.get_running_loop().add_signal_handler(number, loader.signal, number)
    server = await asyncio.start_server(serve, sock=listener, limit=LINE_BYTES_MAX)
    print("listening", where, flush=True)
    status = await loader.ended
    server.close()
    await asyncio.sleep(0)  # the last answer goes out
    for task in talking:
        task.cancel()
    await asyncio.gather(*talking, return_exceptions=True)
    return status


if __name__ == "__main__":
    main()
