"""The explicit checks on what passes between a main program and its disks, shrinking, and the counting of pairs."""

from __future__ import annotations

import pytest

from perdure.array.commands import Authority, build
from perdure.array.geometry import Geometry
from perdure.disk.wire import COUNT, Opcode
from perdure.sim.checks import ProofsOnce, Wiretap
from perdure.sim.coverage import Coverage
from perdure.sim.disks import FastEvidence
from perdure.sim.history import Violation
from perdure.sim.loop import Loop
from perdure.sim.shrink import shrink

KEY = bytes(range(1, 33))


def execute(seq: int, nonce: bytes | None = None) -> bytes:
    command = build(
        Authority(KEY), Opcode.EXECUTE, instance=b"i" * 32, epoch=b"e" * 16, seq=seq, nonce=nonce, body=(COUNT.pack(0),)
    )
    return b"".join(command.parts)


def test_one_command_only_may_be_signed_for_an_instance_epoch_and_seq() -> None:
    wiretap = Wiretap(Geometry(2, 3, 4), KEY)
    wiretap.heard(execute(1))
    wiretap.heard(execute(1))  # sent again
    wiretap.heard(execute(2))
    with pytest.raises(Violation, match="two different commands"):
        wiretap.heard(execute(2, b"n" * 32))


def test_no_evidence_may_be_believed_twice() -> None:
    loop = Loop(0)
    proofs = ProofsOnce(loop, 0, FastEvidence())
    document = FastEvidence().attest(b"r" * 64)
    loop.run(proofs.verify(document, b"r" * 64))
    with pytest.raises(Violation, match="another"):
        loop.run(proofs.verify(document, b"r" * 64))


def test_shrinking_keeps_exactly_what_the_failure_needs() -> None:
    needed = {3, 17, 40}
    assert shrink(100, lambda numbers: needed <= set(numbers)) == sorted(needed)
    assert shrink(1, lambda _numbers: True) == []


def test_coverage_counts_pairs_and_names_those_that_never_met() -> None:
    coverage = Coverage(["a", "b", "c"])
    coverage.add(["a", "b", "b"])
    coverage.add(["c"])
    assert coverage.pairs == {("a", "b"): 1}
    assert coverage.never == [("a", "c"), ("b", "c")]
    assert coverage.summary()[-1] == "  never: b and c"
    assert len(coverage.table()) == 3
