"""The Python API, sync and async, over real disk processes on the simulated platform."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from perdure import api
from perdure.array.commands import Authority
from perdure.errors import Fenced, Misuse, Unavailable
from perdure.evidence.measurement import Measurement
from perdure.evidence.policy import Policy, TrustedRoot
from perdure.evidence.roots import Platform
from perdure.image import eif
from perdure.image.build import build_simulated
from perdure.simtee.pki import SimulatedRoot

KEY = bytes(range(2, 34))
MIB = 1 << 20


class Disks:
    """Three real disks, ended by pid."""

    def __init__(self, folder: Path) -> None:
        image = build_simulated(Authority(KEY).public_key)
        (folder / "disk.eif").write_bytes(image)
        pcrs = eif.measure(eif.parse(image))
        root = SimulatedRoot.load_or_create(folder / "root")
        self.policy = Policy(
            (TrustedRoot("simulated", Platform.SIMULATED, root.der),),
            (Measurement.enclave("simulated", pcrs.pcr0, pcrs.pcr1, pcrs.pcr2),),
            seats_per_root_max=3,
        )
        self.processes = []
        for seat in range(3):
            command = [sys.executable, "-m", "perdure.simtee.launch", "--image", str(folder / "disk.eif")]
            command += ["--root-directory", str(folder / "root"), "--listen", f"unix:{folder}/{seat}"]
            command += ["--size-bytes", str(16 * MIB)]
            self.processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        self.addresses = tuple(self._address(process) for process in self.processes)

    @staticmethod
    def _address(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline().split()[1]

    def settings(self, **options: int) -> api.Settings:
        return api.Settings(self.addresses, KEY, self.policy, **{"dead_after_ms": 1500, **options})

    def kill(self, seat: int) -> None:
        os.kill(self.processes[seat].pid, signal.SIGKILL)
        self.processes[seat].wait()

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[Disks]:
    running = Disks(tmp_path)
    yield running
    running.end()


def test_threads_share_an_array_that_outlives_a_mount(disks: Disks) -> None:
    with api.create_array(disks.settings(), k=2, n=3, size_bytes=4 * MIB) as array:
        array_id = array.array_id
        assert array.size == 4 * MIB

        def write(at: int) -> None:
            array.pwrite(at * 10_000, bytes([at]) * 10_000, fua=at % 2 == 0)

        threads = [threading.Thread(target=write, args=(at,)) for at in range(1, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        array.flush()
        array.trim(10_000, 100)
    with api.open_array(disks.settings(), array_id) as array:
        assert array.pread(10_000, 10_000) == bytes(100) + bytes([1]) * 9_900
        assert all(array.pread(at * 10_000, 10_000) == bytes([at]) * 10_000 for at in range(2, 9))
        erased = array.erase(0, MIB)
        assert len(erased.members) == 3
        assert array.pread(0, MIB) == bytes(MIB)


def test_chains_need_a_policy_that_allows_them(disks: Disks) -> None:
    with pytest.raises(Misuse, match="does not say `acknowledgement_chains`: nothing was started"):
        disks.settings(acknowledgement_chains=True)
    disks.policy = replace(disks.policy, acknowledgement_chains=True)
    with api.create_array(disks.settings(acknowledgement_chains=True), k=2, n=3, size_bytes=MIB) as array:
        array_id = array.array_id
        for at in range(40):
            array.pwrite(at * 4096, bytes([at]) * 4096, fua=True)
    with api.open_array(disks.settings(), array_id) as array:
        assert array.pread(0, 40 * 4096) == b"".join(bytes([at]) * 4096 for at in range(40)), "by evidence, as well"


def test_leaving_the_block_flushes(disks: Disks) -> None:
    async def story() -> bytearray:
        async with api.create_array_async(disks.settings(), k=2, n=3, size_bytes=MIB) as array:
            await array.pwrite(0, b"kept")
        async with api.open_array_async(disks.settings(), array.array_id) as again:
            return await again.pread(0, 4)

    assert asyncio.run(story()) == b"kept"


def test_leaving_the_block_raises_what_failed_since_the_last_call(disks: Disks) -> None:
    """Otherwise a write that nobody flushed would vanish without a word."""

    async def story() -> None:
        async with api.create_array_async(disks.settings(), k=2, n=3, size_bytes=MIB) as array:
            await array.pwrite(0, b"lost")
            disks.kill(0)
            disks.kill(1)

    with pytest.raises(Unavailable):
        asyncio.run(story())


def test_an_error_in_the_block_comes_through(disks: Disks) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        api.create_array(disks.settings(), k=2, n=3, size_bytes=MIB) as array,
    ):
        array.pwrite(0, b"x")
        _ = 1 // 0


def test_a_later_mount_fences_the_earlier(disks: Disks) -> None:
    with pytest.raises(Fenced), api.create_array(disks.settings(), k=2, n=3, size_bytes=MIB) as first:
        first.pwrite(0, b"first", fua=True)
        with api.open_array(disks.settings(), first.array_id) as second:
            assert second.pread(0, 5) == b"first"
            with pytest.raises(Fenced):
                first.flush()


def test_bad_arguments_have_their_own_sentences(disks: Disks) -> None:
    with (
        pytest.raises(Misuse, match=r"multiple of 4,096 bytes, not 5000; 8192 would do"),
        api.create_array(disks.settings(), k=2, n=3, size_bytes=5000),
    ):
        pass
    with (
        pytest.raises(Misuse, match="more than half"),
        api.create_array(disks.settings(), k=1, n=3, size_bytes=4096),
    ):
        pass
    with pytest.raises(Unavailable, match="None of the disks"), api.open_array(disks.settings(), bytes(32)):
        pass
    assert "withheld" in repr(disks.settings())
    assert KEY.hex() not in repr(disks.settings())


def test_an_interrupt_comes_through_when_what_was_under_way_has_ended(disks: Disks) -> None:
    async def slow(done: list[bool]) -> None:
        main = threading.main_thread().ident
        assert main is not None
        await asyncio.sleep(0.2)  # it has handed this over by then
        signal.pthread_kill(main, signal.SIGINT)  # as Ctrl-C, while it waits
        await asyncio.sleep(0.5)
        done.append(True)

    ended: list[bool] = []
    with api.create_array(disks.settings(), k=2, n=3, size_bytes=MIB) as array:
        with pytest.raises(KeyboardInterrupt):
            array.call(lambda _: slow(ended))
        assert ended == [True]
        array.pwrite(0, b"and it goes on", fua=True)
        assert array.pread(0, 14) == b"and it goes on"
