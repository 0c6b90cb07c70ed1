"""`events`, `history`: what happened to an array, as the array itself remembers it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from perdure.array.commands import parse_reply, recorded_hello
from perdure.cli import output
from perdure.cli.options import config_options, find_config, verb
from perdure.errors import PerdureError, Unavailable, error_to_json
from perdure.evidence.verifier import Verifier, stated_time_ms
from perdure.service.control import ask
from perdure.service.site import artefacts
from perdure.service.site.config import Config
from perdure.service.telling.events import Entry, Event, Kind, Level
from perdure.service.telling.unkept import Unkept

POLL_S: Final = 0.5
_NOT_KEPT: Final = (
    f"The newest of these events are not kept in the array. They stand with their evidence in {artefacts.UNKEPT_FILE} "
    "beside the configuration, from where the next main program takes them. Why:"
)
_OF_THE_LAST: Final = (
    "The main program does not run. These are the events that the last one could not keep in the array; the next takes "
    f"them from {artefacts.UNKEPT_FILE}."
)
_COLOURS: Final = {Level.INFO: None, Level.WARNING: "yellow", Level.CRITICAL: "red"}


def register(cli: click.Group) -> None:
    """Add the verbs to the command line."""

    @verb(cli, "events", "perdure events\nperdure events -f --json\nperdure events --evidence 17")
    @click.option("-f", "--follow", is_flag=True, help="Go on, and show each event as it happens.")
    @click.option("--since", type=click.IntRange(0), default=0, metavar="NUMBER", help="Only those after this one.")
    @click.option(
        "--evidence", type=click.IntRange(1), metavar="NUMBER", help="Judge the evidence of this one instead."
    )
    @config_options
    def events(
        follow: bool, since: int, evidence: int | None, config_file: Path | None, directory: Path, as_json: bool
    ) -> int:
        """Show every change of state of the array, its disks and repairs, with who asked for what.

        They are kept in the array, so no host can change or remove one; the oldest make room. With -f and --json, one
        object a line.
        """
        found = find_config(config_file, directory)
        if evidence is not None:
            return _evidence(found, evidence, as_json=as_json)
        return _show(found, since, follow=follow, as_json=as_json, kinds=tuple(Kind))

    @verb(cli, "history", "perdure history")
    @config_options
    def history(config_file: Path | None, directory: Path, as_json: bool) -> int:
        """Show what the main program was asked for and refused, and when it began and ended."""
        found = find_config(config_file, directory)
        return _show(found, 0, follow=False, as_json=as_json, kinds=(Kind.COMMAND, Kind.ERASE, Kind.ARRAY))


def _show(found: Config, since: int, *, follow: bool, as_json: bool, kinds: tuple[Kind, ...]) -> int:
    wanted = (event for event in _stream(found, since, follow=follow) if event.kind in kinds)
    if as_json and not follow:
        click.echo(json.dumps({"events": [event.to_json() for event in wanted]}, indent=2))
        return 0
    for event in wanted:
        click.echo(json.dumps(event.to_json()) if as_json else line(event))
    return 0


def _stream(found: Config, since: int, *, follow: bool) -> Iterator[Event]:
    """The events after `since`; with `follow` without an end. That they are not kept any more is said once."""
    not_kept = None
    while True:
        answer = _answer(found, since)
        if answer["not_kept"] != not_kept:
            not_kept = answer["not_kept"]
            output.note(f"{_NOT_KEPT} {not_kept}")
        some = [Event.from_json(value) for value in answer["events"]]
        yield from some
        if some:
            since = some[-1].number
        elif follow:
            time.sleep(POLL_S)
        else:
            return


def _answer(found: Config, since: int) -> dict[str, Any]:
    """What the main program says, or else what the last one could not keep in the array. Raises Unavailable."""
    try:
        return ask(found.serve.control, "events", since=since)
    except Unavailable:
        left = _left(found)
        if not left:
            raise
    output.note(_OF_THE_LAST)
    return {"events": [event.to_json() for event, _ in left if event.number > since], "not_kept": None}


def _left(found: Config) -> Sequence[Entry]:
    path, array_id = found.directory / artefacts.UNKEPT_FILE, found.array.array_id
    return [] if array_id is None else Unkept(path, array_id.hex()).read()


def line(event: Event) -> str:
    """One event for people."""
    when = datetime.fromtimestamp(event.unix_ms / 1000, UTC)
    level = click.style(f"{event.level:8}", fg=_COLOURS[event.level], bold=event.level is Level.CRITICAL)
    proof = " [evidence]" if event.evidence_seats else ""
    return (
        f"{event.number:6}  {when:%Y-%m-%d %H:%M:%S} UTC  {level}  {event.kind:7}  {output.plain(event.message)}{proof}"
    )


# Evidence -------------------------------------------------------------------------------------------------


def _evidence(found: Config, number: int, *, as_json: bool) -> int:
    """Judge what is attached to an event by the array's policy, as of the time that the evidence states."""
    value = _event(found, number)
    proofs = value.pop("evidence")
    verifier = Verifier(artefacts.read_policy(found.array.policy_file))
    judged = [_judged(verifier, proof, value["unix_ms"]) for proof in proofs]
    lines = [line(Event.from_json(value)), *(_sentence(one) for one in judged)]
    if not judged:
        lines.append("No evidence is attached to it: silence has none, and what an operator asks for neither.")
    shown = {"event": value, "evidence": [{**proof, **one} for proof, one in zip(proofs, judged, strict=True)]}
    output.result(shown, "\n".join(lines), as_json=as_json)
    return max((one["error"]["exit_code"] for one in judged if one["error"] is not None), default=0)


def _event(found: Config, number: int) -> dict[str, Any]:
    try:
        return ask(found.serve.control, "event", number=number)
    except Unavailable:
        for event, attached in _left(found):
            if event.number == number:
                return {**event.to_json(), "evidence": [one.to_json() for one in attached]}
        raise


def _judged(verifier: Verifier, proof: Mapping[str, Any], event_ms: int) -> dict[str, Any]:
    report: dict[str, Any] = {"seat": proof["seat"], "error": None}
    try:
        command = recorded_hello(bytes.fromhex(proof["question"]))
        answer = parse_reply(command, memoryview(bytes.fromhex(proof["answer"])))
        assert answer.commitment is not None, "a HELLO has a nonce"
        at_ms = stated_time_ms(answer.document) or event_ms
        verified = verifier.verify(answer.document, answer.commitment, at_ms)
    except PerdureError as error:
        return {**report, "error": error_to_json(error)}
    return {
        **report,
        "instance": answer.instance.hex(),
        "epoch": answer.epoch.hex(),
        "carried_out": answer.seq,
        "platform": str(verified.platform),
        "root": verified.root,
        "module_id": verified.module_id,
        "time_ms": verified.time_ms,
    }


def _sentence(judged: Mapping[str, Any]) -> str:
    if judged["error"] is not None:
        return f"  seat {judged['seat']}: the evidence does not hold: {output.plain(judged['error']['message'])}"
    launch = output.plain(judged["module_id"])
    return (
        f"  seat {judged['seat']}: {judged['platform']} hardware ({launch}) proves that instance "
        f"{judged['instance'][:16]} answered, at epoch {judged['epoch'][:16]}, after {judged['carried_out']} commands"
    )
