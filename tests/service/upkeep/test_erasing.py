"""Erasing in the main program: whoever stops it meanwhile gets an array that closes, and no receipt."""

import asyncio

import pytest

from perdure.errors import Misuse, Unavailable
from perdure.service.control import Request
from perdure.service.upkeep.erasing import Erasing
from tests.service.furnished import SIZE_BYTES, Site, content


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    site.end()


def test_stopped_meanwhile_it_says_that_there_is_no_receipt(site):
    receipt = site.directory / "receipt.json"

    async def stopped(array, repairs):
        await array.pwrite(0, content(1), fua=True)
        erasing = Erasing(array)
        waiting = asyncio.ensure_future(erasing.erase(Request("erase", offset=0, length=4096, receipt=str(receipt))))
        await asyncio.sleep(0)
        await erasing.stop()
        with pytest.raises(Unavailable, match="there is no receipt, and the range may or may not be erased"):
            await waiting

    site.run(stopped)
    assert not receipt.exists()

    async def again(array, repairs):
        value = await Erasing(array).erase(Request("erase", offset=0, length=4096, receipt=str(receipt)))
        assert value["is_beyond_recall"]
        assert await array.pread(0, SIZE_BYTES) == bytes(4096) + content(1)[4096:]

    site.run(again)
    assert receipt.exists()


def test_whoever_asked_may_leave_and_the_receipt_is_written_all_the_same(site):
    receipt = site.directory / "receipt.json"

    async def left(array, repairs):
        erasing = Erasing(array)
        waiting = asyncio.ensure_future(erasing.erase(Request("erase", offset=0, length=4096, receipt=str(receipt))))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with asyncio.timeout(20):
            await asyncio.gather(*erasing._tasks)

    site.run(left)
    assert receipt.exists()


def test_two_erasures_never_share_a_receipt_and_a_lost_one_is_told_of(site, monkeypatch):
    receipt = site.directory / "receipt.json"

    def request(offset):
        return Request("erase", offset=offset, length=4096, receipt=str(receipt))

    async def both(array, repairs):
        erasing = Erasing(array)
        first = asyncio.ensure_future(erasing.erase(request(0)))
        await asyncio.sleep(0)
        with pytest.raises(Misuse, match="it must be a new file; nothing was erased"):
            await erasing.erase(request(4096))
        assert (await first)["offset"] == 0
        receipt.unlink()

        def full(path, data, mode):
            raise Misuse(f"The file {path} cannot be written (no space left on device).")

        monkeypatch.setattr("perdure.service.site.artefacts.write_atomic", full)
        with pytest.raises(Misuse, match=r"The range is erased, but its receipt is lost: .* Erase it again for one"):
            await erasing.erase(request(4096))

    site.run(both)
