"""What an operator is told: each change once, loud where evidence shows a fork, with that evidence."""

import asyncio
import dataclasses

import pytest

from perdure.array.session import Proof
from perdure.service.status import DiskState, Repair, RepairState, State, Verb
from perdure.service.telling.damping import FLAPS_MAX, REFILL_S, STANDS_S
from perdure.service.telling.events import Event, Kind, Level
from perdure.service.telling.watch import SCRUBBED, Watcher
from perdure.service.upkeep.automatic import RETRY_MS, Automatic
from tests.service.test_status import status

PROOF = Proof(b"question", b"answer")
DAY_MS = 86_400_000


class Noted:
    """An event log that keeps what it is given."""

    def __init__(self):
        self.events, self.evidence, self.began_unix_ms, self.is_loaded = [], [], None, True

    def note(self, kind, level, message, *, seat=None, instance=None, state=None, evidence=()):
        seats = tuple(one.seat for one in evidence)
        self.events.append(Event(len(self.events) + 1, 0, kind, level, message, seat, instance, state, seats))

    def latest(self, state):
        return next((event for event in reversed(self.events) if event.state == state), None)

    @property
    def lines(self):
        return [(event.kind, event.level, event.message) for event in self.events]


@pytest.fixture
def noted():
    return Noted()


def watcher(noted, first):
    return Watcher(noted, first, lambda instance: PROOF, asyncio.Event())


def test_nothing_is_noted_while_nothing_changes(noted):
    watch = watcher(noted, status(DiskState.ONLINE, DiskState.ONLINE))
    for _ in range(3):
        watch.compare(status(DiskState.ONLINE, DiskState.ONLINE))
    assert noted.events == []


def test_a_disk_that_comes_and_goes_does_not_push_everything_else_out(noted):
    now = [0.0]
    first = status(DiskState.ONLINE, DiskState.ONLINE, losses_survived=1)
    watch = Watcher(noted, first, lambda instance: PROOF, asyncio.Event(), lambda: now[0])
    for _ in range(100):
        watch.compare(status(DiskState.ONLINE, DiskState.SUSPECT, losses_survived=1))
        watch.compare(first)
    assert len(noted.events) == 2 * FLAPS_MAX
    watch.compare(status(DiskState.ONLINE, DiskState.CLONE, losses_survived=0))
    assert [event.state for event in noted.events[-2:]] == ["clone", "degraded"]
    watch.compare(first)
    message = next(event.message for event in reversed(noted.events) if event.kind is Kind.DISK)
    assert message.endswith("is online (after 188 changes that were too many to note)")
    now[0] += REFILL_S
    watch.compare(status(DiskState.ONLINE, DiskState.SUSPECT, losses_survived=1))
    message = next(event.message for event in reversed(noted.events) if event.kind is Kind.DISK)
    assert message.endswith("is suspect")


def flapping(noted, now):
    """A watcher of an array that was suspended too often for one more to be told at once; and its two statuses."""
    first = status(DiskState.ONLINE)
    waits = dataclasses.replace(first, state=State.SUSPENDED)
    watch = Watcher(noted, first, lambda instance: None, asyncio.Event(), lambda: now[0])
    for _ in range(100):
        watch.compare(waits)
        watch.compare(first)
    return watch, first, waits


def test_an_array_that_is_suspended_again_and_again_is_noted_so_often_and_no_more(noted):
    flapping(noted, [0.0])
    assert [event.state for event in noted.events] == ["suspended", "online"] * FLAPS_MAX
    assert noted.lines[0] == (
        Kind.ARRAY,
        Level.CRITICAL,
        "THE ARRAY IS SUSPENDED: fewer than 3 disks answer; everything waits for them",
    )


def test_an_array_that_stays_suspended_is_told_though_it_was_too_often_before(noted):
    now = [0.0]
    watch, _, waits = flapping(noted, now)
    count = len(noted.events)
    watch.compare(waits)
    now[0] += STANDS_S - 1
    watch.compare(waits)
    assert len(noted.events) == count
    now[0] += 1
    watch.compare(waits)
    watch.compare(waits)
    assert [(event.level, event.state) for event in noted.events[count:]] == [(Level.CRITICAL, "suspended")]


def test_an_array_is_told_to_be_suspended_once_a_minute_at_least_and_to_be_well_once_it_stays_so(noted):
    now = [0.0]
    watch, first, waits = flapping(noted, now)
    count = len(noted.events)
    for _ in range(3):
        now[0] += 59
        watch.compare(waits)
        watch.compare(first)
        now[0] += 1
        watch.compare(first)
        watch.compare(waits)
        watch.compare(first)
    assert [event.state for event in noted.events[count:]] == ["suspended"] * 3
    now[0] += STANDS_S
    watch.compare(first)
    assert "the array is online again" in noted.events[-1].message


