"""Disks whose processes stand still, for longer than they may be silent: where the array waits for them, clients do."""

import threading

import pytest

from perdure.service.site import artefacts
from tests.cli.rig import Rig

SECTOR = 4096
LONG_S = 4.0
"""Four times as long as a disk may be silent here, and twice an answer."""


@pytest.fixture
def rig(tmp_path):
    with Rig(tmp_path) as rig:
        rig.up()
        config = rig.directory / "perdure.toml"
        text = config.read_text().replace("answer-ms-max = 5000", "answer-ms-max = 1000")
        config.write_text(text.replace("# when-too-few-disks", "when-too-few-disks"))
        rig.run("upgrade")
        yield rig


def log(rig):
    return (rig.directory / artefacts.MAIN_LOG_FILE).read_text()


class Write(threading.Thread):
    """One write and a FLUSH; `error` is what they failed with."""

    def __init__(self, rig, offset, data):
        super().__init__()
        self.rig, self.offset, self.data = rig, offset, data
        self.error = None

    def run(self):
        try:
            self.rig.write(self.offset, self.data)
        except OSError as error:
            self.error = error


def test_writes_wait_for_paused_disks_and_none_is_voted_off_or_lost(rig):
    rig.write(0, b"a" * SECTOR)
    rig.write(SECTOR, b"unflushed" * 100, flush=False)
    for seat in (0, 1, 2):
        rig.pause_disk(seat)
    write = Write(rig, 2 * SECTOR, b"b" * SECTOR)
    write.start()
    status = rig.wait_for(lambda status: status["state"] == "suspended")
    assert (status["exit_code"], status["failure"]) == (2, None)
    assert "Nothing is lost, and nothing goes on" in status["action"]
    assert "Suspended: fewer than 3 disks answer" in rig.run("status", code=2).out
    write.join(LONG_S)  # so long it waits at least
    assert write.is_alive()
    status = rig.status()
    assert [disk["state"] for disk in status["disks"]].count("suspect") == 3
    assert "nothing was stopped" in rig.run("upgrade", code=2).sentence
    for seat in (2, 0, 1):
        rig.resume_disk(seat)
    write.join(20)
    assert not write.is_alive()
    assert write.error is None
    status = rig.wait_for(lambda status: status["state"] == "online")
    assert status["summary"] == "[UUUUU]"
    rig.wait_for(lambda _: "again: enough disks answer" in log(rig))  # the log looks a few times a second
    assert log(rig).count("THE ARRAY IS SUSPENDED") == 1
    assert log(rig).count("again: enough disks answer") == 1
    rig.kill_main()
    rig.run("up", "--json")
    assert rig.read(0, SECTOR) == b"a" * SECTOR
    assert rig.read(SECTOR, 900) == b"unflushed" * 100
    assert rig.read(2 * SECTOR, SECTOR) == b"b" * SECTOR


def test_told_to_stop_it_stops_and_says_that_it_was_not_clean(rig):
    rig.write(0, b"flushed")
    for seat in (0, 1, 2):
        rig.pause_disk(seat)
    write = Write(rig, SECTOR, b"never flushed")
    write.start()
    rig.wait_for(lambda status: status["state"] == "suspended")
    done = rig.run("down", code=2)
    assert "2 disks are left and 3 are needed" in done.sentence
    write.join(20)
    assert write.error is not None
    for seat in (0, 1, 2):
        rig.resume_disk(seat)
    rig.run("up", "--json")
    assert rig.read(0, 7) == b"flushed"
