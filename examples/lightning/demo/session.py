"""Alice and Bob in their process, led by lines of JSON. When the block ends it is killed, never asked to stop."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ANSWER_S = 600.0
END_S = 120.0
LAST_LINES = 12


class Ended(Exception):
    """The nodes' process ended without an answer; the message is what it said last."""


@dataclass(frozen=True, slots=True)
class Session:
    """The nodes that run. `first` is what they said when they had started: `balance`, `bob`, `height`."""

    process: subprocess.Popen[bytes]
    first: dict[str, Any]
    log: Path

    def ask(self, verb: str, **more: object) -> dict[str, Any]:
        """Give an order and return its answer. Raises Ended."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": verb, **more}).encode() + b"\n")
        self.process.stdin.flush()
        return _answer(self.process, self.log)

    def kill(self) -> None:
        """kill -9 the nodes, and wait for what brought their file system."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.first["pid"], signal.SIGKILL)
        self.process.wait(END_S)


@contextlib.contextmanager
def started(command: Sequence[str], log: Path) -> Iterator[Session]:
    """Start the nodes with a command whose standard streams are theirs. Raises Ended if they do not come up."""
    with log.open("ab") as said:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, bufsize=0)
    try:
        session = Session(process, _answer(process, log), log)
    except BaseException:
        process.terminate()  # `perdure run` passes it on and takes its file system away
        process.wait(END_S)
        raise
    try:
        yield session
    finally:
        session.kill()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()


def _answer(process: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    assert process.stdout is not None
    line, until = b"", time.monotonic() + ANSWER_S
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))
        part = os.read(process.stdout.fileno(), 1 << 16) if ready else b""
        if not part:
            raise Ended(last_words(log) if ready else f"no answer within {ANSWER_S:.0f} s")
        line += part
    value: dict[str, Any] = json.loads(line)
    return value


def last_words(log: Path) -> str:
    """The end of a log."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return "\n".join(lines[-LAST_LINES:]) or "it said nothing"
