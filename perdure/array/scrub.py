"""Scrubbing: read everything from every member, with evidence, and mend what differs.

A read asks k disks and believes what fits the tag, so a wrong fragment on the others, or a wrong tag, is found only
when it is too late. A scrub asks all: tags against the tags in force, fragments against the code of those that open.
What differs is counted against its disk, and the sector is written anew, which puts right tags and fragments on all.
"""

from __future__ import annotations

from perdure.array.cache import WriteCache
from perdure.array.committer import Committer
from perdure.array.geometry import Geometry, Run
from perdure.array.join import Progress
from perdure.array.members import Members
from perdure.array.ports import Runtime
from perdure.array.reader import Differing, Reader
from perdure.array.sealing import NEVER_WRITTEN

SCRUB_SECTORS = 128


class Scrub:
    """One pass over the array."""

    def __init__(
        self,
        geometry: Geometry,
        members: Members,
        cache: WriteCache,
        reader: Reader,
        committer: Committer,
        runtime: Runtime,
    ) -> None:
        self._geometry = geometry
        self._members = members
        self._cache = cache
        self._reader = reader
        self._committer = committer
        self._runtime = runtime

    async def run(self, progress: Progress, *, sectors_per_s: int = 0) -> None:
        """Check every sector once; `progress.mended` counts those that were written anew.

        Raises Corrupt when a sector can be rebuilt from no k disks, and what ends the mount.
        """
        started_ms = self._runtime.now_ms()
        for start in range(0, self._geometry.sectors, SCRUB_SECTORS):
            run = Run(start, min(SCRUB_SECTORS, self._geometry.sectors - start))
            for wrong in await self._reader.differing(run):
                progress.mended += await self._mend(wrong)
            progress.done = run.end
            if sectors_per_s:
                ahead_ms = progress.done * 1000 / sectors_per_s - (self._runtime.now_ms() - started_ms)
                await self._runtime.sleep(max(0.0, ahead_ms))
        await self._committer.settle()

    async def _mend(self, wrong: Differing) -> int:
        """Write a sector anew, unless it is being written anyway; 1 if it was."""
        await self._committer.room()
        if not self._reader.is_home_as(wrong.index, wrong.tag):
            return 0
        if wrong.tag == NEVER_WRITTEN:
            self._cache.trim(Run(wrong.index, 1))
        else:
            self._cache.write(wrong.index, wrong.content)
        return 1
