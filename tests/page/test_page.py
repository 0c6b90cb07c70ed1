"""The page in a real browser: what it shows, whom it asks, and what it does with what a hostile host writes."""

import itertools
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from perdure.errors import Fenced, error_to_json
from perdure.service.status import DiskState, RepairState, State, Verb
from perdure.service.telling.events import Event, Kind, Level
from tests.cli.rig import Rig
from tests.page import shown
from tests.page.browser import Browser
from tests.page.stage import staged
from tests.service import statuses

HOSTILE = "</p><img src=x onerror='document.title=1'><script>document.title=1</script>&lt;b&gt;"
DRAWN = "document.getElementById('live')?.textContent === 'live'"

CONTRAST = Path(__file__).with_name("contrast.js").read_text()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def stage():
    with staged(statuses.whole()) as stage:
        yield stage


@pytest.fixture
def page(browser):
    page = browser.page()
    yield page
    page.close()


def opened(page, url):
    page.open(url)
    page.wait_for(DRAWN)
    return page


def asked_elsewhere(page, url):
    here = urlsplit(url).netloc
    return [one for one in page.asked if not one.startswith("data:") and urlsplit(one).netloc != here]


# A real array ---------------------------------------------------------------------------------------------


def test_a_real_array_is_shown_as_it_is_and_followed_through_a_loss_and_the_end(tmp_path, page):
    with Rig(tmp_path, disks=3, threshold=2) as rig:
        url = shown.up(rig, zones=("oslo", "paris", "rome"))
        opened(page, url)
        assert page.text("#state") == "Online"
        assert page.text("#summary") == "[UUU]"
        assert page.text("#losses-count") == "1"
        assert page.text(".domain:nth-child(2) h3").split() == ["paris", "1", "disk"]
        page.wait_for("document.querySelectorAll('#events li').length")
        assert "is mounted and served at" in page.text("#events")
        with shown.clients(rig, count=1, sectors=1024):
            page.wait_for("!document.querySelector('.chart p').textContent.startsWith('none')")
            assert re.match(r"half ≤ \S+ [µm]?s, 99 % ≤ \S+ [µm]?s", page.text(".chart p"))
            rig.kill_disk(1)
            page.wait_for("document.title.startsWith('[U_U] DEGRADED')")
        assert page.text("#losses-count") == "0"
        assert page.text("#state") == "Degraded"
        assert "Dead" in page.text(".domain:nth-child(2)")
        page.wait_for("document.querySelector('#events').innerText.includes('the disk in seat 1')")
        assert page.complaints == []
        assert asked_elsewhere(page, url) == []
        rig.down()
        page.wait_for("!document.getElementById('stale').hidden")
        assert "The main program does not answer." in page.text("#stale")
        assert "Everything below is as it was at" in page.text("#stale")
        assert page.value("document.title").startswith("[?] NO ANSWER")


# States that are staged -----------------------------------------------------------------------------------


def variants():
    """Every state of an array, with every state of a disk among them, and much that is not known."""
    states = itertools.cycle(DiskState)
    for state in State:
        failure = (
            None if state in (State.ONLINE, State.DEGRADED, State.SUSPENDED) else error_to_json(Fenced("It is so."))
        )
        seats = [next(states) for _ in range(5)]
        yield statuses.whole(*seats, state=state, failure=failure, action="Do `perdure status` and wait.")
    repairs = (
        statuses.repair(),
        statuses.repair(seat=2, state=RepairState.WAITING, bytes_per_s=None, left_s=None, bytes_per_s_max=1 << 20),
        statuses.repair(Verb.SCRUB, None, RepairState.DONE, wrong_by_seat=(0, 3, 0, 0, 0)),
        statuses.repair(Verb.REJOIN, 4, RepairState.FAILED, error={"message": "It was not there."}),
    )
    yield statuses.whole(repairs=repairs, acknowledgements="chains", spares=("tcp:10.0.0.9:1",))
    bare = statuses.whole(requests={}, evidence={}, evidence_age_ms=None, scrubbed_unix_ms=None, name="", uptime_ms=0)
    yield statuses.with_disk(
        bare,
        0,
        instance=None,
        address=None,
        measurement=None,
        domain=None,
        latency_us=None,
        platform=None,
        evidence_age_ms=None,
    )


