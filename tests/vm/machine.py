"""A virtual machine that boots a disk's image for real: UEFI firmware that measures, a kernel, a software TPM.

Software emulation throughout, so it needs no rights and no hardware. The TPM's key is certified as a cloud would do,
before the machine starts; its state survives in the folder, as in a real one, and PCRs start anew with each boot.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

from perdure.simtee.process import die_with
from perdure.simtee.tpm import TpmRoot, provision

FIRMWARE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
VARIABLES = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
NEEDED = ("qemu-system-x86_64", "swtpm", "apt-get", "dpkg-deb")
BOOT_S_MAX = 180.0
MEMORY = "384M"
CMDLINE = "console=ttyS0 panic=-1 quiet perdure.ip=10.0.2.15/24 perdure.size=67108864"
"""`panic=-1` with QEMU's -no-reboot: when the disk ends, the machine ends."""


def missing() -> list[str]:
    """What the tests with machines need and this one lacks."""
    return [name for name in NEEDED if shutil.which(name) is None] + [
        str(path) for path in (FIRMWARE, VARIABLES) if not path.exists()
    ]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Machine:
    """One machine; it starts with `start` and ends with the block. `address` is where its disk is reached."""

    def __init__(self, directory: Path, kernel: Path, initramfs: Path, root: TpmRoot, cmdline: str = CMDLINE) -> None:
        directory.mkdir()
        self.directory = directory
        self.port = free_port()
        self.address = f"tcp:127.0.0.1:{self.port}"
        self.console = directory / "console.log"
        self._kernel, self._initramfs, self._cmdline = kernel, initramfs, cmdline
        self._processes: list[subprocess.Popen[bytes]] = []
        (directory / "tpm").mkdir(mode=0o700)
        self._certify(root)

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Boot; `wait` returns when the disk listens."""
        control = self.directory / "tpm.sock"
        self._run(
            "swtpm",
            "socket",
            "--tpm2",
            "--tpmstate",
            f"dir={self.directory}/tpm",
            "--ctrl",
            f"type=unixio,path={control}",
        )
        while not control.exists():
            time.sleep(0.01)
        variables = self.directory / "variables.fd"
        shutil.copy(VARIABLES, variables)
        flash = "if=pflash,format=raw,file="
        forward = f"user,id=n,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:7000"
        self._run(
            "qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", MEMORY,
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-drive", f"{flash}{FIRMWARE},readonly=on", "-drive", f"{flash}{variables}",
            "-kernel", str(self._kernel), "-initrd", str(self._initramfs), "-append", self._cmdline,
            "-chardev", f"file,id=s,path={self.console}", "-serial", "chardev:s",
            "-chardev", f"socket,id=t,path={control}", "-tpmdev", "emulator,id=t,chardev=t",
            "-device", "tpm-crb,tpmdev=t",
            "-netdev", forward, "-device", "virtio-net-pci,netdev=n,romfile=",
        )  # fmt: skip

    def wait(self) -> None:
        """Return when the disk listens; raise AssertionError with the console's end if it does not."""
        end = time.monotonic() + BOOT_S_MAX
        while b"listening " not in self.output():
            assert self._processes[-1].poll() is None, f"the machine ended: {self.output()[-2000:]!r}"
            assert time.monotonic() < end, f"the machine does not come up: {self.output()[-2000:]!r}"
            time.sleep(0.1)

    def output(self) -> bytes:
        """The console so far."""
        return self.console.read_bytes() if self.console.exists() else b""

    def kill(self) -> None:
        """Cut its power."""
        while self._processes:
            process = self._processes.pop()
            process.kill()
            process.wait()

    def _certify(self, root: TpmRoot) -> None:
        """Let the TPM have its key and certificate, as it comes from the cloud."""
        ours, theirs = socket.socketpair()
        with ours, theirs, contextlib.ExitStack() as ending:
            ending.callback(self.kill)
            flags = "not-need-init,startup-clear"
            state = ["--tpmstate", f"dir={self.directory}/tpm"]
            self._run(
                "swtpm",
                "socket",
                "--tpm2",
                *state,
                "--fd",
                str(theirs.fileno()),
                "--flags",
                flags,
                fds=(theirs.fileno(),),
            )
            self.certificate = provision(ours.fileno(), root, secrets.token_hex(8))

    def _run(self, *command: str, fds: tuple[int, ...] = ()) -> None:
        with (self.directory / f"{command[0]}.log").open("wb") as log:
            self._processes.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=fds,
                    preexec_fn=die_with(os.getpid()),  # noqa: PLW1509
                )
            )
