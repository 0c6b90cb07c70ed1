"""The status object: what a script reads of it."""

import json

import click
import pytest

from perdure.cli import layout, output
from perdure.errors import Blank, Clone, DiskLost, Fenced, Fork, Misuse, Rollback, Unavailable, WrongCommitment
from perdure.service.observe import EXPOSURE, _action, _exit_code, _spare, _state, _state_of, _summary
from perdure.service.status import ArrayStatus, DiskState, DiskStatus, State

NO_ERRORS = {"read": 0, "write": 0, "checksum": 0}


def status(*states, failure=None, errors=NO_ERRORS, **changes):
    disks = tuple(
        DiskStatus(seat, f"{seat:064x}", f"unix:/d{seat}", state, errors) for seat, state in enumerate(states)
    )
    state = _state(failure, disks)
    values = {
        "array_id": "ab" * 32,
        "state": state,
        "k": 3,
        "n": len(states),
        "size_bytes": 256 << 20,
        "disks": disks,
        "losses_survived": 1,
        "summary": "[UUUUU]",
        "roster_version": "00.1",
        "dirty_sectors": 0,
        "tags_known": 0,
        "journal_last": 7,
        "strays": (),
        "nbd_uri": "nbd+unix:///perdure?socket=/x/nbd.sock",
        "action": _action(state, 1, disks),
        "failure": None,
        "exit_code": state.exit_code,
    }
    return ArrayStatus(**{**values, **changes})


def test_it_goes_through_json_unchanged():
    made = status(DiskState.ONLINE, DiskState.DEAD)
    assert ArrayStatus.from_json(json.loads(json.dumps(made.to_json()))) == made
    assert made.to_json()["version"] == 6


def test_a_status_of_another_release_is_refused_with_what_to_do():
    value = {**status(DiskState.ONLINE).to_json(), "version": 99}
    with pytest.raises(Misuse, match=r"of another release than this command\. Run `perdure upgrade`"):
        ArrayStatus.from_json(value)


def test_the_page_is_shown_where_one_was_asked_for():
    assert "page:" not in layout.text(status(DiskState.ONLINE))
    assert "   page: http://127.0.0.1:9464/" in layout.text(status(DiskState.ONLINE, http_url="http://127.0.0.1:9464/"))
    lacking = status(DiskState.ONLINE, http_error="The page cannot be served.")
    assert "   page: NOT SERVED. The page cannot be served." in click.unstyle(layout.brief_text(lacking))


def test_the_mode_of_acknowledgements_is_said_plainly():
    shown = layout.text(status(DiskState.ONLINE, evidence_age_ms=1234))
    assert "acknowledgements: evidence: every FLUSH rests on the hardware's evidence; last evidence of" in shown
    assert "1.2 s ago" in shown
    weaker = status(DiskState.ONLINE, acknowledgements="chains", exposure=EXPOSURE)
    assert (
        "acknowledgements: chains (weaker: whoever knows a disk's secret can forge up to 1 s, 32 commands or 7 journal "
        "entries, whichever comes first)"
    ) in layout.text(weaker)
    assert ArrayStatus.from_json(json.loads(json.dumps(weaker.to_json()))) == weaker


@pytest.mark.parametrize(
    ("failure", "states", "state", "code"),
    [
        (None, [DiskState.ONLINE], State.ONLINE, 0),
        (None, [DiskState.ONLINE, DiskState.SUSPECT], State.DEGRADED, 1),
        (None, [DiskState.ONLINE, DiskState.CLONE], State.DEGRADED, 1),
        (Unavailable("x"), [DiskState.DEAD], State.UNUSABLE, 2),
        (Fenced("x"), [DiskState.ONLINE], State.FENCED, 3),
        (Fork("x"), [DiskState.ONLINE], State.FORKED, 3),
        (Rollback("x"), [DiskState.ONLINE], State.FORKED, 3),
    ],
)
def test_state_and_exit_code(failure, states, state, code):
    made = status(*states, failure=failure)
    assert (made.state, made.exit_code) == (state, code)
    assert made.action.endswith(".")


def test_a_suspended_array_is_no_failure_and_not_usable():
    disks = (DiskState.ONLINE, DiskState.SUSPECT, DiskState.SUSPECT)
    assert _state(None, (), is_suspended=True) is State.SUSPENDED
    assert _state(Unavailable("x"), (), is_suspended=True) is State.UNUSABLE
    made = status(*disks, state=State.SUSPENDED)
    assert State.SUSPENDED.exit_code == 2
    assert "Nothing is lost, and nothing goes on" in _action(State.SUSPENDED, 0, made.disks)
    assert "Suspended: fewer than 3 disks answer" in layout.text(made)


