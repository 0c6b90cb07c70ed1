"""What was once signed, or once attested, is shown again; and acknowledgements are forged (A1, A2, A3, A10)."""

from __future__ import annotations

import pytest

from perdure.disk.wire import NO_EPOCH, Opcode, Reason
from tests.lying_host.host import SECTOR, LyingHost, data_of, forged_answer, replay
from tests.system.proxy import Forged, Way, unchanged

MIB = 1 << 20


@pytest.fixture
def host(tmp_path):
    with LyingHost(tmp_path) as host:
        yield host


# A1 -------------------------------------------------------------------------------------------------------


def test_a01_an_old_signed_write_replayed_to_the_live_disks_changes_nothing(host):
    host.mount()
    host.write(0, data_of(1))
    host.write(0, data_of(2))
    host.unmount()
    for seat in range(host.n):
        log = host.log(seat)
        before = host.greet(host.disk(seat))
        answers = replay(host.disk(seat), log)
        # HELLO changes nothing and is answered; every OPEN and EXECUTE is refused, the very last one too.
        refused = [answer for frame, answer in zip(log, answers, strict=True) if frame.opcode is not Opcode.HELLO]
        assert len(refused) > 5
        assert set(refused) == {Reason.WRONG_EPOCH, Reason.WRONG_SEQ}
        after = host.greet(host.disk(seat))
        assert (after.epoch, after.seq) == (before.epoch, before.seq)
    assert host.mount()["summary"] == "[UUU]"
    assert host.read(0, SECTOR) == data_of(2)


# A2 -------------------------------------------------------------------------------------------------------


def test_a02_a_clone_that_is_fed_our_log_learns_nothing_from_it(host):
    host.mount()
    host.write(0, data_of(1))
    clones = host.new_disks([f"clone-{seat}" for seat in range(host.n)])
    for seat, clone in enumerate(clones):
        log = host.log(seat)
        answers = replay(clone, log)
        refused = [answer for frame, answer in zip(log, answers, strict=True) if frame.opcode is not Opcode.HELLO]
        assert set(refused) == {Reason.WRONG_INSTANCE}
        assert (host.greet(clone).epoch, host.greet(clone).seq) == (NO_EPOCH, 0)
    # One clone in the place of a disk costs that disk; clones in all places close the array.
    host.present(clones[0], host.disk(1), host.disk(2))
    assert host.wait_for(lambda status: status["summary"] == "[_UU]")["disks"][0]["state"] == "blank"
    assert host.read(0, SECTOR) == data_of(1)
    host.kill_main()
    host.present(*clones)
    assert "it is blank, and what it held is gone" in host.refusal(2)
    host.present(*map(host.disk, range(host.n)))
    assert host.mount(code=1)["summary"] == "[_UU]"
    assert host.read(0, SECTOR) == data_of(1)


def test_a02_another_disk_of_ours_in_a_members_place_is_a_clone_and_ends_with_exit_code_3(host):
    """One whose epoch is not zero: it was opened by this authority, for another array."""
    host.mount()
    host.write(0, data_of(1))
    stranger = host.new_disk("stranger")
    host.take_over(stranger)
    host.present(host.disk(0), stranger, host.disk(2))
    status = host.wait_for(lambda status: status["summary"] == "[U_U]")
    assert (status["disks"][1]["state"], status["exit_code"]) == ("clone", 3)
    shown = host.run("status", code=3).out
    assert "another disk answers at" in shown
    assert "Evidence shows that a host rolled a disk back or put another in its place." in shown
    assert host.read(0, SECTOR) == data_of(1)
    host.write(0, data_of(2))
    host.present_own()
    status = host.remount(code=3)  # a restart forgets no verdict
    assert (status["summary"], status["disks"][1]["state"]) == ("[U_U]", "clone")
    assert host.read(0, SECTOR) == data_of(2)


# A3 -------------------------------------------------------------------------------------------------------


def forge_plain_answers(host, seats):
    """From now on these disks' hosts drop every plain EXECUTE and say that it was done; how many there were."""
    size = host.greet(host.disk(0)).size
    dropped = []

    def forge(frame):
        if frame.way is Way.TO_DISK and frame.opcode is Opcode.EXECUTE and not frame.wants_evidence:
            dropped.append(frame)
            return (Forged(forged_answer(frame, size)),)
        return (frame.payload,)

    for seat in seats:
        host.proxies[seat].alter = forge
    return dropped


