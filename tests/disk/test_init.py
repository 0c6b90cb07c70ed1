"""The guest's first process: for real in namespaces of its own where it changes a machine, else with a false kernel."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import runpy
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import perdure
from perdure.disk import address, init
from perdure.disk import main as program
from perdure.disk.serve import Server
from perdure.image.build import BOOTS

from .running import KEY

ROOT = Path(perdure.__file__).parent.parent
PREAMBLE = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from perdure.disk import init; "

# A machine of its own ----------------------------------------------------------------------------------------


def unshare(kind: str) -> list[str]:
    """The command that runs another in a namespace of its own; skips loudly where that is not allowed."""
    command = ["unshare", f"-{kind}"] if os.geteuid() == 0 else ["unshare", f"-Ur{kind}"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*command, "true"], check=False, capture_output=True, timeout=10).returncode
    ):
        pytest.skip(f"INIT NOT RUN FOR REAL: {' '.join(command)} is not allowed here")
    return command


def inside(kind: str, code: str, *prepare: str) -> Any:
    """Run `code` after `prepare` in a new namespace; what it printed, from JSON."""
    command = [*unshare(kind), "sh", "-ec", "\n".join((*prepare, 'exec "$@"')), "sh", sys.executable, "-I", "-c"]
    done = subprocess.run([*command, PREAMBLE + code], check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_mount_makes_the_directory_and_mounts_there(tmp_path: Path) -> None:
    there = tmp_path / "new" / "folder"
    code = f"""
import json, os
init.mount((("tmpfs", {str(there)!r}), ("ramfs", {str(there / "below")!r})))
lines = [line.split() for line in open("/proc/self/mounts")]
print(json.dumps([line[1:3] for line in lines if line[1].startswith({str(tmp_path)!r})]))
"""
    assert inside("m", code) == [[str(there), "tmpfs"], [str(there / "below"), "ramfs"]]
    assert list(there.iterdir()) == []  # in that namespace alone


def test_mount_tells_what_the_kernel_does_not_know(tmp_path: Path) -> None:
    code = f"""
import json
try:
    init.mount((("nonsensefs", {str(tmp_path)!r}),))
except OSError as error:
    print(json.dumps([error.errno, error.strerror]))
"""
    assert inside("m", code) == [errno.ENODEV, "cannot mount nonsensefs"]


SHOW = """
import json, subprocess
def show(*words):
    return json.loads(subprocess.run(["ip", "-j", "-4", *words], check=True, capture_output=True).stdout)
"""


def needs_an_interface() -> str:
    """The command that makes eth0 in a new network namespace; skips loudly where there is none."""
    for kind in ("type dummy", "type veth peer name other"):
        command = [*unshare("n"), "ip", "link", "add", "eth0", *kind.split()]
        if shutil.which("ip") and subprocess.run(command, check=False, capture_output=True, timeout=10).returncode == 0:
            return f"ip link add eth0 {kind}"
    pytest.skip("INIT NOT RUN FOR REAL: no interface can be made here with `ip link add`")


@pytest.mark.parametrize(("prefix", "broadcast"), [(24, True), (20, True), (31, False), (8, True)])
def test_an_interface_gets_address_mask_and_route(prefix: int, broadcast: bool) -> None:
    code = f"""{SHOW}
init.set_address("lo", "127.0.0.1/8")
init.set_address("eth0", "10.1.2.2/{prefix}", "10.1.2.3")
print(json.dumps([show("addr", "show", "dev", "eth0"), show("route"), show("addr", "show", "dev", "lo")]))
"""
    ((eth0,), routes, (lo,)) = inside("n", code, needs_an_interface())
    (given,) = eth0["addr_info"]
    assert (given["local"], given["prefixlen"]) == ("10.1.2.2", prefix)
    assert "UP" in eth0["flags"]
    assert "UP" in lo["flags"]
    assert (lo["addr_info"][0]["local"], lo["addr_info"][0]["prefixlen"]) == ("127.0.0.1", 8)
    (default,) = (route for route in routes if route["dst"] == "default")
    assert (default["gateway"], default["dev"]) == ("10.1.2.3", "eth0")
    assert len(routes) == 2  # and the one to the neighbours


def test_without_a_gateway_there_is_no_default_route() -> None:
    code = f"""{SHOW}
