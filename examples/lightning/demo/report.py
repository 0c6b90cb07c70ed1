"""The report: what was found, as text for people, and the payments' latencies as a plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from examples.lightning.demo.attacks import Trial
from examples.lightning.demo.places import Directory
from examples.lightning.demo.run import Measured, Result

STYLE: Any = {
    "svg.hashsalt": "perdure",  # ids of elements, which are random otherwise
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
COLORS = ("#6c757d", "#3a5a9b", "#0b6e4f", "#e09f3e")
ALARM_CHARS_MAX = 100


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100).__trunc__() - 1)]


# Text -----------------------------------------------------------------------------------------------------


def text(result: Result) -> str:
    """The whole report, in Markdown."""
    parts = [_payments(result), *(_trials(title, result) for title in result.trials), _refusals(result)]
    left_out = [f"Left out: {one}" for one in result.left_out]
    return "\n\n".join(part for part in [*parts, *left_out] if part) + "\n"


def _payments(result: Result) -> str:
    base = result.measured[Directory.title]
    lines = [
        f"{result.payments} payments in turns on each place. Milliseconds a payment, both sides at rest:",
        "",
        "| Alice's state is in | p50 | p99 | p50, beside a directory | values written a payment | KiB a payment |",
        "|---|---:|---:|---:|---:|---:|",
        *(_row(title, one, base, result.payments) for title, one in result.measured.items()),
    ]
    return "\n".join(lines)


def _row(title: str, one: Measured, base: Measured, payments: int) -> str:
    p50, p99 = percentile(one.latencies_ms, 50), percentile(one.latencies_ms, 99)
    ratio = p50 / percentile(base.latencies_ms, 50)
    kib = one.bytes / payments / 1024
    return f"| {title} | {p50:.0f} | {p99:.0f} | {ratio:.1f} | {one.writes / payments:.1f} | {kib:.0f} |"


def _trials(title: str, result: Result) -> str:
    balances = result.measured[title].balances
    lines = [
        f"**{title}**: Alice owned {balances['yesterday']:,} satoshis when the host copied, {balances['now']:,} when "
        "it killed her.",
        "",
        *(f"- {trial.name}: she starts on {trial.started_on:,}. {_outcome(trial)}" for trial in result.trials[title]),
    ]
    return "\n".join(lines)


def _outcome(trial: Trial) -> str:
    said = OUTCOMES[trial.result["outcome"]](trial.result)
    alarms = trial.result["alarms"]
    if "noticed" in trial.result:
        seen = "with a warning" if trial.result["noticed"] else "without a warning"
        said = f"Bob took a payment, {seen}; later she closed by force. {said}"
    if not alarms:
        return f"{said} Nothing was logged as a warning or an error."
    first = alarms[0].splitlines()[0]
    return f"{said} Logged: “{first if len(first) <= ALARM_CHARS_MAX else first[:ALARM_CHARS_MAX] + '...'}”"


def _closed(result: dict[str, Any]) -> str:
    punished = [one for one in result["judged"] if one is not None]
    if not punished:
        return "Her commitment confirmed, and nobody punished it."
    one = punished[0]
    return (
        f"Her commitment {one['commitment_txid'][:16]}... confirmed, it was revoked, and Bob's penalty "
        f"{one['penalty_txid'][:16]}... took all of her {one['takes_satoshis']:,} satoshis (its signature under the "
        "revocation key was checked)."
    )


OUTCOMES: dict[str, Callable[[dict[str, Any]], str]] = {
    "paid": lambda result: f"She connected, paid, and owns {result['balance']:,} now.",
    "panic": lambda _: "LDK saw at the peer's first message that it has fallen behind, and ended the node.",
    "closed": _closed,
    "closed by the peer": lambda result: (
        f"Bob closed the channel with the newest state, and {result['returned_satoshis']:,} satoshis came back to her."
    ),
    "open at the peer": lambda _: "Bob did not close the channel.",
}


def _refusals(result: Result) -> str:
    if not result.refusals:
        return ""
    asked = [
        "the three newest disks ended, two that were kept from earlier go on",
        "the same, told to take what is there",
        "blank disks of the same image in the three seats",
        "every disk ended",
    ]
    lines = ["**What is served when the newest disks are gone**", ""]
    for what, done in zip(asked, result.refusals, strict=True):
        lines.append(f"- {what}: `{done.typed}` ends with {done.code}. “{done.said}”")
    return "\n".join(lines)


# Plot -----------------------------------------------------------------------------------------------------


def plot(result: Result, path: Path) -> None:
    """The share of payments that took no longer than so many milliseconds, a line for each place, as SVG."""
    import matplotlib as mpl  # noqa: PLC0415  (slow to load)
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7, 3.2), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        for color, (title, one) in zip(COLORS, result.measured.items(), strict=False):
            count = len(one.latencies_ms)
            axes.step(sorted(one.latencies_ms), [(i + 1) / count for i in range(count)], color=color, label=title)
        axes.set(xscale="log", xlabel="milliseconds a payment", ylabel="share of payments", ylim=(0, 1))
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.xaxis.set_minor_formatter("{x:.0f}")
        figure.legend(frameon=False, loc="outside upper center", ncols=len(result.measured))
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line.rstrip() for line in lines) + "\n")
