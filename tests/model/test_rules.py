"""The rules, searched: no state of a small array breaks a promise, and every weakened rule breaks one."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from model import decide as deciding
from model.__main__ import RULES
from model.cases import MUTANTS, SMALL
from model.decide import Decision, View, Weak
from model.network import Case
from model.search import Outcome, search
from model.state import COUNTERS
from model.tell import tell
from perdure.array.geometry import Geometry
from perdure.array.journal import Head
from perdure.array.mount import Member, Mounting
from perdure.errors import PerdureError

found = cache(search)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_no_state_breaks_a_promise(case: Case) -> None:
    outcome = found(case)
    assert outcome.violation is None, tell(outcome)
    assert outcome.is_complete
    assert outcome.states > 500


@pytest.mark.parametrize("case", MUTANTS, ids=lambda case: case.name)
def test_a_weakened_rule_breaks_a_promise(case: Case) -> None:
    outcome = found(case)
    assert outcome.violation is not None, f"{case.weak} is not noticed in {outcome.states} states"
    print(tell(outcome))


def test_every_weakness_is_tried() -> None:
    assert {case.weak for case in MUTANTS} == set(Weak)


def test_the_documents_traces_are_what_the_search_prints() -> None:
    text = RULES.read_text()
    for case in MUTANTS:
        block = f"<!-- {case.name} -->\n```\n{tell(found(case))}\n```\n<!-- end -->"
        assert block in text, "run: python -m model write"


class _Channel:
    address = "a disk"

    def close(self) -> None:
        """Nothing is open."""


class _Session:
    def __init__(self, instance: bytes) -> None:
        self.instance = instance
        self.channel = _Channel()


def _as_a_mount_decides(shown: tuple[View, ...], rosters: deciding.Predecessors, k: int, n: int) -> Decision | None:
    members: dict[bytes, Any] = {}
    for at, one in enumerate(shown):
        instance = deciding._instance(at)
        model = deciding._member(one)
        label = deciding._label(one, shown, dict(rosters))
        session: Any = _Session(instance)
        members[instance] = Member(session, label, Head(len(one.log), one.applied), model.headers)
    mounting = object.__new__(Mounting)
    mounting._strays = []
    try:
        base, present, last = mounting._decide(dict(members), Geometry(k, n, 1))
    except PerdureError:
        return None
    number = int.from_bytes(base.version.epoch, "big") * COUNTERS + base.version.counter
    places = tuple(at for at in range(len(shown)) if deciding._instance(at) in present)
    return Decision(number, places, (0,) * last)


@pytest.mark.parametrize("case", [SMALL[0], SMALL[1]], ids=lambda case: case.name)
def test_the_model_decides_as_a_mount_does(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search asks the mount's own functions; here the whole decision of a mount is asked, for all it met."""
    asked: dict[tuple[Any, ...], Decision | None] = {}
    real = deciding.decide

    def noting(shown: tuple[View, ...], rosters: deciding.Predecessors, k: int, weak: Weak | None) -> Decision | None:
        asked[shown, rosters, k] = decision = real(shown, rosters, k, weak)
        return decision

    monkeypatch.setattr("model.steps.decide", noting)
    search(case, states_max=4000)
    assert len(asked) > 300
    for (shown, rosters, k), decision in asked.items():
        whole = _as_a_mount_decides(shown, rosters, k, case.n)
        bare = decision and decision._replace(history=(0,) * len(decision.history))
        assert bare == whole, f"{shown}"


def test_a_search_that_is_cut_says_so() -> None:
    outcome: Outcome = search(SMALL[0], states_max=100)
    assert outcome.cut
    assert not outcome.is_complete
