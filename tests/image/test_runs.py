"""A built image's own Python runs the disk: from its first ramdisk unpacked in a folder, with nothing of this machine.

And what it loads is compared with the lock: nothing is missing, and nothing is there that nobody needs.
"""

from __future__ import annotations

import ast
import os
import platform as machine
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import pytest

from perdure.disk import init
from perdure.disk.wire import DISK_SECTOR_BYTES
from perdure.errors import PerdureError
from perdure.evidence.roots import Platform
from perdure.image import build, cpio, runtime
from perdure.service import images
from tests.disk import client
from tests.disk.client import Client
from tests.disk.running import EPOCH, KEY
from tests.disk.test_main import serve_evidence

CACHE = Path(__file__).parents[2] / "build" / "vm"
DOORS = {Platform.NITRO: "nsm", Platform.SEV_SNP: "tsm", Platform.TPM: "tpm"}
"""One platform for each door."""
PYTHON = "usr/lib/python3.11"
ALONE = {"LC_ALL": "C"}
"""In the guest no locale is installed; here the interpreter would find this machine's C.UTF-8."""
LIBRARIES = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")

LINKED_BY_THE_LOADER = {"lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "lib64/ld-linux-x86-64.so.2"}
"""One file under two names: the kernel looks for the second, libraries name the first."""


@dataclass(frozen=True)
class Image:
    """The first ramdisk of an image, in a folder."""

    folder: Path

    def command(self, code: str, *arguments: str) -> list[str]:
        """Run `code` by the image's interpreter and loader, as its init does."""
        loader = [str(self.folder / "lib64/ld-linux-x86-64.so.2"), "--inhibit-cache", "--library-path"]
        path = ":".join(str(self.folder / library) for library in LIBRARIES)
        python = [str(self.folder / "usr/bin/python3.11"), "-I", "-S", "-B"]
        return [*loader, path, *python, "-c", code, *arguments]

    def modules(self, code: str) -> tuple[set[str], set[str]]:
        """Run `code`; the files of all modules that are loaded then, and the libraries that are mapped."""
        done = subprocess.run(
            self.command(code + REPORT), env=ALONE, check=False, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, done.stderr
        return self.loaded(done.stdout)

    def loaded(self, report: str) -> tuple[set[str], set[str]]:
        """Take apart what REPORT printed last."""
        value = ast.literal_eval(report.splitlines()[-1])
        modules, maps = (
            {str(Path(one).relative_to(self.folder)) for one in value[part]} for part in ("modules", "maps")
        )
        return modules, maps


REPORT = """
import sys
files = {getattr(module, "__file__", None) for module in sys.modules.values()} - {None}
maps = {line.split()[5] for line in open("/proc/self/maps") if line.count(" ") > 5 and "/" in line.split()[-1]}
print({"modules": sorted(files), "maps": sorted(maps)})
"""
"""Modules that the interpreter brings within itself (`os`, `io` ...) count with the files that they say are theirs:
tracebacks read these, and by `os.py` the interpreter finds its library."""


@pytest.fixture(scope="module")
def packages() -> Path:
    """The packages of the image's Python: those that are locked, or what there is where these are not to be had."""
    if (machine.system(), machine.machine()) != ("Linux", "x86_64"):
        pytest.skip("NO IMAGE'S PYTHON WAS RUN: it is for x86-64")
    directory = CACHE / "runtime"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "FETCH_S_MAX", 20)
        try:
            try:
                images.fetch(directory)
            except PerdureError:
                directory = CACHE / "runtime-newest"
                if not (directory / images.LOCK_FILE).exists():
                    images.fetch(directory, newest=True)
        except PerdureError as error:
            pytest.skip(f"NO IMAGE'S PYTHON WAS RUN: {error}")
    return directory


@pytest.fixture(scope="module")
def unpacked(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Platform, Image]:
    """An image of each door."""
    files = images.read_runtime(packages)
    made = {}
    for platform in DOORS:
        folder = tmp_path_factory.mktemp(platform.value).resolve()
        for name, contents in cpio.unpack(build.program_ramdisk(platform, files, {})).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(contents)
            if contents.startswith((b"\x7fELF", b"#!")):
                path.chmod(0o755)
        made[platform] = Image(folder)
    return made


@pytest.fixture(scope="module")
def locked(packages: Path) -> set[str]:
    """Every file of the lock, by its path in the image."""
    lock = packages / images.LOCK_FILE
    data = lock.read_bytes() if lock.exists() else runtime.builtin_lock()
    return {
        name if package.kind == "deb" else f"perdure-disk/{name}"
        for package in runtime.parse_lock(data)
        for name in package.files
    }


# The disk ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def disk(unpacked: dict[Platform, Image], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, set[str], set[str]]:
    """Run a disk of the Nitro image through one story; the sector it kept, and what it had loaded at its end."""
    image = unpacked[Platform.NITRO]
    folder = tmp_path_factory.mktemp("disk")
    authority, address = folder / "authority.pub", f"unix:{folder / 'disk'}"
    authority.write_bytes(KEY.public_key.format())
    start = init.START.replace("'/perdure-disk'", repr(str(image.folder / "perdure-disk")))
    assert start.endswith("sys.exit(main())")
    code = start.replace("sys.exit(main())", "\ntry:\n    main()\nexcept KeyboardInterrupt:\n    pass\n") + REPORT
    theirs, ours = socket.socketpair()
    Thread(target=serve_evidence, args=(theirs,), daemon=True).start()
    words = ["--listen", address, "--size-bytes", str(1 << 20), "--evidence", f"nsm-socket:{ours.fileno()}"]
    command = image.command(code, *words, "--authority", str(authority))
    pipe = subprocess.PIPE
    with (
        ours,
        subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=ALONE, pass_fds=[ours.fileno()]) as started,
    ):
        try:
            assert started.stdout is not None
            assert started.stdout.readline() == f"listening {address}\n", started.stderr
            sector = os.urandom(DISK_SECTOR_BYTES)
            with Client(address) as peer:
                hello = client.hello(KEY, b"n" * 32)
                reply = peer.ask(hello)
                evidence = client.parse_evidence(reply, hello)
                assert evidence.document == b"document over " + (evidence.root or b"")
                peer.ask(client.open_disk(KEY, reply.instance, EPOCH, b"o" * 32))
                peer.ask(client.execute(KEY, reply.instance, EPOCH, 1, [client.write(7, sector)], b"e" * 32))
                read = peer.ask(client.read(KEY, reply.instance, EPOCH, [(7, 1)], b"r" * 32))
            started.send_signal(2)
            report = started.stdout.read()
            assert started.wait(20) == 0
        finally:
            started.kill()
    kept = "kept" if read.data == sector else "lost"
    return (kept, *image.loaded(report))


