"""A trace in words: one line for each step, and what it led to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from model.decide import Decision
from model.promises import name, words
from model.search import Outcome
from model.state import COUNTERS, Kind, Phase, State, initial
from model.steps import Step


def tell(outcome: Outcome) -> str:
    """The trace of a violation, and the violation. Rosters are called by who proposed them: B0, then B1."""
    case = outcome.case
    before = initial(case.n, case.spares, degraded=case.degraded, admitted=case.admitted)
    lines = [f"{case.k}-of-{case.n}; {_start(outcome)}"]
    for number, (step, after) in enumerate(outcome.trace, 1):
        lines.append(f"{number:3}  {_step(step, after)}{''.join(_led_to(before, after))}")
        before = after
    violation = outcome.violation
    assert violation is not None
    shown = f" Shown: {_disks(violation.disks)}." if violation.disks else ""
    return "\n".join([*lines, f"{violation.promise}: {violation.why}.{shown}"])


def _start(outcome: Outcome) -> str:
    case = outcome.case
    first = initial(case.n, case.spares, degraded=case.degraded, admitted=case.admitted)
    seated = [at for at, disk in enumerate(first.disks) if first.served in disk.member_of]
    start = f"A serves, roster A{int(case.degraded)} = {_disks(seated)}"
    return start + ("; the spare is rebuilt" if case.admitted else "")


def _step(step: Step, state: State) -> str:
    who, disks = name(step.main), _disks(step.disks)
    match step.what, step.more:
        case "lands", command:
            return f"{disks} carries out {who}'s {_command(command, state)}"
        case "mounts", (_, Decision() as decision):
            return f"{who} opens {disks}: {_decision(decision, state)}"
        case "reads", (Decision() as decision,):
            return f"{who} reads {disks}: {_decision(decision, state)}"
        case "writes", (entry, applied):
            return f"{who} writes entry {entry}" + (f", applying up to {applied}" if applied else "")
        case "applies", (applied,):
            return f"{who} applies up to {applied}"
        case (("opens joiner" | "opens"), _):
            return f"{who} opens {disks}"
        case "activates", (target, *_):
            return f"{who} has all answers to PROPOSE {_roster(target, state)}"
        case (("is cloned" | "gives way to its clone"), _):
            return f"{disks} {step.what}"
        case "swaps", _:
            return f"{who} puts disk {step.disks[1]} in the place of disk {step.disks[0]}"
        case what, _:
            return f"{who} {what} {disks}"


def _decision(decision: Decision, state: State) -> str:
    return f"base {_roster(decision.base, state)}, history {words(state, decision.history)}"


def _command(command: tuple[object, ...], state: State) -> str:
    match command:
        case (Kind.PROPOSE, base, target, _):
            return f"PROPOSE {_roster(target, state)} (base {_roster(base, state)})"
        case (Kind.ACTIVATE, target, *_):
            return f"ACTIVATE {_roster(target, state)}"
        case (Kind.EXECUTE, entry, applied):
            return " and ".join([f"apply to {applied}"] * bool(applied) + ["entry"] * bool(entry))
        case _:
            return "rebuild"


def _led_to(before: State, after: State) -> Iterator[str]:
    """Main programs that went on of themselves, and what was acknowledged."""
    for by, main in enumerate(after.mains):
        earlier = before.mains[by].phase if by < len(before.mains) else None
        if main.phase == Phase.SERVE and earlier in (Phase.PROPOSE, Phase.ACTIVATE):
            yield f"; {name(by)} serves"
    if len(after.acked) > len(before.acked):
        yield f"; {words(after, after.acked)} is acknowledged"


def _roster(version: object, state: State) -> str:
    assert isinstance(version, int)
    letters = {main.epoch: name(by) for by, main in enumerate(state.mains) if main.epoch}
    return f"{letters.get(version // COUNTERS, '?')}{version % COUNTERS}"


def _disks(disks: Iterable[int]) -> str:
    numbers = sorted(disks)
    return ("disk " if len(numbers) == 1 else "disks ") + " ".join(str(at) for at in numbers)
