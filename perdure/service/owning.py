"""Owning an array without being its main program as a service: for programs that bring their own face.

There is no NBD, no control socket, no repair: a disk that was voted off stays off until `perdure serve` runs again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from perdure.api import SyncArray, open_array
from perdure.service.main import mount_settings_of, require_as_configured, require_id
from perdure.service.site import artefacts, processes
from perdure.service.site.config import Config


@contextmanager
def owned(config: Config) -> Iterator[SyncArray]:
    """A configuration's array, mounted until the block ends, which flushes. Raises as `perdure.service.main.run`."""
    busy = (
        f"A main program runs in {config.directory} already, and an array has one owner; nothing was started. Stop "
        "that one first: `perdure down`, or `perdure export`."
    )
    with processes.locked(config.directory, name=artefacts.MAIN_LOCK_FILE, wait_s=0, busy=busy):
        array_id, settings = require_id(config), mount_settings_of(config)
        with open_array(settings, array_id, lambda genesis: require_as_configured(genesis, config)) as array:
            yield array