init.set_address("eth0", "192.168.7.9/16")
print(json.dumps([route["dst"] for route in show("route")]))
"""
    assert inside("n", code, needs_an_interface()) == ["192.168.0.0/16"]


def test_an_interface_that_is_not_there_ends_the_machine() -> None:
    code = """
import json
try:
    init.set_address("eth0", "10.0.0.2/24")
except OSError as error:
    print(json.dumps(error.errno))
"""
    assert inside("n", code) == errno.ENODEV


@pytest.mark.parametrize("text", ["10.0.0.2", "10.0.0.2/", "10.0.0.2/x", "10.0.0.2/33", "host/24", "/24"])
def test_an_address_that_is_none_ends_the_machine(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.ioctl", lambda *_: bytes(32))
    with pytest.raises((OSError, ValueError, struct.error)):
        init.set_address("eth0", text)


def test_the_requests_have_the_kernels_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """linux/if.h `struct ifreq` (name 16, then a sockaddr or flags) and linux/route.h `struct rtentry` of 120 bytes."""
    asked: list[tuple[int, bytes]] = []

    def ioctl(control: socket.socket, request: int, data: bytes) -> bytes:
        assert (control.family, control.type) == (socket.AF_INET, socket.SOCK_DGRAM)
        asked.append((request, data))
        return data[:16] + struct.pack("h", 0x1002) + bytes(14)

    monkeypatch.setattr("fcntl.ioctl", ioctl)
    init.set_address("eth0", "10.1.2.3/20", "10.1.0.1")
    name, family = b"eth0".ljust(16, b"\0"), b"\2\0\0\0"
    assert asked == [
        (0x8916, name + family + bytes([10, 1, 2, 3]) + bytes(8)),
        (0x891C, name + family + bytes([255, 255, 240, 0]) + bytes(8)),
        (0x8913, name + bytes(16)),
        (0x8914, name + struct.pack("h", 0x1003) + bytes(14)),
        (0x890B, bytes(8) + (family + bytes(12) + family + bytes([10, 1, 0, 1]) + bytes(8) + family + bytes(12))
         + struct.pack("h", 3) + bytes(62)),
    ]  # fmt: skip
    assert len(asked[-1][1]) == 120
    del asked[:]
    init.set_address("lo", "127.0.0.1/8")
    assert [request for request, _ in asked] == [0x8916, 0x891C, 0x8913, 0x8914]
    for prefix, mask in ((0, 0), (1, 1 << 31), (30, 0xFFFFFFFC), (31, 0xFFFFFFFE), (32, 0xFFFFFFFF)):
        del asked[:]
        init.set_address("eth0", f"10.1.2.3/{prefix}")
        assert asked[1][1][20:24] == mask.to_bytes(4, "big")


# A false kernel ----------------------------------------------------------------------------------------------


class Kernel:
    """In place of the C library: notes what is asked, and fails with `error` where `fails` says so."""

    def __init__(self, fails: Callable[[str], bool] = lambda what: False, error: int = errno.EPERM) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self._fails, self._error = fails, error

    def mount(self, *arguments: Any) -> int:
        self.asked.append(arguments)
        return self._done(arguments[0].decode())

    def syscall(self, number: int, fd: int, parameters: bytes, flags: int) -> int:
        assert not os.get_inheritable(fd)
        self.asked.append((number, os.read(fd, 100), parameters, flags))
        return self._done("syscall")

    def _done(self, what: str) -> int:
        if self._fails(what):
            ctypes.set_errno(self._error)
            return -1
        return 0


def test_each_is_mounted_in_turn_until_one_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(lambda kind: kind == "sysfs")
    monkeypatch.setattr(init, "_libc", kernel)
    wanted = tuple((kind, str(tmp_path / kind)) for kind in ("proc", "sysfs", "devtmpfs"))
    with pytest.raises(OSError, match="cannot mount sysfs") as failure:
        init.mount(wanted)
    assert failure.value.errno == errno.EPERM
    assert kernel.asked == [(kind.encode(), where.encode(), kind.encode(), 0, None) for kind, where in wanted[:2]]
    assert (tmp_path / "proc").is_dir()
    init.mount(wanted[::2])
    assert [call[0] for call in kernel.asked] == [b"proc", b"sysfs", b"proc", b"devtmpfs"]


def test_a_module_is_given_to_the_kernel_as_an_open_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "nsm.ko"
    module.write_bytes(b"\x7fELF module")
    kernel = Kernel()
    monkeypatch.setattr(init, "_libc", kernel)
    before = os.listdir("/proc/self/fd")
    init.load_module(str(module))
    assert kernel.asked == [(313, b"\x7fELF module", b"", 0)]
    assert os.listdir("/proc/self/fd") == before
    monkeypatch.setattr(init, "_libc", Kernel(lambda what: True, errno.ENOEXEC))
    with pytest.raises(OSError, match=r"cannot load .*nsm\.ko") as failure:
        init.load_module(str(module))
    assert failure.value.errno == errno.ENOEXEC


def test_the_real_kernel_refuses_what_is_no_module(tmp_path: Path) -> None:
    """The real system call: it finds no module in the file, or does not let this user ask."""
    (tmp_path / "text.ko").write_bytes(b"this is no module\n")
    with pytest.raises(OSError, match="cannot load") as failure:
        init.load_module(str(tmp_path / "text.ko"))
    assert failure.value.errno in (errno.ENOEXEC, errno.EPERM, errno.EINVAL, errno.ENOSYS)  # of a sandbox
    with pytest.raises(FileNotFoundError):
        init.load_module(str(tmp_path / "none.ko"))


class Parent:
    """A Nitro parent behind a socketpair, since AF_VSOCK reaches nobody here."""

    def __init__(self, answer: bytes) -> None:
        self._ours, self.theirs = socket.socketpair()
        self.theirs.sendall(answer)
        self.theirs.shutdown(socket.SHUT_WR)
        self.theirs.settimeout(10)
        self.asked: list[Any] = []
        self.sendall, self.recv = self._ours.sendall, self._ours.recv

    def __call__(self, family: int, kind: int) -> Parent:
        self.asked.append((family, kind))
        return self

    def __enter__(self) -> Parent:
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()

    def connect(self, target: tuple[int, int]) -> None:
        self.asked.append(target)


@pytest.mark.parametrize("answer", [b"\xb7", b"\xb7\xb7"])
def test_the_heartbeat_is_one_byte_there_and_back(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = Parent(answer)
    monkeypatch.setattr("socket.socket", parent)
    init.beat(3, 9000)
    assert parent.asked == [(socket.AF_VSOCK, socket.SOCK_STREAM), (3, 9000)]
    with parent.theirs:
        assert parent.theirs.recv(10) == b"\xb7"


@pytest.mark.parametrize("answer", [b"", b"\xb8", b"\0"])
def test_a_parent_that_does_not_return_the_heartbeat_ends_the_machine(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = Parent(answer)
    monkeypatch.setattr("socket.socket", parent)
    with parent.theirs, pytest.raises(OSError, match="heartbeat"):
        init.beat(3, 9000)


@pytest.mark.parametrize(
    ("cmdline", "hints"),
    [
        ("", {}),
        ("console=ttyS0 quiet\n", {}),
        ("a perdure.size=64 b perdure.listen=tcp:0.0.0.0:1\n", {"size": "64", "listen": "tcp:0.0.0.0:1"}),
        ("perdure.size=1 perdure.size=2", {"size": "2"}),
        ("perdure.size perdure.=x perdure.a=b=c", {"size": "", "": "x", "a": "b=c"}),
        ("xperdure.size=1 Perdure.size=2 perdure-size=3", {}),
    ],
)
def test_hints_are_the_words_that_start_with_our_name(cmdline: str, hints: dict[str, str]) -> None:
    assert init.parse_hints(cmdline) == hints


MIB = 1 << 20


def meminfo(available_bytes: int) -> str:
    return f"MemTotal:       99999999 kB\nMemFree:  1 kB\nMemAvailable:   {available_bytes // 1024} kB\nBuffers: 0 kB\n"


def test_a_part_of_the_memory_is_kept_from_the_disk() -> None:
    assert init.spare_memory(meminfo(1024 * MIB)) == (1024 - 96 - 64) * MIB
    assert init.spare_memory(meminfo(1024 * MIB + 1024)) == (1024 - 96 - 64) * MIB
    assert init.spare_memory(meminfo(1024 * MIB - 1024)) == (1024 - 96 - 64 - 1) * MIB
    for little in (0, 1024, 96 * MIB, 102 * MIB):
        assert init.spare_memory(meminfo(little)) == 0
    with pytest.raises(ValueError):
        init.spare_memory("MemTotal: 5 kB\n")


def test_of_this_machines_memory_something_is_lent_and_something_kept() -> None:
    text = Path("/proc/meminfo").read_text()
    lent = init.spare_memory(text)
    total = int(text.split()[1]) * 1024
    assert lent % MIB == 0
    assert 0 <= lent < total - 96 * MIB


# The whole ---------------------------------------------------------------------------------------------------


class Executed(Exception):
    """What `os.execv` was given: the process is the disk now."""


class Guest:
    """A machine whose files lie in a folder and whose changes are noted in order."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, boot: dict[str, Any], cmdline: str) -> None:
        self.done: list[Any] = []
        (folder / "proc").mkdir()
        (folder / "proc" / "cmdline").write_text(cmdline)
        (folder / "proc" / "meminfo").write_text(meminfo(512 * MIB))
        (folder / "boot.json").write_text(json.dumps(boot))
        monkeypatch.setattr(init, "Path", lambda name: folder / name.removeprefix("/"))
        for name in ("load_module", "beat", "set_address"):
            monkeypatch.setattr(init, name, lambda *words, name=name: self.done.append((name, *words)))
        monkeypatch.setattr(init, "mount", lambda mounts: self.done.append(("mount", *mounts)))
        monkeypatch.setattr("os.getrandom", lambda count: self.done.append(("getrandom", count)))
        monkeypatch.setattr("os.execv", self._execv)

    def _execv(self, file: str, arguments: list[str]) -> None:
        raise Executed(file, arguments)

    def boot(self) -> list[str]:
        """Run `main`; the disk's own arguments."""
        with pytest.raises(Executed) as executed:
            init.main()
        file, arguments = executed.value.args
        assert (file, arguments[:6]) == (sys.executable, [sys.executable, "-I", "-S", "-B", "-c", init.START])
        return list(arguments[6:])


