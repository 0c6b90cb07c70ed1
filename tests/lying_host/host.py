"""An array of real disk processes on a host that owns every link: each disk stands behind a `Proxy`.

    with LyingHost(tmp_path) as host:
        host.mount()
        host.write(0, b"state")
        host.proxies[0].hide()

The main program is `perdure serve`, a process of its own, and reaches the disks through the proxies alone, from
the creation of the array on: whatever it ever said, `host.proxies[seat].frames` has. What this class does with a disk
beside that, any host could do; where it signs, it says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from coincurve import PrivateKey

from perdure.array.commands import Authority
from perdure.array.geometry import HISTORY_SECTORS, Geometry
from perdure.disk import wire
from perdure.disk.wire import Opcode, OpKind
from perdure.errors import Misuse, Unavailable
from perdure.service.control import ask
from perdure.service.creation import create_array
from perdure.service.site import artefacts, config, local
from perdure.service.site.config import Acknowledgements
from perdure.service.site.local import Wish
from tests.cli.rig import Done, Rig, _Nbd
from tests.disk import client
from tests.system.proxy import Frame, Proxy, unchanged

SECTOR = 4096
SIZE = "8M"
DEAD_AFTER_MS = 500
ANSWER_S = 20
TRIM = 4


class Main(Rig):
    """One machine's main program, `perdure serve` as a process of its own, by the configuration in a directory."""

    def __init__(self, path: Path, *, disks: int = 3, threshold: int = 2) -> None:
        super().__init__(path, disks=disks, threshold=threshold)
        self._main: subprocess.Popen[str] | None = None
        self._is_serving = False

    def mount(self, *, code: int | None = 0) -> dict[str, Any]:
        """Start `perdure serve` and return its status once it serves, which says this exit code; None is any."""
        status = self._serve()
        assert isinstance(status, dict), status.err
        assert code is None or status["exit_code"] == code, status
        self._wait_for_history()
        return status

    def _wait_for_history(self) -> None:
        """Return when the main program has read the array's history, so that no READ of it is taken for a test's."""
        with contextlib.suppress(Unavailable):  # it may be about to end
            self.wait_for(lambda status: status["events_last"] > 0 or status["failure"] is not None)

    def refusal(self, *codes: int) -> str:
        """`perdure serve` where nothing can be mounted: the one sentence with which it ends, and one of these codes."""
        done = self._serve()
        assert isinstance(done, Done), f"it serves: {done}"
        assert done.code in codes, done
        return done.sentence

    def _serve(self) -> dict[str, Any] | Done:
        """The status of a main program that serves, or how it ended."""
        log_path = self.directory / artefacts.MAIN_LOG_FILE
        command = [sys.executable, "-m", "perdure.cli.main", "serve", "--json"]
        with log_path.open("a") as log:
            start = log.tell()
            self._main = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=self.env)
        assert self._main.stdout is not None
        with self._main.stdout as stream:
            line = stream.readline()
            self._is_serving = line.endswith("}\n")  # an error has more lines
            if self._is_serving:
                return dict(json.loads(line))
            said = line + stream.read()
        return Done(self._main.wait(ANSWER_S), said, log_path.read_text()[start:])

    @property
    def main_pid(self) -> int:
        """Of the main program that was started last, serving or not yet."""
        assert self._main is not None
        return self._main.pid

    @property
    def is_serving(self) -> bool:
        """Whether the main program that was started last came to serve."""
        return self._is_serving

    def settle(self) -> None:
        """Wait until all that was written, events too, is home, and nothing more is sent."""
        self.wait_for(lambda status: self._keeps(status["events_last"]))
        self.wait_for(lambda status: status["dirty_sectors"] == 0)

    def _keeps(self, number: int) -> bool:
        """Whether this event stands in the array's history; 0 is none yet."""
        try:
            return bool(number and ask(self.directory / "control.sock", "event", number=number))
        except Misuse:
            return False

    def unmount(self) -> None:
        """Stop the main program cleanly."""
        ask(self.directory / "control.sock", "stop", timeout_s=ANSWER_S)
        assert self._main is not None
        assert self._main.wait(ANSWER_S) == 0

    def kill_main(self) -> None:
        """kill -9 it, if it runs."""
        if self._main is not None:
            self._main.kill()
            self._main.wait(ANSWER_S)

    def remount(self, *, code: int = 0) -> dict[str, Any]:
        """kill -9 the main program, if it runs, and mount again."""
        self.kill_main()
        return self.mount(code=code)

    def status_verb(self, *, code: int) -> Done:
        """`perdure status` as text, once it ends with this exit code; fails after half a minute."""
        self.wait_for(lambda status: status["exit_code"] == code)
        return self.run("status", code=code)

    def trim(self, offset: int, length: int) -> None:
        """NBD TRIM, and a FLUSH."""
        with _Nbd(self.directory / "nbd.sock") as nbd:
            nbd.request(TRIM, offset, length=length)
            nbd.request(3, 0)


