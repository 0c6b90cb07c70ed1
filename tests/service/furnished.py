"""A directory of simulated disks with an array on them, driven in the test's own process as the service drives it."""

import asyncio
import subprocess
import sys

from perdure.api import Host
from perdure.array.geometry import SECTOR_BYTES, Geometry
from perdure.service.main import mount_settings_of, settings_of
from perdure.service.site import config, local, processes
from perdure.service.site.local import Wish
from perdure.service.upkeep.repair import Repairs

SIZE_BYTES = 4 << 20
WAIT_S = 20


class Site:
    """Disks of an array, as `perdure up` makes them, and more that a test starts; ended by their own ids."""

    def __init__(self, directory, disks=3, threshold=2):
        self.directory = directory
        local.prepare(directory, Wish("4M", disks, threshold, "unix:nbd.sock", 300))
        path = directory / config.NAME
        path.write_text(path.read_text().replace("answer-ms-max = 5000", "answer-ms-max = 1000"))
        self.found = config.load(path)
        local.start_disks(self.found, 0.0)
        self.extra = []
        self.array_id = None

    def kill(self, seat):
        assert processes.find(self.directory / f"disk-{seat}.pid").end(grace_s=0)

    def fresh(self, name, *, image="disk.eif", size_bytes=None):
        """A blank disk at an address of its own."""
        shape = Geometry.for_size(2, 3, SIZE_BYTES)
        command = [sys.executable, "-m", "perdure.simtee.launch", "--image", self.directory / image]
        command += ["--root-directory", self.directory / local.ROOT_DIRECTORY]
        command += ["--listen", f"unix:{self.directory}/{name}", "--size-bytes", size_bytes or shape.disk_bytes]
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
        self.extra.append(process)
        return process.stdout.readline().split()[1]

    def end(self):
        for process in self.extra:
            process.terminate()
            process.wait(10)
            process.stdout.close()
        local.end_disks(self.directory)

    def run(self, story):
        """Mount (create the first time), and run the story with the array and its repairs."""
        return asyncio.run(asyncio.wait_for(self._run(story), 60))

    async def _run(self, story):
        host = Host((settings_of if self.array_id is None else mount_settings_of)(self.found))
        try:
            if self.array_id is None:
                shape = self.found.array
                array = await host.create(Geometry.for_size(shape.threshold, shape.disks, shape.size_bytes))
                self.array_id = array.array_id
            else:
                array = await host.mount(self.array_id)
            repairs = Repairs(self.found, host, array)
            try:
                return await story(array, repairs)
            finally:
                await repairs.stop()
                if array.committer.failure is None:
                    await array.close()
        finally:
            await host.close()


async def until(what):
    async with asyncio.timeout(WAIT_S):
        while not what():
            await asyncio.sleep(0.01)


async def lose(site, array, seat):
    """Kill a seat's disk and wait for the vote."""
    site.kill(seat)
    await array.pwrite(0, b"x", fua=True)
    await until(lambda: array.members.roster.seats[seat] is None)


def content(seed):
    return b"".join((seed * 10_000 + index).to_bytes(8, "big") * (SECTOR_BYTES // 8) for index in range(1024))