def test_a_disk_that_stays_silent_is_told_though_it_was_too_often_before(noted):
    now = [0.0]
    first, silent = status(DiskState.ONLINE), status(DiskState.SUSPECT)
    watch = Watcher(noted, first, lambda instance: PROOF, asyncio.Event(), lambda: now[0])
    for _ in range(100):
        watch.compare(silent)
        watch.compare(first)
    del noted.events[:]
    watch.compare(silent)
    now[0] += STANDS_S
    watch.compare(silent)
    watch.compare(silent)
    disk, array = noted.events
    assert disk.message.endswith("is suspect (after 189 changes that were too many to note)")
    assert (array.kind, array.state) == (Kind.ARRAY, "degraded")


@pytest.mark.parametrize(
    ("state", "level", "has_evidence"),
    [
        (DiskState.SUSPECT, Level.WARNING, False),
        (DiskState.DEAD, Level.WARNING, False),
        (DiskState.OFFLINE, Level.INFO, False),
        (DiskState.REBUILDING, Level.INFO, False),
        (DiskState.BLANK, Level.WARNING, True),
        (DiskState.CLONE, Level.CRITICAL, True),
        (DiskState.ROLLBACK, Level.CRITICAL, True),
    ],
)
def test_each_change_of_a_disk_is_noted_once_and_evidence_of_a_fork_is_loud(noted, state, level, has_evidence):
    watch = watcher(noted, status(DiskState.ONLINE, DiskState.ONLINE))
    for _ in range(2):
        watch.compare(status(DiskState.ONLINE, state, state=State.ONLINE))
    (event,) = about_disks(noted)
    assert (event.level, event.seat, event.state) == (level, 1, state)
    assert event.evidence_seats == ((1,) if has_evidence else ())
    watch.compare(status(DiskState.ONLINE, DiskState.ONLINE))
    back = about_disks(noted)[1]
    assert (back.level, back.evidence_seats) == (Level.INFO, (1,))


def about_disks(noted):
    return [event for event in noted.events if event.kind is Kind.DISK]


def test_another_disk_in_a_seat_is_a_change_though_the_state_is_the_same(noted):
    first = status(DiskState.ONLINE, DiskState.ONLINE)
    watch = watcher(noted, first)
    other = dataclasses.replace(first.disks[1], instance="cd" * 32)
    watch.compare(dataclasses.replace(first, disks=(first.disks[0], other)))
    assert [(event.seat, event.instance) for event in noted.events] == [(1, "cd" * 32)]


def test_an_array_that_stops_is_loud_and_says_why(noted):
    first = status(DiskState.ONLINE)
    watch = watcher(noted, first)
    failure = {"class": "Unavailable", "message": "2 disks are left.", "exit_code": 2}
    watch.compare(dataclasses.replace(first, state=State.UNUSABLE, failure=failure))
    assert noted.lines == [(Kind.ARRAY, Level.CRITICAL, "THE ARRAY HAS STOPPED (unusable): 2 disks are left.")]


def test_an_array_that_is_degraded_and_well_again_says_how_many_losses_are_survived(noted):
    first = status(DiskState.ONLINE, losses_survived=2)
    watch = watcher(noted, first)
    silent = dataclasses.replace(first, state=State.DEGRADED)
    for losses_survived in (2, 1, 0, 0):
        watch.compare(dataclasses.replace(silent, losses_survived=losses_survived))
    watch.compare(first)
    assert [(event.level, event.message.rpartition(": ")[2]) for event in noted.events] == [
        (Level.WARNING, "2 more losses are survived"),
        (Level.WARNING, "1 more loss is survived"),
        (Level.WARNING, "0 more losses are survived"),
        (Level.INFO, "2 more losses are survived"),
    ]


def test_a_silent_disk_that_is_lost_changes_the_array_though_as_many_losses_are_survived(noted):
    watch = watcher(noted, status(DiskState.ONLINE, DiskState.ONLINE, losses_survived=2))
    for state in (DiskState.SUSPECT, DiskState.DEAD, DiskState.DEAD):
        watch.compare(status(DiskState.ONLINE, state, losses_survived=1))
    assert [event.message for event in noted.events if event.kind is Kind.ARRAY] == [
        "the array is degraded [UUUUU]: 1 more loss is survived"
    ] * 2


def test_silence_that_comes_and_goes_is_damped_though_it_changes_how_many_losses_are_survived(noted):
    first = status(DiskState.ONLINE, DiskState.ONLINE, losses_survived=2)
    watch = Watcher(noted, first, lambda instance: PROOF, asyncio.Event(), lambda: 0.0)
    for _ in range(100):
        watch.compare(status(DiskState.ONLINE, DiskState.SUSPECT, losses_survived=1))
        watch.compare(first)
    assert len(noted.events) == 2 * FLAPS_MAX