class LyingHost(Main):
    """An array of n disks, k of which must be there, with a proxy before each; entering makes it, leaving ends it."""

    def __init__(
        self,
        path: Path,
        *,
        disks: int = 3,
        threshold: int = 2,
        dead_after_ms: int = DEAD_AFTER_MS,
        too: Callable[[bytes], bytes] | None = None,
        acknowledgements: Acknowledgements = Acknowledgements.EVIDENCE,
    ) -> None:
        """`too` makes an image for the authority that the array's policy shall list beside the true one."""
        super().__init__(path, disks=disks, threshold=threshold)
        self._dead_after_ms = dead_after_ms
        self._too = too
        self._acknowledgements = acknowledgements
        self.n, self.k = disks, threshold
        self.proxies: list[Proxy] = []
        self.others: list[subprocess.Popen[str]] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> LyingHost:
        with contextlib.ExitStack() as stack:
            # What launchers unpack stays in the test's directory, even if they are killed.
            stack.enter_context(_temporary_files_in(self.directory.with_name("tmp")))
            stack.callback(self.destroy)
            stack.callback(self._end_others)
            stack.callback(self.kill_main)
            self.directory.mkdir(mode=0o700)
            wish = Wish(SIZE, self.n, self.k, "unix:nbd.sock", self._dead_after_ms, self._acknowledgements)
            local.prepare(self.directory, wish)
            if self._too is not None:
                self._allow(self._too(self.authority.public_key))
            found = config.load(self.directory / config.NAME)
            local.start_disks(found, 0.0)
            for seat in range(self.n):
                self.proxies.append(stack.enter_context(Proxy.before(self.directory / f"disk-{seat}.sock")))
            self.config = create_array(found)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.__exit__(None, None, None)

    def _allow(self, image: bytes) -> None:
        """List this image in the policy, before there is an array."""
        path = self.directory / local.POLICY_FILE
        policy = artefacts.read_policy(path)
        more = local.policy_of(image, policy.roots[0].certificate)
        both = dataclasses.replace(policy, measurements=(*policy.measurements, *more.measurements))
        artefacts.write_atomic(path, both.to_json())

    def elsewhere(self, path: Path) -> Main:
        """The same array's configuration on another machine, so to say; its main program ends with this host."""
        other = Main(path)
        other.directory.mkdir(mode=0o700, parents=True)
        for name in (config.NAME, artefacts.ARRAY_FILE, local.AUTHORITY_FILE, local.POLICY_FILE):
            (other.directory / name).write_bytes((self.directory / name).read_bytes())
            (other.directory / name).chmod(0o600)
        text = (other.directory / config.NAME).read_text().replace('"unix:disk-', f'"unix:{self.directory}/disk-')
        (other.directory / config.NAME).write_text(text)
        self._stack.callback(other.kill_main)
        return other

    @property
    def geometry(self) -> Geometry:
        """Where what stands on a disk."""
        return Geometry.for_size(self.k, self.n, config.parse_size(SIZE), HISTORY_SECTORS)

    # Disks ------------------------------------------------------------------------------------------------

    @property
    def key(self) -> PrivateKey:
        """The authority's own key, for looking into disks. No host has it."""
        return PrivateKey(artefacts.read_key(self.directory / local.AUTHORITY_FILE).private_key)

    @property
    def authority(self) -> Authority:
        """The same, as the product's type."""
        return artefacts.read_key(self.directory / local.AUTHORITY_FILE)

    def new_disk(self, name: str) -> Path:
        """Start one more disk, blank, of the array's own image; its socket. Any host can do that, and often."""
        return self.new_disks([name])[0]

    def new_disks(self, names: Sequence[str], *, image: bytes | None = None, crooked: str | None = None) -> list[Path]:
        """The same for several, of another image if one is given; `crooked` is a lie of
        `tests.lying_host.crooked`, claiming to be the array's own image. They live until this host ends.
        """
        file = self.directory / local.IMAGE_FILE
        if image is not None:
            file = self.directory.with_name(f"{names[0]}.eif")
            file.write_bytes(image)
        paths = [self.directory / f"{name}.sock" for name in names]
        started = [self._start(path, file, crooked) for path in paths]
        self.others += started
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("listening ")
        return paths

    def _start(self, path: Path, image: Path, crooked: str | None) -> subprocess.Popen[str]:
        size = self.geometry.disk_bytes
        own = self.directory / local.IMAGE_FILE
        module = ["perdure.simtee.launch"] if crooked is None else ["tests.lying_host.crooked", crooked, str(own)]
        words = ["--image", image, "--root-directory", self.directory / local.ROOT_DIRECTORY]
        words += ["--listen", f"unix:{path}", "--size-bytes", size]
        return subprocess.Popen([sys.executable, "-m", *module, *map(str, words)], stdout=subprocess.PIPE, text=True)

    def present(self, *disks: Path | None) -> None:
        """What is found at the addresses from now on, in the order of the seats; None hides the seat."""
        for proxy, disk in zip(self.proxies, disks, strict=True):
            if disk is None:
                proxy.hide()
            else:
                proxy.show()
                proxy.present(disk)

    def present_own(self) -> None:
        """The array's first disks at their addresses, and nothing altered on the way."""
        self.present(*(self.disk(seat) for seat in range(self.n)))
        for proxy in self.proxies:
            proxy.alter = unchanged

    def disk(self, seat: int) -> Path:
        """Where the first disk of a seat really listens."""
        return self.directory / f"disk-{seat}-aside.sock"

    def log(self, seat: int) -> list[Frame]:
        """Every command that this seat's disk has been sent, but READs: what a host records to play it again."""
        return [frame for frame in self.proxies[seat].commands() if frame.opcode is not Opcode.READ]

    def instance(self, seat: int) -> str:
        """Of the disk in a seat, when the array was made; hexadecimal."""
        record = artefacts.read_record(self.directory)
        assert record is not None
        return record.instances[seat]

    def greet(self, disk: Path) -> client.Result:
        """Where a disk stands, by a HELLO that only the authority can sign."""
        with client.Client(f"unix:{disk}") as peer:
            return peer.ask(client.hello(self.key, os.urandom(32)))

    def take_over(self, disk: Path) -> None:
        """OPEN a disk, as the authority did or may yet do for an array of another kind."""
        with client.Client(f"unix:{disk}") as peer:
            instance = peer.ask(client.hello(self.key, os.urandom(32))).instance
            peer.ask(client.open_disk(self.key, instance, (7).to_bytes(8, "big") + os.urandom(8), os.urandom(32)))

    def disk_processes(self, seat: int) -> list[psutil.Process]:
        """The launcher and the program of the first disk of a seat."""
        launcher = psutil.Process(self.process(f"disk-{seat}").pid)
        return [launcher, *launcher.children(recursive=True)]

    def _end_others(self) -> None:
        for process in self.others:
            process.terminate()
        for process in self.others:
            process.communicate(timeout=ANSWER_S)