def write_much(host, number):
    """Two full entries, which go without evidence, and no FLUSH."""
    host.write(MIB, data_of(number, 2 * MIB), flush=False)


def test_a03_writes_dropped_behind_forged_acknowledgements_of_one_disk_are_seen_and_cost_that_disk(host):
    host.mount()
    host.write(0, data_of(1))
    dropped = forge_plain_answers(host, [1])
    write_much(host, 2)
    host.write(0, data_of(3))
    assert dropped
    status = host.wait_for(lambda status: status["summary"] == "[U_U]")
    assert (status["disks"][1]["state"], status["exit_code"]) == ("rollback", 3)
    assert "its host forged acknowledgements" in host.run("status", code=3).out
    host.present_own()
    status = host.remount(code=3)  # a restart forgets no verdict
    assert (status["summary"], status["disks"][1]["state"]) == ("[U_U]", "rollback")
    assert host.read(MIB, 2 * MIB) == data_of(2, 2 * MIB)
    assert host.read(0, SECTOR) == data_of(3)


def test_a03_no_flush_returns_on_forged_acknowledgements_and_after_a_restart_all_that_was_flushed_is_there(host):
    host.mount()
    host.write(0, data_of(1))
    host.write(MIB, data_of(1, 2 * MIB))
    dropped = forge_plain_answers(host, range(host.n))
    write_much(host, 2)
    with pytest.raises(OSError, match="error"):
        host.write(0, data_of(2))
    assert dropped
    done = host.status_verb(code=3)
    assert "state: FORKED" in done.out
    assert "its host forged acknowledgements" in done.out
    # The restart that the host had in mind: on disks that truthfully attest the older state.
    for proxy in host.proxies:
        proxy.alter = unchanged
    assert host.remount()["summary"] == "[UUU]"
    assert host.read(0, SECTOR) == data_of(1)
    assert host.read(MIB, 2 * MIB) == data_of(1, 2 * MIB)


# A10 ------------------------------------------------------------------------------------------------------


def show_kept_evidence(host, seats, opcode):
    """From now on these disks' hosts answer such commands with the evidence of the first one of its kind; how often.

    The oldest answer of the same length: for a READ that is one for as many bytes.
    """
    shown = []

    def replayed(seat):
        kept = [frame for frame in host.proxies[seat].replies() if frame.command.opcode is opcode]

        def alter(frame):
            if frame.way is Way.TO_DISK or frame.command.opcode is not opcode or not frame.command.wants_evidence:
                return (frame.payload,)
            shown.append(frame)
            return (next(old for old in kept if old.command.body == frame.command.body).payload,)

        return alter

    for seat in seats:
        host.proxies[seat].alter = replayed(seat)
    return shown


def test_a10_evidence_that_a_host_kept_is_refused_with_exit_code_3(host):
    host.mount()
    host.write(0, data_of(1))
    host.unmount()
    host.mount()
    host.write(0, data_of(2))
    host.unmount()
    for opcode in (Opcode.HELLO, Opcode.READ):
        shown = show_kept_evidence(host, [0, 1], opcode)
        assert "Somebody between here and the disk replays or alters messages." in host.refusal(3)
        assert shown
    host.proxies[1].alter = unchanged
    status = host.mount(code=3)
    assert (status["summary"], status["disks"][0]["state"]) == ("[_UU]", "rollback")
    assert host.read(0, SECTOR) == data_of(2)


def test_a10_evidence_that_a_host_kept_satisfies_no_flush(host):
    """Every host drops what we write and answers with the evidence of an earlier write, and of an earlier HELLO."""
    host.mount()
    host.write(0, data_of(1))
    host.settle()

    def answer_with_kept(proxy):
        proved = [frame for frame in proxy.replies() if frame.command.wants_evidence]
        kept = {frame.command.opcode: Forged(frame.payload) for frame in proved}

        def alter(frame):
            is_write = frame.way is Way.TO_DISK and frame.opcode in (Opcode.EXECUTE, Opcode.HELLO)
            return (kept[frame.opcode] if is_write else frame.payload,)

        return alter

    for proxy in host.proxies:
        proxy.alter = answer_with_kept(proxy)
    with pytest.raises(OSError):
        host.write(0, data_of(2))
    assert "Somebody between here and the disk replays or alters messages." in host.status_verb(code=2).out
    host.present_own()
    assert host.remount()["summary"] == "[UUU]"
    assert host.read(0, SECTOR) == data_of(1)
