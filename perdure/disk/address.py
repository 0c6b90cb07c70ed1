"""Addresses of disks and how to listen on one: `tcp:HOST:PORT`, `unix:PATH`, `vsock:CID:PORT`.

An address is a hint from the host and never part of what anyone trusts.
"""

from __future__ import annotations

import socket


def parse(address: str) -> tuple[int, str | tuple[str, int] | tuple[int, int]]:
    """The socket family and socket address that `address` names. Raises ValueError with one clear sentence."""
    kind, _, rest = address.partition(":")
    host, _, port = rest.rpartition(":")
    if kind == "unix" and rest:
        return socket.AF_UNIX, rest
    if kind == "tcp" and host and port.isdecimal() and int(port) < 1 << 16:
        host = host.strip("[]")
        return (socket.AF_INET6 if ":" in host else socket.AF_INET), (host, int(port))
    if kind == "vsock" and host.isdecimal() and port.isdecimal() and max(int(host), int(port)) < 1 << 32:
        return socket.AF_VSOCK, (int(host), int(port))
    raise ValueError(f"not an address: {address!r}; write tcp:HOST:PORT, unix:PATH or vsock:CID:PORT")


def listen(address: str) -> tuple[socket.socket, str]:
    """A listening, non-blocking socket, and the address it really has (TCP port 0 picks a free one)."""
    family, target = parse(address)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(target)
        listener.listen(16)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    if family in (socket.AF_INET, socket.AF_INET6):
        host, port = listener.getsockname()[:2]
        address = f"tcp:[{host}]:{port}" if ":" in host else f"tcp:{host}:{port}"
    return listener, address
