"""`erase`: wipe a range from every disk and journal, and keep the receipt that shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from perdure.cli import output, scan
from perdure.cli.options import FILE, Size, absolute, config_options, find_config, verb
from perdure.service.control import ask
from perdure.service.site import background, config

ERASE_S_MAX: Final = 3600.0


def register(cli: click.Group) -> None:
    """Add the verb to the command line."""

    @verb(cli, "erase", "perdure erase --offset 1G --length 64K -o receipt.json")
    @click.option("--offset", required=True, type=Size(), help="Where it begins: bytes, or with K, M, G, T.")
    @click.option("--length", required=True, type=Size(), help="How much: whole sectors of 4096 bytes.")
    @click.option("-o", "--output", "output_file", required=True, type=FILE, help="A new file, for the receipt.")
    @config_options
    def erase(
        offset: str, length: str, output_file: Path, config_file: Path | None, directory: Path, as_json: bool
    ) -> int:
        """Erase a range for good: no live disk, journal or buffer holds what it held, and a receipt proves it.

        Exit code 1, too, if disks that left the array, kept running together, could bring it back.
        """
        found = find_config(config_file, directory)
        request = {"offset": config.parse_size(offset), "length": config.parse_size(length)}
        with output.progress("erasing, until every disk has proved it"):
            value = ask(
                found.serve.control, "erase", timeout_s=ERASE_S_MAX, **request, receipt=str(absolute(output_file))
            )
        output.result(value, _text(value), as_json=as_json)
        return background.status(found).exit_code or (0 if value["is_beyond_recall"] else 1)


def _text(value: dict[str, Any]) -> str:
    seats = ", ".join(str(witness["seat"]) for witness in value["witnesses"])
    what = f"{scan.amount(value['length'])} from byte {value['offset']}"
    text = (
        f"Erased {what}. The disks in seats {seats} proved that they hold nothing of it; the receipt is in "
        f"{value['receipt']}."
    )
    if not value["exposed_seats"]:
        return text
    exposed = ", ".join(str(seat) for seat in value["exposed_seats"])
    left = f"Disks that left the array may still hold fragments of it, of seats {exposed}:"
    if value["is_beyond_recall"]:
        return f"{text} {left} too few to bring it back."
    return f"{text} {left} ENOUGH TO BRING IT BACK, if their hosts kept them running. End those disks."
