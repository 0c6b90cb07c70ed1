"""What is answered to each path, and that the page can neither ask elsewhere nor make markup of text."""

import base64
import hashlib
import json
import re

import pytest

from perdure.errors import Fenced, Unavailable, error_to_json
from perdure.service import status as status_module
from perdure.service.status import DiskState, State
from perdure.service.telling import views
from perdure.service.telling.events import Event, Kind, Level
from perdure.service.telling.views import Views
from perdure.shell.meter import BOUNDS_US
from tests.service import statuses

EVENTS = [Event(number, 1000 * number, Kind.DISK, Level.INFO, f"number {number}", seat=1) for number in (1, 2, 3)]


def view(target, status=None):
    shown = statuses.whole() if status is None else status
    return Views(lambda: shown, lambda since: [event for event in EVENTS if event.number > since])(target)


def test_events_come_after_a_number():
    assert [event["number"] for event in json.loads(view("/api/events").body)["events"]] == [1, 2, 3]
    assert json.loads(view("/api/events?since=2").body) == {"events": [EVENTS[2].to_json()]}


@pytest.mark.parametrize("query", ["since=", "since=-1", "since=x", "since=1&since=2", "other=1", "since=" + "9" * 19])
def test_another_query_is_refused(query):
    assert view(f"/api/events?{query}").status == 400


@pytest.mark.parametrize("target", ["/nothing", "/page.html", "//", "*", "http://[", "/metrics/", "/api/status/../x"])
def test_there_is_nothing_elsewhere(target):
    assert view(target).status == 404


@pytest.mark.parametrize(
    ("state", "failure", "code"),
    [
        (State.ONLINE, None, 200),
        (State.DEGRADED, None, 200),
        (State.SUSPENDED, None, 503),
        (State.UNUSABLE, Unavailable("too few disks"), 503),
        (State.FENCED, Fenced("another has it"), 503),
        (State.FORKED, Fenced("another history"), 503),
    ],
)
def test_readiness_is_whether_the_array_serves_and_liveness_is_not(state, failure, code):
    status = statuses.whole(
        state=state, failure=None if failure is None else error_to_json(failure), action="Wait for disks."
    )
    reply = view("/readyz", status)
    assert reply.status == code
    if code == 503:
        assert str(failure or "Wait for disks.") in reply.body.decode()
    assert view("/healthz", status).status == 200


def test_an_array_whose_clients_wait_for_silent_disks_is_not_ready():
    for silent, code in ((2, 200), (3, 503)):
        status = statuses.whole(*[DiskState.SUSPECT] * silent, state=State.DEGRADED, action="Wait.")
        assert Views(lambda shown=status: shown, lambda since: [])("/readyz").status == code


def test_every_state_is_known_to_readiness():
    assert {State.ONLINE, State.DEGRADED} | set(views.NOT_READY) == set(State)


# The page -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page():
    return views.page().body.decode()


def test_the_policy_names_the_hash_of_the_page_s_own_script_and_style(page):
    policy = dict(views.page().headers)["Content-Security-Policy"]
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "connect-src 'self'" in policy
    assert "trusted-types 'none'" in policy


def test_the_page_is_whole_and_makes_no_markup_of_text(page):
    addresses = set(re.findall(r"https?://[^\s'\"]+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}, "a namespace, which is never fetched"
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "Function(",
        " style=",
        "onclick",
    ):
        assert way not in page


def test_the_page_knows_the_same_numbers_and_words_as_the_status(page):
    assert f"const VERSION = {status_module.VERSION};" in page
    assert f"const BOUNDS_US = {json.dumps(BOUNDS_US)};" in page
    icons = re.search(r"const STATE_ICONS = \{(.*?)\};", page, re.DOTALL)[1]
    for word in (*State, *DiskState, *Level):
        assert re.search(rf"\b{word}: ", icons), f"the page has no picture for {word}"
