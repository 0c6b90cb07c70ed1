"""What the loader's tests stand on: developers with real keys, an array of simulated disks, loaders in their images.

    with World() as world:
        v1 = world.release(1)
        one = world.loader("one")
        one.load(v1, world.sign(v1, "alice", "bob"))
        one.provision()

The main program of these tests counts: it writes a number, flushes, and then says so in a file that lies outside, the
witness. So whatever is killed, what was acknowledged is known.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from perdure.array.commands import Authority
from perdure.cli.loader import start_simulated
from perdure.evidence.measurement import Measurement
from perdure.evidence.policy import SEATS_MAX, Policy, TrustedRoot
from perdure.evidence.roots import Platform
from perdure.image import eif
from perdure.image import loader as images
from perdure.manifest import tree
from perdure.manifest.developers import Developer, Developers
from perdure.manifest.manifest import Manifest, Program, ProgramKind
from perdure.service import lifecycle
from perdure.service.lifecycle import Bundle
from perdure.service.site import artefacts, config
from perdure.simtee.pki import SimulatedRoot
from tests.cli.rig import perdure

UID = 61_184
PACKAGE = Path(__file__).parents[2] / "perdure"
NAMES = ("alice", "bob", "carol")
COMMAND = ("python3", "{program}/main.py", "{directory}")
WAIT_S = 30
COUNTING = """
import asyncio, os, signal, socket, sys, time
from pathlib import Path
from perdure.api import Host
from perdure.errors import PerdureError
from perdure.service import secrecy
from perdure.service.main import require_id, settings_of
from perdure.service.site import config

WITNESS = os.open({witness!r}, os.O_WRONLY | os.O_APPEND)
VERSION = {version}

def witness(what, value):
    os.write(WITNESS, f"{{what}} {{value}} {{VERSION}} {{os.getpid()}} {{time.monotonic_ns()}}\\n".encode())

async def run():
    secrecy.apply()
    found = config.load(Path(sys.argv[1]) / "perdure.toml")
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    host = Host(settings_of(found))
    array = await host.mount(require_id(found))
    value = int(bytes(await array.pread(0, 16)).strip(b"\\0") or b"0")
    witness("found", value)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as news:
        news.sendto(b"READY=1\\nSTATUS=counting", os.environ["NOTIFY_SOCKET"])
    while not stopping.is_set():
        value += 1
        await array.pwrite(0, b"%016d" % value)
        await array.flush()
        witness("kept", value)
    await array.close()
    await host.close()

try:
    asyncio.run(run())
except PerdureError as error:
    print("the counter ends:", error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def require_root_and_a_reachable_python() -> None:
    """Skip where a main program could not be run as another user: that needs root, and a Python that it may enter."""
    if os.geteuid() != 0:
        pytest.skip("a loader needs to be root, as it is in its TEE")
    if reachable_python() is None:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        pytest.skip(f"no Python {version} here can be executed by other users (apt install python{version})")
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not here; apt install openssh-client brings it")


def reachable_python() -> str | None:
    """The `python3` that a main program would find, if it is of this version."""
    path = f"{Path(sys.executable).parent}:{os.defpath}"
    for place in path.split(os.pathsep):
        found = shutil.which("python3", path=place)
        if found is None:
            continue
        program = f"import sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
        with contextlib.suppress(PermissionError):
            words = [found, "-I", "-c", program]
            if subprocess.run(words, user=UID, group=UID, extra_groups=(), check=False, cwd="/").returncode == 0:
                return found
    return None


def until(what, wait_s=WAIT_S):
    """The first true answer of `what`; fails when there is none in time."""
    give_up = time.monotonic() + wait_s
    while not (found := what()):
        assert time.monotonic() < give_up, "nothing of the kind happened"
        time.sleep(0.02)
    return found


@dataclass(frozen=True)
class Release:
    """A manifest and the program it names."""

    manifest: Manifest
    program: bytes


@dataclass(frozen=True)
class Line:
    """One line of the witness: `found` at the start of a run, `kept` after a flush."""

    what: str
    value: int
    version: int
    pid: int
    at_ns: int


class World:
    """A directory that other users may enter, with an array of three disks. Leaving ends whatever was started."""

    def __init__(self) -> None:
        require_root_and_a_reachable_python()
        self.place = Path(tempfile.mkdtemp(prefix="perdure-loaders-", dir="/tmp"))
        self.place.chmod(0o755)
        self.witness_file = self.place / "witness"
        self.loaders: list[Running] = []

    def __enter__(self) -> World:
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _make(self) -> None:
        for name in NAMES:
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self.place / name)]
            subprocess.run(words, check=True)
        self.developers = self.list_of(*NAMES)
        directory = self.array = self.place / "array"
        words = ["--disks", 3, "--threshold", 2, "--size", "4M", "--dead-after-ms", 1000]
        assert perdure("up", "--directory", directory, *words).code == 0
        assert perdure("down", "--directory", directory).code == 0
        self.found = config.load(directory / config.NAME)
        self.authority: Authority = artefacts.read_key(self.found.array.key_file)
        self.policy = artefacts.read_policy(self.found.array.policy_file)
        self.array_id = self.found.array.array_id
        self.root = SimulatedRoot.load_or_create(directory / "simulated-root")
        self.loaders_allowed = self.allowing(self.image("loader.eif", self.developers))
        directory.chmod(0o711)
        for seat in range(3):  # of this world alone: a main program reaches its disks, wherever they are
            (directory / f"disk-{seat}.sock").chmod(0o666)
        self.witness_file.touch()
        self.witness_file.chmod(0o666)
        self._pack()

    def __exit__(self, *_: object) -> None:
        for loader in self.loaders:
            loader.kill()
        perdure("down", "--destroy", "--directory", self.place / "array")
        shutil.rmtree(self.place)

    # Developers and what they sign ------------------------------------------------------------------------

    def list_of(self, *names: str, threshold: int = 2) -> Developers:
        keys = ((name, (self.place / f"{name}.pub").read_text()) for name in names)
        return Developers(threshold, tuple(Developer.of(name, "ssh", key) for name, key in keys))

    def _pack(self) -> None:
        """The package, compiled, once for all releases: a main program may write nothing beside it."""
        self.package = self.place / "package"
        shutil.copytree(PACKAGE, self.package / "perdure", ignore=shutil.ignore_patterns("__pycache__"))
        words = ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", str(self.package)]
        subprocess.run([sys.executable, *words], check=True)

    def release(self, version: int, main: str = COUNTING, **changes: object) -> Release:
        app = self.place / f"app-{version}-{len(list(self.place.iterdir()))}"
        shutil.copytree(self.package, app)
        (app / "main.py").write_text(main.format(witness=str(self.witness_file), version=version))
        program = lifecycle._tarball(app)
        found = Manifest(
            name="counter",
            version=version,
            program=Program(ProgramKind.TREE, tree.digest(app)),
            command=COMMAND,
            array_id=self.array_id,
            threshold=2,
            disks=3,
            policy=self.policy,
        )
        shutil.rmtree(app)
        return Release(replace(found, **changes), program)

    def sign(self, release: Release, *names: str) -> tuple[bytes, ...]:
        """What real ssh-keygen makes with the keys of these developers."""
        words = ["ssh-keygen", "-q", "-Y", "sign", "-n", "perdure-manifest", "-f"]
        return tuple(
            subprocess.run(
                [*words, str(self.place / name)], input=release.manifest.to_json(), capture_output=True, check=True
            ).stdout
            for name in names
        )

    # Loaders ----------------------------------------------------------------------------------------------

    def image(self, name: str, developers: Developers) -> Path:
        path = self.place / name
        path.write_bytes(images.build_simulated(developers))
        return path

    def allowing(self, *files: Path) -> Policy:
        measured = []
        for path in files:
            pcrs = eif.measure(eif.parse(path.read_bytes()))
            measured.append(Measurement.enclave("simulated", pcrs.pcr0, pcrs.pcr1, pcrs.pcr2))
        root = TrustedRoot("simulated", Platform.SIMULATED, self.root.der)
        return Policy((root,), tuple(measured), seats_per_root_max=SEATS_MAX)

    def loader(self, name: str, image: str = "loader.eif") -> Running:
        running = Running(self, name, self.place / image)
        self.loaders.append(running)
        return running

    # The witness ------------------------------------------------------------------------------------------

    def witness(self) -> list[Line]:
        lines = [line.split() for line in self.witness_file.read_text().splitlines()]
        return [Line(what, *map(int, rest)) for what, *rest in lines]

    def counts_on(self, *, version: int | None = None) -> list[Line]:
        """Wait until some main program, of this version, keeps three more numbers; all lines then."""
        seen = len(self.witness())

        def more() -> bool:
            new = [line for line in self.witness()[seen:] if line.what == "kept"]
            return sum(version in (None, line.version) for line in new) >= 3

        until(more)
        return self.witness()