@pytest.mark.parametrize(("width", "is_dark"), [(1280, False), (390, True), (800, False)])
def test_every_state_is_drawn_legibly_and_nothing_sticks_out(browser, stage, width, is_dark):
    page = browser.page(width=width, is_dark=is_dark)
    stage.events = [Event(number, 0, Kind.ARRAY, level, f"event {number}") for number, level in enumerate(Level, 1)]
    stage.status = replace(stage.status, events_last=len(stage.events))
    opened(page, stage.url)
    for number, status in enumerate(variants()):
        stage.status = replace(status, array_id=f"{number:016x}{0:048x}", events_last=3)
        page.wait_for(f"document.getElementById('identity').textContent.includes('{stage.status.array_id[:16]}')")
        page.wait_for(DRAWN)
        assert page.text("#state").lower() == status.state
        assert page.value("document.documentElement.scrollWidth") <= width, status
        assert page.value(CONTRAST) == [], status
        assert not re.search(r"NaN|undefined|null|Infinity|\[object", page.text("body")), status
    assert page.complaints == []
    page.close()


@pytest.mark.parametrize("state", [DiskState.CLONE, DiskState.ROLLBACK])
def test_evidence_of_a_fork_is_loud_and_goes_when_it_is_over(stage, page, state):
    opened(page, stage.url)
    assert page.value("document.getElementById('alarm').hidden")
    status = statuses.whole(state, state=State.DEGRADED, exit_code=3)
    stage.status = statuses.with_disk(status, 0, reason="another disk answers")
    page.wait_for("!document.getElementById('alarm').hidden")
    assert page.value("document.getElementById('alarm').getAttribute('role')") == "alert"
    assert page.text("#alarm").startswith(f"Evidence of a {state}\nSeat 0 is ")
    assert page.text("#alarm").endswith(": another disk answers")
    stage.status = statuses.whole()
    page.wait_for("document.getElementById('alarm').hidden")


def test_no_state_is_told_by_colour_alone(stage, page):
    stage.status = statuses.whole(*list(DiskState)[:5], state=State.DEGRADED)
    opened(page, stage.url)
    for seat, state in enumerate(list(DiskState)[:5]):
        card = page.value(
            f"[...document.querySelectorAll('.card')].find(one => one.innerText.startsWith('Seat {seat}')).innerText"
        )
        assert state in card.lower()
        word = {"clone": "a clone", "rollback": "rolled back"}.get(state, state)
        assert f"{seat} is {word}" in page.value(f"document.querySelectorAll('#seats li')[{seat}].textContent")


def test_what_a_host_writes_stays_text(stage, page):
    status = statuses.whole(DiskState.CLONE, name=HOSTILE, action=HOSTILE, state=State.DEGRADED)
    fields = dict.fromkeys(("reason", "address", "domain", "platform", "instance"), HOSTILE)
    stage.events = [Event(1, 0, Kind.DISK, Level.CRITICAL, HOSTILE)]
    stage.status = replace(statuses.with_disk(status, 0, **fields, measurement={"pcr0": HOSTILE}), events_last=1)
    opened(page, stage.url)
    page.wait_for("document.querySelectorAll('#events li').length")
    assert page.value("document.querySelectorAll('main img, main script').length") == 0
    assert HOSTILE in page.text("#events")
    assert HOSTILE in page.text("#alarm")
    assert page.complaints == []
    assert asked_elsewhere(page, stage.url) == []


def test_the_browser_would_stop_the_page_from_making_markup_of_text(stage, page):
    """The second wall, should the first ever be forgotten."""
    opened(page, stage.url)
    tried = "new Promise(done => { document.body.innerHTML = '<b>x</b>'; done('made'); }).catch(error => error.name)"
    assert page.value(tried) == "TypeError"
    assert page.value("fetch('http://127.0.0.2:9/').then(() => 'asked', error => error.name)") == "TypeError"
    assert any("Content Security Policy" in one for one in page.complaints)


def test_another_release_of_the_main_program_is_said(stage, page):
    opened(page, stage.url)
    stage.status = replace(statuses.whole(), version=99)
    page.wait_for("document.getElementById('stale').innerText.includes('another release')")


def test_a_mount_anew_starts_rates_and_events_anew(stage, page):
    events = [Event(number, 0, Kind.ARRAY, Level.INFO, f"event {number}") for number in (1, 2, 3)]
    stage.events, stage.status = events, statuses.whole(events_last=3)
    opened(page, stage.url)
    page.wait_for("document.querySelectorAll('#events li').length === 3")
    stage.events, stage.status = events[:1], statuses.whole(events_last=1, uptime_ms=1)
    page.wait_for("document.querySelectorAll('#events li').length === 1")
    page.wait_for(DRAWN)
    assert page.complaints == []