NITRO = {"evidence": "nsm:/dev/nsm", "listen": "vsock:4294967295:7000", "heartbeat": [3, 9000], "modules": ["nsm.ko"]}
TSM = {"evidence": "tsm:/sys/x", "listen": "tcp:0.0.0.0:7000", "heartbeat": None, "modules": ["b.ko", "a.ko", "c.ko"]}


def test_an_enclave_is_prepared_and_becomes_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest(tmp_path, monkeypatch, NITRO, "reboot=k panic=30\n")
    assert guest.boot() == [
        "--listen", "vsock:4294967295:7000", "--size-bytes", str((512 - 96 - 32) * MIB),
        "--evidence", "nsm:/dev/nsm", "--authority", "/authority.pub",
    ]  # fmt: skip
    assert guest.done == [
        ("mount", ("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")),
        ("load_module", "/modules/nsm.ko"),
        ("mount",),
        ("beat", 3, 9000),
        ("getrandom", 1),
    ]


def test_a_virtual_machine_takes_the_hosts_hints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hints = "perdure.ip=10.0.2.15/24,10.0.2.2 perdure.size=640 perdure.listen=tcp:10.0.2.15:9\n"
    (tmp_path / "sys" / "kernel" / "config").mkdir(parents=True)
    guest = Guest(tmp_path, monkeypatch, TSM, hints)
    assert guest.boot() == [
        "--listen", "tcp:10.0.2.15:9", "--size-bytes", "640", "--evidence", "tsm:/sys/x",
        "--authority", "/authority.pub",
    ]  # fmt: skip
    assert guest.done == [
        ("mount", ("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")),
        *(("load_module", f"/modules/{name}.ko") for name in "bac"),
        ("mount", ("configfs", "/sys/kernel/config")),
        ("set_address", "lo", "127.0.0.1/8"),
        ("set_address", "eth0", "10.0.2.15/24", "10.0.2.2"),
        ("getrandom", 1),
    ]