@pytest.mark.parametrize(
    ("verdict", "state"),
    [
        (Clone("another"), DiskState.CLONE),
        (Blank("it was restarted"), DiskState.BLANK),
        (DiskLost("disk unix:/a/blank/x does not answer: no"), DiskState.DEAD),
        (Rollback("it lacks"), DiskState.ROLLBACK),
        (WrongCommitment("an old answer"), DiskState.ROLLBACK),
    ],
)
def test_what_became_of_a_disk(verdict, state):
    assert _state_of(verdict) is state


@pytest.mark.parametrize("fork", [DiskState.CLONE, DiskState.ROLLBACK])
def test_evidence_of_a_fork_outweighs_degradation(fork):
    disks = [DiskStatus(0, None, None, fork, {}, reason="it lacks"), DiskStatus(1, None, None, DiskState.ONLINE, {})]
    assert _exit_code(State.DEGRADED, None, disks) == 3
    assert _exit_code(State.UNUSABLE, Unavailable("x"), disks) == 3
    assert _exit_code(State.DEGRADED, None, disks[1:]) == 1
    assert "Do not trust that host" in _action(State.DEGRADED, 1, disks)


BOTH = (
    "`perdure replace 1` rebuilds seat 1 on a fresh disk; if its own disk is back and has not ended, "
    "`perdure rejoin 1` is faster."
)


@pytest.mark.parametrize(
    ("state", "advice"),
    [
        (DiskState.DEAD, BOTH),
        (DiskState.BLANK, "`perdure replace 1` rebuilds seat 1 on a fresh disk."),
        (DiskState.MISSING, "`perdure replace 1` rebuilds seat 1 on a fresh disk."),
        (DiskState.CLONE, "`perdure replace 1 --address ADDRESS` rebuilds seat 1 on a fresh disk of another host."),
        (DiskState.ROLLBACK, "`perdure replace 1 --address ADDRESS` rebuilds seat 1 on a fresh disk of another host."),
        (DiskState.OFFLINE, "`perdure online 1` takes the disk of seat 1 back, if it has gone on running."),
        (DiskState.REBUILDING, "Seat 1 is being rebuilt."),
    ],
)
def test_the_action_is_the_command_that_mends_it(state, advice):
    disks = status(DiskState.ONLINE, state, DiskState.DEAD, DiskState.SUSPECT).disks
    for survives in (0, 1):
        assert advice in _action(State.DEGRADED, survives, disks)


def test_no_command_is_named_where_none_helps():
    disks = status(DiskState.ONLINE, DiskState.SUSPECT).disks
    for survives in (-1, 0, 1):
        assert "`perdure re" not in _action(State.DEGRADED, survives, disks)


def test_a_silent_disk_is_marked_and_not_counted_on():
    disks = status(DiskState.ONLINE, DiskState.SUSPECT, DiskState.DEAD, DiskState.ONLINE).disks
    assert _summary(disks) == "[U?_U]"
    assert [_spare(disks, needed) for needed in (1, 2, 3)] == [1, 0, -1]
    assert "2 disks are gone" not in _action(State.DEGRADED, 0, disks)


@pytest.mark.parametrize(
    ("states", "survives", "advice"),
    [
        ("SO", 1, "safe: a disk is silent, and writes wait for it. Without it 1 more may be lost. Look at its host"),
        ("SSO", 0, "safe: 2 disks are silent, and writes wait for them. Without them 0 more may be lost. Look at"),
        ("SSO", -1, "Without them the array stops. Look at their hosts and the network, and keep the others running."),
        (
            "SDO",
            0,
            "safe: 1 of 3 disks is gone, a disk is silent, and writes wait for it. Without it 0 more may be lost.",
        ),
        ("SDO", 0, "keep the others running. `perdure replace 1` rebuilds seat 1"),
    ],
)
def test_silent_disks_are_not_counted_on(states, survives, advice):
    kinds = {"S": DiskState.SUSPECT, "O": DiskState.ONLINE, "D": DiskState.DEAD}
    assert advice in _action(State.DEGRADED, survives, status(*(kinds[one] for one in states)).disks)


def test_whoever_has_stopped_is_told_how_to_go_on():
    for state in (State.UNUSABLE, State.FENCED, State.FORKED):
        assert "with `perdure export` or `perdure down`" in _action(state, 0, ())
    for state in (State.UNUSABLE, State.FORKED):
        assert "mount again with `perdure import` or `perdure up`" in _action(state, 0, ())


