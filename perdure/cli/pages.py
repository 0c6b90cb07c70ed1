"""`python -m perdure.cli.pages docs/cli`: a page for each verb in Markdown, and an index, made from the verbs.

What `--help` says is the one source: a page is never edited. A test compares the folder with what this makes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import click

from perdure.cli.main import cli
from perdure.cli.options import Verb

MARK: Final = "<!-- Made by `make docs` from the program's own help; not to be edited. -->"
INDEX: Final = "README.md"
PROGRAM: Final = "perdure"
TOPICS: Final = (
    ("An array of simulated disks on this machine", ("up", "down")),
    ("An array", ("create", "import", "export", "serve", "run", "upgrade")),
    ("How it is", ("status", "list", "top", "iostat", "events", "history")),
    ("Repair", ("replace", "rejoin", "scrub", "verify", "offline", "online", "clear")),
    ("Erasing", ("erase", "evidence verify-receipt")),
    ("Keys", ("key new", "key derive", "key show", "key passphrase")),
    ("Disks and their images", ("key new", "image fetch", "image build", "image measure", "disk run", "disk relay")),
    ("Evidence", ("evidence ask", "evidence verify", "evidence merge-policies", "evidence verify-receipt")),
    (
        "The main program, signed",
        (
            "manifest developers",
            "manifest new",
            "manifest show",
            "manifest diff",
            "manifest sign",
            "manifest verify",
        ),
    ),
    ("Lightning nodes", ("vss serve", "cln plugin", "cln take", "cln restore")),
    ("Trying and examining", ("doctor", "simulate", "completion")),
)
"""What belongs together; a verb may be in two. One that is in none is shown at the end."""
OTHERS: Final = "More"
OF_AN_ARRAY: Final = {
    0: "healthy",
    1: "degraded: everything flushed is safe, with less redundancy",
    2: "unusable, or a mistake; the sentence says what is still safe",
    3: "evidence of rollback or cloning",
}
OF_A_TOOL: Final = {
    0: "done",
    2: "it could not be done, or a mistake; the sentence says what is still safe",
    3: "evidence of rollback or cloning",
}
Verbs = Mapping[str, Verb]


def verbs(group: click.Group = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Verb]]:
    """Every verb by its whole name, such as `evidence ask`, in the order in which help lists them."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from verbs(command, (*path, name))
        elif isinstance(command, Verb) and not command.hidden:
            yield " ".join((*path, name)), command


def pages() -> dict[str, str]:
    """The text of every page, by the name of its file."""
    all_verbs = dict(verbs())
    made = {file_name(name): _page(name, command, all_verbs) for name, command in all_verbs.items()}
    return {INDEX: _index(all_verbs), **made}


def file_name(name: str) -> str:
    """`evidence-ask.md`."""
    return f"{name.replace(' ', '-')}.md"


def write(folder: Path) -> None:
    """Write all pages; one that was made for a verb that is no more goes."""
    folder.mkdir(parents=True, exist_ok=True)
    made = pages()
    for name, text in made.items():
        (folder / name).write_text(text)
    for old in folder.glob("*.md"):
        if old.name not in made and old.read_text().startswith(MARK):
            old.unlink()


# One page -------------------------------------------------------------------------------------------------


def _page(name: str, command: Verb, all_verbs: Verbs) -> str:
    context = click.Context(command, click.Context(cli, info_name=PROGRAM, **cli.context_settings), info_name=name)
    first, *rest = _paragraphs(command.help or "")
    usage = " ".join([PROGRAM, name, *command.collect_usage_pieces(context)])
    sections = {
        "NAME": f"`{PROGRAM} {name}` - {first[:1].lower()}{first[1:].rstrip('.')}",
        "SYNOPSIS": f"    {usage}",
        "DESCRIPTION": "\n\n".join([first, *rest]),
        "OPTIONS": "\n".join(_options(command, context)),
        "EXIT CODES": "\n".join(_exit_codes(command)),
        "EXAMPLE": "\n".join(f"    {line}" for line in command.example.splitlines()),
        "SEE ALSO": ", ".join([*(_link(other) for other in related(name, command, all_verbs)), f"[index]({INDEX})"]),
    }
    return (
        "\n\n".join([MARK, f"# {PROGRAM} {name}", *(f"## {head}\n\n{text}" for head, text in sections.items())]) + "\n"
    )


def _paragraphs(text: str) -> list[str]:
    """As click shows them: a paragraph's lines are one."""
    return [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]


def _options(command: Verb, context: click.Context) -> Iterator[str]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record is not None:
            names, text = record
            yield f"- `{names}`: {' '.join(text.split())}"


def _exit_codes(command: Verb) -> Iterator[str]:
    has_array = any(parameter.name == "directory" for parameter in command.params)
    codes = command.exit_codes or (OF_AN_ARRAY if has_array else OF_A_TOOL)
    yield "| code | meaning |"
    yield "|---:|---|"
    for code, meaning in codes.items():
        yield f"| {code} | {meaning} |"


def related(name: str, command: Verb, all_verbs: Verbs) -> list[str]:
    """The verbs that its help names, and those of its topics."""
    mentioned = re.findall(rf"`{PROGRAM} ([a-z- ]+?)[` A-Z]", command.help or "")
    near = [other for _, group in TOPICS if name in group for other in group]
    return [other for other in dict.fromkeys([*mentioned, *near]) if other != name and other in all_verbs]


def _link(name: str) -> str:
    return f"[{PROGRAM} {name}]({file_name(name)})"


# The index ------------------------------------------------------------------------------------------------


def _index(all_verbs: Verbs) -> str:
    lines = [MARK, "", "# Perdure: the command line", "", *_preface()]
    placed = {name for _, group in TOPICS for name in group}
    others = (OTHERS, tuple(name for name in all_verbs if name not in placed))
    for title, group in (*TOPICS, others):
        lines += _topic(title, [(name, all_verbs[name]) for name in group if name in all_verbs])
    return "\n".join(lines) + "\n"


def _preface() -> Iterator[str]:
    yield "Every verb has `--help` with an example, and `--json`, which prints one object on standard output. An error"
    yield "is one sentence on standard error, and with `--json` an object too. Where a verb says nothing else, exit"
    yield "codes are:"
    yield ""
    yield from (f"- {code}: {meaning}" for code, meaning in OF_AN_ARRAY.items())
    yield "- 130: interrupted; what was flushed is safe, and the same command can be given again"


def _topic(title: str, found: Sequence[tuple[str, Verb]]) -> Iterator[str]:
    if found:
        yield from ("", f"## {title}", "")
        for name, command in found:
            yield f"- {_link(name)}: {_paragraphs(command.help or '')[0]}"


if __name__ == "__main__":
    write(Path(sys.argv[1]))
