"""The whole examination: of a machine without an array, and of the files of one."""

import os

from perdure.service.doctor.examination import examine
from perdure.service.doctor.finding import Level
from perdure.service.site import config, local
from perdure.service.site.local import Wish

OF_THE_MACHINE = 15


def test_without_a_configuration_the_machine_alone_is_examined(tmp_path):
    found = examine(tmp_path / config.NAME, must_exist=False)
    assert [one.check for one in found[:6]] == [
        "python",
        "packages",
        "signatures",
        "erasure code",
        "freed memory",
        "processor",
    ]
    assert len(found) == OF_THE_MACHINE + 1
    assert (found[-1].check, found[-1].level) == ("configuration", Level.OK)


def test_a_configuration_that_was_asked_for_must_be_there(tmp_path):
    found = examine(tmp_path / config.NAME, must_exist=True)
    assert (found[-1].check, found[-1].level) == ("configuration", Level.FAIL)


def test_nothing_is_changed_where_an_array_was_prepared_and_no_disk_runs(tmp_path):
    local.prepare(tmp_path, Wish("4M", 3, 2, "unix:nbd.sock", 300))
    before = {path: (path.stat().st_mtime_ns, path.stat().st_mode) for path in sorted(tmp_path.rglob("*"))}
    os.chmod(tmp_path, 0o700)
    found = {one.check: one.level.value for one in examine(tmp_path / config.NAME, must_exist=False)[OF_THE_MACHINE:]}
    assert found == {
        "configuration": "ok",
        "array id": "warn",
        "directory": "ok",
        "key": "ok",
        "policy": "ok",
        "collateral": "ok",
        "disk 0": "warn",
        "disk 1": "warn",
        "disk 2": "warn",
        "disks": "fail",
        "main program": "ok",
        "page": "ok",
    }
    assert {path: (path.stat().st_mtime_ns, path.stat().st_mode) for path in sorted(tmp_path.rglob("*"))} == before
