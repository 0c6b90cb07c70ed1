"""Files of Unix sockets: one that nobody listens on makes room, everything else stays."""

from __future__ import annotations

import socket
from pathlib import Path

from perdure.sockets import remove_stale


def test_of_socket_files_only_one_that_nobody_listens_on_makes_room(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        remove_stale(f"unix:{path}")
        assert path.is_socket()
    remove_stale(f"vsock:{path}")
    assert path.is_socket()
    remove_stale(f"unix:{path}")
    assert not path.exists()
    path.write_bytes(b"data")
    remove_stale(f"unix:{path}")
    assert path.read_bytes() == b"data"