def require_one_owner_at_a_time_and_nothing_lost(lines: list[Line]) -> None:
    """In the order of time each run begins with at least what was last kept, and none keeps anything afterwards."""
    kept, owner, gone = 0, 0, set()
    for line in sorted(lines, key=lambda line: line.at_ns):
        if line.what == "found":
            assert line.value >= kept, f"what was acknowledged is lost: {kept}, found {line}"
            gone.add(owner)
            owner = line.pid
        else:
            assert line.pid == owner, f"two owners at once: {line}"
            assert line.pid not in gone
            kept = line.value


class Running:
    """One loader that was started."""

    def __init__(self, world: World, name: str, image: Path) -> None:
        self.world = world
        self.log = world.place / f"{name}.log"
        root = world.place / "array" / "simulated-root"
        started = start_simulated(image, root, f"unix:{world.place / name}.sock", self.log)
        self.address = started["address"]
        self.process = psutil.Process(started["pid"])

    def kill(self) -> None:
        """The end of its machine: launcher, loader and main program at once."""
        with contextlib.suppress(psutil.NoSuchProcess):
            tree_of = [self.process, *self.process.children(recursive=True)]
            for process in tree_of:  # nothing may see another end and act on it
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.suspend()
            for process in tree_of:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(tree_of, timeout=10)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.process.pid, 0)

    def bundle(
        self,
        release: Release,
        signatures: tuple[bytes, ...],
        addresses: tuple[str, ...] | None = None,
        serve: str = "unix:/nowhere",
    ) -> Bundle:
        hints = self.world.found.addresses if addresses is None else addresses
        return Bundle(release.manifest, signatures, release.program, hints, serve, UID)

    def load(self, release: Release, signatures: tuple[bytes, ...], **hints: object) -> dict:
        return asyncio.run(lifecycle.load(self.address, self.bundle(release, signatures, **hints)))

    def provision(self, loaders: Policy | None = None, **given: object) -> None:
        world = self.world
        allowed = world.loaders_allowed if loaders is None else loaders
        return asyncio.run(lifecycle.provision(self.address, world.authority, world.array_id, allowed, **given))

    def follow(self, before: Running | str) -> dict:
        address = before if isinstance(before, str) else before.address
        return asyncio.run(lifecycle.follow(self.address, address))

    def health(self) -> dict:
        return asyncio.run(lifecycle.health(self.address))

    def stop(self) -> None:
        asyncio.run(lifecycle.stop(self.address))
        until(lambda: not self.process.is_running() or self.process.status() == psutil.STATUS_ZOMBIE)
