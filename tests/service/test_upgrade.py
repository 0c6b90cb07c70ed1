"""A hand-over that the system refuses leaves nothing behind. What upgrades do: tests/system/test_upgrades.py."""

import asyncio
import contextlib
import os
import resource
import signal
import sys
from types import SimpleNamespace

import pytest

from perdure.nbd.server import serve
from perdure.service.control import ControlServer
from perdure.service.telling.notify import Notifier
from perdure.service.upgrade import Parts, Upgrade
from tests.nbd.client import connect
from tests.nbd.memory import MemoryBackend

CLIENTS = 3
MADE = CLIENTS + 3
"""Descriptors that a hand-over makes: of each client, of both sockets that listen, and of its memory."""


def descriptors():
    """Those that are open, and which of them a child would get."""
    found = {}
    for fd in range(resource.getrlimit(resource.RLIMIT_NOFILE)[0]):
        with contextlib.suppress(OSError):
            found[fd] = (os.fstat(fd).st_ino, os.get_inheritable(fd))
    return found


@contextlib.contextmanager
def limited(kind, value):
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


def refused(tmp_path, limit):
    """Execute an upgrade within `limit`, a context manager; what was open before and after, and what was raised."""

    async def main():
        server = await serve(MemoryBackend(), address=f"unix:{tmp_path}/nbd.sock")
        clients = [await connect(server) for _ in range(CLIENTS)]
        control, lock = ControlServer(tmp_path / "control.sock"), os.memfd_create("lock")
        try:
            await server.pause()
            repairs = SimpleNamespace(unfinished=tuple)
            parts = Parts(None, None, server, control, repairs, None, None, Notifier({}), lock)
            upgrade = Upgrade(parts, asyncio.Event(), None)
            before = descriptors()
            with pytest.raises(OSError) as caught, limit:
                upgrade._execute()
            return before, descriptors(), caught.value
        finally:
            for client in clients:
                await client.close()
            await server.close()
            await control.close()
            os.close(lock)

    return asyncio.run(asyncio.wait_for(main(), 30))


@pytest.fixture(autouse=True)
def no_program(monkeypatch, tmp_path):
    """Where everything is ready for it, execve fails."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere"))


@pytest.mark.parametrize("left", range(MADE + 1))
def test_whichever_descriptor_cannot_be_had_none_stays_open(tmp_path, left):
    @contextlib.contextmanager
    def limit():
        free = [os.dup(0) for _ in range(left + 1)]  # the lowest numbers there are
        for fd in free:
            os.close(fd)
        with limited(resource.RLIMIT_NOFILE, free[-1]):
            yield

    before, after, error = refused(tmp_path, limit())
    assert after == before
    assert ("Too many open files" in str(error)) == (left < MADE)


def test_memory_that_cannot_be_filled_stays_open_neither(tmp_path):
    before, after, error = refused(tmp_path, limited(resource.RLIMIT_FSIZE, 10))
    assert after == before
    assert "File too large" in str(error)


def test_signals_are_heard_again(tmp_path):
    before = signal.getsignal(signal.SIGHUP)
    refused(tmp_path, contextlib.nullcontext())
    assert signal.getsignal(signal.SIGHUP) == before
