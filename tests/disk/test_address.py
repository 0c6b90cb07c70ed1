"""Addresses: the three forms, what is none of them, and that listening never removes what is not ours."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from perdure.disk.address import listen, parse


@pytest.mark.parametrize(
    ("address", "family", "target"),
    [
        ("unix:/run/disk", socket.AF_UNIX, "/run/disk"),
        ("unix:a:b", socket.AF_UNIX, "a:b"),
        ("tcp:127.0.0.1:0", socket.AF_INET, ("127.0.0.1", 0)),
        ("tcp:disk.example:65535", socket.AF_INET, ("disk.example", 65535)),
        ("tcp:xerox:7", socket.AF_INET, ("xerox", 7)),
        ("tcp:[::1]:7", socket.AF_INET6, ("::1", 7)),
        ("vsock:3:5000", socket.AF_VSOCK, (3, 5000)),
        ("vsock:4294967295:4294967295", socket.AF_VSOCK, (0xFFFFFFFF, 0xFFFFFFFF)),
    ],
)
def test_an_address_names_a_family_and_a_target(address: str, family: int, target: object) -> None:
    assert parse(address) == (family, target)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "unix",
        "unix:",
        "tcp:",
        "tcp:1",
        "tcp::1",
        "tcp:host",
        "tcp:host:",
        "tcp:host:65536",
        "tcp:host:-1",
        "tcp:host:x",
        "vsock:3",
        "vsock:any:1",
        "vsock:3:-1",
        "vsock:3:4294967296",
        "vsock:4294967296:1",
        "http:host:1",
        "http:3:1",
        "/run/disk",
    ],
)
def test_anything_else_is_refused_in_one_sentence(address: str) -> None:
    with pytest.raises(ValueError, match=r"not an address: .*; write tcp:HOST:PORT, unix:PATH or vsock:CID:PORT"):
        parse(address)


def test_tcp_port_zero_becomes_the_port_it_really_has() -> None:
    listener, address = listen("tcp:127.0.0.1:0")
    with listener:
        assert address == f"tcp:127.0.0.1:{listener.getsockname()[1]}"
        assert not listener.getblocking()
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)  # or a restart waits for old connections


def test_an_ipv6_address_comes_back_in_brackets() -> None:
    try:
        listener, address = listen("tcp:[::1]:0")
    except OSError as error:
        pytest.skip(f"this kernel has no IPv6 loopback: {error}")
    with listener:
        assert parse(address) == (socket.AF_INET6, listener.getsockname()[:2])
        assert address.startswith("tcp:[::1]:")


def test_a_socket_file_in_use_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    first, _ = listen(f"unix:{path}")
    with first, socket.socket(socket.AF_UNIX) as peer:
        with pytest.raises(OSError, match="in use"):
            listen(f"unix:{path}")
        peer.connect(str(path))


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_bytes(b"data")
    with pytest.raises(OSError, match="in use"):
        listen(f"unix:{path}")
    assert path.read_bytes() == b"data"


def test_a_path_too_long_for_a_socket_fails_and_leaves_no_descriptor(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="too long"):
        listen(f"unix:{tmp_path}/{'x' * 200}")
    assert len(os.listdir("/proc/self/fd")) == len(before)
