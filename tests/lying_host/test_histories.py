"""The host chooses which of the array's true disks are seen, and by whom (A4, A5, A21)."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import perdure
from perdure import api
from perdure.array.join import Progress
from perdure.disk.wire import Opcode
from perdure.service.main import settings_of
from perdure.service.site import config
from perdure.shell.channel import SocketChannel
from tests.lying_host.host import SECTOR, LyingHost, data_of
from tests.system.proxy import Way

NOT_ENOUGH = "disks that the array needs are here"


@pytest.fixture
def host(tmp_path):
    with LyingHost(tmp_path) as host:
        yield host


# A4 -------------------------------------------------------------------------------------------------------


def test_a04_disks_that_were_voted_off_long_ago_are_not_the_array(tmp_path):
    with LyingHost(tmp_path, disks=5, threshold=3) as host:
        host.mount()
        host.write(0, data_of(1))
        own = [host.disk(seat) for seat in range(host.n)]
        for seat in (0, 1):
            host.proxies[seat].hide()
        host.wait_for(lambda status: status["summary"] == "[__UUU]")
        host.write(0, data_of(2))
        host.kill_main()
        # Three disks that were an array once: the two dead ones with any of the living.
        for alive in (None, 2, 4):
            host.present(*(own[seat] if seat in (0, 1, alive) else None for seat in range(host.n)))
            sentence = host.refusal(2)
            assert NOT_ENOUGH in sentence or "holds a roster that was in force" in sentence
            assert "nothing older is served" in sentence or alive is None
        host.present(*own)
        assert host.mount(code=1)["summary"] == "[__UUU]"
        assert host.read(0, SECTOR) == data_of(2)


# A5 -------------------------------------------------------------------------------------------------------


def hold_back_everything_of(host):
    """What the main programs of now send from here on waits until the event is set; those that come later pass."""
    release = threading.Event()

    def holding(known):
        async def wait(frame):
            while not release.is_set():
                await asyncio.sleep(0.01)  # how often to look, not how long to wait
            return (frame.payload,)

        def alter(frame):
            is_held = frame.way is Way.TO_DISK and frame.connection <= known and not release.is_set()
            return wait(frame) if is_held else (frame.payload,)

        return alter

    for proxy in host.proxies:
        proxy.alter = holding(max(frame.connection for frame in proxy.frames))
    return release


def last_execute(host):
    """The newest EXECUTE to the first disk, of whichever main program."""
    return [frame for frame in host.proxies[0].commands() if frame.opcode is Opcode.EXECUTE][-1]


def test_a05_of_two_main_programs_the_earlier_gets_no_acknowledgement_and_ends_with_exit_code_3(host, tmp_path):
    settings = host.directory / config.NAME
    settings.write_text(settings.read_text().replace("answer-ms-max = 5000", "answer-ms-max = 60000"))
    host.mount()
    host.write(0, data_of(1))
    host.settle()
    other = host.elsewhere(tmp_path / "other")
    release, before = hold_back_everything_of(host), last_execute(host)
    with ThreadPoolExecutor() as pool:
        late = pool.submit(host.write, 0, data_of(2))
        wait_until(lambda: last_execute(host).seq > before.seq)
        held_back = last_execute(host)
        other.mount()
        assert other.read(0, SECTOR) == data_of(1)
        while last_execute(host).seq + 1 < held_back.seq:
            other.write(SECTOR, data_of(3))
            other.settle()
        # Now it comes, when the disks wait for just its number: only its epoch is another.
        assert not late.done()
        release.set()
        with pytest.raises(OSError):
            late.result(20)
    done = host.status_verb(code=3)
    assert "state: FENCED" in done.out
    assert "another main program has mounted the array" in done.out
    with pytest.raises(OSError):
        host.write(2 * SECTOR, data_of(4))
    assert host.run("export", code=3).sentence.startswith("another main program has mounted the array")
    other.write(2 * SECTOR, data_of(5))
    assert other.remount()["summary"] == "[UUU]"
    assert other.read(0, 3 * SECTOR) == data_of(1) + data_of(3) + data_of(5)


def wait_until(what):
    give_up = time.monotonic() + 20
    while not what():
        assert time.monotonic() < give_up
        time.sleep(0.01)  # how often to look, not how long to wait


# A21 ------------------------------------------------------------------------------------------------------


def replace_every_disk(host):
    """Replace all disks in turn, writing before each; the sockets of the new ones, and the last content written.

    The main program is the Python API here: what is tested is what the disks are left with.
    """
    new = host.new_disks([f"new-{seat}" for seat in range(host.n)])

    async def replace():
        settings = settings_of(host.config)
        async with api.open_array_async(settings, host.config.array.array_id) as array:
            for seat, disk in enumerate(new):
                await array.pwrite(0, data_of(seat + 1), fua=True)
                host.proxies[seat].hide()
                while array.members.roster.seats[seat] is not None:
                    await array.pwrite(SECTOR, data_of(seat), fua=True)
                channel = SocketChannel(f"unix:{disk}", settings.answer_ms_max)
                await array.join(channel, seat, Progress(array.geometry.sectors))
            await array.pwrite(0, data_of(host.n + 1), fua=True)

    asyncio.run(replace())
    return new, data_of(host.n + 1)


def test_a21_disks_that_were_replaced_one_by_one_are_not_the_array_again(host):
    new, latest = replace_every_disk(host)
    old = [host.disk(seat) for seat in range(host.n)]
    host.present(*old)
    assert NOT_ENOUGH in host.refusal(2)
    for seats in itertools.combinations(range(host.n), host.k):
        host.present(*(old[seat] if seat in seats else None for seat in range(host.n)))
        assert NOT_ENOUGH in host.refusal(2)
    host.present(*new)
    assert host.mount()["summary"] == "[UUU]"
    assert host.read(0, SECTOR) == latest
    host.unmount()
    host.present(old[0], new[1], new[2])
    assert host.mount(code=1)["summary"] == "[_UU]"
    assert host.read(0, SECTOR) == latest


# A22 ------------------------------------------------------------------------------------------------------


def test_a22_an_older_main_program_that_is_put_back_refuses_the_array_with_exit_code_3(host, tmp_path):
    """The newer release is this very program with another number; the array remembers that it was there."""
    newer = tmp_path / "newer"
    shutil.copytree(Path(perdure.__file__).parent, newer / "perdure", ignore=shutil.ignore_patterns("__pycache__"))
    text = (newer / "perdure" / "__init__.py").read_text()
    here, later = perdure.RELEASE, perdure.RELEASE + 1
    assert f"RELEASE = {here}\n" in text
    (newer / "perdure" / "__init__.py").write_text(text.replace(f"RELEASE = {here}\n", f"RELEASE = {later}\n"))
    own = dict(host.env)
    host.env.update(PYTHONPATH=str(newer), PYTHONSAFEPATH="1")  # not the current directory's
    host.mount()
    host.write(0, data_of(1))
    host.unmount()
    host.env.clear()
    host.env.update(own)
    sentence = host.refusal(3)
    assert f"release {later} of the main program has mounted this array, and this is release {here}" in sentence
    host.env.update(PYTHONPATH=str(newer), PYTHONSAFEPATH="1")
    host.mount()
    assert host.read(0, SECTOR) == data_of(1)
