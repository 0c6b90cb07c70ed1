"""Files: written whole or not at all, keys for their owner only."""

import json
import os
import stat

import pytest

from perdure.array.genesis import Genesis
from perdure.array.geometry import Geometry
from perdure.errors import Misuse
from perdure.service.site import artefacts
from perdure.service.site.artefacts import ArrayRecord

KEY = "11" * 32


def test_a_file_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "file"
    artefacts.write_atomic(path, b"one")
    inode = path.stat().st_ino
    artefacts.write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_ino != inode
    assert os.listdir(tmp_path) == ["file"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    artefacts.write_atomic(path, b"one")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Misuse, match="No space left on device"):
        artefacts.write_atomic(path, b"two")
    assert path.read_bytes() == b"one"


def test_a_key_comes_back_as_it_was_drawn(tmp_path):
    drawn = artefacts.new_key(tmp_path / "key")
    assert artefacts.read_key(tmp_path / "key").private_key == drawn.private_key
    assert artefacts.new_key(tmp_path / "other").private_key != drawn.private_key


@pytest.mark.parametrize(("mode", "is_good"), [(0o400, True), (0o440, True), (0o460, False), (0o444, False)])
def test_a_credential_of_systemd_may_show_the_mask_of_its_access_list(tmp_path, monkeypatch, mode, is_good):
    path = tmp_path / "authority.key"
    authority = artefacts.new_key(path)
    path.chmod(mode)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    if is_good:
        assert artefacts.read_key(path).private_key == authority.private_key
    else:
        with pytest.raises(Misuse, match=f"mode {mode:04o}"):
            artefacts.read_key(path)


def test_what_is_not_in_the_credentials_directory_is_no_credential(tmp_path, monkeypatch):
    path = tmp_path / "authority.key"
    artefacts.new_key(path)
    path.chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    with pytest.raises(Misuse, match="mode 0440"):
        artefacts.read_key(path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o666])
def test_a_key_that_others_can_touch_is_refused(tmp_path, mode):
    path = tmp_path / "key"
    path.write_text(KEY)
    path.chmod(mode)
    with pytest.raises(Misuse, match=f"mode {mode:04o}") as raised:
        artefacts.read_key(path)
    assert f"chmod 600 {path}" in str(raised.value)


@pytest.mark.parametrize("text", ["", KEY[1:], KEY + "0", "zz" * 32, f"{KEY}\n{KEY}", "0x" + KEY])
def test_what_is_no_key_is_refused_without_being_shown(tmp_path, text):
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(Misuse, match="64 hexadecimal digits") as raised:
        artefacts.read_key(path)
    assert not text or text not in str(raised.value)


def test_the_zero_key_and_no_key_are_refused(tmp_path):
    path = tmp_path / "key"
    with pytest.raises(Misuse, match="No such file"):
        artefacts.read_key(path)
    path.touch(0o600)
    path.write_text("00" * 32)
    with pytest.raises(Misuse, match="secp256k1"):
        artefacts.read_key(path)


def test_a_policy_file_that_is_none_is_named(tmp_path):
    (tmp_path / "policy.json").write_text("{}")
    with pytest.raises(Misuse, match=r"In .*policy.json: The policy's policy lacks the key"):
        artefacts.read_policy(tmp_path / "policy.json")


def test_a_file_that_is_too_long_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(bytes(5))
    assert artefacts.read_bounded(tmp_path / "file", "thing", bytes_max=5) == bytes(5)
    with pytest.raises(Misuse, match=r"The thing .* has more than 4 bytes"):
        artefacts.read_bounded(tmp_path / "file", "thing", bytes_max=4)


# The record -----------------------------------------------------------------------------------------------


@pytest.fixture
def record(tmp_path):
    genesis = Genesis(Geometry(2, 3, 4), b"\2" * 33, b"p" * 32, (b"a" * 32, b"b" * 32, b"c" * 32))
    record = ArrayRecord.of(genesis, tmp_path / "policy.json")
    record.write(tmp_path)
    assert record.array_id == genesis.array_id.hex()
    return record


def test_a_record_comes_back(tmp_path, record):
    assert artefacts.read_record(tmp_path) == record
    assert (record.k, record.n, record.size_bytes, record.policy_file) == (2, 3, 16384, "policy.json")
    assert record.instances == ("61" * 32, "62" * 32, "63" * 32)


def test_no_record(tmp_path):
    assert artefacts.read_record(tmp_path) is None


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"array_id": "ab"},
        {"array_id": None},
        {"k": "2"},
        {"size_bytes": 1.5},
        {"more": 1},
        {"instances": 3},
    ],
)
def test_a_damaged_record_is_said_to_be(tmp_path, record, change):
    path = tmp_path / "array.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(Misuse, match="is damaged; the array itself is not"):
        artefacts.read_record(tmp_path)