def repair(state, verb=Verb.REPLACE, seat=1, **given):
    fields = {"id": "r", "address": "unix:/new", "total_bytes": 4096, "done_bytes": 0, "mended_sectors": 3}
    fields |= {"bytes_per_s_max": None, "bytes_per_s": None, "left_s": None, "started_unix_ms": 0, "duration_ms": 5}
    return Repair(verb=verb, seat=seat, state=state, **{**fields, **given})


def test_a_repair_is_followed_to_its_end(noted):
    first = status(DiskState.ONLINE)
    watch = watcher(noted, first)
    failed = repair(RepairState.FAILED, error={"message": "it is not blank"})
    for seen in (repair(RepairState.RUNNING), repair(RepairState.RUNNING), failed):
        watch.compare(dataclasses.replace(first, repairs=(seen,)))
    assert [event.message for event in noted.events] == [
        "replace of seat 1 (unix:/new) begins",
        "replace of seat 1 (unix:/new) has failed: it is not blank",
    ]
    scrub = repair(RepairState.DONE, Verb.SCRUB, None, id="s")
    watch.compare(dataclasses.replace(first, repairs=(failed, scrub)))
    assert noted.events[-1].state == SCRUBBED


def test_a_watcher_that_is_cancelled_as_there_is_news_ends(noted):
    """A repair that is stopped with its main program is news, and then the watcher is stopped too."""

    async def main():
        news = asyncio.Event()
        first = status(DiskState.ONLINE)
        watching = asyncio.ensure_future(Watcher(noted, first, lambda instance: None, news).run(lambda: first))
        for _ in range(5):
            await asyncio.sleep(0)
        news.set()
        await asyncio.sleep(0)
        watching.cancel()
        await asyncio.wait((watching,), timeout=5)
        return watching.cancelled()

    assert asyncio.run(main())


# What is mended by itself ---------------------------------------------------------------------------------


class Begun:
    """Repairs that only remember what was asked of them."""

    def __init__(self):
        self.requests, self.error, self.held = [], None, ()

    def start(self, request):
        if self.error is not None:
            raise self.error
        self.requests.append(request)

    def is_empty(self, seat):
        return seat not in self.held


@dataclasses.dataclass
class Section:
    scrub_every_s: int | None = None
    scrub_rate: int | None = None
    replace_rate: int | None = None


@dataclasses.dataclass
class Found:
    spares: tuple = ()
    repair: Section = dataclasses.field(default_factory=Section)


def test_a_spare_takes_the_seat_of_a_disk_that_is_gone_and_only_once(noted):
    begun = Begun()
    automatic = Automatic(Found(("unix:/s0", "unix:/s1"), Section(replace_rate=1 << 20)), begun, noted)
    gone = status(DiskState.ONLINE, DiskState.DEAD, DiskState.CLONE)
    for _ in range(3):
        automatic.look(gone, 0)
    asked = [(request.do, request.seat, request.address, request.bytes_per_s_max) for request in begun.requests]
    assert asked == [("replace", 1, "unix:/s0", 1 << 20), ("replace", 2, "unix:/s1", 1 << 20)]
    assert automatic.spares == []


def test_nothing_is_begun_before_it_is_known_who_was_taken_offline_and_when_the_last_scrub_was(noted):
    begun = Begun()
    automatic = Automatic(Found(("unix:/s0",), Section(scrub_every_s=1)), begun, noted)
    noted.began_unix_ms, noted.is_loaded = 0, False
    automatic.look(status(DiskState.ONLINE, DiskState.DEAD), DAY_MS)
    automatic.look(status(DiskState.ONLINE), DAY_MS)
    assert (begun.requests, automatic.spares) == ([], ["unix:/s0"])
    noted.is_loaded = True
    automatic.look(status(DiskState.ONLINE, DiskState.DEAD), DAY_MS)
    assert [request.seat for request in begun.requests] == [1]


def test_a_spare_waits_until_the_disk_that_was_given_up_is_voted_off(noted):
    begun = Begun()
    begun.held = (1,)
    automatic = Automatic(Found(("unix:/s0",)), begun, noted)
    gone = status(DiskState.ONLINE, DiskState.DEAD)
    automatic.look(gone, 0)
    assert (begun.requests, automatic.spares) == ([], ["unix:/s0"])
    begun.held = ()
    automatic.look(gone, 0)
    assert [request.seat for request in begun.requests] == [1]


