"""members: calls those pods members whose disks the main program calls online, and without an answer changes nothing.

There is no cluster here: a stand-in for kubectl answers with what a real main program said, and notes what it is told.
"""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from tests.cli.rig import Rig
from tests.deploy.files import DEPLOY

KUBECTL = """#!/bin/sh
case " $* " in
*" exec "*) cat "$NOTES/status.json"; exit 1 ;;
esac
printf '%s\\n' "$*" >>"$NOTES/told"
"""


@pytest.fixture
def kubectl(tmp_path):
    """The environment in which `kubectl` is the stand-in."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/kubectl").write_text(KUBECTL)
    (tmp_path / "bin/kubectl").chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "NOTES": str(tmp_path)}


def members(environment):
    return subprocess.run([DEPLOY / "kubernetes/members"], env=environment, check=False, capture_output=True, text=True)


def told(tmp_path):
    path = tmp_path / "told"
    return path.read_text().splitlines() if path.exists() else []


def test_a_lost_disks_pod_is_no_member_and_the_others_are(tmp_path, kubectl):
    with Rig(tmp_path) as rig:
        rig.up()
        rig.kill_disk(2)
        rig.write(0, b"so that the loss is seen")
        status = rig.wait_for(lambda status: status["disks"][2]["state"] not in ("online", "suspect"))
    for disk in status["disks"]:  # where pods have their disks
        disk["address"] = f"tcp:perdure-disk-{disk['seat']}.perdure-disk:7001"
    (tmp_path / "status.json").write_text(json.dumps(status))
    assert members(kubectl).returncode == 0
    found = {}
    for line in told(tmp_path):
        words, _, patch = line.partition(" --patch=")
        assert words.startswith("--namespace perdure patch pod perdure-disk-")
        assert "--subresource=status --type=strategic" in words
        (condition,) = json.loads(patch)["status"]["conditions"]
        assert condition["type"] == "perdure/member"
        found[words.split()[4]] = condition["status"]
    assert found == {f"perdure-disk-{seat}": "False" if seat == 2 else "True" for seat in range(5)}


def test_without_a_status_nothing_is_changed(tmp_path, kubectl):
    (tmp_path / "status.json").write_text('{"error": {"class": "Unavailable"}}')
    done = members(kubectl)
    assert done.returncode == 2
    assert "no condition was changed" in done.stderr
    assert told(tmp_path) == []
