"""Creating an array from a configuration: the explicit act that no main program does by itself."""

from __future__ import annotations

import asyncio

from perdure.api import Settings, create_array_async
from perdure.array.geometry import HISTORY_SECTORS
from perdure.array.world import Opened
from perdure.errors import Misuse
from perdure.service.main import settings_of
from perdure.service.site import artefacts, config, template
from perdure.service.site.artefacts import ArrayRecord
from perdure.service.site.config import Config, Sealing


def create_array(found: Config) -> Config:
    """Create, and write the record, then the id into the configuration. Raises PerdureError; see `api.create_array`."""
    record = artefacts.read_record(found.directory)
    if found.array.array_id is not None or record is not None:
        raise Misuse(
            f"{found.directory} already has an array; it was not touched and no new one was made. Use "
            "`perdure import`, or another directory for another array."
        )
    template.with_value(found.path.read_text(), "array", "id", "0" * 64)  # better refused now than with the array made
    shape = found.array
    opened = asyncio.run(_create(settings_of(found), shape.threshold, shape.disks, shape.size_bytes, shape.sealing))
    # The record first: with it alone, `up` finds the id again. Nothing was written to the array yet.
    ArrayRecord.of(opened.genesis, found.array.policy_file).write(found.directory)
    text = template.with_value(found.path.read_text(), "array", "id", opened.genesis.array_id.hex())
    artefacts.write_atomic(found.path, text.encode())
    return config.load(found.path)


async def _create(settings: Settings, k: int, n: int, size_bytes: int, sealing: Sealing) -> Opened:
    is_sealed = sealing is Sealing.PERDURE
    async with create_array_async(
        settings, k=k, n=n, size_bytes=size_bytes, history_sectors=HISTORY_SECTORS, is_sealed=is_sealed
    ) as array:
        return array.opened
