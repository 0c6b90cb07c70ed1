"""What every verb has in common: --json, an example in --help, and the ways to name an array's configuration."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem

from perdure.errors import Misuse
from perdure.service.site import config
from perdure.service.site.config import Config

_F = TypeVar("_F", bound=Callable[..., Any])
_DEFAULT_DIRECTORY: Final = "~/.local/state/perdure"

FILE: Final = click.Path(path_type=Path, dir_okay=False)
DIRECTORY: Final = click.Path(path_type=Path, file_okay=False)


class Verb(click.Command):
    """A command whose help ends with an example, which a test can run through the parser.

    `exit_codes` says what they mean, where that is not what they mean everywhere (docs/cli).
    """

    def __init__(self, name: str, *, example: str, exit_codes: Mapping[int, str] | None = None, **rest: Any) -> None:  # noqa: ANN401  (what click gives)
        super().__init__(name, **rest)
        self.example = example
        self.exit_codes = exit_codes

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Print the example as it is, not wrapped."""
        del ctx
        with formatter.section("Example"):
            for line in self.example.splitlines():
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


def verb(
    group: click.Group, name: str, example: str, exit_codes: Mapping[int, str] | None = None
) -> Callable[[Callable[..., int]], Verb]:
    """Make a function a verb of `group`; it gets `as_json` too and returns the exit code."""

    def wrap(function: Callable[..., int]) -> Verb:
        option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
        command = group.command(name, cls=Verb, example=example, exit_codes=exit_codes)(option(function))
        assert isinstance(command, Verb)
        return command

    return wrap


def directory_option(function: _F) -> _F:
    """--directory: where `perdure up` keeps its things."""
    return click.option(
        "--directory",
        type=DIRECTORY,
        envvar="PERDURE_DIRECTORY",
        default=lambda: Path(_DEFAULT_DIRECTORY).expanduser(),
        show_default=f"$PERDURE_DIRECTORY, else {_DEFAULT_DIRECTORY}",
        help="Where `perdure up` keeps its things.",
    )(function)


def config_options(function: _F) -> _F:
    """--config or --directory; `find_config` makes of both what was meant."""
    return click.option(
        "--config", "config_file", type=FILE, help=f"The configuration file (default: {config.NAME} in --directory)."
    )(directory_option(function))


def find_config(config_file: Path | None, directory: Path) -> Config:
    """The configuration that the options name. Raises Misuse."""
    return config.load(directory / config.NAME if config_file is None else config_file)


def complete_seat(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The seats of the configuration that the line names so far, each with its address; none where there is none."""
    del param
    directory = ctx.params.get("directory") or Path(_DEFAULT_DIRECTORY).expanduser()
    try:
        found = find_config(ctx.params.get("config_file"), directory)
    except Misuse:
        return []  # a shell that completes has nowhere to say why not
    seats = ((str(seat), address) for seat, address in enumerate(found.addresses))
    return [CompletionItem(seat, help=address) for seat, address in seats if seat.startswith(incomplete)]


def absolute(path: Path) -> Path:
    """The same file by a name that does not depend on the current directory; links are not followed."""
    return Path(os.path.abspath(path))


class Size(click.ParamType[str]):
    """Bytes, or with K, M, G, T; the value stays as written."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what is no size."""
        try:
            config.parse_size(str(value))
        except Misuse as error:
            self.fail(str(error), param, ctx)
        return str(value)
