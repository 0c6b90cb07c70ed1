"""The command `perdure`: finds the verb, and turns every error into one sentence and an exit code.

Exit codes: 0 healthy, 1 degraded, 2 unusable or a mistake, 3 evidence of rollback or cloning. With --json an error
is an object on standard output too. A defect is one sentence as well; its traceback goes into a file.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import Any

import click

from perdure import __version__
from perdure.cli import (
    array,
    cln,
    completion,
    disk,
    doctor,
    erase,
    events,
    evidence,
    image,
    iostat,
    key,
    lifecycle,
    listing,
    loader,
    manifest,
    output,
    repair,
    serve,
    simulate,
    top,
    up,
    upgrade,
    upkeep,
    vss,
)
from perdure.cli import run as run_verb
from perdure.errors import Misuse, PerdureError, error_to_json

USAGE_EXIT_CODE = 2
INTERRUPTED_EXIT_CODE = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="perdure")
def cli() -> None:
    """Perdure: a persistent disk that no one can roll back, made of machines that forget.

    `perdure up` is the short way: five simulated disks on this machine and an array on them, served over NBD.
    """


for module in (
    up,
    array,
    listing,
    repair,
    upkeep,
    erase,
    events,
    iostat,
    top,
    upgrade,
    serve,
    run_verb,
    doctor,
    disk,
    image,
    key,
    evidence,
    manifest,
    loader,
    lifecycle,
    simulate,
    vss,
    cln,
    completion,
):
    module.register(cli)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(run(words))


def run(words: list[str]) -> int:
    """Run one command; the exit code."""
    as_json = "--json" in itertools.takewhile(lambda word: word != "--", words)
    try:
        outcome: Any = cli.main(words, prog_name="perdure", standalone_mode=False)
    except PerdureError as error:
        return _fail(error, as_json=as_json)
    except click.ClickException as error:
        return _fail(Misuse(f"{_usage(error)} Nothing was done."), as_json=as_json)
    except (click.Abort, KeyboardInterrupt):
        click.echo("perdure: interrupted; what was flushed is safe, and the same command can be given again.", err=True)
        return INTERRUPTED_EXIT_CODE
    except BrokenPipeError:
        return 0  # whoever read our output has seen enough
    except OSError as error:
        return _fail(Misuse(f"The system refused: {error}. Nothing that was flushed is lost."), as_json=as_json)
    except Exception:  # the last line of defence: a user never sees a traceback
        return _fail(PerdureError(_defect()), as_json=as_json)
    return outcome if isinstance(outcome, int) else 0


def _fail(error: PerdureError, *, as_json: bool) -> int:
    if as_json:
        click.echo(json.dumps({"error": error_to_json(error)}, indent=2))
    click.echo(f"perdure: {output.plain(str(error))}", err=True)  # others' words may be in it
    return error.exit_code


def _usage(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = "" if context is None else f" See `{context.command_path} --help`."
    message = error.format_message()
    return f"{message if message.endswith(('.', '?')) else message + '.'}{hint}"


def _defect() -> str:
    with tempfile.NamedTemporaryFile("w", prefix="perdure-defect-", suffix=".txt", delete=False) as file:
        traceback.print_exc(file=file)
    return (
        f"This is a defect in Perdure ({sys.exc_info()[1]!r:.200}); what was flushed is safe. Please report it with "
        f"the file {file.name}."
    )


if __name__ == "__main__":
    main()
