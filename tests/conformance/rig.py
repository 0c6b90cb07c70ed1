"""What these tests share: other people's programs that stand before the array, and scripts for libnbd.

Processes that are started here end with their block. A missing program skips the test and says which.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.rig import LOOK_S, READY_S, call, tool

SYSTEM_PYTHON = "/usr/bin/python3"
"""Debian's libnbd bindings belong to Debian's Python, whichever Python these tests have."""

_PRELUDE = """
import errno, json, sys
import nbd

def failure(call, *words, **named):
    try:
        call(*words, **named)
    except nbd.Error as error:
        return errno.errorcode.get(error.errnum, str(error.errnum))
    return None

def connected(structured=True, contexts=(), strict=False):
    h = nbd.NBD()
    h.set_request_structured_replies(structured)
    for context in contexts:
        h.add_meta_context(context)
    if not strict:
        h.set_strict_mode(0)  # so that the server, and not the library, refuses what is wrong
    h.connect_uri(sys.argv[1])
    return h

def tell(value):
    print(json.dumps(value))
"""


def failure(uri: str, command: str) -> str | None:
    """The name of the error with which one command fails, in the terms of `libnbd`'s scripts; None if it does not."""
    told = libnbd(uri, f"h = connected()\ntell(failure({command}))")
    assert told is None or isinstance(told, str)
    return told


def libnbd(uri: str, script: str) -> Any:
    """Run a script with libnbd's Python bindings against `uri`; the value that it gave to `tell`.

    The script has `nbd`; `connected`, a handle that leaves all checks to the server; `failure`, which runs a command
    and names the error that came, or None.
    """
    if subprocess.run([SYSTEM_PYTHON, "-c", "import nbd"], capture_output=True, check=False).returncode:
        pytest.skip("python3-libnbd is not installed, and nothing can stand in for libnbd's own checks")
    return json.loads(call(SYSTEM_PYTHON, "-c", _PRELUDE + script, uri))


@contextlib.contextmanager
def nbdkit(directory: Path, *words: object) -> Iterator[str]:
    """nbdkit on a socket in `directory`, with these options, filters and plugin; the URI to give to clients."""
    path = directory / "nbdkit.sock"
    ready = directory / "nbdkit.pid"
    command = [tool("nbdkit"), "--foreground", "--exit-with-parent", "-U", path, "-P", ready, *words]
    with _running(command, ready, path):
        yield f"nbd+unix:///?socket={path}"


@contextlib.contextmanager
def qemu_nbd(directory: Path, *words: object) -> Iterator[str]:
    """qemu-nbd with these options on a socket in `directory`; the URI to give to clients."""
    path = directory / "qemu-nbd.sock"
    ready = directory / "qemu-nbd.pid"
    command = [tool("qemu-nbd"), "--persistent", "--shared=0", "-k", path, f"--pid-file={ready}", *words]
    with _running(command, ready, path):
        yield f"nbd+unix:///?socket={path}"


@contextlib.contextmanager
def _running(command: list[object], ready: Path, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The program, once it listens; it must not have ended by itself before the block does."""
    for stale in (ready, path):
        stale.unlink(missing_ok=True)
    log = path.with_suffix(".log")
    with log.open("ab") as out, subprocess.Popen(list(map(str, command)), stdout=out, stderr=out) as process:
        try:
            give_up = time.monotonic() + READY_S
            while not (ready.exists() and ready.read_bytes().strip() and path.exists()):
                assert process.poll() is None, f"{command[0]} ended instead of serving\n{log.read_text()}"
                assert time.monotonic() < give_up, f"{command[0]} does not get ready\n{log.read_text()}"
                time.sleep(LOOK_S)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(READY_S)
            except subprocess.TimeoutExpired:
                process.kill()


def qemu_io(image: object, *commands: str, code: int | None = 0) -> str:
    """Run qemu-io's commands on an image, a URI or `--image-opts` words; what it said."""
    words = [word for command in commands for word in ("-c", command)]
    image_words = list(image) if isinstance(image, tuple) else ["-f", "raw", image]
    return call("qemu-io", "-t", "writeback", "-d", "unmap", *image_words[:-1], *words, image_words[-1], code=code)


def random_file(path: Path, size: int) -> bytes:
    """A file of random bytes with a hole of zeros in its middle; what it holds."""
    third = size // 3
    content = os.urandom(third) + bytes(third) + os.urandom(size - 2 * third)
    path.write_bytes(content)
    return content
