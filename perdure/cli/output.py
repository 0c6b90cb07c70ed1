"""What the command line prints: one JSON object with --json, else text; progress only on a terminal's stderr."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import click
from rich.console import Console


def result(value: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print a verb's result on standard output in the form that was asked for."""
    click.echo(json.dumps(value, indent=2) if as_json else text)


def note(text: str) -> None:
    """One line for people, on standard error."""
    click.echo(text, err=True)


@contextmanager
def progress(text: str) -> Iterator[None]:
    """Show that something is under way: a spinner on a terminal, one plain line elsewhere."""
    if sys.stderr.isatty():
        with Console(stderr=True).status(text):
            yield
    else:
        note(text)
        yield


def plain(text: str) -> str:
    """`text` with whatever could move a cursor or change a terminal made visible as a question mark."""
    return "".join(one if one.isprintable() else "?" for one in text)


def human_size(size_bytes: int) -> str:
    """`256 MiB`, or bytes where that would not be exact."""
    for unit, power in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size_bytes >= 1 << power and size_bytes % (1 << power) == 0:
            return f"{size_bytes >> power} {unit}"
    return f"{size_bytes} bytes"


# Lines to paste -------------------------------------------------------------------------------------------


def client_lines(uri: str, mount_point: str) -> dict[str, str]:
    """Commands, each complete, that use the served disk; by the name of the program."""
    quoted, parts = shlex.quote(uri), urlsplit(uri)
    export = shlex.quote(unquote(parts.path.lstrip("/")))
    if parts.scheme == "nbd+unix":
        where = f"-unix {shlex.quote(parse_qs(parts.query)['socket'][0])}"
    else:
        where = f"{parts.hostname} {parts.port}"
    mount = shlex.quote(mount_point)
    return {
        "nbdinfo": f"nbdinfo {quoted}",
        "qemu-img": f"qemu-img info {quoted}",
        "nbdfuse": f"mkdir -p {mount} && nbdfuse {mount}/disk {quoted}",
        "nbd-client": f"nbd-client {where} /dev/nbd0 -name {export}",
    }


def client_text(uri: str, mount_point: str) -> str:
    """The same for people."""
    lines = client_lines(uri, mount_point).values()
    return "Use it as a disk with any of these (nbdfuse shows it as a file, nbd-client as /dev/nbd0):\n" + "\n".join(
        f"  {line}" for line in lines
    )
