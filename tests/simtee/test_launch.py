"""Launching images: what runs is the image, what is attested is the image, and nothing outlives the launcher."""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from perdure.errors import Misuse, WrongMeasurement
from perdure.evidence.measurement import Measurement
from perdure.evidence.nitro import verifier as nitro
from perdure.evidence.policy import Policy, TrustedRoot
from perdure.evidence.roots import Platform
from perdure.evidence.verified import expect_report_data
from perdure.image import build, eif
from perdure.simtee import launch, nsm
from perdure.simtee.pki import SimulatedRoot

AUTHORITY = bytes.fromhex("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")
INSTANCE_ID = "i-0123456789abcdef0"

REPORTER = """
import importlib.util, json, os, signal, sys
import perdure
from perdure.disk.nsm import NsmSocket
from perdure.disk.tpm import Tpm

def main():
    options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    kind, _, fd = options["--evidence"].partition(":")
    fd = int(fd)
    door = {"nsm-socket": NsmSocket, "tpm-fd": Tpm}[kind](fd)
    report = {
        "pid": os.getpid(),
        "argv": sys.argv[1:],
        "directory": os.path.dirname(os.path.dirname(perdure.__file__)),
        "mode": os.stat(os.path.dirname(options["--authority"])).st_mode & 0o777,
        "marker": perdure.MARKER,
        "installed_module": importlib.util.find_spec("perdure.errors") is not None,
        "authority": open(options["--authority"], "rb").read().hex(),
        "environment": sorted(os.environ),
        "documents": [door.attest(bytes([number]) * 64).hex() for number in range(3)],
    }
    what = options["--listen"]
    if what == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if what == "polite":
        signal.signal(signal.SIGTERM, lambda *_: (print("goodbye", flush=True), os._exit(3)))
    if what == "rude":
        os.write(fd, b"\\xff" * 4)
        report["rude"] = os.read(fd, 1).hex()
    print(json.dumps(report), flush=True)
    if what.startswith("exit:"):
        return int(what[5:])
    if what == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "close":
        os.close(fd)
        door = None
        print("closed", flush=True)
    while True:
        signal.pause()
"""


def program(main: str = REPORTER) -> dict[str, bytes]:
    files = build.program_files()
    names = ("__main__.py", "perdure/disk/__init__.py", "perdure/disk/nsm.py", "perdure/disk/tpm.py")
    return {name: files[name] for name in names} | {
        "perdure/__init__.py": b"MARKER = 'the image'\n",
        "perdure/disk/main.py": main.encode(),
    }


IMAGE = build.build_simulated(AUTHORITY, program())


@contextmanager
def launched(tmp_path: Path, listen: str, *more: str, image: bytes = IMAGE) -> Iterator[subprocess.Popen[str]]:
    (tmp_path / "image.eif").write_bytes(image)
    (tmp_path / "tmp").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "perdure.simtee.launch", "--image", str(tmp_path / "image.eif")]
    command += ["--root-directory", str(tmp_path / "root"), "--listen", listen, "--size-bytes", "65536", *more]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "SECRET_OF_THE_HOST": "1", "PYTHONPATH": os.getcwd()}
    pipe = subprocess.PIPE
    launcher = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)
    try:
        yield launcher
    finally:
        if launcher.poll() is None:
            end(launcher.pid)
        launcher.communicate()


def end(launcher: int) -> None:
    """Kill a launcher, a child of ours, and make sure that nothing which it started is left."""
    started = psutil.Process(launcher).children()
    os.kill(launcher, signal.SIGKILL)
    _, alive = psutil.wait_procs(started, timeout=10)
    for process in alive:
        process.kill()
    assert not alive, "the program outlived its launcher"


def line(launcher: subprocess.Popen[str]) -> str:
    assert launcher.stdout is not None
    text = launcher.stdout.readline()
    assert text, launcher.stderr.read() if launcher.stderr else "no output"
    return text


def report(launcher: subprocess.Popen[str]) -> dict[str, object]:
    value = json.loads(line(launcher))
    assert isinstance(value, dict)
    return value


