"""fio's own way to test a crash: it notes which writes it had done, has the machine killed, and verifies them later."""

import json
import os
import signal
import subprocess

import pytest

from tests.cli.rig import Rig
from tests.conformance.rig import qemu_io
from tests.system.rig import CLIENT_S, call, seeded, tool
from tests.system.test_nbd_clients import need_fio

pytestmark = pytest.mark.timeout(300)  # some start the main program again and again

COMMON = ["--ioengine=nbd", "--bsrange=4k-64k", "--blockalign=4k", "--verify=crc32c", "--rate_iops=300"]
WRITES = ["--name=writes", "--rw=randwrite", "--iodepth=8", "--offset=32m", "--size=32m"]
TRIMS = ["--name=trims", "--rw=randtrimwrite", "--iodepth=1", "--offset=0", "--size=32m"]
"""Not deeper: fio trims a block and writes it at once, and with more in flight the trim may come second. At the
beginning: with an offset, fio 3.33 ends such a job after one trim."""


def test_what_fio_had_written_when_everything_was_killed_is_there_afterwards(tmp_path):
    with Rig(tmp_path, disks=3, threshold=2) as rig:
        crash(rig, tmp_path, seeded())


def crash(rig, directory, rng):
    """fio notes what it has done, has all of it flushed, and everything is killed; then fio verifies what it noted."""
    uri = rig.up(size="64M")["nbd_uri"]
    jobs = [*COMMON, f"--uri={uri}", f"--randseed={rng.randrange(1 << 31)}", *WRITES, *TRIMS]
    main, trigger = rig.process("main"), directory / "trigger"
    trigger.write_text(f"#!/bin/sh\n{tool('qemu-io')} -f raw -c flush '{uri}' && kill -9 {main.pid}\n")
    trigger.chmod(0o700)
    noting = [
        "--do_verify=0",
        "--verify_state_save=1",
        f"--trigger-timeout={rng.randrange(2, 5)}",
        f"--trigger={trigger}",
    ]
    command = [need_fio(), *noting, *jobs]
    with subprocess.Popen(command, cwd=directory, start_new_session=True) as fio:
        try:
            assert main.wait(CLIENT_S), "fio did not have the main program killed"
        finally:
            os.killpg(fio.pid, signal.SIGKILL)
    rig.up(size="64M")
    assert len(list(directory.glob("*.state"))) == 2
    said = call("fio", "--verify_only=1", "--verify_state_load=1", "--output-format=json", *jobs, cwd=directory)
    for job in json.loads(said[said.index("{\n") : said.rindex("}") + 1])["jobs"]:
        print(f"{job['jobname']}: {job['read']['io_bytes']} bytes verified")
        assert (job["error"], job["read"]["io_bytes"] > 0) == (0, True), said
    assert "failed" not in qemu_io(uri, "write -P 1 0 64M", "flush", "read -P 1 0 64M")
