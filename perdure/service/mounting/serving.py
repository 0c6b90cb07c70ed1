"""The main program under a run: the one that runs already, or one that is started, and stopped at the end."""

from __future__ import annotations

from dataclasses import dataclass

from perdure.errors import PerdureError, Unavailable
from perdure.service.site import background, local, processes
from perdure.service.site.config import Config
from perdure.service.site.processes import Process


@dataclass(frozen=True, slots=True)
class Served:
    """Where the array is served, by whom, and whether that process is ours to stop."""

    found: Config
    uri: str
    main: Process
    is_ours: bool

    @property
    def is_alive(self) -> bool:
        """Whether the same main program still runs."""
        return self.main.is_alive

    def trouble(self) -> str | None:
        """Why the array cannot be relied on now, in a sentence; None while it can. A degraded array can."""
        if not self.is_alive:
            return (
                "The main program has ended, so the file system fails; what was synced is safe on the disks. Let the "
                "command end and give the same command again."
            )
        try:
            status = background.status(self.found)
        except PerdureError as error:
            return str(error)
        return None if status.failure is None else f"{status.failure['message']} {status.action}"

    def stop(self) -> None:
        """Stop the main program if it is ours. Raises what kept it from bringing everything home."""
        if self.is_ours:
            with processes.locked(self.found.directory):
                background.stop(self.found)


def serve(found: Config, earlier: Process | None) -> Served:
    """Have the array served. `earlier` was started by a run that was killed, and is ours if it runs.

    Raises what keeps it from being served; an array that has failed is not served, whoever runs it.
    """
    with processes.locked(found.directory):
        main = background.running(found)
        if main is None:
            if local.is_local(found):
                local.require_enough(found)
            background.start(found)
        status, now = background.status(found), background.running(found)
    if now is None:
        raise Unavailable("The main program ended at once; nothing that was flushed is lost. Give the command again.")
    served = Served(found, status.nbd_uri, now, main is None or main == earlier)
    if status.failure is not None:
        raise Unavailable(f"The array cannot be used: {status.failure['message']} {status.action}")
    return served
