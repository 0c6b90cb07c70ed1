"""Defects put into the product by hand, each a rule broken, to see how soon the simulator finds them.

`python -m tests.sim.bugs` runs all of them and prints how many seeds each took; `make sim-bugs` does that.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable
from itertools import count as numbers_from
from itertools import takewhile
from typing import Any

import pytest

from perdure.array import history, mount, sealing
from perdure.array.chain import Chain
from perdure.array.committer import Committer, Execution, Waiter
from perdure.array.engine import Array
from perdure.array.geometry import TAG_BYTES
from perdure.array.history import History
from perdure.array.join import Holds, Join
from perdure.array.members import Members
from perdure.array.mount import Mounting
from perdure.array.session import Health, Session
from perdure.disk import wire
from perdure.disk.core import DiskCore
from perdure.service.status import DiskState
from perdure.service.upkeep import automatic
from perdure.service.upkeep.automatic import Automatic
from perdure.sim.mains import Main
from perdure.sim.run import Outcome, run_seed

Bug = Callable[[pytest.MonkeyPatch], None]
SEEDS_MAX = 1000


# Of the list ------------------------------------------------------------------------------------------


def the_nonce_is_skipped(patch: pytest.MonkeyPatch) -> None:
    """A10: the same nonce every time, so that evidence once recorded fits again."""
    command = Session._command

    def without(self: Session, *arguments: Any, **options: Any) -> Any:
        runtime, self._runtime = self._runtime, _NoRandomness()
        try:
            return command(self, *arguments, **options)
        finally:
            self._runtime = runtime

    patch.setattr(Session, "_command", without)


class _NoRandomness:
    def random(self, count: int) -> bytes:
        return b"n" * count


def equal_epoch_is_accepted(patch: pytest.MonkeyPatch) -> None:
    """A disk carries out an OPEN of the epoch that it has: its seq begins anew, and recorded commands land again."""

    carry_out = DiskCore._carry_out

    def opened(self: DiskCore, opcode: int, wants: int, instance: bytes, epoch: bytes, *rest: Any) -> int:
        if opcode == wire.Opcode.OPEN and instance == self.instance and epoch == self.epoch != wire.NO_EPOCH:
            self.seq = 0
            return 0
        return carry_out(self, opcode, wants, instance, epoch, *rest)

    patch.setattr(DiskCore, "_carry_out", opened)


def acknowledged_before_evidence(patch: pytest.MonkeyPatch) -> None:
    """A3: a FLUSH believes plain answers."""
    execute = Session.execute

    def hasty(self: Session, ops: Any, data: Any = (), *, evidence: bool, may_link: bool = False) -> Any:
        del evidence, may_link
        return execute(self, ops, data, evidence=False)

    patch.setattr(Session, "execute", hasty)


def the_instance_is_not_checked(patch: pytest.MonkeyPatch) -> None:
    """A2: a disk takes commands for any instance and answers under that name, so a clone fed the record is as good."""
    carry_out = DiskCore._carry_out

    def obey(self: DiskCore, opcode: int, wanted: int, instance: bytes, *rest: Any) -> int:
        if self.epoch == wire.NO_EPOCH and instance != wire.NO_INSTANCE:
            self.instance = instance
        return carry_out(self, opcode, wanted, instance, *rest)

    patch.setattr(DiskCore, "_carry_out", obey)


def applied_before_commit(patch: pytest.MonkeyPatch) -> None:
    """Rule 7: an entry counts as proved, and is applied, as soon as every disk has said that it has it."""
    finish = Committer._finish

    def eager(self: Committer, execution: Execution) -> None:
        execution.evidence = True
        finish(self, execution)

    patch.setattr(Committer, "_finish", eager)


def a_sealing_key_is_used_again(patch: pytest.MonkeyPatch) -> None:
    """One key for all sectors of a batch."""
    seal = sealing.seal

    def lazily(keys: Any, indices: Any, sectors: Any, generation: int, width: int, random: Any) -> Any:
        return seal(keys, indices, sectors, generation, width, lambda count: random(32) * (count // 32))

    patch.setattr(sealing, "seal", lazily)


# Others -------------------------------------------------------------------------------------------------------


def a_flush_does_not_wait_for_what_is_behind(patch: pytest.MonkeyPatch) -> None:
    """A FLUSH is answered with the first round after it, whatever has yet to be sent."""

    def take(self: Committer) -> list[Waiter]:
        due, self._flushes = self._flushes, []
        return due

    patch.setattr(Committer, "_take_flushes", take)


def acknowledged_while_a_vote_is_under_way(patch: pytest.MonkeyPatch) -> None:
    """Rule 8 with the roster that is proposed but not in force yet."""
    settle = Committer._settle

    def hasty(self: Committer) -> None:
        changing, self._is_changing = self._is_changing, False
        try:
            settle(self)
        finally:
            self._is_changing = changing

    patch.setattr(Committer, "_settle", hasty)


def the_seq_is_not_checked(patch: pytest.MonkeyPatch) -> None:
    """A1: an old signed write lands again."""
    execute = DiskCore._execute

    def lenient(self: DiskCore, wants: int, seq: int, *rest: Any) -> int:
        now, self.seq = self.seq, seq - 1
        length = execute(self, wants, seq, *rest)
        self.seq = max(now, seq)
        return length

    patch.setattr(DiskCore, "_execute", lenient)


def the_epoch_is_not_checked(patch: pytest.MonkeyPatch) -> None:
    """P4: commands of a fenced main program land."""
    carry_out = DiskCore._carry_out

    def obey(self: DiskCore, opcode: int, wanted: int, instance: bytes, epoch: bytes, *rest: Any) -> int:
        own = self.epoch if opcode in (wire.Opcode.EXECUTE, wire.Opcode.READ) else epoch
        return carry_out(self, opcode, wanted, instance, own, *rest)

    patch.setattr(DiskCore, "_carry_out", obey)


def a_mount_takes_the_longest_journal(patch: pytest.MonkeyPatch) -> None:
    """Rule 6: an entry that fewer than k disks hold is rolled forward."""
    patch.setattr(mount, "last_entry", lambda members, _k: max(member.head.last for member in members))


def a_mount_never_rolls_forward(patch: pytest.MonkeyPatch) -> None:
    """Rule 6: what is only in the rings is forgotten."""
    patch.setattr(mount, "last_entry", lambda members, _k: max(member.head.applied for member in members))


def a_mount_reads_before_it_opens(patch: pytest.MonkeyPatch) -> None:
    """Rule 1: what decides is what the disks held before they were fenced."""
    fence, survey = Mounting._fence, Mounting._survey
    early: dict[int, Any] = {}

    async def look_first(self: Mounting, sessions: Any, epoch: bytes) -> Any:
        early[id(self)] = await survey(self, sessions, early["geometry"])
        return await fence(self, sessions, epoch)

    async def looked(self: Mounting, fenced: Any, geometry: Any) -> Any:
        seen = early.pop(id(self))
        return {instance: seen[instance] for instance in fenced if instance in seen}

    find = Mounting._find

    async def found(self: Mounting, channels: Any) -> Any:
        genesis, sessions, rosters = await find(self, channels)
        early["geometry"] = genesis.geometry
        return genesis, sessions, rosters

    patch.setattr(Mounting, "_find", found)
    patch.setattr(Mounting, "_fence", look_first)
    patch.setattr(Mounting, "_survey", looked)


def a_joiner_counts_before_it_is_rebuilt(patch: pytest.MonkeyPatch) -> None:
    """Rule 11: it becomes a member with what came since it was admitted."""

    async def nothing(*_arguments: Any, **_options: Any) -> None:
        return None

    patch.setattr(Join, "_rebuild", nothing)


def a_part_is_merged_with_what_was_there_before(patch: pytest.MonkeyPatch) -> None:
    """P1: half a sector is merged with the other half as it was when the write began."""
    write_part = Array._write_part

    async def carelessly(self: Array, index: int, start: int, part: memoryview) -> None:
        find, found = self.cache.find, self.cache.find(index)
        if found is not None:
            await write_part(self, index, start, part)
            return
        asked = iter((None, None))
        vars(self.cache)["find"] = lambda at: next(asked, None) if at == index else find(at)
        try:
            await write_part(self, index, start, part)
        finally:
            vars(self.cache).pop("find", None)

    patch.setattr(Array, "_write_part", carelessly)


# Of acknowledgement chains ------------------------------------------------------------------------------------


def links_are_not_checked(patch: pytest.MonkeyPatch) -> None:
    """A3: whatever stands where a link should be is taken for it."""
    patch.setattr(Chain, "accept", lambda _self, _seq, _link, _now_ms: None)


def a_link_of_any_seq_is_accepted(patch: pytest.MonkeyPatch) -> None:
    """A3: a link that was shown before is as good as the one that is due."""
    accept = Chain.accept

    def lenient(self: Chain, seq: int, link: bytes, now_ms: int) -> None:
        known = vars_of(self).setdefault("links", {self._known})
        if link not in known:
            accept(self, seq, link, now_ms)
            known.add(link)

    patch.setattr(Chain, "accept", lenient)


_NOTES: dict[int, dict[str, Any]] = {}


def vars_of(chain: Chain) -> dict[str, Any]:
    return _NOTES.setdefault(id(chain), {"kept alive": chain})


def a_link_is_shown_before_its_command_is_carried_out(patch: pytest.MonkeyPatch) -> None:
    """The disk counts a command that wants a link, shows it, and does what it says when the next comes."""
    execute = DiskCore._execute
    put_off: dict[int, tuple[memoryview, memoryview]] = {}

    def eager(self: DiskCore, wants: int, seq: int, body: memoryview, out: memoryview) -> int:
        if seq == self.seq + 1 and wants == wire.Wants.LINK and seq in self._chain.seqs:
            put_off[id(self)] = memoryview(bytes(body)), out
            self.seq = seq
            out[:32] = self._chain.show(seq)
            return 32
        if seq == self.seq + 1 and id(self) in put_off:
            self.seq -= 1
            execute(self, wire.Wants.NOTHING, seq - 1, *put_off.pop(id(self)))
        return execute(self, wants, seq, body, out)

    patch.setattr(DiskCore, "_execute", eager)


def links_are_taken_for_evidence(patch: pytest.MonkeyPatch) -> None:
    """What every disk has acknowledged by a link is applied, and its slot of the ring used again."""
    finish = Committer._finish

    def trusting(self: Committer, execution: Execution) -> None:
        execution.evidence |= bool(execution.waiters)
        finish(self, execution)

    patch.setattr(Committer, "_finish", trusting)


def links_never_need_evidence(patch: pytest.MonkeyPatch) -> None:
    """FLUSHes rest on links for as long as the ring has room."""
    init = Committer.__init__

    def patient(self: Committer, *arguments: Any) -> None:
        init(self, *arguments)
        self._unproved_max = 1000

    patch.setattr(Committer, "__init__", patient)


# Of the history ----------------------------------------------------------------------------------------------


def a_record_is_said_to_be_kept_before_it_is_durable(patch: pytest.MonkeyPatch) -> None:
    """15.3: an append returns without a FLUSH."""
    append = History.append

    async def hasty(self: History, body: bytes) -> int:
        array, self._array = self._array, _NeverFlushes(self._array)
        try:
            return await append(self, body)
        finally:
            self._array = array

    patch.setattr(History, "append", hasty)


class _NeverFlushes:
    def __init__(self, array: Any) -> None:
        self.write_sectors = array.write_sectors

    async def flush(self) -> None:
        return None


def every_record_stands_at_the_start_of_the_ring(patch: pytest.MonkeyPatch) -> None:
    """15.2: the newest is overwritten by the next."""
    patch.setattr(History, "_next_start", lambda _self, _parts: 0)


def a_mount_counts_records_anew(patch: pytest.MonkeyPatch) -> None:
    """15.3: what was kept before is not looked for."""

    async def nothing(_self: History) -> None:
        return None

    patch.setattr(History, "load", nothing)


def the_oldest_records_are_looked_for_first(patch: pytest.MonkeyPatch) -> None:
    """15.3: the run begins at the lowest number, and ends at the first gap."""

    def run(found: dict[int, Any]) -> OrderedDict[int, Any]:
        first = min(found, default=0)
        numbers = takewhile(found.__contains__, numbers_from(first))
        return OrderedDict((number, found[number][0]) for number in numbers)

    patch.setattr(history, "_unbroken", run)


# Of spares, and of disks that are taken offline ---------------------------------------------------------------


def a_spare_takes_the_seat_of_a_disk_that_is_offline(patch: pytest.MonkeyPatch) -> None:
    """An operator wants that one back."""
    left_alone = set(automatic._LEFT_ALONE) - {DiskState.OFFLINE}
    patch.setattr(automatic, "_LEFT_ALONE", tuple(left_alone))


def a_spare_that_failed_is_never_tried_for_another_seat(patch: pytest.MonkeyPatch) -> None:
    """One that was partly rebuilt is good for its seat only, so another must not use it up."""
    follow_up = Automatic._follow_up

    def forgetful(self: Automatic, status: Any) -> None:
        follow_up(self, status)
        self._failed.clear()

    patch.setattr(Automatic, "_follow_up", forgetful)


def spares_are_not_looked_for_by_a_mount(patch: pytest.MonkeyPatch) -> None:
    """One became a member, and who made it so died before it could write that down."""
    mount_by = Main.mount

    def without(self: Main) -> Any:
        site = self._story.site
        spares, site.spares = site.spares, []
        try:
            return mount_by(self)
        finally:
            site.spares = spares

    patch.setattr(Main, "mount", without)


def a_disk_that_comes_back_keeps_all_that_it_has(patch: pytest.MonkeyPatch) -> None:
    """Rule 11: what it missed while it was offline is not sent."""

    async def everything(self: Join, _session: Any, run: Any, holds: Any) -> bytes:
        return self._reader.tags.get(run) if holds is Holds.ITS_SEAT else bytes(run.count * TAG_BYTES)

    patch.setattr(Join, "_held", everything)


# Of freezing --------------------------------------------------------------------------------------------------


def silence_alone_ends_a_frozen_array(patch: pytest.MonkeyPatch) -> None:
    """Disks are given up for being silent though fewer than k are left."""
    patch.setattr(Members, "can_spare", lambda _self, _session: True)


def a_frozen_array_acknowledges_what_is_on_the_disks_that_answer(patch: pytest.MonkeyPatch) -> None:
    """Rule 8: the silent ones are members, and are not waited for."""
    settle = Committer._settle

    def hasty(self: Committer) -> None:
        if self._members.is_suspended:
            there = {session.instance for _, session in self._members if session.health is Health.ONLINE}
            for execution in self._executions:
                execution.waiting &= there
        settle(self)

    patch.setattr(Committer, "_settle", hasty)


def a_stop_does_not_give_in(patch: pytest.MonkeyPatch) -> None:
    """A main program that is to end waits for disks that may never be back."""
    patch.setattr(Array, "give_in", lambda _self: None)


BUGS: list[Bug] = [
    the_nonce_is_skipped,
    equal_epoch_is_accepted,
    acknowledged_before_evidence,
    the_instance_is_not_checked,
    applied_before_commit,
    a_sealing_key_is_used_again,
    a_flush_does_not_wait_for_what_is_behind,
    acknowledged_while_a_vote_is_under_way,
    the_seq_is_not_checked,
    the_epoch_is_not_checked,
    a_mount_takes_the_longest_journal,
    a_mount_never_rolls_forward,
    a_mount_reads_before_it_opens,
    a_joiner_counts_before_it_is_rebuilt,
    a_part_is_merged_with_what_was_there_before,
    links_are_not_checked,
    a_link_of_any_seq_is_accepted,
    a_link_is_shown_before_its_command_is_carried_out,
    links_are_taken_for_evidence,
    links_never_need_evidence,
    a_record_is_said_to_be_kept_before_it_is_durable,
    every_record_stands_at_the_start_of_the_ring,
    a_mount_counts_records_anew,
    the_oldest_records_are_looked_for_first,
    a_spare_takes_the_seat_of_a_disk_that_is_offline,
    a_spare_that_failed_is_never_tried_for_another_seat,
    spares_are_not_looked_for_by_a_mount,
    a_disk_that_comes_back_keeps_all_that_it_has,
    silence_alone_ends_a_frozen_array,
    a_frozen_array_acknowledges_what_is_on_the_disks_that_answer,
    a_stop_does_not_give_in,
]


_STALE = ("TypeError", "AttributeError", "NameError", "ImportError")
"""What a patch fails with that was written for other code; no seed has found anything then."""


def first_failure(bug: Bug, seeds: range) -> tuple[int, Outcome | None]:
    """How many seeds were run, and the first that fails with the bug in place and passes without it."""
    for count, seed in enumerate(seeds, 1):
        with pytest.MonkeyPatch.context() as patch:
            bug(patch)
            outcome = run_seed(seed)
        if outcome.failure is not None:
            kind = outcome.failure.partition(":")[0]
            assert kind not in _STALE, f"{bug.__name__} does not fit the code any more: {outcome.failure}"
        if outcome.failure is not None and run_seed(seed).failure is None:
            return count, outcome
    return len(seeds), None


def main() -> None:
    """All bugs, or those that are named."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.sim.bugs", *sys.argv[1:]],
            {**os.environ, "PYTHONHASHSEED": "0"},
        )
    warnings.filterwarnings("ignore", "coroutine .* was never awaited")  # tasks that a crash ended before they began
    missed = 0
    for bug in BUGS:
        if len(sys.argv) > 1 and bug.__name__ not in sys.argv[1:]:
            continue
        start = time.monotonic()
        count, outcome = first_failure(bug, range(SEEDS_MAX))
        found = f"seed {outcome.plan.setup.seed}: {str(outcome.failure)[:140]}" if outcome else "NOT FOUND"
        missed += outcome is None
        print(f"{bug.__name__:48} {count:5} seeds {time.monotonic() - start:6.1f} s  {found}", flush=True)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
