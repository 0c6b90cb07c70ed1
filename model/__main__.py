"""`python -m model`: search every case, or those that are named, or only the `small` ones; `--states N` sets the limit.

`table` and `traces` print what docs/rules.md shows, `write` puts it there.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from model.cases import LARGE, MUTANTS, SMALL
from model.losses import table
from model.network import Case
from model.search import Outcome, search
from model.tell import tell

RULES = Path(__file__).parent.parent / "docs" / "rules.md"
STATES_MAX = 200_000
"""Of each case; what lies beyond is counted, not looked at."""


def summary(outcome: Outcome) -> str:
    """One line: the case, how many states, and how it ended."""
    end = f"{outcome.violation.promise} broken" if outcome.violation else "no violation"
    cut = f", {outcome.cut} states not gone on from" if outcome.cut else ""
    depth = f"{outcome.states} states, {outcome.depth} steps deep, {outcome.seconds:.0f} s"
    return f"{outcome.case.name}: {end} in {depth}{cut}"


def blocks() -> dict[str, str]:
    """What the document shows, by the name of its place."""
    found = {"table": table()}
    for case in MUTANTS:
        found[case.name] = "```\n" + tell(search(case)) + "\n```"
    return found


def filled(text: str, blocks: dict[str, str]) -> str:
    """`text` with each block in its place: between `<!-- name -->` and `<!-- end -->`."""

    def block(place: re.Match[str]) -> str:
        return f"<!-- {place[1]} -->\n{blocks[place[1]]}\n<!-- end -->"

    return re.sub(r"<!-- ([a-z0-9-]+) -->\n.*?<!-- end -->", block, text, flags=re.DOTALL)


def run(cases: tuple[Case, ...], states_max: int) -> int:
    """Search them; exit code 1 when a promise is broken, else 0."""
    code = 0
    for case in cases:
        outcome = search(case, states_max=states_max)
        print(summary(outcome), flush=True)
        if outcome.violation is not None:
            print(tell(outcome))
            code = 1
    return code


def main(arguments: list[str]) -> int:
    """Exit code: 0, or 1 when a promise is broken."""
    states_max = STATES_MAX
    if arguments[:1] == ["--states"]:
        states_max, arguments = int(arguments[1]), arguments[2:]
    match arguments:
        case ["table"]:
            print(table())
        case ["traces"]:
            print("\n\n".join(f"{name}\n{text}" for name, text in blocks().items() if name != "table"))
        case ["write"]:
            RULES.write_text(filled(RULES.read_text(), blocks()))
        case ["small"]:
            return run(SMALL, states_max)
        case []:
            return run(SMALL + LARGE, states_max)
        case names:
            return run(tuple(case for case in SMALL + LARGE + MUTANTS if case.name in names), states_max)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
