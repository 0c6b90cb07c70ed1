"""The main program as a child of the loader: without privileges, with the key in a directory that only it can read.

It is told where that is by the placeholder `{directory}` of the manifest's command and by `PERDURE_DIRECTORY`; nothing
secret is in its arguments or its environment. It dies with the loader, and a signal to the loader is one to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perdure.array.geometry import Geometry
from perdure.errors import Misuse, Unavailable
from perdure.loader import memory
from perdure.loader.sealed import Secret
from perdure.manifest.manifest import Manifest

DIRECTORY: Final = "private"
PROGRAM: Final = "program"
NEWS: Final = "notify.sock"
NEWS_BYTES_MAX: Final = 4096
READY_S_MAX: Final = 60.0
"""How long a main program may take until it serves."""
STOP_S_MAX: Final = 60.0
"""How long a main program may take to bring everything home."""


@dataclass(frozen=True, slots=True)
class Hints:
    """What the host chooses: where the disks are, where to serve, and as whom the program runs."""

    addresses: tuple[str, ...]
    serve: str
    uid: int


def configuration(secret: Secret, manifest: Manifest, shape: Geometry, hints: Hints) -> dict[str, bytes]:
    """The files that the main program finds: `perdure.toml` and what it names. All but the addresses is signed."""
    program = f"{manifest.version}:{manifest.digest().hex()}"
    overrides = "".join(f'{name} = "{value}"\n' for name, value in sorted(manifest.overrides.to_json().items()))
    attest = "" if manifest.overrides.attest else 'attest = "flush"\n'
    addresses = ", ".join(_quoted(address) for address in hints.addresses)
    text = (
        "# Written by the loader; what is trusted here was signed by the developers or came sealed from the operator.\n"
        f'[array]\nid = "{secret.array_id.hex()}"\nkey-file = "authority.key"\npolicy-file = "policy.json"\n'
        f'disks = {shape.n}\nthreshold = {shape.k}\nsize = {shape.size_bytes}\nprogram = "{program}"\n'
        f"[disks]\naddresses = [{addresses}]\n"
        f'[serve]\nlisten = {_quoted(hints.serve)}\ncontrol = "control.sock"\ndead-after-ms = 10000\n'
        f"answer-ms-max = 5000\n{attest}{overrides}"
    )
    return {
        "authority.key": secret.private_key.hex().encode() + b"\n",
        "array.id": secret.array_id.hex().encode() + b"\n",
        "policy.json": manifest.policy.to_json(),
        "perdure.toml": text.encode(),
    }


def _quoted(text: str) -> str:
    """A TOML string. Raises Misuse for what a host could use to say more than an address."""
    if not text.isprintable() or '"' in text or "\\" in text:
        raise Misuse(f"An address is printable text without quotes, not {text!r:.80}.")
    return f'"{text}"'


class Child:
    """One run of the main program."""

    def __init__(self, process: asyncio.subprocess.Process, place: Path, news: socket.socket) -> None:
        self._process = process
        self._place = place
        self._news = news
        self._ready = asyncio.Event()
        self.pid = process.pid
        self.says = ""
        """Its last line of status (sd_notify(3)), or of what it printed."""
        asyncio.get_running_loop().add_reader(news, self._heard)
        self._reading = asyncio.ensure_future(self._read())

    @staticmethod
    def directory(place: Path) -> Path:
        """Where its key is."""
        return place / DIRECTORY

    @classmethod
    async def start(cls, command: Sequence[str], place: Path, files: Mapping[str, bytes], uid: int) -> Child:
        """Write the files and execute. Raises Misuse when the system refuses; then nothing of them is left."""
        directory = cls.directory(place)
        memory.wipe(directory)
        news = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            memory.write_private(directory, files, uid)
            news.setblocking(False)
            news.bind(str(directory / NEWS))
            os.chown(directory / NEWS, uid, uid)
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                cwd=place / PROGRAM,
                env=_environment(directory),
                umask=0o077,
                start_new_session=True,
                preexec_fn=_prepared(uid, os.getpid()),
            )
        except (OSError, subprocess.SubprocessError) as error:
            news.close()
            memory.wipe(directory)
            raise Misuse(f"The main program cannot be executed ({error}); nothing runs.") from None
        return cls(process, place, news)

    async def serving(self) -> None:
        """Return when it has said READY=1. Raises Unavailable when it ends before, or does not say so in time."""
        ready, ended = asyncio.ensure_future(self._ready.wait()), asyncio.ensure_future(self._process.wait())
        try:
            await asyncio.wait((ready, ended), timeout=READY_S_MAX, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            ended.cancel()
        if not self._ready.is_set():
            how = "does not say that it serves"
            if self._process.returncode is not None:
                await self._reading
                how = f"ended with {self._process.returncode} before it served"
            raise Unavailable(f"The main program {how}; its last words: {self.says or 'none'}.")

    def _heard(self) -> None:
        with contextlib.suppress(OSError):
            said = self._news.recv(NEWS_BYTES_MAX).decode(errors="replace").splitlines()
            if "READY=1" in said:
                self._ready.set()
            self.says = next((line.removeprefix("STATUS=") for line in said if line.startswith("STATUS=")), self.says)

    async def _read(self) -> None:
        """Pass on what it prints to where this loader logs, and keep the last line."""
        assert self._process.stdout is not None
        while True:
            try:
                line = await self._process.stdout.readline()
            except ValueError:
                continue  # longer than the buffer: it was dropped
            if not line:
                return
            self.says = line.decode(errors="replace").strip()[:NEWS_BYTES_MAX]
            sys.stderr.write(self.says + "\n")
            sys.stderr.flush()

    def send(self, number: int) -> None:
        """Forward a signal."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def wait(self) -> int:
        """Its exit status, 128 + N after signal N, once it has ended, and all that it has started with it.

        What it was given is wiped by then.
        """
        status = await self._process.wait()
        await asyncio.to_thread(memory.end_what_is_left)
        await self._reading
        if self._news.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._news)
            self._news.close()
            memory.wipe(self.directory(self._place))
        return status if status >= 0 else 128 - status

    async def stop(self) -> int:
        """Have it bring everything home and end; kill it if that takes too long. Its exit status."""
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_S_MAX):
                await self._process.wait()
        except TimeoutError:
            self.send(signal.SIGKILL)
        return await self.wait()


def _prepared(uid: int, parent: int) -> Callable[[], None]:
    """For a child, before it executes: without privileges, and to be told to end when the loader is gone."""

    def prepare() -> None:
        memory.become(uid)
        memory.end_with(parent)  # after the change of user, which would undo it

    return prepare


def _environment(directory: Path) -> dict[str, str]:
    """All that the main program finds there. A Python program finds the interpreter and the libraries of the image."""
    libraries = [place for place in sys.path if Path(place).name in ("site-packages", "dist-packages")]
    return {
        "PYTHONPATH": os.pathsep.join(libraries),
        "PATH": f"{Path(sys.executable).parent}:{os.defpath}",
        "HOME": str(directory),
        "PERDURE_DIRECTORY": str(directory),
        "NOTIFY_SOCKET": str(directory / NEWS),
    }
