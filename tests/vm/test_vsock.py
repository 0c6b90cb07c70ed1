"""The heartbeat, a disk that listens on real vsock, and the relay to it, as with an enclave and its parent.

Both are in one machine, whose vsock has a loopback: context id 1 stands for parent and enclave.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path

import pytest

from perdure.evidence.roots import Platform
from perdure.image import cpio
from perdure.image import runtime as runtimes
from perdure.image.build import BOOTS
from perdure.simtee.tpm import TpmRoot
from tests.cli.rig import perdure

from .kernel import MODULES, VSOCK_MODULES, Kernel
from .machine import CMDLINE, Machine

DISK = "vsock:1:7001"
RELAYED = (
    "__init__.py",
    "errors.py",
    "service/__init__.py",
    "service/relay.py",
    "disk/__init__.py",
    "disk/address.py",
    "sockets.py",
)
PARENT_PORT = 9000
INIT = f"""#!/usr/bin/python3.11 -ISB
import os, socket, sys, types
init = types.ModuleType("init")
exec(compile(open("/init.disk").read(), "/init.disk", "exec"), init.__dict__)
for name in {[Path(name).name for name in VSOCK_MODULES]}:
    init.load_module("/modules/" + name)
parent = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
parent.bind((1, {PARENT_PORT}))
parent.listen(1)
if os.fork() == 0:
    enclave, _ = parent.accept()
    beat = enclave.recv(1)
    print("heartbeat", beat.hex(), flush=True)
    enclave.sendall(beat)
    sys.path.insert(0, "/relay")
    from perdure.service import relay
    relay.run("tcp:0.0.0.0:7000", "{DISK}", ready=print, say=print)
init.main()
"""
QUESTIONS = 20
MODULES_OF_THE_RELAY = ("signal", "encodings/idna", "stringprep")
"""What it imports and the disk does not."""


def relay_ramdisk(inputs: Path) -> bytes:
    """What starts a relay beside the disk: unpacked over the image, for this test alone."""
    lock = inputs / runtimes.LOCK_FILE
    packages = runtimes.parse_lock(lock.read_bytes() if lock.exists() else runtimes.builtin_lock())
    (minimal,) = (package for package in packages if package.name == "libpython3.11-minimal")
    more = replace(minimal, files=tuple(f"usr/lib/python3.11/{name}.py" for name in MODULES_OF_THE_RELAY))
    modules = runtimes.unpack((more,), {minimal.file_name: (inputs / minimal.file_name).read_bytes()})
    package = resources.files("perdure")
    files = {f"relay/perdure/{name}": package.joinpath(name).read_bytes() for name in RELAYED}
    init = package.joinpath("disk", "init.py").read_bytes()
    boot = {
        **asdict(BOOTS[Platform.TPM]),
        "heartbeat": [1, PARENT_PORT],
        "modules": [Path(one).name for one in MODULES],
    }
    ours = {"init": INIT.encode(), "init.disk": init, "boot.json": json.dumps(boot).encode()}
    return cpio.pack({**ours, **files, **modules})


@pytest.mark.timeout(600)
def test_an_enclaves_way_out_is_vsock_a_heartbeat_and_a_disk_behind_a_relay(
    tmp_path: Path, kernel: Kernel, runtime: Path
) -> None:
    key, initramfs, certificate = tmp_path / "authority.key", tmp_path / "disk.initramfs", tmp_path / "cloud.der"
    assert perdure("key", "new", "-o", key).code == 0
    root = TpmRoot.create()
    certificate.write_bytes(root.der)
    built = perdure(
        *("image", "build", "--platform", "tpm", "--kernel", kernel.image, "--runtime", runtime, "--cmdline", CMDLINE),
        *("--init-blobs", kernel.blobs(tmp_path / "blobs", (*MODULES, *VSOCK_MODULES))),
        *("--authority-key-file", key, "-o", initramfs),
    )
    assert built.code == 0, built.err
    initramfs.write_bytes(initramfs.read_bytes() + relay_ramdisk(runtime))
    cmdline = f"{CMDLINE} perdure.listen={DISK}"
    with Machine(tmp_path / "machine", kernel.image, initramfs, root, cmdline) as machine:
        machine.start()
        machine.wait()
        assert b"heartbeat b7" in machine.output(), "init tells the parent that it runs, before the disk listens"
        assert f"listening {DISK}".encode() in machine.output()
        ask = ("evidence", "ask", machine.address, "--authority-key-file", key, "--chain-root", certificate)
        asked = perdure(*ask, "--count", QUESTIONS, "--json")
        assert asked.code == 0, asked.err
        assert (asked.json["platform"], asked.json["latency"]["count"]) == ("tpm", QUESTIONS)
