"""What a Unix socket leaves behind: a file that nobody listens on any more, and that no one can bind to."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path


def is_stale(path: Path) -> bool:
    """Whether nobody listens at the socket whose file this is. Raises OSError when that cannot be told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a live listener with a full backlog must not hold us up
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
    return False


def remove_stale(address: str) -> None:
    """If `address` is `unix:PATH` and nobody listens there, remove the file; a live socket, or any other file, stays.

    A disk does not do this for itself: no real machine of one finds such a file when it boots.
    """
    path = Path(address.removeprefix("unix:"))
    if not address.startswith("unix:") or not path.is_socket():
        return
    with contextlib.suppress(OSError):  # then whoever binds there says what is wrong
        if is_stale(path):
            path.unlink()