def test_the_images_own_python_serves_a_disk(disk: tuple[str, set[str], set[str]]) -> None:
    assert disk[0] == "kept"


def test_the_disk_loads_nothing_from_outside_of_the_image(disk: tuple[str, set[str], set[str]]) -> None:
    """`loaded` has failed already if a path were not below the folder; and the disk's own modules are among them."""
    _, modules, maps = disk
    assert "perdure-disk/perdure/disk/core.py" in modules
    assert "usr/lib/x86_64-linux-gnu/libcrypto.so.3" in maps


def test_the_disk_has_neither_ctypes_nor_json(disk: tuple[str, set[str], set[str]]) -> None:
    """They are in the image for init, which has gone before; so the line is kept of what the disk's process trusts."""
    _, modules, maps = disk
    assert [name for name in modules | maps if "ctypes" in name or "json" in name or "libffi" in name] == []


# The list ----------------------------------------------------------------------------------------------------

INIT = """
import json, os, sys, types
init = types.ModuleType("init")
exec(compile(open({path!r}).read(), "/init", "exec"), vars(init))
with open({boot!r}, "w") as file:
    json.dump({{"evidence": "x:/x", "listen": "x", "heartbeat": None, "modules": []}}, file)
init.BOOT_FILE = {boot!r}
init.mount = lambda mounts: None
def step(function, *words):
    try:
        function(*words)
    except OSError:
        pass
step(init.set_address, "absent0", "10.0.0.2/24", "10.0.0.1")  # this runs on the tester's own machine: no real name
step(init.load_module, "/dev/null")
step(init.beat, 0xFFFFFFFF, 1)  # nobody's
class Done(Exception): pass
def execv(*words): raise Done
os.execv = execv
try:
    init.main()
except Done:
    pass
else:
    raise SystemExit(1)
"""


@pytest.fixture(scope="module")
def needed(
    unpacked: dict[Platform, Image], disk: tuple[str, set[str], set[str]], tmp_path_factory: pytest.TempPathFactory
) -> set[str]:
    """The files that the disk with any of its doors, or init, loads."""
    found = disk[1] | disk[2]
    for platform, door in DOORS.items():
        image = unpacked[platform]
        where = str(image.folder / "perdure-disk")
        code = f"import sys; sys.path.insert(0, {where!r}); import perdure.disk.main, perdure.disk.{door}"
        found |= set().union(*image.modules(code))
    boot = str(tmp_path_factory.mktemp("init") / "boot.json")
    return found | set().union(*image.modules(INIT.format(path=str(image.folder / "init"), boot=boot)))


