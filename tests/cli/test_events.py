"""`events`: what a line for people may have in it. See tests/cli/test_upkeep.py for the verb on a running array."""

import click

from perdure.cli import events
from perdure.service.telling.events import Event, Kind, Level


def test_what_a_host_wrote_cannot_move_the_cursor_of_who_reads_the_events():
    event = Event(7, 1_790_000_000_000, Kind.DISK, Level.CRITICAL, "fine\x1b[2J\r12  INFO all is well\u202e", seat=1)
    assert click.unstyle(events.line(event)) == (
        "     7  2026-09-21 14:13:20 UTC  critical  disk     fine?[2J?12  INFO all is well?"
    )


def test_nor_what_evidence_or_an_error_says():
    seen = {"seat": 1, "error": None, "platform": "nitro", "module_id": "i-1\x1b[2J", "instance": "ab" * 32}
    seen |= {"epoch": "cd" * 24, "carried_out": 7}
    assert "(i-1?[2J)" in events._sentence(seen)
    assert events._sentence({"seat": 1, "error": {"message": "no\n  seat 2: yes"}}).endswith("hold: no?  seat 2: yes")