def is_gone(pid: int) -> bool:
    """Wait until the process `pid` has ended, at most ten seconds."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], 10)[0])
    finally:
        os.close(fd)


def left_over(tmp_path: Path) -> list[str]:
    return [entry.name for entry in (tmp_path / "tmp").iterdir()]


def policy(tmp_path: Path, image: bytes = IMAGE) -> Policy:
    root = SimulatedRoot.load_or_create(tmp_path / "root")
    pcrs = eif.measure(eif.parse(image))
    allowed = Measurement.enclave("simulated", pcrs.pcr0, pcrs.pcr1, pcrs.pcr2)
    return Policy((TrustedRoot("simulated", Platform.SIMULATED, root.der),), (allowed,))


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def test_the_images_program_runs_and_not_the_one_that_is_installed(tmp_path):
    with launched(tmp_path, "wait") as launcher:
        said = report(launcher)
    assert said["marker"] == "the image"
    assert said["installed_module"] is False
    assert Path(said["directory"]).parent == tmp_path / "tmp"
    assert said["mode"] == 0o700
    assert said["authority"] == AUTHORITY.hex()
    assert set(said["environment"]) <= {"PATH", "LC_CTYPE"}
    argv = dict(zip(said["argv"][::2], said["argv"][1::2], strict=True))
    assert argv.keys() == {"--listen", "--size-bytes", "--evidence", "--authority"}
    assert (argv["--listen"], argv["--size-bytes"]) == ("wait", "65536")


def test_the_evidence_is_of_the_images_measurement_and_verifies(tmp_path):
    with launched(tmp_path, "wait", "--instance-id", INSTANCE_ID) as launcher:
        documents = [bytes.fromhex(text) for text in report(launcher)["documents"]]
    chains = nitro.ChainCache()
    for number, document in enumerate(documents):
        verified = nitro.verify(document, policy=policy(tmp_path), at_ms=now_ms(), chains=chains)
        expect_report_data(verified, bytes([number]) * 64)
        assert verified.module_id.startswith(f"{INSTANCE_ID}-enc")
        assert verified.measurement["pcr4"] == nsm.pcr4(verified.module_id)
    assert len(chains) == 1


def test_another_image_is_another_measurement(tmp_path):
    other = build.build_simulated(AUTHORITY, program(REPORTER + "\n# changed\n"))
    with launched(tmp_path, "wait", image=other) as launcher:
        document = bytes.fromhex(report(launcher)["documents"][0])
    with pytest.raises(WrongMeasurement):
        nitro.verify(document, policy=policy(tmp_path), at_ms=now_ms())
    assert nitro.verify(document, policy=policy(tmp_path, other), at_ms=now_ms())


def test_two_launches_are_two_instances_under_one_root(tmp_path):
    with launched(tmp_path, "wait") as one, launched(tmp_path, "wait") as other:
        documents = [bytes.fromhex(report(launcher)["documents"][0]) for launcher in (one, other)]
    found = [nitro.verify(document, policy=policy(tmp_path), at_ms=now_ms()) for document in documents]
    assert found[0].module_id != found[1].module_id
    assert found[0].measurement["pcr4"] != found[1].measurement["pcr4"]


@pytest.mark.parametrize(("listen", "status"), [("exit:0", 0), ("exit:7", 7), ("crash", 128 + signal.SIGKILL)])
def test_the_launcher_ends_with_the_programs_status(tmp_path, listen, status):
    with launched(tmp_path, listen) as launcher:
        report(launcher)
        assert launcher.wait(10) == status
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("listen", ["wait", "close"])
def test_a_signal_ends_both_cleanly(tmp_path, number, listen):
    with launched(tmp_path, listen) as launcher:
        pid = report(launcher)["pid"]
        if listen == "close":
            assert line(launcher) == "closed\n"
        launcher.send_signal(number)
        assert launcher.wait(10) == 0
    assert is_gone(pid)
    assert left_over(tmp_path) == []


def test_a_signal_lets_the_program_end_itself(tmp_path):
    with launched(tmp_path, "polite") as launcher:
        report(launcher)
        launcher.terminate()
        assert line(launcher) == "goodbye\n"
        assert launcher.wait(10) == 0


def test_a_program_that_ignores_the_signal_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "STOP_SECONDS_MAX", 1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    read_fd, write_fd = os.pipe()
    launcher = os.fork()
    if launcher == 0:
        status = 99
        try:
            status = launch.run(
                IMAGE, root_directory=tmp_path / "root", listen="stubborn", size_bytes=64, ready_fd=write_fd
            )
        finally:
            os._exit(status)
    os.close(write_fd)
    try:
        with open(read_fd) as output:
            pid = json.loads(output.readline())["pid"]
        os.kill(launcher, signal.SIGTERM)
        assert is_gone(launcher)
    finally:
        end(launcher)
        status = os.waitpid(launcher, 0)[1]
    assert status == 0
    assert is_gone(pid)


def test_the_program_dies_with_a_launcher_that_is_killed(tmp_path):
    with launched(tmp_path, "stubborn") as launcher:
        pid = report(launcher)["pid"]
        launcher.send_signal(signal.SIGKILL)
        assert launcher.wait(10) == -signal.SIGKILL
        assert is_gone(pid)


def test_a_program_that_breaks_the_framing_gets_no_more_answers(tmp_path):
    with launched(tmp_path, "rude") as launcher:
        assert report(launcher)["rude"] == ""


def test_latency_is_added_to_each_request_one_after_another(tmp_path):
    with launched(tmp_path, "wait", "--evidence-latency-ms", "40") as launcher:
        documents = [bytes.fromhex(text) for text in report(launcher)["documents"]]
    times = [nitro.document_time_ms(document) for document in documents]
    assert all(later - earlier >= 40 for earlier, later in itertools.pairwise(times))


def test_the_real_disk_program_listens_and_says_where(tmp_path):
    image = build.build_simulated(AUTHORITY)
    with launched(tmp_path, "tcp:127.0.0.1:0", image=image) as launcher:
        word, address = line(launcher).split()
        kind, host, port = address.split(":")
        assert (word, kind, host) == ("listening", "tcp", "127.0.0.1")
        with socket.create_connection((host, int(port)), timeout=10):
            launcher.terminate()
            assert launcher.wait(10) == 0
    assert left_over(tmp_path) == []


def test_what_is_not_an_image_for_this_platform_is_refused(tmp_path):
    ramdisks = eif.parse(IMAGE).ramdisks
    foreign = eif.build(b"bzImage", b"", ramdisks, b"{}")
    compressed = eif.build(build.SIMULATED_KERNEL, b"", [b"\x1f\x8b" + ramdisks[0]], b"{}")
    for image, what in ((b"", "not an enclave image"), (foreign, "simulated platform"), (compressed, "cpio")):
        with pytest.raises(Misuse, match=what):
            launch.run(image, root_directory=tmp_path / "root", listen="wait", size_bytes=64)
    with pytest.raises(Misuse, match="instance id"):
        launch.run(IMAGE, root_directory=tmp_path / "root", listen="wait", size_bytes=64, instance_id="i-1")


def test_the_command_line_says_what_is_wrong_in_a_sentence(tmp_path):
    with launched(tmp_path, "wait", image=IMAGE[:-1]) as launcher:
        _, errors = launcher.communicate(timeout=10)
        assert launcher.returncode == 1
    assert errors.startswith("The image's")
    assert "Traceback" not in errors