def test_the_lock_holds_everything_that_is_loaded(needed: set[str], locked: set[str]) -> None:
    program = {f"perdure-disk/perdure/{name}" for name in ("__init__.py", "disk/__init__.py")}
    program |= {f"perdure-disk/perdure/disk/{path.name}" for path in Path(init.__file__).parent.glob("*.py")}
    assert needed - locked - program == set()


def test_the_lock_holds_nothing_that_is_never_loaded(needed: set[str], locked: set[str]) -> None:
    assert locked - needed - LINKED_BY_THE_LOADER == set()


def test_what_is_allowed_beside_is_there(needed: set[str], locked: set[str]) -> None:
    """Lest the exceptions outlive their reasons."""
    assert locked >= LINKED_BY_THE_LOADER
    assert needed & LINKED_BY_THE_LOADER


def test_a_platforms_image_has_no_other_door(unpacked: dict[Platform, Image]) -> None:
    for platform, door in DOORS.items():
        for other in DOORS.values():
            code = f"import sys; sys.path.insert(0, {str(unpacked[platform].folder / 'perdure-disk')!r})\n"
            command = unpacked[platform].command(f"{code}import perdure.disk.{other}")
            done = subprocess.run(command, env=ALONE, check=False, capture_output=True, text=True, timeout=30)
            assert (done.returncode == 0) is (other == door), done.stderr


def test_the_image_lies_where_its_first_line_looks(unpacked: dict[Platform, Image]) -> None:
    """And its interpreter takes no modules from anywhere but its own library."""
    image = unpacked[Platform.NITRO]
    first = (image.folder / "init").read_bytes().splitlines()[0]
    assert first == b"#!/usr/bin/python3.11 -ISB"
    code = "import sys; print(sys.path, sys.prefix, sys.version_info[:2], sys.flags.isolated, sys.flags.no_site)"
    done = subprocess.run(image.command(code), env=ALONE, capture_output=True, text=True, timeout=30, check=True)
    library = image.folder / PYTHON
    path = [str(image.folder / "usr/lib/python311.zip"), str(library), str(library / "lib-dynload")]
    assert done.stdout.strip() == f"{path} {image.folder / 'usr'} (3, 11) 1 1"


def test_the_whole_image_runs_as_the_root_of_a_machine(unpacked: dict[Platform, Image]) -> None:
    """With its ramdisk as the only files there are, as in the guest: its own loader finds its own libraries."""
    image = unpacked[Platform.NITRO]
    command = ["unshare", "-Ur", "--root", str(image.folder), "/usr/bin/python3.11", "-I", "-S", "-B", "-c"]
    code = init.START.replace("sys.exit(main())", "print(sys.modules['coincurve'].__file__)")
    try:
        done = subprocess.run([*command, code], env=ALONE, check=False, capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        pytest.skip("NO IMAGE RAN AS A ROOT: unshare is not here")
    if done.stderr.startswith("unshare:"):
        pytest.skip(f"NO IMAGE RAN AS A ROOT: {done.stderr.strip()}")
    assert done.stdout == "/perdure-disk/coincurve/__init__.py\n", done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--size-bytes", "65"], "size must be a multiple of 64 bytes"),
        (["--size-bytes", "many"], "argument --size-bytes: invalid int value: 'many'"),
        (["--listen", "nowhere"], "the disk cannot start: not an address: 'nowhere'"),
        (["--listen", "-x"], "argument --listen: expected one argument"),
        (["--authority", "/none"], "the disk cannot start: "),
    ],
    ids=" ".join,
)
def test_what_a_wrong_hint_does_is_told_on_the_console(
    words: list[str], told: str, unpacked: dict[Platform, Image], tmp_path: Path
) -> None:
    image = unpacked[Platform.NITRO]
    (tmp_path / "authority.pub").write_bytes(KEY.public_key.format())
    start = init.START.replace("'/perdure-disk'", repr(str(image.folder / "perdure-disk")))
    usual = {"--listen": f"unix:{tmp_path / 'disk'}", "--size-bytes": "64", "--evidence": "nsm:/dev/null"}
    options = {**usual, "--authority": str(tmp_path / "authority.pub"), words[0]: words[1]}
    command = image.command(start, *[word for option in options.items() for word in option])
    done = subprocess.run(command, env=ALONE, check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode in (1, 2)
    assert told in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_looking_at_what_init_loads_leaves_this_machines_interfaces_alone(needed: set[str]) -> None:
    """As root, the fixture once gave the tester's eth0 another address, and with it took his network away."""
    assert needed
    assert "absent0" not in {name for _, name in socket.if_nameindex()}
    assert "eth0" not in INIT