@contextlib.contextmanager
def _temporary_files_in(directory: Path) -> Iterator[None]:
    directory.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(directory))
        yield


# Frames, as a host sees and makes them ---------------------------------------------------------------------


def replay(disk: Path, commands: Iterable[Frame]) -> list[client.Result | wire.Reason]:
    """Send recorded commands to a disk, one after another; what it answers."""
    with client.Client(f"unix:{disk}", ANSWER_S) as peer:
        return [peer.call(client.frame(command.payload)) for command in commands]


def writes_in(frame: Frame) -> Iterator[tuple[int, bytes]]:
    """Where in a disk's memory, in disk sectors, an EXECUTE writes what (docs/spec.md, 2.3)."""
    (count,), body = wire.COUNT.unpack_from(frame.body), frame.body
    at = wire.COUNT.size + count * wire.OP.size
    for kind, target, length, _ in wire.OP.iter_unpack(body[wire.COUNT.size : at]):
        if kind == OpKind.WRITE:
            yield target, body[at : at + length * wire.DISK_SECTOR_BYTES]
            at += length * wire.DISK_SECTOR_BYTES


def forged_answer(command: Frame, size: int, link: bytes = b"") -> bytes:
    """A plain answer as the disk would give it; anybody can make one, since replies are not signed."""
    assert not command.wants_evidence
    result = wire.RESULT.pack(command.instance, command.epoch, command.seq, size) + link
    return wire.REPLY_HEADER.pack(wire.ANSWER, len(result)) + result


def data_of(number: int, length: int = SECTOR) -> bytes:
    """Content that is known by its number and like no other."""
    return b"".join(b"%015d\n" % number for _ in range(length // 16))
