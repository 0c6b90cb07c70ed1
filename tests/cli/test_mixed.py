"""One array over two platforms at once: enclaves and machines with a TPM, each under its own root and measurement."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.service.site import template

from .rig import Rig, perdure

needs_swtpm = pytest.mark.skipif(
    shutil.which("swtpm") is None, reason="NO ARRAY OVER TWO PLATFORMS WAS TESTED: swtpm is not here"
)
PLATFORMS = ("simulated", "tpm", "tpm", "simulated", "simulated")
THRESHOLD = 3
SIZE = "8M"


class Site(Rig):
    """Disks of both platforms that the test runs itself, and a main program over them."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.directory.mkdir()
        self.addresses = tuple(f"unix:disk-{seat}.sock" for seat in range(len(PLATFORMS)))
        text = template.render(
            disks=len(PLATFORMS),
            threshold=THRESHOLD,
            size=SIZE,
            addresses=self.addresses,
            listen="unix:nbd.sock",
            dead_after_ms=2000,
        )
        (self.directory / "perdure.toml").write_text(text)
        self.run("key", "new", "-o", self.directory / "authority.key")
        self.disks: dict[str, subprocess.Popen[bytes]] = {}

    def build(self, policy: str, *words: object) -> None:
        key, image = self.directory / "authority.key", self.directory / "disk.eif"
        self.run(
            *("image", "build", "--platform", "simulated", "--authority-key-file", key, "-o", image),
            *("--policy", self.directory / policy, "--root-directory", self.directory / "roots", *words),
        )

    def allow(self, seats_per_root_max: int) -> None:
        """Write the array's policy with this many seats for each root."""
        self.build("both.json", "--with-tpm")
        self.run(
            *("evidence", "merge-policies", self.directory / "both.json", "-o", self.directory / "policy.json"),
            *("--seats-per-root-max", seats_per_root_max, "--seats-per-domain-max", len(PLATFORMS)),
        )

    def start(self, name: str, platform: str) -> None:
        command = [sys.executable, "-m", "perdure.cli.main", "disk", "run", "--image", self.directory / "disk.eif"]
        command += ["--listen", f"unix:{self.directory}/{name}.sock", "--size", "24M", "--platform", platform]
        command += ["--root-directory", self.directory / "roots"]
        self.disks[name] = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE)
        assert self.disks[name].stdout.readline().startswith(b"listening")

    def kill(self, name: str) -> None:
        self.disks[name].kill()
        self.disks.pop(name).wait()

    def destroy(self) -> None:
        self.run("export", code=None)
        for name in list(self.disks):
            self.kill(name)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as site:
        yield site


def start_all(site: Site) -> None:
    for seat, platform in enumerate(PLATFORMS):
        site.start(f"disk-{seat}", platform)


@needs_swtpm
def test_an_array_over_two_platforms_shows_each_disks_platform_root_and_measurement_and_is_mended_across(
    site: Site,
) -> None:
    site.allow(3)
    start_all(site)
    site.run("create")
    site.run("import")
    data = bytes(range(256)) * 64
    site.write(0, data)
    disks = site.status()["disks"]
    assert tuple(disk["platform"] for disk in disks) == PLATFORMS
    assert [disk["root"] for disk in disks] == [
        "simulated" if one == "simulated" else "simulated-tpm" for one in PLATFORMS
    ]
    policy = json.loads((site.directory / "policy.json").read_text())
    for disk in disks:
        (allowed,) = [one for one in policy["measurements"] if one["root"] == disk["root"]]
        assert {name: disk["measurement"][name] for name in allowed if name != "root"} == {
            name: value for name, value in allowed.items() if name != "root"
        }
    text = site.run("status").out
    assert text.count(" tpm ") == 2
    assert text.count(" simulated ") == 3

    site.kill("disk-0")  # an enclave is lost, and a machine with a TPM takes its seat
    site.write(1 << 20, data)
    site.start("fresh", "tpm")
    site.run("replace", 0, "--address", f"unix:{site.directory}/fresh.sock")
    mended = site.wait_for(lambda status: status["state"] == "online")
    assert mended["disks"][0]["platform"] == "tpm"
    for name in ("disk-3", "disk-4"):  # now every enclave may go
        site.kill(name)
    assert site.read(0, len(data)) == data
    assert site.read(1 << 20, len(data)) == data


@needs_swtpm
def test_no_root_gets_more_seats_than_the_policy_allows_at_creation_nor_at_a_replacement(site: Site) -> None:
    site.allow(2)
    start_all(site)
    refused = site.run("create", code=2)
    assert "3 disks hang on the attestation root simulated" in refused.sentence
    site.allow(3)
    site.run("create")
    site.run("import")
    site.kill("disk-1")
    site.write(0, b"state" * 1000)
    site.start("fourth", "simulated")
    refused = site.run("replace", 1, "--address", f"unix:{site.directory}/fourth.sock", code=2)
    assert "4 disks hang on the attestation root simulated" in refused.sentence
    assert site.status()["summary"] == "[U_UUU]"


@needs_swtpm
def test_a_platform_that_the_policy_does_not_name_is_refused(site: Site) -> None:
    site.build("policy.json")  # enclaves alone
    start_all(site)
    refused = site.run("create", code=2)
    assert "no root certificate that the policy names for TPMs" in refused.sentence
    assert perdure("status", "--directory", site.directory).code == 2
