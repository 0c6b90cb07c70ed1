"""A real Lightning channel under a host that puts yesterday's state back: what the demo reports, with few payments.

Alice starts with 700,000 satoshis; she pays 3,000 and gets 1,000 back in turns, so she has 2,000 less after every two.
"""

import subprocess

import pytest

from examples.lightning.demo import report
from examples.lightning.demo.command_line import PERDURE
from examples.lightning.demo.places import Directory, MountedArray, VssOnArray, VssOnSqlite, perdure_vss
from examples.lightning.demo.run import run
from perdure.service.mounting.attach import Way, lacking, look

PAYMENTS = 20
YESTERDAY, NOW, PAID = 690_000, 680_000, 1_000
LACKING = lacking(look(), Way.LOOP)
pytestmark = [
    pytest.mark.skipif(bool(LACKING), reason=f"the way in `loop` needs {', '.join(LACKING)}"),
    pytest.mark.timeout(1200),
]
HAS_VSS = subprocess.run([*PERDURE, "vss", "serve", "--help"], capture_output=True, check=False).returncode == 0
needs_vss = pytest.mark.skipif(not HAS_VSS, reason="this `perdure` has no `vss serve`")
ORDINARY = [Directory.title, pytest.param(VssOnSqlite.title, marks=needs_vss)]
ON_ARRAYS = [MountedArray.title, pytest.param(VssOnArray.title, marks=needs_vss)]


@pytest.fixture(scope="module")
def result(program):
    return run(program, PAYMENTS, perdure_vss if HAS_VSS else None, has_vss=HAS_VSS, say=print)


def trial(result, title, name):
    (found,) = (one for one in result.trials[title] if one.name == name)
    return found


@pytest.mark.parametrize("title", [*ORDINARY, *ON_ARRAYS])
def test_payments_are_made_and_each_waits_for_what_is_written(result, title):
    measured = result.measured[title]
    assert len(measured.latencies_ms) == PAYMENTS
    assert measured.balances == {"yesterday": YESTERDAY, "now": NOW}
    assert measured.writes >= 5 * PAYMENTS


@pytest.mark.parametrize("title", ORDINARY)
def test_on_an_ordinary_disk_the_node_starts_on_the_state_that_was_put_back(result, title):
    assert {one.started_on for one in result.trials[title]} == {YESTERDAY}


@pytest.mark.parametrize("title", ORDINARY)
def test_closed_by_force_on_that_state_all_of_it_is_taken_by_a_penalty(result, title):
    (punished,) = trial(result, title, "no peer").result["judged"]
    assert punished["takes_satoshis"] > NOW
    assert 0 < punished["takes_satoshis"] - punished["pays_satoshis"] < 1_000  # a fee, and nothing for her


@pytest.mark.parametrize("title", ORDINARY)
def test_an_honest_peer_shows_that_it_is_old_and_the_node_ends(result, title):
    honest = trial(result, title, "honest peer").result
    assert honest["outcome"] == "panic"
    assert "We have fallen behind" in honest["alarms"][0]


@pytest.mark.parametrize("title", ORDINARY)
def test_as_ldk_advises_the_channel_is_lost_and_the_money_comes_back(result, title):
    given_up = trial(result, title, "as LDK advises").result
    assert given_up["outcome"] == "closed by the peer"
    assert NOW - 1_000 < given_up["returned_satoshis"] < NOW


@pytest.mark.parametrize("title", ORDINARY)
def test_a_peer_in_league_with_the_host_takes_all_and_nothing_is_noticed_before(result, title):
    stolen = trial(result, title, "peer in league with the host").result
    assert stolen["noticed"] == []
    assert stolen["judged"][0]["takes_satoshis"] > NOW


@pytest.mark.parametrize("title", ON_ARRAYS)
def test_yesterdays_directory_of_an_array_brings_back_nothing(result, title):
    found = trial(result, title, "yesterday's directory")
    assert found.started_on == NOW
    assert found.result == {"outcome": "paid", "balance": NOW - PAID, "alarms": []}


def test_old_disks_beside_new_ones_bring_back_nothing(result):
    found = trial(result, MountedArray.title, "two old disks beside three new")
    assert found.started_on < NOW - PAID  # what was paid while they were kept is there
    assert (found.result["outcome"], found.result["alarms"]) == ("paid", [])


def test_once_the_newest_disks_are_gone_the_array_says_so_and_serves_nothing(result):
    assert [done.code for done in result.refusals] == [2, 2, 2, 2]
    said = [done.said for done in result.refusals]
    assert said[0].startswith("3 of the 5 disks have ended")
    assert "only 2 of the 3 disks that the array needs are here" in said[1]
    assert said[2].count("it was restarted: it is blank") == 3
    assert said[3].startswith("5 of the 5 disks have ended")
    assert all("nothing old" in one for one in said)


def test_the_report_has_every_place_and_its_plot_every_line(result, tmp_path):
    text = report.text(result)
    assert all(f"**{title}**" in text for title in result.measured)
    pytest.importorskip("matplotlib")
    report.plot(result, tmp_path / "latency.svg")
    drawn = (tmp_path / "latency.svg").read_text()
    assert all(title in drawn for title in result.measured)
