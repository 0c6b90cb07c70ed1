"""`up` and `down`: an array of simulated disks on this machine, by one command each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from perdure.cli import layout, output
from perdure.cli.options import Size, absolute, directory_option, verb
from perdure.errors import Misuse
from perdure.service.mounting import record
from perdure.service.site import artefacts, background, config, local, processes, template
from perdure.service.site.config import Acknowledgements, Config, Sealing
from perdure.service.site.local import Wish
from perdure.service.status import ArrayStatus, DiskState

SIZE, DISKS, THRESHOLD, LISTEN, DEAD_AFTER_MS = "256M", 5, 3, "unix:nbd.sock", 10_000


def register(cli: click.Group) -> None:
    """Add the verbs to the command line."""

    @verb(cli, "up", "perdure up --size 1G --disks 5 --threshold 3 --nbd tcp:127.0.0.1:10809")
    @directory_option
    @click.option("--size", type=Size(), help=f"The size of a new array: bytes, or with K, M, G, T.  [default: {SIZE}]")
    @click.option("--disks", type=click.IntRange(2, 16), help=f"How many disks (n).  [default: {DISKS}]")
    @click.option(
        "--threshold", type=click.IntRange(1, 16), help=f"How many must be there (k).  [default: {THRESHOLD}]"
    )
    @click.option("--nbd", metavar="ADDRESS", help=f"unix:PATH or tcp:HOST:PORT to serve at.  [default: {LISTEN}]")
    @click.option(
        "--dead-after-ms", type=click.IntRange(1), help=f"A disk's silence allowed.  [default: {DEAD_AFTER_MS}]"
    )
    @click.option(
        "--acknowledgements",
        type=click.Choice([str(one) for one in Acknowledgements]),
        help="What a FLUSH of a new array rests on; chains are faster, and weaker.  [default: evidence]",
    )
    @click.option(
        "--sealing",
        type=click.Choice([str(one) for one in Sealing]),
        help="`none`: hosts read a new array; only for what encrypts above, such as LUKS.  [default: perdure]",
    )
    @click.option("--spares", type=click.IntRange(0, 16), help="Blank disks that take a dead one's seat by themselves.")
    @click.option("--http", metavar="HOST:PORT", help="Where a new array shows its page and its metrics.")
    @click.option("--evidence-latency-ms", type=click.FloatRange(0, 60_000), help="What each evidence shall take.")
    def up(directory: Path, as_json: bool, evidence_latency_ms: float | None, **given: Any) -> int:  # noqa: ANN401
        """Serve an array of simulated disks on this machine; create it on first use.

        The disks hold the data in RAM and outlive the main program. Given again, this finds them and mounts the same
        array. It never replaces an array that exists by a new one.
        """
        directory = absolute(directory)
        with processes.locked(directory):
            found = _configuration(directory, given)
            is_new = found.array.array_id is None
            if is_new:
                found = _create(found, evidence_latency_ms or 0.0)
            elif evidence_latency_ms is not None:
                output.note("note: --evidence-latency-ms has no effect: the disks run already.")
            local.require_enough(found)
            status = _mounted(found)
        return _show(status, directory, is_new=is_new, as_json=as_json)

    @verb(cli, "down", "perdure down\nperdure down --destroy")
    @directory_option
    @click.option("--destroy", is_flag=True, help="End the disks too and remove everything: the DATA IS GONE then.")
    def down(directory: Path, destroy: bool, as_json: bool) -> int:
        """Stop the main program cleanly; the disks, which are the data, go on."""
        directory = absolute(directory)
        if not directory.exists():
            raise Misuse(f"There is nothing in {directory}: no array was made there; nothing was changed.")
        record.require_none_at_work(directory)
        with processes.locked(directory):
            return _destroy(directory, as_json=as_json) if destroy else _down(directory, as_json=as_json)


# Up -------------------------------------------------------------------------------------------------------


def _configuration(directory: Path, given: dict[str, Any]) -> Config:
    """The directory's configuration, written if there is none; what was asked for must fit to one that is there."""
    path = directory / config.NAME
    if not path.exists():
        if artefacts.read_record(directory) is not None:
            raise Misuse(
                f"{directory} has an array but no {config.NAME}; nothing was changed and no new array was made. Bring "
                "the file back, or give the array up with `perdure down --destroy`."
            )
        local.prepare(
            directory,
            Wish(
                size=given["size"] or SIZE,
                disks=given["disks"] or DISKS,
                threshold=given["threshold"] or THRESHOLD,
                listen=given["nbd"] or LISTEN,
                dead_after_ms=given["dead_after_ms"] or DEAD_AFTER_MS,
                acknowledgements=Acknowledgements(given["acknowledgements"] or Acknowledgements.EVIDENCE),
                spares=given["spares"] or 0,
                http=given["http"],
                sealing=Sealing(given["sealing"] or Sealing.PERDURE),
            ),
        )
        return config.load(path)
    found = _with_recorded_id(config.load(path))
    if not local.is_local(found):
        raise Misuse(
            f"{path} is about disks that `perdure up` did not start; nothing was changed. Use `perdure import` for "
            "them, or another --directory."
        )
    _require_fit(found, given)
    return _moved(found, given["nbd"])


