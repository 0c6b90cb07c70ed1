"""run-enclave: refuses the wrong image, runs the right one as it is told, and ends when the enclave ends.

nitro-cli runs on EC2 only, so a stand-in with its verbs and its JSON answers here; it notes what it was asked for.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess

import pytest

from tests.deploy.files import DEPLOY

PCR0 = "ab" * 48
WAIT_S = 30
NITRO_CLI = """#!/bin/sh
echo "$*" >>"$NOTES/asked"
case $1 in
describe-eif)
	printf '{\\n "Measurements": {\\n  "HashAlgorithm": "Sha384 { ... }",\\n  "PCR0": "%s"\\n }\\n}\\n' "$FAKE_PCR0"
	;;
run-enclave)
	touch "$NOTES/running"
	printf 'Started enclave\\n{\\n  "EnclaveID": "i-0abc-enc1",\\n  "ProcessID": 7,\\n  "EnclaveCID": 16\\n}\\n'
	;;
describe-enclaves)
	found='[]'
	[ -e "$NOTES/running" ] && found='[{"EnclaveID": "i-0abc-enc1", "State": "RUNNING"}]'
	echo >"$NOTES/looked"
	echo "$found"
	;;
terminate-enclave) rm "$NOTES/running" ;;
esac
"""


@pytest.fixture
def environment(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "nitro-cli").write_text(NITRO_CLI)
    (tools / "nitro-cli").chmod(0o755)
    os.mkfifo(tmp_path / "looked")  # so that a test can wait until it is looked
    (tmp_path / "disk.eif").write_bytes(b"an image")
    return {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "NOTES": str(tmp_path),
        "FAKE_PCR0": PCR0,
        "EIF": str(tmp_path / "disk.eif"),
        "EIF_SHA256": hashlib.sha256(b"an image").hexdigest(),
        "EIF_PCR0": PCR0,
        "CID": "16",
        "CPUS": "2",
        "MEMORY_MIB": "4096",
    }


def start(environment):
    command = [DEPLOY / "systemd/run-enclave"]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def asked(tmp_path):
    path = tmp_path / "asked"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("EIF_SHA256", "0" * 64, "another file"),
        ("EIF_PCR0", "cd" * 48, "no array would accept"),
        ("FAKE_PCR0", "", "no array would accept"),
        ("EIF", "/nowhere", "cannot be read"),
        ("CID", "", "CID is not set"),
    ],
)
def test_it_starts_nothing_that_is_not_as_it_was_told(tmp_path, environment, name, value, why):
    process = start({**environment, name: value})
    _, said = process.communicate(timeout=WAIT_S)
    assert process.returncode == 2
    assert why in said
    assert said.endswith("nothing was started.\n")
    assert not any(line.startswith("run-enclave") for line in asked(tmp_path))


def test_it_runs_the_image_without_debug_mode_and_ends_it_when_told(tmp_path, environment):
    process = start(environment)
    (tmp_path / "looked").read_text()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    assert "is gone" in said
    runs = [line for line in asked(tmp_path) if line.startswith("run-enclave")]
    assert runs == [f"run-enclave --eif-path {environment['EIF']} --cpu-count 2 --memory 4096 --enclave-cid 16"]
    assert "terminate-enclave --enclave-id i-0abc-enc1" in asked(tmp_path)


def test_it_fails_when_the_enclave_ends_by_itself(tmp_path, environment):
    process = start(environment)
    (tmp_path / "looked").read_text()
    (tmp_path / "running").unlink()
    (tmp_path / "looked").read_text()
    _, said = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    assert "perdure replace SEAT" in said
