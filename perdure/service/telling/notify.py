"""What a service tells systemd of itself: one datagram for each piece of news, and silence where nobody listens.

The protocol is that of sd_notify(3), sd_watchdog_enabled(3) and, for reloads, systemd.service(5) under `Type=notify-
reload`. News is never worth a failure or a wait: what cannot be sent now is sent with the next look. The variables are
taken out of the environment, so that no child speaks for the service.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Final

_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """The service manager of this process, if it has one."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        """Take the variables out of `environment`."""
        self.variables = {name: environment.pop(name) for name in _VARIABLES if name in environment}
        """For the program that takes this one's place in the same process."""
        self._address = _address(self.variables.get("NOTIFY_SOCKET", ""))
        self._said = ""

    @property
    def watchdog_s(self) -> float | None:
        """How often to `feed` the watchdog: twice as often as it is due. None where there is none, or not for us."""
        due, pid = self.variables.get("WATCHDOG_USEC", ""), self.variables.get("WATCHDOG_PID", str(os.getpid()))
        is_ours = self._address is not None and due.isdecimal() and int(due) > 0 and pid == str(os.getpid())
        return int(due) / 2e6 if is_ours else None

    def serving(self, status: str) -> None:
        """Clients can connect; `status` is one line for people. Sent when it is news."""
        self._say_once(f"READY=1\nSTATUS={_line(status)}")

    def waiting(self, status: str) -> None:
        """Clients cannot be served yet; `status` says why."""
        self._say_once(f"STATUS={_line(status)}")

    def reloading(self) -> None:
        """Another program takes this one's place; `serving` says when it has."""
        self._say_once(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}\nSTATUS=upgrading")

    def stopping(self) -> None:
        """No more requests are taken."""
        self._say_once("STOPPING=1")

    def feed(self) -> None:
        """Tell the watchdog that this service does its work."""
        self._send("WATCHDOG=1")

    def _say_once(self, text: str) -> None:
        if text != self._said and self._send(text):
            self._said = text

    def _send(self, text: str) -> bool:
        if self._address is None:
            return False
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            sock.connect(self._address)
            sock.send(text.encode(errors="replace"))
            return True
        return False


def _line(text: str) -> str:
    return " ".join(text.split())


def _address(text: str) -> str | None:
    """The socket's address; None when there is none, or of a kind that we do not speak to (vsock)."""
    if text.startswith("@"):
        return "\0" + text[1:]  # an abstract socket
    return text if text.startswith("/") else None