@pytest.mark.parametrize("state", [DiskState.SUSPECT, DiskState.OFFLINE, DiskState.REBUILDING, DiskState.ONLINE])
def test_a_spare_is_kept_while_the_disk_may_come_back(noted, state):
    begun = Begun()
    automatic = Automatic(Found(("unix:/s0",)), begun, noted)
    automatic.look(status(DiskState.ONLINE, state), 0)
    assert begun.requests == []
    assert automatic.spares == ["unix:/s0"]


def test_a_spare_that_is_no_good_is_followed_by_the_next(noted):
    begun = Begun()
    automatic = Automatic(Found(("unix:/s0", "unix:/s1")), begun, noted)
    gone = status(DiskState.ONLINE, DiskState.DEAD)
    automatic.look(gone, 0)
    automatic.look(dataclasses.replace(gone, repairs=(repair(RepairState.FAILED, address="unix:/s0"),)), 0)
    assert [request.address for request in begun.requests] == ["unix:/s0", "unix:/s1"]


def test_a_spare_that_is_good_for_another_seat_only_is_tried_there(noted):
    """Found by seed 69 of the simulator: the program before had rebuilt a part of it for seat 2."""
    begun = Begun()
    automatic = Automatic(Found(("unix:/s0",)), begun, noted)
    gone = status(DiskState.ONLINE, DiskState.DEAD, DiskState.DEAD)
    automatic.look(gone, 0)
    failed = [repair(RepairState.FAILED, seat=1, address="unix:/s0")]
    automatic.look(dataclasses.replace(gone, repairs=tuple(failed)), 0)
    assert [request.seat for request in begun.requests] == [1, 2]
    failed.append(repair(RepairState.FAILED, seat=2, address="unix:/s0"))
    for _ in range(3):
        automatic.look(dataclasses.replace(gone, repairs=tuple(failed)), 0)
    assert len(begun.requests) == 2, "once for each seat"
    assert automatic.spares == []


def test_a_spare_that_is_a_member_already_is_none_any_more(noted):
    begun = Begun()
    first = status(DiskState.ONLINE, DiskState.DEAD)
    automatic = Automatic(Found((first.disks[0].address, "unix:/s1")), begun, noted)
    automatic.look(first, 0)
    assert [request.address for request in begun.requests] == ["unix:/s1"]


def test_scrubs_come_round_and_not_while_anything_is_wrong_or_under_way(noted):
    begun = Begun()
    automatic = Automatic(Found((), Section(scrub_every_s=86_400, scrub_rate=1 << 20)), begun, noted)
    well = status(DiskState.ONLINE)
    automatic.look(well, DAY_MS)  # since nobody knows when, from now on
    noted.began_unix_ms = 5
    automatic.look(well, DAY_MS)
    assert begun.requests == []
    due = DAY_MS + 5
    automatic.look(status(DiskState.ONLINE, DiskState.SUSPECT, state=State.DEGRADED), due)
    automatic.look(dataclasses.replace(well, repairs=(repair(RepairState.RUNNING),)), due)
    assert begun.requests == []
    automatic.look(well, due)
    assert [(request.do, request.bytes_per_s_max) for request in begun.requests] == [("scrub", 1 << 20)]
    done = repair(RepairState.DONE, Verb.SCRUB, None, started_unix_ms=due, duration_ms=10)
    automatic.look(dataclasses.replace(well, repairs=(done,)), due + DAY_MS)
    assert len(begun.requests) == 1
    automatic.look(dataclasses.replace(well, repairs=(done,)), due + 10 + DAY_MS)
    assert len(begun.requests) == 2


@pytest.mark.parametrize("state", [RepairState.FAILED, RepairState.STOPPED])
def test_a_scrub_that_did_not_come_to_its_end_is_none_and_is_tried_again_in_an_hour(noted, state):
    begun = Begun()
    automatic = Automatic(Found((), Section(scrub_every_s=30 * 86_400)), begun, noted)
    noted.began_unix_ms, due = 0, 30 * DAY_MS
    ended = repair(state, Verb.SCRUB, None, started_unix_ms=due, duration_ms=10)
    tried = dataclasses.replace(status(DiskState.ONLINE), repairs=(ended,))
    automatic.look(tried, due + 10 + RETRY_MS - 1)
    assert begun.requests == []
    automatic.look(tried, due + 10 + RETRY_MS)
    assert [request.do for request in begun.requests] == ["scrub"]


def test_a_scrub_is_due_where_events_have_pushed_the_last_one_out(noted):
    begun = Begun()
    automatic = Automatic(Found((), Section(scrub_every_s=86_400)), begun, noted)
    noted.began_unix_ms = 0
    automatic.look(status(DiskState.ONLINE), 50 * DAY_MS)
    assert [request.do for request in begun.requests] == ["scrub"]
