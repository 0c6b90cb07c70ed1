"""Erasing for the command line: the main program erases and writes the receipt, whether or not anybody still waits."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perdure.array.engine import Array
from perdure.array.receipt import Erased, whole_sectors
from perdure.errors import Misuse, PerdureError, Unavailable
from perdure.service.control import Request
from perdure.service.site import artefacts

logger = logging.getLogger("perdure")


class Erasing:
    """What is being erased in one array."""

    def __init__(self, array: Array) -> None:
        self._array = array
        self._tasks: set[asyncio.Task[Mapping[str, Any]]] = set()
        self._paths: set[Path] = set()
        """Of the receipts that are still to be written."""

    async def erase(self, request: Request) -> Mapping[str, Any]:
        """Erase a range, write its receipt into a new file, and say what it proves. Raises PerdureError.

        A range or file that will not do is refused before anything is erased.
        """
        assert request.offset is not None
        assert request.length is not None
        assert request.receipt is not None
        whole_sectors(self._array.geometry, request.offset, request.length)
        path = Path(request.receipt)
        if not path.is_absolute() or not path.parent.is_dir() or path.exists() or path in self._paths:
            raise Misuse(f"The receipt cannot be written to {path}: it must be a new file; nothing was erased.")
        task = asyncio.ensure_future(self._erase(request.offset, request.length, path))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._paths.add(path)
        task.add_done_callback(lambda _: self._paths.discard(path))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
            raise Unavailable(
                "The main program was stopped meanwhile: there is no receipt, and the range may or may not be erased. "
                "Erase it again once the array serves."
            ) from None

    async def _erase(self, offset: int, length: int, path: Path) -> Mapping[str, Any]:
        try:
            erased = await self._array.erase(offset, length)
            text = json.dumps(erased.receipt.to_json(), indent=1) + "\n"
            try:
                await asyncio.to_thread(artefacts.write_atomic, path, text.encode(), 0o644)
            except Misuse as error:
                raise Misuse(f"The range is erased, but its receipt is lost: {error} Erase it again for one.") from None
        except PerdureError as error:
            logger.error("erasing %d bytes from %d: %s", length, offset, error)  # noqa: TRY400  (no defect)
            raise
        logger.info("erased %d bytes from %d; receipt in %s", length, offset, path)
        return _to_json(erased, path)

    async def finish(self) -> None:
        """Return when nothing is being erased."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def stop(self) -> None:
        """Let go of what runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _to_json(erased: Erased, path: Path) -> dict[str, Any]:
    receipt = erased.receipt
    return {
        "receipt": str(path),
        "array_id": receipt.array_id.hex(),
        "offset": receipt.offset,
        "length": receipt.length,
        "entry": receipt.entry,
        "witnesses": [{"seat": found.seat, "instance": found.instance.hex()} for found in erased.witnesses],
        "exposed_seats": sorted(erased.exposed_seats),
        "is_beyond_recall": erased.is_beyond_recall,
    }
