"""`doctor`: what may go wrong, before it does."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import click
from click.core import ParameterSource
from rich.console import Console
from rich.text import Text

from perdure.cli import output
from perdure.cli.options import config_options, verb
from perdure.service.doctor import finding
from perdure.service.doctor.finding import Finding, Level
from perdure.service.site import config

_STYLES: Final = {Level.OK: "green", Level.WARN: "bold yellow", Level.FAIL: "bold red"}
_EXIT_CODES: Final = {0: "all is well", 1: "there are warnings", 2: "something will not work, or is not safe"}


def register(cli: click.Group) -> None:
    """Add the verb to the command line."""

    @verb(cli, "doctor", "perdure doctor\nperdure doctor --config /etc/perdure/ledger/perdure.toml --json", _EXIT_CODES)
    @config_options
    def doctor(config_file: Path | None, directory: Path, as_json: bool) -> int:
        """Examine this machine, and the array of a configuration with its files and disks. It changes nothing.

        Each line is ok, a warning, or a failure; of the last two it says why they matter and what to do. Disks are
        asked for evidence, which disturbs no main program. Without a configuration the machine alone is examined.
        """
        from perdure.service.doctor.examination import examine  # noqa: PLC0415  (loads the array code)

        source = click.get_current_context().get_parameter_source("directory")
        is_named = config_file is not None or source is ParameterSource.COMMANDLINE
        path = directory / config.NAME if config_file is None else config_file
        with output.progress("examining"):
            found = examine(path, must_exist=is_named)
        if sys.stdout.isatty() and not as_json:
            Console(highlight=False).print(_coloured(found), soft_wrap=True)
        else:
            output.result(finding.to_json(found), "\n".join(_lines(found)), as_json=as_json)
        return finding.exit_code(found)


def _lines(found: Sequence[Finding]) -> Iterator[str]:
    for one in found:
        yield f"{one.level.upper():4}  {one.check}: {one.found}"
        yield from (f"      {what}: {text}" for what, text in (("why", one.why), ("do", one.do)) if text)
    counted = finding.counts(found)
    bad = ((counted[Level.WARN], "warning"), (counted[Level.FAIL], "failure"))
    yield ", ".join([f"{counted[Level.OK]} ok", *(f"{count} {what}{'' if count == 1 else 's'}" for count, what in bad)])


def _coloured(found: Sequence[Finding]) -> Text:
    """The same lines, with the level's colour on each first word."""
    text = Text()
    for line in _lines(found):
        level = next((one for one in Level if line.startswith(one.upper())), None)
        at = 0 if level is None else len(level)
        text.append(line[:at], style="" if level is None else _STYLES[level]).append(line[at:] + "\n")
    text.rstrip()
    return text
