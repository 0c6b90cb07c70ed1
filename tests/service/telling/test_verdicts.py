"""What is known of disks that are gone, from their events: the last counts, and a fork until it is cleared."""

import pytest

from perdure.array.session import Proof
from perdure.errors import Misuse
from perdure.service.status import DiskState
from perdure.service.telling.events import Attached, Event, Kind, Level
from perdure.service.telling.verdicts import CLEARED, Verdict, Verdicts

PROOF = Proof(b"question", b"answer")


def event(state, instance="ab", kind=Kind.DISK, why=": it lacks what is 3: 4"):
    message = f"the disk in seat 2 (unix:/a is b) is {state}{why}"
    return Event(1, 0, kind, Level.WARNING, message, 2, instance, state)


def test_the_last_event_of_a_disk_is_its_verdict_with_the_reason_and_the_evidence_of_a_fork():
    found = Verdicts()
    found.hear(event("online", why=""), [Attached(2, PROOF)])
    assert found.by_instance == {"ab": Verdict(DiskState.ONLINE)}
    found.hear(event("rollback"), [Attached(1, Proof(b"", b"")), Attached(2, PROOF)])
    assert found.by_instance == {"ab": Verdict(DiskState.ROLLBACK, "it lacks what is 3: 4", PROOF)}
    found.hear(event("dead", "cd"), [])
    assert found.by_instance["cd"] == Verdict(DiskState.DEAD, "it lacks what is 3: 4")
    assert [found.is_fork(instance) for instance in ("ab", "cd", "ef")] == [True, False, False]


@pytest.mark.parametrize(
    "told",
    [event("rebuilding", None), event("degraded", kind=Kind.ARRAY), event("state of a later release"), event(None)],
)
def test_what_is_not_about_an_instance_or_not_known_is_passed_over(told):
    found = Verdicts()
    found.hear(told, [])
    assert found.by_instance == {}


@pytest.mark.parametrize("state", ["rollback", "clone"])
def test_a_disk_with_evidence_against_it_is_refused_until_that_is_cleared(state):
    found = Verdicts()
    found.hear(event(state), [])
    with pytest.raises(
        Misuse, match=rf"against the disk of seat 2 \({state}\).*nothing was changed.*`perdure clear 2`"
    ):
        found.require_no_fork("ab", 2)
    found.clear("ab")
    found.require_no_fork("ab", 2)
    assert found.by_instance["ab"] == Verdict(DiskState.DEAD, CLEARED, is_cleared=True)
    found.hear(event(state), [])
    assert found.is_fork("ab")


def test_there_is_nothing_to_clear_of_a_disk_that_was_only_taken_offline():
    found = Verdicts()
    found.hear(event("offline"), [])
    found.clear("ab")
    found.clear("unknown")
    assert set(found.by_instance) == {"ab"}
    assert found.by_instance["ab"].state is DiskState.OFFLINE