def test_hints_that_are_empty_leave_the_images_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest(tmp_path, monkeypatch, TSM, "perdure.size= perdure.evidence=tpm:/x perdure.authority=/x")
    words = guest.boot()
    assert words[3] == str((512 - 96 - 32) * MIB)
    assert words[4:] == ["--evidence", "tsm:/sys/x", "--authority", "/authority.pub"]  # never the host's


def test_what_fails_ends_the_machine_before_the_disk_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no")

    guest = Guest(tmp_path, monkeypatch, NITRO, "")
    for step in ("beat", "load_module", "mount"):
        monkeypatch.setattr(init, step, fail)
        with pytest.raises(OSError, match="no"):
            init.main()
    assert ("getrandom", 1) not in guest.done


class Enough(Exception):
    """Ends the disk's endless loop."""


@pytest.mark.parametrize("hints", ["", "perdure.size=128"])
def test_the_disk_accepts_what_init_gives_it(
    hints: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "authority.pub").write_bytes(KEY.public_key.format())
    (tmp_path / "nsm").write_bytes(b"")
    boot = {**TSM, "evidence": f"nsm:{tmp_path / 'nsm'}", "listen": f"unix:{tmp_path / 'disk'}"}
    monkeypatch.setattr(init, "AUTHORITY_FILE", str(tmp_path / "authority.pub"))
    guest = Guest(tmp_path, monkeypatch, boot, hints)
    (tmp_path / "proc" / "meminfo").write_text(meminfo(110 * MIB))  # so that the test needs but a few

    def step(server: Server, timeout_s: float | None = None) -> None:
        server._listener.close()
        raise Enough

    monkeypatch.setattr(Server, "step", step)
    monkeypatch.setattr(sys, "argv", ["-c", *guest.boot()])
    monkeypatch.setattr("os.getrandom", bytes)
    with pytest.raises(Enough):
        program.main()
    assert capsys.readouterr().out == f"listening unix:{tmp_path / 'disk'}\n"


