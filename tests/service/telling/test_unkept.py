"""Events that an array which has stopped cannot take: beside the configuration, whole, until one can."""

import json

import pytest

from perdure.array.session import Proof
from perdure.service.site import artefacts
from perdure.service.telling import unkept
from perdure.service.telling.events import Attached, Event, Kind, Level
from perdure.service.telling.unkept import Unkept

ARRAY_ID = "ab" * 32


def event(number, message="x", **given):
    return Event(number, 5, Kind.DISK, Level.CRITICAL, message, 2, "cd", "rollback", **given)


def attached(seat=2, answer=b"answer"):
    return Attached(seat, Proof(b"question", answer))


@pytest.fixture
def path(tmp_path):
    return tmp_path / artefacts.UNKEPT_FILE


def test_what_is_added_is_found_and_read_again_with_its_evidence_by_its_owner_only(path):
    first = Unkept(path, ARRAY_ID)
    assert first.read() == []
    entries = [(event(7, evidence_seats=(2,)), [attached()]), (event(8), [])]
    first.add(entries)
    assert first.find(7) == entries[0]
    assert first.find(9) is None
    assert path.stat().st_mode & 0o777 == 0o600
    assert Unkept(path, ARRAY_ID).read() == entries
    first.add([(event(9), [])])
    assert [one.number for one, _ in Unkept(path, ARRAY_ID).read()] == [7, 8, 9]
    first.forget()
    assert not path.exists()
    assert first.read() == []


def test_it_is_bounded_and_evidence_makes_room_before_sentences_do(path, monkeypatch, caplog):
    monkeypatch.setattr(unkept, "BYTES_MAX", 2000)
    kept = Unkept(path, ARRAY_ID)
    kept.add(
        [(event(1, evidence_seats=(2,)), [attached()]), (event(2, evidence_seats=(2,)), [attached(answer=bytes(900))])]
    )
    for number in range(3, 20):
        kept.add([(event(number), [])])
    assert path.stat().st_size <= 2000
    shown = Unkept(path, ARRAY_ID).read()
    assert shown[0] == (event(1, evidence_seats=(2,)), [attached()])
    assert shown[1] == (event(2), [])
    assert 2 < len(shown) < 19
    assert "is in the log only" in caplog.text


@pytest.mark.parametrize(
    "text", ["", "[]", '{"array_id": 3}', "{" * 9000, json.dumps({"array_id": ARRAY_ID, "events": [{}]})]
)
def test_a_file_that_is_none_of_ours_is_put_aside_and_not_lost(path, text, caplog):
    path.write_text(text)
    kept = Unkept(path, ARRAY_ID)
    assert kept.read() == []
    assert path.with_name(unkept.ASIDE).read_text() == text
    assert "was put aside" in caplog.text
    kept.add([(event(1), [])])
    assert len(Unkept(path, ARRAY_ID).read()) == 1


def test_the_file_of_another_array_is_put_aside(path):
    Unkept(path, "cd" * 32).add([(event(1), [])])
    assert Unkept(path, ARRAY_ID).read() == []
    assert path.with_name(unkept.ASIDE).exists()


def test_where_it_cannot_be_written_it_is_in_memory_and_that_is_logged(tmp_path, caplog):
    kept = Unkept(tmp_path / "none" / artefacts.UNKEPT_FILE, ARRAY_ID)
    kept.add([(event(1), [attached()])])
    assert kept.find(1) == (event(1), [attached()])
    assert "cannot be written" in caplog.text
    assert "cannot be written" in kept.failure


def test_of_what_lay_in_a_file_only_evidence_of_a_fork_counts_for_a_disk():
    """Whoever can write the file must not be able to clear a verdict with it, nor to put a scrub off."""
    fork = event(1)
    assert unkept.as_hearsay(fork) == fork
    dead = Event(2, 5, Kind.DISK, Level.WARNING, "x", 2, "cd", "dead")
    assert unkept.as_hearsay(dead) == Event(2, 5, Kind.DISK, Level.WARNING, "x", 2)
    scrub = Event(3, 5, Kind.REPAIR, Level.INFO, "x", state="scrubbed")
    assert unkept.as_hearsay(scrub) == Event(3, 5, Kind.REPAIR, Level.INFO, "x")
    stopped = Event(4, 5, Kind.ARRAY, Level.CRITICAL, "x", state="forked")
    assert unkept.as_hearsay(stopped) == stopped
