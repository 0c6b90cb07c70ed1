"""`simulate`: the deterministic simulator, for whoever wants to see the promises hold before there is money on them.

The stories are told in a process of their own (`perdure.sim.stream`), one line each: the product does not import its
simulator, and a story repeats only under a fixed order of hashes, which is set when a process starts.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from perdure.cli import output
from perdure.cli.options import verb
from perdure.errors import PerdureError

SECONDS: Final = 20.0
LINE_S: Final = 5.0
"""How often a line is printed where there is no terminal."""
_COUNTED: Final = ("mounts", "operations", "flushes", "crashes", "losses", "lies", "network_faults")
_EXIT_CODES: Final = {0: "no promise was broken", 2: "a story broke a promise: a defect; or a mistake"}


@dataclass(slots=True)
class Tale:
    """What the stories came to so far."""

    first: int
    begun_s: float = field(default_factory=time.monotonic)
    last: int | None = None
    stories: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    failure: dict[str, Any] | None = None

    def add(self, story: dict[str, Any]) -> None:
        """One more."""
        self.stories += 1
        self.last = story["seed"]
        self.counts.update({name: story[name] for name in _COUNTED})
        if story["failure"] is not None:
            self.failure = {"seed": story["seed"], "message": story["failure"]}

    @property
    def duration_s(self) -> float:
        """How long it has taken."""
        return time.monotonic() - self.begun_s

    def text(self) -> str:
        """`12 stories: 96 mounts, ...`."""
        shown = ", ".join(f"{self.counts[name]:,} {name.replace('_', ' ')}" for name in _COUNTED)
        return (
            f"{self.stories:,} {'story' if self.stories == 1 else 'stories'}: {shown.replace('losses', 'disks lost')}"
        )

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        counts = {name: self.counts[name] for name in _COUNTED}
        seeds = {"first_seed": self.first, "last_seed": self.last, "duration_s": round(self.duration_s, 3)}
        return {"version": 1, "stories": self.stories, **seeds, **counts, "failure": self.failure}


Show = Callable[[Tale], None]
"""Shows the tale as it stands."""


def register(cli: click.Group) -> None:
    """Add the verb to the command line."""

    @verb(cli, "simulate", "perdure simulate --seconds 60\nperdure simulate --seed 7", _EXIT_CODES)
    @click.option("--seconds", type=click.FloatRange(1), help=f"For how long.  [default: {SECONDS:g}]")
    @click.option("--runs", type=click.IntRange(1), help="So many stories, however long they take.")
    @click.option("--seed", type=click.IntRange(0), help="This story; with --runs or --seconds, from this one on.")
    @click.option("--chains", is_flag=True, help="Only stories in which FLUSHes may rest on acknowledgement chains.")
    def simulate(seconds: float | None, runs: int | None, seed: int | None, chains: bool, as_json: bool) -> int:
        """Tell stories of crashes, lost disks and lying hosts to the real code, and see that every promise holds.

        Time, network and disks are simulated; the array's and the disk's code is what serves you. Nothing on this
        machine is touched. A seed is one story, always the same. Without --seed the stories are new each time.
        """
        if seconds is None and runs is None:
            seconds, runs = (SECONDS, None) if seed is None else (None, 1)
        tale = Tale(secrets.randbelow(1 << 31) if seed is None else seed)
        _tell(tale, seconds, runs, chains=chains, as_json=as_json)
        output.result(tale.to_json(), f"{tale.text()}.\n{_verdict(tale)}", as_json=as_json)
        return 0 if tale.failure is None else 2


def _verdict(tale: Tale) -> str:
    if tale.failure is None:
        return f"No promise was broken. Seeds {tale.first} to {tale.last}, in {tale.duration_s:.1f} s."
    again = f"perdure simulate --seed {tale.failure['seed']}"
    return (
        f"THE STORY OF SEED {tale.failure['seed']} BROKE A PROMISE: {tale.failure['message']}\nThis is a defect in "
        f"Perdure, found in a simulation; no array was touched. Please report the seed. `{again}` tells it again."
    )


def _tell(tale: Tale, seconds: float | None, runs: int | None, *, chains: bool, as_json: bool) -> None:
    """Add stories until the time or their number is up, or one fails. Raises PerdureError if the simulator breaks."""
    command = [sys.executable, "-m", "perdure.sim.stream", "--first", str(tale.first)]
    command += ["--count", str(runs)] if runs is not None else []
    command += ["--chains"] if chains else []
    with (
        _shown(seconds, runs, as_json=as_json) as show,
        subprocess.Popen(  # noqa: S603  (our own program)
            command,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            process_group=0,  # so that Ctrl-C reaches this program alone, which ends it
        ) as teller,
    ):
        try:
            if _listen(teller, tale, seconds, show):
                teller.terminate()
                return
        except BaseException:
            teller.kill()
            raise
    if teller.returncode != 0:
        raise PerdureError("The simulator ended before its stories did, see above; no array was touched.")


def _listen(teller: subprocess.Popen[bytes], tale: Tale, seconds: float | None, show: Show) -> bool:
    """Add stories as they come; whether it was enough before they ended."""
    assert teller.stdout is not None
    for line in teller.stdout:
        tale.add(json.loads(line))
        show(tale)
        if tale.failure is not None or (seconds is not None and tale.duration_s >= seconds):
            return True
    return False


# Showing --------------------------------------------------------------------------------------------------


@contextmanager
def _shown(seconds: float | None, runs: int | None, *, as_json: bool) -> Iterator[Show]:
    """How to show the tale meanwhile: a bar on a terminal, a line now and then elsewhere, nothing for programs."""
    total = float(runs) if runs is not None else seconds
    if as_json:
        yield lambda _tale: None
    elif sys.stderr.isatty():
        columns = (TextColumn("telling stories"), BarColumn(), TextColumn("{task.fields[text]}"))
        with Progress(*columns, console=Console(stderr=True)) as bars:
            task = bars.add_task("", total=total, text="")
            yield lambda tale: bars.update(
                task, completed=tale.stories if runs is not None else tale.duration_s, text=f"{tale.stories:,} so far"
            )
    else:
        yield _lines()


def _lines() -> Show:
    next_s = LINE_S

    def show(tale: Tale) -> None:
        nonlocal next_s
        if tale.duration_s >= next_s:
            next_s = tale.duration_s + LINE_S
            output.note(f"{tale.text()} so far")

    return show
