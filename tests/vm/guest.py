"""A virtual machine whose disks are arrays, and a shell in it: what an application's machine sees of Perdure.

    with Guest(tmp_path / "guest", kernel.image, initramfs) as guest:
        guest.boot(Disk(rig.nbd_uri))
        guest.type("mkfs.ext4 -q /dev/vda")
        guest.cut_power()

QEMU's own NBD client shows each array as a virtio disk, /dev/vda and so on; a FLUSH of the machine is one of the
array. Software emulation throughout, so it needs no rights and no hardware.
"""

from __future__ import annotations

import base64
import os
import re
import selectors
import shlex
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from perdure.simtee.process import die_with
from tests.cli.console import END, Said, Step, missing_line

MEMORY = "768M"
CMDLINE = "console=ttyS0 panic=-1 quiet no_timer_check"
"""`no_timer_check`: on a busy machine the emulated timer seems dead to the kernel, which then stops."""
BOOT_S = 120
COMMAND_S = 240
END_S = 30


@dataclass(frozen=True, slots=True)
class Disk:
    """An array as the machine's disk. `uri` is where it is served: nbd+unix:///...?socket=PATH."""

    uri: str
    write_cache: bool = True
    """Whether the machine may hold it for written before a FLUSH; without, every write is one with FUA."""
    reconnect_s: int = 0
    """How long QEMU waits for the array's server to be back, before requests fail."""

    def words(self, number: int) -> tuple[str, ...]:
        """QEMU's arguments for it."""
        path = re.search(r"\?socket=(.+)", self.uri)
        assert path is not None, self.uri
        server = f"server.type=unix,server.path={path[1]},export=,reconnect-delay={self.reconnect_s}"
        cache = "on" if self.write_cache else "off"
        return (
            "-blockdev",
            f"driver=nbd,node-name=array{number},{server},discard=unmap",
            "-device",
            f"virtio-blk-pci,drive=array{number},write-cache={cache}",
        )


class Guest:
    """One machine, booted any number of times; what it wrote to its disks is all that it keeps."""

    def __init__(self, directory: Path, kernel: Path, initramfs: Path) -> None:
        directory.mkdir()
        self.console = directory / "console.log"
        self._directory, self._kernel, self._initramfs = directory, kernel, initramfs
        self._qemu: subprocess.Popen[bytes] | None = None
        self._port: socket.socket | None = None
        self._kept = b""

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut_power()

    @property
    def is_on(self) -> bool:
        """Whether it was booted and not ended since."""
        return self._qemu is not None

    # Power ------------------------------------------------------------------------------------------------

    def boot(self, *disks: Disk) -> None:
        """Return when its shell answers; fails with the console's end if it does not."""
        path = self._directory / "port.sock"
        path.unlink(missing_ok=True)
        with (self._directory / "qemu.log").open("ab") as log:
            self._qemu = subprocess.Popen(
                [*self._command(path), *(word for number, disk in enumerate(disks) for word in disk.words(number))],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with(os.getpid()),  # noqa: PLW1509
            )
        self._kept = b""
        self._port = self._connected(path)
        self.type("true", seconds=BOOT_S)

    def cut_power(self) -> str:
        """End it at once, as when its plug is pulled; what its shell had said until then."""
        if self._qemu is None or self._port is None:
            return ""
        self._qemu.kill()
        self._qemu.wait()
        while data := self._receive(END_S):
            self._kept += data
        self._port.close()
        self._port = self._qemu = None
        return self._kept.decode(errors="replace")

    def power_off(self) -> None:
        """Sync everything and end it as `poweroff` does; what is mounted has to be unmounted first."""
        if self._qemu is None:
            return
        self.call("sync")
        self.send("poweroff -f")
        assert self._qemu.wait(END_S) == 0
        self.cut_power()

    # Its shell --------------------------------------------------------------------------------------------

    def run(self, step: Step) -> Said:
        """Type a line of a document; fails when it does not print what the document says."""
        said = self.type(step.command)
        print(f"vm# {step.command}\n{said.out}")
        missing = missing_line(said.out, step.expected)
        assert missing is None, f"vm# {step.command}\nprinted\n{said.out}\nand then no line is\n{missing}"
        return said

    def call(self, command: str, *, code: int = 0) -> str:
        """Run one line; what it printed. Fails with that when its exit code is another."""
        said = self.type(command)
        assert said.code == code, f"vm# {command}\nended with {said.code}\n{said.out}\n{self.log()[-2000:]}"
        return said.out

    def type(self, command: str, *, seconds: float = COMMAND_S) -> Said:
        """Run one line; what it reads from its standard input is nothing."""
        self.send(f"{{ {command}\n}} </dev/null; printf '\\n{END} %s\\n' $?")
        out = self.until(rb"\n" + END.encode() + rb" \d+\n", command, seconds=seconds)
        text, _, code = out.decode(errors="replace").rpartition(f"\n{END} ")
        return Said(text, int(code))

    def put(self, path: str, data: bytes) -> None:
        """Write a small file in the machine's memory."""
        self.call(f"echo {base64.b64encode(data).decode()} | base64 -d > {shlex.quote(path)}")

    def send(self, line: str) -> None:
        """Give the shell a line without waiting for what it says."""
        assert self._port is not None
        self._port.sendall(f"{line}\n".encode())

    def until(self, pattern: bytes, what: str, *, seconds: float = COMMAND_S) -> bytes:
        """What the shell says up to the end of the first match; fails when none comes in that time."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self._kept)):
            data = self._receive(end - time.monotonic())
            assert data, f"not over: {what}\n{self._kept[-2000:]!r}\n{self.log()[-2000:]}"
            self._kept += data
        out, self._kept = self._kept[: found.end()], self._kept[found.end() :]
        return out

    def log(self) -> str:
        """The kernel's console so far."""
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    # ------------------------------------------------------------------------------------------------------

    def _receive(self, seconds: float) -> bytes:
        """What comes within that time; nothing if nothing does, or if the machine has ended."""
        assert self._port is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._port, selectors.EVENT_READ)
            try:
                return self._port.recv(1 << 16) if selector.select(max(0, seconds)) else b""
            except ConnectionResetError:  # it has ended, with something unread that we had sent
                return b""

    def _connected(self, path: Path) -> socket.socket:
        end = time.monotonic() + END_S
        port = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        while True:
            try:
                port.connect(str(path))
                return port
            except OSError:
                assert self._qemu is not None
                assert self._qemu.poll() is None, (self._directory / "qemu.log").read_text()
                assert time.monotonic() < end, "QEMU does not open the machine's port"
                time.sleep(0.02)

    def _command(self, port: Path) -> list[str]:
        return [
            "qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", MEMORY,
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-kernel", str(self._kernel), "-initrd", str(self._initramfs), "-append", CMDLINE,
            "-chardev", f"file,id=s,append=on,path={self.console}", "-serial", "chardev:s",
            "-device", "virtio-serial-pci",
            "-chardev", f"socket,id=p,path={port},server=on,wait=off", "-device", "virtserialport,chardev=p,name=shell",
            "-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,romfile=",
        ]  # fmt: skip
