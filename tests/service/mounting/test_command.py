"""The command: who it is run as, and the signals that come before it."""

import os
import signal

import pytest

from perdure.errors import Misuse
from perdure.service.mounting import command
from perdure.service.mounting.command import Order


def never(*_):
    raise AssertionError("nothing was to be said or watched")


def test_a_signal_that_came_before_is_its_end_and_nothing_is_started(tmp_path):
    order = Order(("touch", str(tmp_path / "started")), None, None, {})
    with command.signals_kept() as kept:
        os.kill(os.getpid(), signal.SIGTERM)
        assert command.run(order, kept, never, never) == 128 + signal.SIGTERM
    assert not (tmp_path / "started").exists()


def test_handlers_are_as_before_afterwards():
    before = {number: signal.getsignal(number) for number in command.PASSED_ON}
    with command.signals_kept():
        assert signal.getsignal(signal.SIGTERM) != before[signal.SIGTERM]
    assert {number: signal.getsignal(number) for number in command.PASSED_ON} == before


def test_what_was_ignored_stays_ignored_for_the_command_too(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with command.signals_kept() as kept:
            assert signal.SIGHUP not in kept.numbers
            order = Order(("sh", "-c", "kill -HUP $$; exit 3"), None, None, {})
            assert command.run(order, kept, never, never) == 3
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_commands_signals_are_not_blocked():
    order = Order(("sh", "-c", "kill -TERM $$; exit 3"), None, None, {})
    with command.signals_kept() as kept:
        assert command.run(order, kept, never, never) == 128 + signal.SIGTERM


def test_a_user_is_named_or_numbered():
    assert (command.user("0:0").uid, command.user("0:0").groups) == (0, ())
    if os.geteuid() == 0:
        nobody = command.user("nobody")
        assert nobody.environment["USER"] == "nobody"
        assert command.user(f"nobody:{nobody.gid}") == nobody
    for unknown in ("no-such-user", "nobody:no-such-group", "", ":"):
        with pytest.raises(Misuse, match="no user or group"):
            command.user(unknown)
