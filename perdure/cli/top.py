"""`top`: the array on a terminal, renewed each second."""

from __future__ import annotations

import json
import select
import sys
import termios
import tty
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.live import Live

from perdure.cli.frame import Look, frame
from perdure.cli.iostat import rates
from perdure.cli.options import config_options, find_config, verb
from perdure.errors import Unavailable
from perdure.service.control import ask
from perdure.service.site import background
from perdure.service.site.config import Config
from perdure.service.status import ArrayStatus
from perdure.service.telling.events import Event

TURN_S: Final = 1.0
LOOKS_MAX: Final = 11
"""So rates and percentiles are those of the last ten seconds."""
EVENTS_MAX: Final = 100
EVENTS_ONCE: Final = 5


def register(cli: click.Group) -> None:
    """Add the verb to the command line."""

    @verb(cli, "top", "perdure top\nperdure top --once")
    @click.option("--once", is_flag=True, help="Print one frame and end; so it is too where there is no terminal.")
    @config_options
    def top(once: bool, config_file: Path | None, directory: Path, as_json: bool) -> int:
        """Show the array, its disks, latencies, repairs and last events, renewed each second; q ends it.

        Percentiles are of the last ten seconds; with --once of the time since the main program has mounted the array.
        """
        found = find_config(config_file, directory)
        view = View(found)
        if as_json:
            click.echo(json.dumps(view.to_json(), indent=2))
        elif once or not sys.stdout.isatty():
            Console(highlight=False).print(frame(view.look(events_max=EVENTS_ONCE)))
        else:
            _show(view)
        return view.exit_code


class View:
    """What was seen of one main program. Making it raises Unavailable when none answers; later that is shown."""

    def __init__(self, found: Config) -> None:
        self._found = found
        self._looks: deque[ArrayStatus] = deque([background.status(found)], maxlen=LOOKS_MAX)
        self._events: deque[Event] = deque(maxlen=EVENTS_MAX)
        self._silence: str | None = None
        self._take_events()

    @property
    def exit_code(self) -> int:
        """The array's."""
        return self._looks[-1].exit_code

    def renew(self) -> None:
        """Ask again."""
        try:
            status = background.status(self._found)
            if status.uptime_ms < self._looks[-1].uptime_ms:  # another mount, which counts from zero
                self._looks.clear()
                self._events.clear()  # it may give numbers again
            self._looks.append(status)
            self._take_events()
            self._silence = None
        except Unavailable as error:
            self._silence = str(error)

    def _take_events(self) -> None:
        last = self._events[-1].number if self._events else max(0, self._looks[-1].events_last - EVENTS_MAX)
        if self._looks[-1].events_last == last:
            return
        answer = ask(self._found.serve.control, "events", since=last)
        self._events.extend(Event.from_json(value) for value in answer["events"])

    def look(self, *, events_max: int = EVENTS_MAX) -> Look:
        """What the next frame is made of."""
        before = self._looks[0] if len(self._looks) > 1 else None
        return Look(self._looks[-1], before, list(self._events)[-events_max:], self._silence)

    def to_json(self) -> dict[str, object]:
        """For programs: the status, what passes a second since the mount, and the last events."""
        look = self.look(events_max=EVENTS_ONCE)
        passing = {name: rate.to_json() for name, rate in rates(look.before, look.now).items()}
        return {
            "status": look.now.to_json(),
            "rates": passing,
            "events": [event.to_json() for event in look.events],
        }


def _show(view: View) -> None:
    """On a terminal, until q or an interrupt."""
    console = Console(highlight=False)
    with suppress(KeyboardInterrupt), _keys(), Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(frame(view.look()), refresh=True)
            if _is_over():
                return
            view.renew()


@contextmanager
def _keys() -> Iterator[None]:
    """Have each key at once, without Enter and without it being shown."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _is_over() -> bool:
    """Whether q was pressed before the next frame is due."""
    watched = [sys.stdin] if sys.stdin.isatty() else []
    ready, _, _ = select.select(watched, [], [], TURN_S)
    return bool(ready) and sys.stdin.read(1) in ("q", "Q", "")
