"""run-guest: the QEMU command that docs/platforms.md gives, and no guest that is not asked for by name.

No machine here has SEV-SNP or TDX, so a stand-in for QEMU notes its arguments.
"""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from tests.deploy.files import DEPLOY

LINE = "console=ttyS0 panic=-1 perdure.ip=10.0.2.15/24,10.0.2.2"
SETTINGS = {"MEMORY_MIB": "4096", "CPUS": "2", "CPU_TYPE": "EPYC-v4", "CMDLINE": LINE, "QGS": "/run/tdx-qgs/qgs.socket"}


def run(tmp_path, *words, **changes):
    qemu = tmp_path / "qemu-system-x86_64"
    qemu.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    qemu.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **SETTINGS, **changes}
    command = [DEPLOY / "containers/run-guest", *words]
    return subprocess.run(command, env=environment, check=False, capture_output=True, text=True)


def options(done):
    """Each option of the command with its values."""
    found: dict[str, list[str]] = {}
    words = done.stdout.splitlines()
    for word, value in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("-"):
            found.setdefault(word, []).append(value)
    return found


@pytest.mark.parametrize("words", [(), ("sev",), ("simulated",)])
def test_an_unknown_platform_is_refused(tmp_path, words):
    done = run(tmp_path, *words)
    assert (done.returncode, done.stdout) == (2, "")


def test_a_setting_that_is_missing_is_named(tmp_path):
    done = run(tmp_path, "sev-snp", CMDLINE="")
    assert done.returncode != 0
    assert "CMDLINE" in done.stderr


@pytest.mark.parametrize("platform", ["sev-snp", "tdx"])
def test_what_is_measured_is_as_the_image_was_built(tmp_path, platform):
    found = options(run(tmp_path, platform, DISK_DIRECTORY="/somewhere"))
    assert found["-append"] == [LINE]
    assert found["-smp"] == ["2"]
    assert found["-kernel"] + found["-initrd"] == ["/somewhere/bzImage", "/somewhere/disk.initramfs"]
    assert found["-bios"] == ["/somewhere/firmware.fd"]


def test_sev_snp_measures_kernel_and_program(tmp_path):
    """Without kernel-hashes the measurement is the firmware's alone, and any program would do."""
    found = options(run(tmp_path, "sev-snp"))
    assert "sev-snp-guest,id=tee,cbitpos=51,reduced-phys-bits=1,kernel-hashes=on" in found["-object"]
    assert found["-cpu"] == ["EPYC-v4"]


def test_tdx_asks_intels_service_for_quotes(tmp_path):
    guest = json.loads(options(run(tmp_path, "tdx"))["-object"][1])
    assert guest["qom-type"] == "tdx-guest"
    assert guest["quote-generation-socket"] == {"type": "unix", "path": "/run/tdx-qgs/qgs.socket"}


def test_the_guest_reaches_nobody_and_only_its_disk_is_reached(tmp_path):
    (network,) = options(run(tmp_path, "sev-snp"))["-netdev"]
    assert network == "user,id=net,restrict=on,hostfwd=tcp:0.0.0.0:7001-10.0.2.15:7000"