def test_a_machine_with_no_memory_to_lend_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest(tmp_path, monkeypatch, TSM, "")
    (tmp_path / "proc" / "meminfo").write_text(meminfo(90 * MIB))
    monkeypatch.setattr(sys, "argv", ["-c", *guest.boot()])
    with pytest.raises(SystemExit, match="size must be a multiple"):
        program.main()


@pytest.mark.parametrize(
    "hint", ["perdure.size=--authority", "perdure.listen=--evidence=x", "perdure.size=many", "perdure.listen=-h"]
)
def test_a_hint_cannot_become_another_option(hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest(tmp_path, monkeypatch, TSM, hint)
    monkeypatch.setattr(sys, "argv", ["-c", *guest.boot()])
    with pytest.raises(SystemExit) as refused:
        program.main()
    assert refused.value.code == 2


@pytest.mark.parametrize("platform", BOOTS)
def test_what_an_image_says_names_a_real_address_and_door(platform: Any, tmp_path: Path) -> None:
    boot = BOOTS[platform]
    family, target = address.parse(boot.listen)
    assert (family, target) in ((socket.AF_VSOCK, (0xFFFFFFFF, 7000)), (socket.AF_INET, ("0.0.0.0", 7000)))
    kind, _, place = boot.evidence.partition(":")
    assert Path(place).is_absolute()
    with pytest.raises(FileNotFoundError):  # it knows the door, which is not here
        program.evidence(f"{kind}:{tmp_path / 'nothing'}")


def test_outside_of_an_image_it_ends_before_it_changes_anything() -> None:
    assert not Path(init.BOOT_FILE).exists()
    with pytest.raises(FileNotFoundError, match=r"boot\.json"):
        runpy.run_path(init.__file__, run_name="__main__")


def test_init_starts_the_program_where_the_image_has_it() -> None:
    """Run as it stands, the start finds nothing here; with the image's folder named as this one, the disk's help."""
    shown = init.START.replace("'/perdure-disk'", repr(str(ROOT)))
    assert shown != init.START
    for start, code in ((init.START, 1), (shown, 0)):
        command = [sys.executable, "-I", "-S", "-B", "-c", start, "--help"]
        site = "import sys; sys.path += " + repr([path for path in sys.path if "packages" in path]) + "; "
        command[5] = site + start if code == 0 else start
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
        assert done.returncode == code
    assert "perdure-disk" in done.stdout
