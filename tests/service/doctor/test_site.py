"""An array's files, one of them wrong at a time. Nothing runs here: the main program's side is in test_examination."""

import json
import socket

import pytest

from perdure.evidence.policy import Policy, TrustedRoot
from perdure.service.doctor import site
from perdure.service.doctor.finding import Level
from perdure.service.site import artefacts, config, local
from perdure.service.site.artefacts import ArrayRecord
from perdure.service.site.local import Wish

ID = "ab" * 32


@pytest.fixture
def place(tmp_path):
    directory = tmp_path / "perdure"
    directory.mkdir(mode=0o700)
    local.prepare(directory, Wish("4M", 3, 2, "unix:nbd.sock", 300))
    return directory


def load(place, old="", new=""):
    path = place / config.NAME
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return config.load(path)


def with_id(place, array_id=ID):
    return load(place, "[array]", f'[array]\nid = "{array_id}"')


def record(place, array_id=ID):
    ArrayRecord(array_id, 2, 3, 4 << 20, ("00" * 32,) * 3, "policy.json").write(place)


# Configuration and id -------------------------------------------------------------------------------------


def test_a_good_configuration_is_told_in_numbers(place):
    finding, found = site.configuration(place / config.NAME)
    assert (finding.level, found) == (Level.OK, load(place))
    assert "2 of 3 disks, 4194304 bytes" in finding.found


def test_a_key_that_is_misspelt_is_named(place):
    path = place / config.NAME
    path.write_text(path.read_text().replace("policy-file", "polizy-file"))
    finding, found = site.configuration(path)
    assert (finding.level, found) == (Level.FAIL, None)
    assert "'array.polizy-file' is not a key that Perdure knows (did you mean 'policy-file'?)" in finding.found
    assert finding.do == "Nothing was changed; correct the file."


def test_a_seat_without_an_address_is_a_weakness(place):
    finding, found = site.configuration(load(place, '    "unix:disk-2.sock",\n', "").path)
    assert finding.level is Level.WARN
    assert "3 disks" in finding.found
    assert "but 2 addresses" in finding.found
    assert found is not None


def test_an_array_that_is_not_created_yet_is_said(place):
    finding = site.array_id(load(place))
    assert finding.level is Level.WARN
    assert "perdure create" in finding.do


def test_an_id_that_only_the_record_has_is_shown(place):
    record(place)
    finding = site.array_id(load(place))
    assert finding.level is Level.WARN
    assert ID in finding.found
    assert "Write that id into [array]" in finding.do


def test_an_id_and_a_record_that_agree_are_well_and_others_are_not(place):
    record(place)
    assert site.array_id(with_id(place)).level is Level.OK
    record(place, "cd" * 32)
    assert site.array_id(config.load(place / config.NAME)).level is Level.FAIL
    (place / artefacts.ARRAY_FILE).write_text("{")
    assert "is damaged" in site.array_id(config.load(place / config.NAME)).found


# Who may read and write -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "level"), [(0o700, Level.OK), (0o755, Level.OK), (0o775, Level.FAIL), (0o757, Level.FAIL)]
)
def test_a_directory_that_others_can_write_to_is_a_failure(place, mode, level):
    place.chmod(mode)
    finding = site.directory(load(place))
    assert finding.level is level
    assert f"mode {mode:04o}" in finding.found


def test_a_directory_of_another_user_is_a_failure(place, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: place.stat().st_uid + 1)
    finding = site.directory(load(place))
    assert (finding.level is Level.FAIL) == (place.stat().st_uid != 0), "root's are trusted by all"


def test_a_key_for_its_owner_is_well_and_its_public_half_is_shown(place):
    finding, authority = site.key(load(place))
    assert finding.level is Level.OK
    assert authority.public_key.hex() in finding.found
    assert authority.private_key.hex() not in json.dumps(finding.found)


def test_a_key_that_others_can_read_is_a_failure(place):
    (place / local.AUTHORITY_FILE).chmod(0o640)
    finding, authority = site.key(load(place))
    assert (finding.level, authority) == (Level.FAIL, None)
    assert "mode 0640" in finding.found
    assert finding.do.startswith("Run `chmod 600 ")


def test_a_key_that_is_missing_is_a_failure_and_none_is_made(place):
    (place / local.AUTHORITY_FILE).unlink()
    assert site.key(load(place))[0].level is Level.FAIL
    assert not (place / local.AUTHORITY_FILE).exists()


@pytest.mark.parametrize(("mode", "level"), [(0o600, Level.OK), (0o660, Level.FAIL), (0o606, Level.FAIL)])
def test_a_socket_that_others_can_connect_to_is_a_failure(place, mode, level):
    found = load(place)
    assert list(site.sockets(found)) == []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "nbd.sock"))
        (place / "nbd.sock").chmod(mode)
        (finding,) = site.sockets(found)
    assert (finding.check, finding.level) == ("NBD socket", level)


# Policy and collateral ------------------------------------------------------------------------------------


def test_a_simulated_policy_is_said_to_protect_nothing(place):
    finding, policy = site.policy(load(place))
    assert finding.level is Level.OK
    assert "so it protects nothing" in finding.found
    assert policy is not None


def test_a_simulated_root_beside_a_real_one_is_a_weakness(place):
    path = place / local.POLICY_FILE
    policy = Policy.from_json(path.read_bytes())
    both = Policy((*policy.roots, TrustedRoot.builtin("aws-nitro-g1")), policy.measurements)
    path.write_bytes(both.to_json())
    finding, read = site.policy(load(place))
    assert (finding.level, read) == (Level.WARN, both)
    assert "nitro, simulated" in finding.found


def test_a_policy_that_cannot_be_read_is_a_failure(place):
    (place / local.POLICY_FILE).write_text("{}")
    finding, policy = site.policy(load(place))
    assert (finding.level, policy) == (Level.FAIL, None)


def test_collateral_is_looked_for_only_where_it_is_named(place):
    assert site.hints(load(place), 0).level is Level.OK
    found = load(place, "# collateral = ", "collateral = ")
    assert site.hints(found, 0).level is Level.FAIL, "the folder is not there"
    (place / "collateral").mkdir()
    assert site.hints(found, 0).level is Level.WARN, "it is empty"


def test_where_no_main_program_runs_that_is_no_fault(place):
    assert site.main_program(load(place)).level is Level.OK
