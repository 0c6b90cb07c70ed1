"""`list`: which arrays it shows, how, and the worst of their exit codes. See tests/service/test_inventory.py."""

import pytest

from perdure.service.site import config, local
from perdure.service.site.local import Wish
from tests.cli.rig import Rig, perdure


@pytest.fixture
def stopped(tmp_path):
    directory = tmp_path / "ledger"
    directory.mkdir()
    local.prepare(directory, Wish("4M", 3, 2, "unix:nbd.sock", 300))
    path = directory / config.NAME
    path.write_text(path.read_text().replace("[array]", f'[array]\nid = "{"ab" * 32}"'))
    return path


def test_directories_and_files_may_be_named(stopped):
    by_directory, by_file = perdure("list", stopped.parent), perdure("list", stopped)
    assert by_directory.out == by_file.out
    head, line = by_directory.out.splitlines()
    assert head.split() == ["NAME", "SIZE", "K/N", "STATE", "LOSSES", "MAIN", "NBD"]
    assert line.split() == ["ledger", "4", "MiB", "2/3", "STOPPED", "-", "-", "-"]
    assert by_directory.code == 2


def test_the_worst_of_several_is_the_exit_code(tmp_path, stopped):
    with Rig(tmp_path, disks=3, threshold=2) as rig:
        rig.up(size="4M")
        assert rig.run("list", "--json", code=0).json["exit_code"] == 0
        value = rig.run("list", "--json", rig.directory, stopped.parent, code=2).json
        assert [(one["name"], one["state"]) for one in value["arrays"]] == [
            ("perdure", "online"),
            ("ledger", "stopped"),
        ]


def test_where_there_is_none_that_is_said_and_no_error(tmp_path):
    done = perdure("list", "--directory", tmp_path / "nowhere")
    assert done.code == 0
    assert done.out.startswith("There is no array in ")


def test_a_directory_that_is_named_and_has_none_is_said(tmp_path):
    done = perdure("list", tmp_path, "--json")
    assert done.code == 2
    assert done.json["arrays"][0]["state"] == "broken"
    assert "cannot be read" in done.json["arrays"][0]["note"]
