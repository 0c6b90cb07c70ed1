"""What a goal is made of: comparisons, each met, missed, or unknown for a reason. Pure."""

from __future__ import annotations

from typing import Any


def check(
    what: str,
    value: float | None,
    unit: str,
    *,
    ratio: float | None,
    least: float | None = None,
    most: float | None = None,
    peer: float | None = None,
    peer_name: str = "",
    reason: str = "",
) -> dict[str, Any]:
    """One comparison: `ratio` must be at least `least` and at most `most`. Without a ratio it is unknown."""
    met = None
    if ratio is not None:
        met = (least is None or ratio >= least) and (most is None or ratio <= most)
    found = {"what": what, "value": value, "unit": unit, "peer": peer, "peer_name": peer_name, "ratio": ratio}
    found |= {"least": least, "most": most, "met": met}
    return found if met is not None else {**found, "reason": reason or "it was not measured in this run"}


def entry(work: str, goal: str, *checks: dict[str, Any]) -> dict[str, Any]:
    """A goal made of its checks."""
    met = None if any(one["met"] is None for one in checks) else all(one["met"] for one in checks)
    if any(one["met"] is False for one in checks):
        met = False  # one that is missed is missed, whatever is unknown beside it
    first = checks[0]
    found = {"work": work, "goal": goal} | {key: first[key] for key in ("value", "unit", "peer", "peer_name", "ratio")}
    reasons = list(dict.fromkeys(one["reason"] for one in checks if one["met"] is None))
    return found | {"met": met} | ({"reason": "; ".join(reasons)} if reasons else {}) | {"checks": list(checks)}
