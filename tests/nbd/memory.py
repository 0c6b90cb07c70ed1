"""Backends in memory: a plain one, one whose requests wait to be released, and one that fails."""

import asyncio


class MemoryBackend:
    """A disk in RAM. `log` has one line per change, in the order in which they were made."""

    def __init__(self, size_bytes=16 << 20):
        self.data = bytearray(size_bytes)
        self.log = []

    @property
    def size_bytes(self):
        return len(self.data)

    async def pread(self, offset, length):
        return bytes(memoryview(self.data)[offset : offset + length])

    async def pwrite(self, offset, data, *, fua=False):
        self.data[offset : offset + len(data)] = data
        self.log.append(("write", offset, len(data), fua))

    async def flush(self):
        self.log.append(("flush",))

    async def trim(self, offset, length, *, fua=False):
        self.data[offset : offset + length] = bytes(length)
        self.log.append(("trim", offset, length, fua))

    async def write_zeroes(self, offset, length, *, fua=False, may_trim=True):
        self.data[offset : offset + length] = bytes(length)
        self.log.append(("zeroes", offset, length, fua, may_trim))


class QuietMemoryBackend(MemoryBackend):
    """The same without a log, which would grow under load."""

    def __init__(self, size_bytes=64 << 20):
        super().__init__(size_bytes)
        self.view = memoryview(self.data)

    async def pread(self, offset, length):
        return bytes(self.view[offset : offset + length])

    async def pwrite(self, offset, data, *, fua=False):
        self.view[offset : offset + len(data)] = data

    async def flush(self):
        return


class YieldingBackend(MemoryBackend):
    """Suspends in every call, and needs to be in a task: it uses a time limit."""

    async def pread(self, offset, length):
        async with asyncio.timeout(60):
            await asyncio.sleep(0)
        return await super().pread(offset, length)

    async def pwrite(self, offset, data, *, fua=False):
        async with asyncio.timeout(60):
            await asyncio.sleep(0)
        await super().pwrite(offset, data, fua=fua)


class GatedBackend(MemoryBackend):
    """Every read and write waits until the test opens its offset, or all of them."""

    def __init__(self, size_bytes=33 << 20):
        super().__init__(size_bytes)
        self.gates = {}
        self.running = 0
        self.running_most = 0
        self.arrived = asyncio.Condition()

    async def wait_running(self, count):
        async with self.arrived:
            await self.arrived.wait_for(lambda: self.running == count)

    async def _pass(self, offset):
        gate = self.gates.setdefault(offset, asyncio.Event())
        await self._count(1)
        try:
            await gate.wait()
        finally:
            await self._count(-1)

    async def _count(self, step):
        async with self.arrived:
            self.running += step
            self.running_most = max(self.running_most, self.running)
            self.arrived.notify_all()

    def open(self, offset):
        self.gates.setdefault(offset, asyncio.Event()).set()

    async def pread(self, offset, length):
        await self._pass(offset)
        return await super().pread(offset, length)

    async def pwrite(self, offset, data, *, fua=False):
        await self._pass(offset)
        await super().pwrite(offset, data, fua=fua)


class FailingBackend(MemoryBackend):
    """Every call raises what the test put into `error`, or returns `answer` from a read."""

    def __init__(self, error=None, answer=b""):
        super().__init__()
        self.error = error
        self.answer = answer

    async def pread(self, offset, length):
        if self.error is not None:
            raise self.error
        return self.answer

    async def flush(self):
        raise self.error
