"""The arrays of a machine, found by their configurations, and how each of them is."""

import json

import pytest

from perdure.service.site import config, inventory, local
from perdure.service.site.local import Wish
from tests.cli.rig import Rig

SIZE_BYTES = 4 << 20


def prepared(directory, array_id=None):
    """A configuration with all that it names, and nothing that runs."""
    directory.mkdir(parents=True)
    local.prepare(directory, Wish("4M", 3, 2, "unix:nbd.sock", 300))
    path = directory / config.NAME
    if array_id is not None:
        path.write_text(path.read_text().replace("[array]", f'[array]\nid = "{array_id}"'))
    return path


def test_configurations_are_those_of_up_and_of_services_in_order(tmp_path):
    up, etc = tmp_path / "up", tmp_path / "etc"
    assert inventory.configurations(up, etc) == []
    services = [prepared(etc / name) for name in ("ledger", "keys")]
    (etc / "other").mkdir()
    (etc / "file").touch()
    assert inventory.configurations(up, etc) == sorted(services)
    of_up = prepared(up)
    assert inventory.configurations(up, etc) == [of_up, *sorted(services)]


def test_what_does_not_run_is_told_from_its_configuration(tmp_path):
    new, stopped = inventory.rows([prepared(tmp_path / "new"), prepared(tmp_path / "stopped", "ab" * 32)])
    assert (new.name, new.state, new.array_id, new.exit_code) == ("new", "new", None, 2)
    assert (stopped.name, stopped.state, stopped.array_id, stopped.exit_code) == ("stopped", "stopped", "ab" * 32, 2)
    assert (stopped.k, stopped.n, stopped.size_bytes) == (2, 3, SIZE_BYTES)
    assert stopped.losses_survived is stopped.nbd_uri is stopped.main_pid is stopped.note is None


def test_a_broken_configuration_is_one_row_and_hides_no_other(tmp_path):
    bad = prepared(tmp_path / "bad")
    bad.write_text("[array]\n")
    found = inventory.rows([bad, prepared(tmp_path / "good", "ab" * 32), tmp_path / "gone" / config.NAME])
    assert [one.state for one in found] == ["broken", "stopped", "broken"]
    assert "the table [disks] is missing" in found[0].note
    assert "cannot be read" in found[2].note


def test_two_arrays_of_one_name_are_called_by_their_ids(tmp_path):
    paths = [prepared(tmp_path / where / "ledger", array_id) for where, array_id in (("a", "ab" * 32), ("b", None))]
    other = prepared(tmp_path / "c" / "keys", "cd" * 32)
    assert [one.name for one in inventory.rows([*paths, other])] == ["ab" * 6, str(paths[1]), "keys"]


@pytest.mark.parametrize(("codes", "worst"), [((), 0), ((0, 0), 0), ((0, 1), 1), ((2, 1), 2), ((1, 3, 2), 3)])
def test_the_exit_code_is_that_of_the_worst(codes, worst):
    assert inventory.exit_code([inventory.Row("a", "a", "online", code) for code in codes]) == worst


def test_what_serves_is_told_by_its_main_program_and_one_that_is_mute_is_said(tmp_path):
    with Rig(tmp_path, disks=3, threshold=2) as rig:
        made = rig.up(size="4M")
        path = rig.directory / config.NAME
        found = inventory.row(path)
        assert (found.state, found.summary, found.losses_survived, found.exit_code) == ("online", "[UUU]", 1, 0)
        assert (found.array_id, found.nbd_uri) == (made["array_id"], made["nbd_uri"])
        assert found.main_pid == rig.process("main").pid
        value = json.loads(json.dumps(inventory.to_json([found])))
        assert (value["version"], value["exit_code"]) == (1, 0)
        assert value["arrays"][0]["k"] == 2
        (rig.directory / "control.sock").rename(rig.directory / "elsewhere.sock")
        mute = inventory.row(path)
        (rig.directory / "elsewhere.sock").rename(rig.directory / "control.sock")
        assert (mute.state, mute.exit_code, mute.main_pid) == ("silent", 2, found.main_pid)
        assert "nobody answers" in mute.note
