"""The main program is killed at a command of the host's choice, also while a roster changes (A17, A18)."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import threading
from collections.abc import Callable

import pytest

from perdure.array.geometry import GENESIS_AREA
from perdure.disk.wire import Opcode
from tests.lying_host.host import SECTOR, LyingHost, data_of, writes_in
from tests.system.proxy import Frame, Way

AREA = 8 * SECTOR
CURRENT = GENESIS_AREA
DIED = (OSError, struct.error, AssertionError)
"""What a client, or a caller of `mount`, sees of a main program that was killed."""


class Guillotine:
    """kill -9 of the main program when it has sent `limit` of the commands that count; that one and all that come
    later reach no disk, and no answer comes back."""

    def __init__(self, host: LyingHost, limit: int, counts: Callable[[Frame], bool] = lambda _: True) -> None:
        self.has_fallen = False
        self.count = 0
        self._host, self._limit, self._counts = host, limit, counts
        self._lock = threading.Lock()  # each proxy has a thread of its own
        for proxy in host.proxies:
            proxy.alter = self._alter

    def _alter(self, frame: Frame) -> tuple[bytes, ...]:
        with self._lock:
            if not self.has_fallen and frame.way is Way.TO_DISK and self._counts(frame):
                self.has_fallen = self.count == self._limit
                self.count += 1
                if self.has_fallen:
                    os.kill(self._host.main_pid, signal.SIGKILL)
            return () if self.has_fallen else (frame.payload,)


class Story:
    """Writes of several sectors and trims, each flushed; what the array may hold after a crash."""

    def __init__(self) -> None:
        self.held = bytearray(AREA)
        self.begun: bytearray | None = None
        self.number = 0

    def go_on(self, host: LyingHost, *, count: int) -> None:
        """Do so many steps, or as many as the main program lives for."""
        for _ in range(count):
            self.number += 1
            at, length = self.number % 5 * SECTOR + 100 * (self.number % 3), (1 + self.number % 3) * SECTOR
            self.begun = bytearray(self.held)
            if self.number % 4 == 0:
                at -= at % SECTOR
                self.begun[at : at + length] = bytes(length)
                host.trim(at, length)
            else:
                self.begun[at : at + length] = data_of(self.number, length)
                host.write(at, data_of(self.number, length))
            self.held, self.begun = self.begun, None

    def check(self, host: LyingHost) -> None:
        """All that was acknowledged is there, and what was under way is there wholly or not at all."""
        found = host.read(0, AREA)
        if found not in (self.held, self.begun or self.held):
            pytest.fail(f"wrong data after step {self.number}")  # no AssertionError: it is not that anything died
        self.held, self.begun = bytearray(found), None


# A17 ------------------------------------------------------------------------------------------------------


def test_a17_the_main_program_killed_at_many_commands_leaves_what_was_flushed_and_nothing_torn(tmp_path):
    story, in_mounts, in_writes = Story(), 0, 0
    with LyingHost(tmp_path) as host:
        for limit in (*range(1, 24, 5), *range(24, 56, 7)):  # about 20 commands to mount, then 3 a step
            blade = Guillotine(host, limit)
            try:
                host.mount()
                story.check(host)
                story.go_on(host, count=14)
            except DIED:
                assert blade.has_fallen
            assert blade.has_fallen, f"only {blade.count} commands"
            in_mounts += not host.is_serving
            in_writes += story.begun is not None
            host.kill_main()
            host.present_own()
        host.mount()
        story.check(host)
    assert in_mounts > 1
    assert in_writes > 1


# A18 ------------------------------------------------------------------------------------------------------


def is_roster_change(frame: Frame) -> bool:
    """PROPOSE or ACTIVATE: both write `current`."""
    return frame.opcode is Opcode.EXECUTE and any(target == CURRENT for target, _ in writes_in(frame))


@pytest.mark.parametrize("limit", range(4))
def test_a18_the_main_program_killed_at_every_command_of_a_roster_change_loses_nothing(tmp_path, limit):
    """Two disks are left to propose to and to activate on: four commands. Then, as long as nobody
    activated, one of the two is hidden in its turn and the first one comes back: still an array."""
    story = Story()
    with LyingHost(tmp_path) as host:
        host.mount()
        story.go_on(host, count=3)
        host.settle()
        blade = Guillotine(host, limit, is_roster_change)
        host.proxies[2].hide()
        with contextlib.suppress(*DIED):
            story.go_on(host, count=2)
        assert (blade.has_fallen, blade.count) == (True, limit + 1)
        host.kill_main()
        host.present_own()
        if limit < 3:
            host.proxies[1].hide()
        status = host.mount(code=None)
        assert limit >= 3 or status["summary"] == "[U_U]"
        story.check(host)
        story.go_on(host, count=2)
