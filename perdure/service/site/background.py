"""A main program in the background: start it, wait until it serves or says why not, find it, stop it cleanly.

It is this package's own `perdure serve`, detached. It reports once, through a pipe: the status when clients can
connect, or the error that kept it from starting. So its starter has the very sentence, and no time-out to guess.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from perdure.errors import PerdureError, Unavailable, error_from_json, error_to_json
from perdure.service.control import ask
from perdure.service.site import artefacts, processes
from perdure.service.site.config import Config
from perdure.service.site.processes import Process
from perdure.service.status import ArrayStatus

STOP_S_MAX: Final = 120.0
"""How long a clean stop may take: it brings home whatever is still in the write cache."""


def running(config: Config) -> Process | None:
    """The main program of this configuration's directory, if it runs."""
    return processes.find(config.directory / artefacts.MAIN_PROCESS_FILE)


def status(config: Config) -> ArrayStatus:
    """What the main program says. Raises Unavailable when none runs or it does not answer."""
    return ArrayStatus.from_json(ask(config.serve.control, "status"))


def start(config: Config) -> ArrayStatus:
    """Start the main program and return when it serves. Raises the error that it ended with."""
    log = config.directory / artefacts.MAIN_LOG_FILE
    read_fd, write_fd = os.pipe()
    with open(read_fd, "rb") as report:
        try:
            command = [sys.executable, "-m", "perdure.cli.main", "serve", "--config", str(config.path)]
            main = processes.start_detached([*command, "--ready-fd", str(write_fd)], log=log, pass_fds=[write_fd])
        finally:
            os.close(write_fd)
        line = report.readline()
    if not line:
        main.wait()
        raise Unavailable(
            f"The main program ended without saying why (last in {log}: {processes.last_line(log)}); nothing that was "
            "flushed is lost. Try again."
        )
    value = json.loads(line)
    if "error" in value:
        main.wait()
        raise error_from_json(value["error"])
    _let_go(main)
    return ArrayStatus.from_json(value)


def _let_go(main: subprocess.Popen[bytes]) -> None:
    """It goes on without us: neither waited for nor warned about when this object goes."""
    main.returncode = 0


def report_ready(fd: int, value: ArrayStatus) -> None:
    """The main program's side: say that clients can connect, once."""
    _report(fd, value.to_json())


def report_error(fd: int, error: PerdureError) -> None:
    """The main program's side: say why it does not start, once."""
    _report(fd, {"error": error_to_json(error)})


def _report(fd: int, value: Mapping[str, Any]) -> None:
    # The starter may be gone by now; that is no reason for the main program to end.
    with suppress(BrokenPipeError), open(fd, "wb") as pipe:
        pipe.write(json.dumps(value).encode() + b"\n")


def stop(config: Config) -> bool:
    """Stop the main program cleanly; False when none runs.

    Raises what kept it from bringing everything home, and says whether it has stopped all the same.
    """
    process = running(config)
    if process is None:
        return False
    try:
        ask(config.serve.control, "stop", timeout_s=STOP_S_MAX)
    except PerdureError as error:
        if process.wait(10):
            said = {**error_to_json(error), "message": f"{error} This main program has stopped now."}
            raise error_from_json(said) from None
        raise
    if not process.wait(10):
        raise Unavailable(
            f"The main program (process {process.pid}) was told to stop and has not ended yet; nothing was forced. "
            f"Look at {config.directory / artefacts.MAIN_LOG_FILE} and try again."
        )
    return True
