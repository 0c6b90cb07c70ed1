"""An array on machines that were booted from built images: what is measured is what boots, and what boots serves."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perdure.service.site import template
from perdure.simtee.tpm import TpmRoot
from tests.cli.rig import Rig, perdure

from .kernel import Kernel
from .machine import CMDLINE, Machine

MACHINES = 3
THRESHOLD = 2
SIZE = "4M"
DEAD_AFTER_MS = 3000


class Site(Rig):
    """A configuration over disks that run elsewhere, driven through the command line."""

    def __init__(self, path: Path, addresses: tuple[str, ...], key: Path, policy: Path) -> None:
        super().__init__(path)
        self.directory.mkdir()
        (self.directory / "authority.key").write_bytes(key.read_bytes())
        (self.directory / "authority.key").chmod(0o600)
        (self.directory / "policy.json").write_bytes(policy.read_bytes())
        (self.directory / "perdure.toml").write_text(
            template.render(
                disks=len(addresses),
                threshold=THRESHOLD,
                size=SIZE,
                addresses=addresses,
                listen="unix:nbd.sock",
                dead_after_ms=DEAD_AFTER_MS,
            )
        )

    def destroy(self) -> None:
        self.run("export", code=None)
        assert not self._left()


@contextlib.contextmanager
def _machines(directory: Path, count: int, kernel: Kernel, initramfs: Path, root: TpmRoot) -> Iterator[list[Machine]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(Machine(directory / f"machine-{number}", kernel.image, initramfs, root))
            for number in range(count)
        ]


def _json(*words: object) -> dict[str, Any]:
    done = perdure(*words, "--json")
    assert done.code == 0, done.err
    return done.json


@pytest.mark.timeout(900)
def test_an_array_of_booted_machines_survives_one_and_is_rebuilt_on_a_fresh_one(
    tmp_path: Path, kernel: Kernel, runtime: Path
) -> None:
    key, initramfs, policy = tmp_path / "authority.key", tmp_path / "disk.initramfs", tmp_path / "policy.json"
    assert perdure("key", "new", "-o", key).code == 0
    root = TpmRoot.create()
    certificate = tmp_path / "cloud.der"
    certificate.write_bytes(root.der)
    build = [
        "image", "build", "--platform", "tpm",
        "--kernel", kernel.image, "--init-blobs", kernel.blobs(tmp_path / "blobs"),
        "--runtime", runtime, "--cmdline", CMDLINE, "--authority-key-file", key, "-o", initramfs,
    ]  # fmt: skip
    predicted = _json(*build)["pcr9"]
    with _machines(tmp_path, MACHINES + 1, kernel, initramfs, root) as (*members, spare):
        for machine in members:
            machine.start()
        for machine in members:
            machine.wait()
        # What no builder can know, the firmware's and the kernel's registers, comes from a first boot that one trusts.
        asked = _json("evidence", "ask", members[0].address, "--authority-key-file", key, "--chain-root", certificate)
        seen = asked["measurement"]
        assert seen["pcr9"] == predicted, "the kernel measured another initramfs or command line than was built"
        first = [word for name in ("pcr0", "pcr2", "pcr4") for word in ("--register", f"{name}={seen[name]}")]
        _json(*build, *first, "--policy", tmp_path / "one.json", "--root-certificate", certificate)
        _json("evidence", "merge-policies", tmp_path / "one.json", "-o", policy, "--seats-per-root-max", MACHINES)
        with Site(tmp_path, tuple(machine.address for machine in members), key, policy) as site:
            site.run("create")
            site.run("import")
            data = os.urandom(1 << 20)
            site.write(0, data)
            site.write(3 << 20, data[::-1])
            status = site.status()
            assert [disk["platform"] for disk in status["disks"]] == ["tpm"] * MACHINES
            assert all(disk["measurement"]["pcr9"] == predicted for disk in status["disks"])
            assert len({disk["module_id"] for disk in status["disks"]}) == MACHINES

            spare.start()
            members[1].kill()
            site.write(1 << 20, data[: 1 << 16])  # is acknowledged once the dead one is voted off
            assert site.status()["summary"] == "[U_U]"
            spare.wait()
            site.run("replace", 1, "--address", spare.address)
            healthy = site.wait_for(lambda status: status["state"] == "online")
            assert healthy["disks"][1]["address"] == spare.address
            assert healthy["disks"][1]["module_id"] not in {disk["module_id"] for disk in status["disks"]}

            members[0].kill()  # so that what is read now stands on the fresh machine too
            assert site.read(0, 1 << 20) == data
            assert site.read(3 << 20, 1 << 20) == data[::-1]
            assert site.read(1 << 20, 1 << 16) == data[: 1 << 16]


@pytest.mark.timeout(600)
def test_a_machine_with_another_authoritys_image_is_refused(tmp_path: Path, kernel: Kernel, runtime: Path) -> None:
    ours, theirs = tmp_path / "ours.key", tmp_path / "theirs.key"
    assert perdure("key", "new", "-o", ours).code == perdure("key", "new", "-o", theirs).code == 0
    root = TpmRoot.create()
    certificate, policy = tmp_path / "cloud.der", tmp_path / "policy.json"
    certificate.write_bytes(root.der)
    common = [
        "image", "build", "--platform", "tpm",
        "--kernel", kernel.image, "--init-blobs", kernel.blobs(tmp_path / "blobs"),
        "--runtime", runtime, "--cmdline", CMDLINE,
    ]  # fmt: skip
    initramfs = tmp_path / "theirs.initramfs"
    _json(*common, "--authority-key-file", theirs, "-o", initramfs)
    with _machines(tmp_path, 1, kernel, initramfs, root) as (machine,):
        machine.start()
        machine.wait()
        ask = ["evidence", "ask", machine.address]
        refused = perdure(*ask, "--authority-key-file", ours, "--chain-root", certificate)
        assert refused.code != 0
        assert "refuse" in refused.sentence.lower(), "a disk obeys its own authority alone"
        seen = _json(*ask, "--authority-key-file", theirs, "--chain-root", certificate)["measurement"]
        # A policy for our image, with this machine's own firmware and kernel: only PCR9 tells the two apart.
        first = [word for name in ("pcr0", "pcr2", "pcr4") for word in ("--register", f"{name}={seen[name]}")]
        our_image = [*common, "--authority-key-file", ours, "-o", tmp_path / "ours.initramfs", *first]
        _json(*our_image, "--policy", policy, "--root-certificate", certificate)
        wrong = perdure(*ask, "--authority-key-file", theirs, "--policy", policy)
        assert wrong.code != 0
        assert "WrongMeasurement" in wrong.err
        assert json.loads(policy.read_text())["measurements"][0]["pcr9"] != seen["pcr9"]
        machine.kill()
        gone = perdure(*ask, "--authority-key-file", theirs, "--chain-root", certificate)
        assert gone.code == 2
