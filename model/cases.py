"""What is searched: small arrays in every test run, larger ones by `make model`, and each rule weakened."""

from __future__ import annotations

from model.decide import Weak
from model.network import Case

W = Weak
MUTANTS = (
    Case("read-before-open", 2, 3, weak=W.READ_BEFORE_OPEN),
    Case("one-step-roster", 2, 3, weak=W.ONE_STEP),
    Case("serve-after-propose", 2, 3, weak=W.SERVE_AFTER_PROPOSE),
    Case("acknowledge-by-k", 2, 3, weak=W.ACK_BY_K),
    Case("acknowledge-during-a-change", 2, 3, votes=1, weak=W.ACK_DURING_CHANGE),
    Case("apply-at-propose", 2, 3, weak=W.APPLY_AT_PROPOSE),
    Case("apply-on-plain-answers", 2, 3, entries=2, weak=W.APPLY_UNPROVED),
    Case("add-and-remove-at-once", 2, 3, spares=1, votes=1, admitted=True, weak=W.SWAP),
    Case("no-instance-binding", 2, 3, weak=W.NO_INSTANCE),
    Case("no-evidence-on-flush", 2, 3, weak=W.NO_EVIDENCE),
    Case("longest-journal-wins", 2, 3, weak=W.LONGEST),
    Case("always-drop", 2, 3, weak=W.DROP),
    Case("finish-the-newest-roster", 2, 3, weak=W.NEWEST),
    Case("journals-of-strangers-count", 2, 3, entries=2, weak=W.STRANGERS),
    Case("propose-on-fewer-than-k", 2, 3, votes=1, weak=W.FEWER_THAN_K),
    Case("quorum-of-k-less-one", 2, 3, weak=W.QUORUM_LESS_ONE),
    Case("k-is-half-of-n", 2, 4, weak=W.HALF),
    Case("base-not-named", 2, 3, mains=2, weak=W.BASE_UNNAMED),
    Case("member-before-it-is-rebuilt", 2, 3, votes=1, joins=1, degraded=True, weak=W.UNBUILT),
    Case("joiner-not-looked-at", 2, 3, votes=1, joins=2, degraded=True, weak=W.NO_LOOK),
    Case("joiner-named-and-not-looked-at", 2, 3, votes=2, joins=2, degraded=True, naming=True, weak=W.NO_LOOK),
)
SMALL = (
    Case("2-of-3, two mounts", 2, 3, mains=2),
    Case("2-of-3, two entries in flight, removals, a mount", 2, 3, entries=2, votes=1),
    Case("2-of-3, three entries in flight, a mount", 2, 3, entries=3),
    Case("2-of-3, a disk comes back twice, a mount", 2, 3, votes=2, joins=2, degraded=True),
    Case("2-of-3, a fresh disk or the old one, a mount", 2, 3, spares=1, votes=2, joins=1, degraded=True),
    Case("3-of-5, a mount", 3, 5),
    Case("3-of-5, two entries in flight, a mount", 3, 5, entries=2),
)
LARGE = (
    Case("2-of-3, two mounts, epochs in any order", 2, 3, mains=2, any_epochs=True),
    Case("2-of-3, two mounts, two entries in flight", 2, 3, mains=2, entries=2),
    Case("2-of-3, three mounts", 2, 3, mains=3),
    Case("2-of-3, three mounts, epochs in any order", 2, 3, mains=3, any_epochs=True),
    Case("2-of-3, a named disk comes back twice, a mount", 2, 3, votes=3, joins=2, degraded=True, naming=True),
    Case("2-of-3, replacement over life, a mount", 2, 3, spares=2, votes=3, joins=2, degraded=True),
    Case("2-of-3, replacement by one main", 2, 3, spares=1, mains=0, entries=2, votes=4, joins=2, degraded=True),
    Case("2-of-3, two mounts, removals", 2, 3, mains=2, votes=1),
    Case("2-of-3, two mounts, a fresh disk or the old one", 2, 3, spares=1, mains=2, votes=1, joins=1, degraded=True),
    Case("3-of-4, two mounts", 3, 4, mains=2),
    Case("3-of-5, two mounts", 3, 5, mains=2),
    Case("3-of-5, removals, a mount", 3, 5, votes=1),
    Case("3-of-5, a disk comes back, a mount", 3, 5, votes=2, joins=1, degraded=True),
)
