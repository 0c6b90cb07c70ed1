"""`completion`: the script that lets a shell complete verbs, options and seats. It is click's own."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from perdure.cli import output
from perdure.cli.options import verb

SHELLS = ("bash", "zsh", "fish")
PROGRAM = "perdure"
VARIABLE = "_PERDURE_COMPLETE"
"""By which the script asks: what click derives from the program's name."""


def register(cli: click.Group) -> None:
    """Add the verb to the command line."""

    @verb(cli, "completion", "perdure completion bash\nperdure completion zsh")
    @click.argument("shell", type=click.Choice(SHELLS))
    def completion(shell: str, as_json: bool) -> int:
        """Print the script that makes SHELL complete what comes after `perdure`.

        Put it where the shell looks: /etc/bash_completion.d/perdure, a file _perdure in a folder of zsh's $fpath, or
        ~/.config/fish/completions/perdure.fish. Seats are completed from the configuration that the line names, or from
        that of `perdure up`.
        """
        kind = get_completion_class(shell)
        assert kind is not None, "click knows all of SHELLS"
        script = kind(cli, {}, PROGRAM, VARIABLE).source()
        output.result({"shell": shell, "script": script}, script.rstrip("\n"), as_json=as_json)
        return 0