@pytest.mark.parametrize(
    ("platform", "measurement", "shown"),
    [
        ("nitro", {"pcr0": "ab" * 48, "pcr1": "cd" * 48}, "nitro pcr0 abababababab"),
        ("sev-snp", {"host_data": "00" * 32, "measurement": "12" * 48}, "sev-snp measurement 121212121212"),
        ("tdx", {"rtmr2": "34" * 48, "mrtd": "ab" * 48}, "tdx rtmr2 343434343434"),
        ("nitrotpm", {"pcr4": "56" * 48, "pcr7": "cd" * 48}, "nitrotpm pcr4 565656565656"),
        ("tpm", {"pcr0": "ab" * 32, "pcr9": "56" * 32}, "tpm pcr9 565656565656"),
        ("tpm", {"pcr0": "ab" * 32}, "tpm -"),
    ],
)
def test_people_see_each_disks_platform_and_what_runs_there(platform, measurement, shown):
    disk = DiskStatus(0, "ab", "tcp:h:1", DiskState.ONLINE, NO_ERRORS, platform=platform, measurement=measurement)
    text = click.unstyle(layout.text(status(disks=(disk,))))
    row = next(line for line in text.splitlines() if "tcp:h:1" in line)
    assert f"{shown} tcp:h:1" in " ".join(row.split())


def test_people_see_seats_counters_and_strays():
    errors = {"read": 1, "write": 22, "checksum": 333}
    stray = {"address": "unix:/d1", "reason": "it is blank"}
    text = click.unstyle(layout.text(status(DiskState.ONLINE, DiskState.BLANK, errors=errors, strays=(stray,))))
    lines = text.splitlines()
    assert lines[1] == "  state: DEGRADED [UUUUU]"
    assert "seat 1 is blank" in lines[2]
    row = next(line for line in lines if "BLANK" in line)
    assert row.split() == ["1", "0000000000000000", "BLANK", "1", "22", "333", *"-----", "unix:/d1"]
    assert "712 errors on disks" in text
    assert lines[-1] == "  stray: unix:/d1: it is blank"


@pytest.mark.parametrize("state", [DiskState.CLONE, DiskState.ROLLBACK])
def test_evidence_of_a_fork_is_the_first_thing_that_people_see(state):
    first = click.unstyle(layout.text(status(DiskState.ONLINE, state))).splitlines()[0]
    assert first == (f"!!! EVIDENCE OF ROLLBACK, CLONING OR A SECOND OWNER: seat 1 (unix:/d1): {state.upper()} !!!")


def test_x_is_one_line_when_all_is_well_and_everything_when_not():
    assert layout.brief_text(status(DiskState.ONLINE)) == "all arrays are healthy"
    for bad in (
        status(DiskState.ONLINE, DiskState.DEAD),
        status(DiskState.ONLINE, errors={**NO_ERRORS, "checksum": 1}),
    ):
        assert layout.brief_text(bad) == layout.text(bad)


def test_v_shows_all_that_the_evidence_shows():
    told = {"platform": "simulated", "root": "lab", "module_id": "i-1-enc2", "measurement": {"pcr0": "ab" * 48}}
    shown = layout.text(
        status(disks=(DiskStatus(0, "cd" * 32, "tcp:h:1", DiskState.ONLINE, NO_ERRORS, **told),)), is_verbose=True
    )
    for part in ("cd" * 32, "ab" * 48, "i-1-enc2", "lab"):
        assert part in shown


@pytest.mark.parametrize(
    ("uri", "line"),
    [
        ("nbd+unix:///perdure?socket=/a%20b/s", "nbd-client -unix '/a b/s' /dev/nbd0 -name perdure"),
        ("nbd://127.0.0.1:10809/perdure", "nbd-client 127.0.0.1 10809 /dev/nbd0 -name perdure"),
        ("nbd://[::1]:10809/perdure", "nbd-client ::1 10809 /dev/nbd0 -name perdure"),
    ],
)
def test_lines_to_paste_are_quoted(uri, line):
    lines = output.client_lines(uri, "/m n")
    assert lines["nbd-client"] == line
    assert lines["nbdfuse"].startswith("mkdir -p '/m n' && nbdfuse '/m n'/disk ")


@pytest.mark.parametrize(
    ("size", "text"), [(4096, "4 KiB"), (256 << 20, "256 MiB"), (1 << 41, "2 TiB"), (1000, "1000 bytes")]
)
def test_sizes_for_people(size, text):
    assert output.human_size(size) == text
