"""What a check comes to: a level, what was found, why it matters, and what to do; and how that is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

VERSION: Final = 1
"""Of the JSON object: raised when a key changes its meaning or goes; new keys and new checks do not raise it."""


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"

    @property
    def exit_code(self) -> int:
        """0 all is well, 1 a warning, 2 something will not work."""
        return {Level.OK: 0, Level.WARN: 1}.get(self, 2)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `why` it matters and what to `do` are sentences, empty where all is well."""

    check: str
    level: Level
    found: str
    why: str = ""
    do: str = ""


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, Level.OK, found)


def warn(check: str, found: str, why: str, do: str) -> Finding:
    """It works, with a weakness."""
    return Finding(check, Level.WARN, found, why, do)


def fail(check: str, found: str, why: str, do: str) -> Finding:
    """Something will not work, or is not safe."""
    return Finding(check, Level.FAIL, found, why, do)


def exit_code(findings: Sequence[Finding]) -> int:
    """That of the worst."""
    return max((finding.level.exit_code for finding in findings), default=0)


def counts(findings: Sequence[Finding]) -> dict[str, int]:
    """How many there are of each level."""
    return {level.value: sum(finding.level is level for finding in findings) for level in Level}


def to_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """The object that `perdure doctor --json` prints."""
    return {
        "version": VERSION,
        "exit_code": exit_code(findings),
        "counts": counts(findings),
        "findings": [asdict(finding) for finding in findings],
    }
