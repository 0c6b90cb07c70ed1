"""What systemd hears: datagrams to a real socket, by path and by abstract name."""

import os
import socket
import time

import pytest

from perdure.service.telling.notify import Notifier


class Manager:
    """A service manager's socket, by its name in NOTIFY_SOCKET."""

    def __init__(self, name):
        self.name = name
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(name.replace("@", "\0"))
        self.socket.setblocking(False)

    def heard(self):
        said = []
        while True:
            try:
                said.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return said


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    name = str(tmp_path / "notify") if request.param == "path" else f"@perdure-test-{os.getpid()}-{time.monotonic_ns()}"
    found = Manager(name)
    yield found
    found.socket.close()


def test_readiness_comes_with_the_status_and_each_change_once(manager):
    notifier = Notifier({"NOTIFY_SOCKET": manager.name})
    for line in ("[UUUUU] 2 more losses", "[UUUUU] 2 more losses", "[UUUU_] 1 more loss, degraded"):
        notifier.serving(line)
    assert manager.heard() == [
        "READY=1\nSTATUS=[UUUUU] 2 more losses",
        "READY=1\nSTATUS=[UUUU_] 1 more loss, degraded",
    ]


def test_a_reload_begins_with_the_time_and_ends_with_readiness(manager):
    notifier = Notifier({"NOTIFY_SOCKET": manager.name})
    notifier.serving("fine")
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.serving("fine")
    _, reloading, ready = manager.heard()
    first, second, *_ = reloading.split("\n")
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= after
    assert ready.startswith("READY=1\n")


def test_waiting_and_stopping_and_the_watchdog(manager):
    notifier = Notifier({"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())})
    assert notifier.watchdog_s == 1.5
    notifier.waiting("no disks\nat all")
    notifier.feed()
    notifier.feed()
    notifier.stopping()
    notifier.stopping()
    assert manager.heard() == ["STATUS=no disks at all", "WATCHDOG=1", "WATCHDOG=1", "STOPPING=1"]


def test_the_variables_leave_the_environment_and_are_kept_for_a_successor(manager):
    environment = {"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "1", "HOME": "/root"}
    notifier = Notifier(environment)
    assert environment == {"HOME": "/root"}
    assert notifier.variables == {"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "1"}


@pytest.mark.parametrize("due", ["", "0", "x", "-5"])
def test_no_watchdog_where_none_is_meant(manager, due):
    assert Notifier({"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": due}).watchdog_s is None
    assert Notifier({"NOTIFY_SOCKET": manager.name}).watchdog_s is None
    other = {"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "5000000", "WATCHDOG_PID": str(os.getpid() + 1)}
    assert Notifier(other).watchdog_s is None


@pytest.mark.parametrize("address", [None, "", "vsock:2:1", "/nowhere/at/all"])
def test_nobody_to_tell_is_no_trouble(address):
    notifier = Notifier({} if address is None else {"NOTIFY_SOCKET": address})
    notifier.serving("fine")
    notifier.feed()
    notifier.stopping()
    assert notifier.watchdog_s is None


def test_what_could_not_be_sent_is_sent_with_the_next_look(tmp_path):
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    notifier.serving("fine")
    found = Manager(str(tmp_path / "notify"))
    notifier.serving("fine")
    assert found.heard() == ["READY=1\nSTATUS=fine"]
    found.socket.close()
