"""Numbers and tables as Markdown. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

MARKS = {True: "✓", False: "✗", None: "?"}
NOTHING = "-"


def number(value: object) -> str:
    """Three digits that count; more only where they stand before the point."""
    if not isinstance(value, int | float):
        return NOTHING
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def times(ratio: object) -> str:
    """A ratio."""
    return f"x {number(ratio)}" if isinstance(ratio, int | float) else NOTHING


def mib(count: object) -> str:
    """Bytes as MiB."""
    return number(count / (1 << 20)) if isinstance(count, int | float) else NOTHING


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table whose first column is text and whose others are numbers; nothing when it has no rows."""
    body = [_row(row) for row in rows]
    if not body:
        return []
    return [_row(heads), "|---|" + "---:|" * (len(heads) - 1), *body, ""]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"


def check_line(check: dict[str, object]) -> str:
    """One comparison of a goal for a terminal: `what: value unit, x ratio of peer (bound)`."""
    if check["ratio"] is None:
        return f"{check['what']}: unknown, {check['reason']}"
    peer = f" of {check['peer_name']}" if check["peer_name"] else ""
    value = f"{number(check['value'])} {check['unit']}"
    return f"{check['what']}: {value}, {times(check['ratio'])}{peer} ({bound(check)})"


def bound(check: dict[str, object]) -> str:
    """What the ratio must be."""
    words = (("least", "at least"), ("most", "at most"))
    return " and ".join(f"{word} {number(check[key])}" for key, word in words if check[key] is not None)