def _with_recorded_id(found: Config) -> Config:
    """A crash may have come between the two files that `create` writes."""
    record = artefacts.read_record(found.directory)
    if record is None or found.array.array_id is not None:
        return found
    return _edited(found, "array", "id", record.array_id)


def _edited(found: Config, table: str, key: str, value: str) -> Config:
    text = template.with_value(found.path.read_text(), table, key, value)
    config.parse(text.encode(), found.path)
    artefacts.write_atomic(found.path, text.encode())
    return config.load(found.path)


def _require_fit(found: Config, given: dict[str, Any]) -> None:
    size = None if given["size"] is None else config.parse_size(given["size"])
    asked = {"--disks": given["disks"], "--threshold": given["threshold"], "--size": size}
    asked |= {"--dead-after-ms": given["dead_after_ms"], "--acknowledgements": given["acknowledgements"]}
    shape = found.array
    serve = found.serve
    asked |= {"--spares": given["spares"], "--http": given["http"], "--sealing": given["sealing"]}
    has: tuple[object, ...] = (shape.disks, shape.threshold, shape.size_bytes)
    has += (serve.dead_after_ms, serve.acknowledgements, len(found.spares), serve.http, shape.sealing)
    for (option, wanted), value in zip(asked.items(), has, strict=True):
        if wanted is not None and wanted != value:
            raise Misuse(
                f"{found.directory} already has {value} for {option}, not {wanted}; nothing was changed. Leave the "
                "option out, or use another --directory for another array."
            )


def _moved(found: Config, listen: str | None) -> Config:
    """NBD may be served elsewhere than last time, but not while it is served."""
    if listen is None or config.absolute_address(listen, found.directory) == found.serve.listen:
        return found
    if background.running(found) is not None:
        raise Misuse(
            f"The array is served at {found.serve.listen} already; nothing was changed. To serve it at {listen}, run "
            "`perdure down` first."
        )
    return _edited(found, "serve", "listen", listen)


def _create(found: Config, evidence_latency_ms: float) -> Config:
    from perdure.service.creation import create_array  # noqa: PLC0415  (loads the array code)

    with output.progress(f"starting {found.array.disks} simulated disks"):
        local.start_disks(found, evidence_latency_ms)
    with output.progress("creating the array"):
        return create_array(found)


def _mounted(found: Config) -> ArrayStatus:
    if background.running(found) is not None:
        return background.status(found)
    with output.progress("mounting the array"):
        return background.start(found)


def _show(status: ArrayStatus, directory: Path, *, is_new: bool, as_json: bool) -> int:
    mount_point = str(directory / local.MOUNT_POINT)
    value = {**status.to_json(), "created": is_new, "clients": output.client_lines(status.nbd_uri, mount_point)}
    text = [layout.text(status), ""]
    if is_new:
        text[:0] = [f"A NEW array was created, and it is empty. Its id and key are in {directory}.", ""]
    if status.failure is None:
        text += [output.client_text(status.nbd_uri, mount_point)]
    output.result(value, "\n".join(text), as_json=as_json)
    bad = [f"{disk.seat} ({disk.state})" for disk in status.disks if disk.state is not DiskState.ONLINE]
    if bad and status.failure is None:
        output.note(f"perdure: the array is {status.state}: seat {', '.join(bad)}. {status.action}")
    if status.failure is not None:
        output.note(f"perdure: {status.failure['message']} {status.action}")
    if status.http_error is not None:
        output.note(f"perdure: {status.http_error}")
    return status.exit_code


# Down -----------------------------------------------------------------------------------------------------


def _down(directory: Path, *, as_json: bool) -> int:
    found = config.load(directory / config.NAME)
    with output.progress("flushing and bringing everything home"):
        was_running = background.stop(found)
    running = found.array.disks - len(local.ended_seats(found))
    what = (
        "The main program has stopped; everything written is on the disks." if was_running else "No main program ran."
    )
    text = (
        f"{what} {running} disks go on running: they ARE the data. `perdure up` serves it again; `perdure down "
        "--destroy` ends the disks and the data with them."
    )
    output.result({"stopped": was_running, "disks_running": running, "destroyed": False}, text, as_json=as_json)
    return 0


def _destroy(directory: Path, *, as_json: bool) -> int:
    if (directory / config.NAME).exists() and not (directory / local.IMAGE_FILE).exists():
        raise Misuse(
            f"{directory} is about disks that `perdure up` did not start; nothing was changed. `perdure export` stops "
            "its main program."
        )
    main = processes.find(directory / artefacts.MAIN_PROCESS_FILE)
    if main is not None:
        with output.progress("stopping the main program"):
            main.end(grace_s=local.DISK_END_S)
    with output.progress("ending the disks"):
        ended = local.end_disks(directory)
    left = local.remove_artefacts(directory)
    text = f"Destroyed: {ended} disks ended, and the data and the key are gone."
    if left:
        text += f" Left in {directory}, because Perdure did not make it: {', '.join(left)}."
    value = {"stopped": main is not None, "disks_running": 0, "destroyed": True, "disks_ended": ended, "left": left}
    output.result(value, text, as_json=as_json)
    return 0
