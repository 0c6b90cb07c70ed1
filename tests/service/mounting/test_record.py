"""What a run writes down is what the next one reads; a damaged file is said and not guessed at."""

from dataclasses import replace

import pytest

from perdure.errors import Misuse
from perdure.service.mounting import record
from perdure.service.mounting.attach import Way
from perdure.service.mounting.record import Record
from perdure.service.site.processes import Process


@pytest.fixture
def written(tmp_path):
    return Record(tmp_path, tmp_path / "data", True, Way.LOOP, Process.this()).write()


def test_it_comes_back_as_it_was(tmp_path, written):
    assert record.read(tmp_path) == written
    us = Process.this()
    full = replace(written, device=written.file, nbdfuse=us, fuse2fs=us, main=us).write()
    assert record.read(tmp_path) == full


def test_there_is_none_where_nothing_was_left(tmp_path, written):
    written.remove()
    assert record.read(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"mount_point": 1', "[" * 100_000])
def test_a_damaged_one_is_refused(tmp_path, written, text):
    (tmp_path / record.RECORD_FILE).write_text(text)
    with pytest.raises(Misuse, match="is damaged"):
        record.read(tmp_path)


def test_a_restart_of_the_machine_is_seen():
    us = Process.this()
    assert us.is_of_this_boot
    assert not replace(us, boot_id="another").is_of_this_boot
