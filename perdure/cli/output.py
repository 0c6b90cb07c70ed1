"""What the command line prints: one JSON object with --json, else text; progress only on a terminal's stderr."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import click
from rich.console import Console

from perdure.cli import scan
from perdure.service.status import ArrayStatus, DiskState, DiskStatus, State

_TELLING: Final = {"sev-snp": "measurement", "tdx": "rtmr2", "tpm": "pcr9", "nitrotpm": "pcr4"}
_MEASUREMENT_CHARS: Final = 12
_DISK_LABEL_CHARS = 16


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


def human_size(size_bytes: int) -> str:
    """`256 MiB`, or bytes where that would not be exact."""
    for unit, power in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size_bytes >= 1 << power and size_bytes % (1 << power) == 0:
            return f"{size_bytes >> power} {unit}"
    return f"{size_bytes} bytes"


# Status, in the layout of `zpool status` ------------------------------------------------------------------


def status_text(status: ArrayStatus) -> str:
    """The status for people."""
    lines = [
        f"  array: {status.array_id}",
        f"  state: {status.state.upper()} {status.summary}",
        f" status: {_what_is(status)}",
        f" action: {status.action}",
        f"   size: {human_size(status.size_bytes)}; any {status.k} of {status.n} disks hold it, "
        f"{_count(status.losses_survived, 'more disk')} may be lost",
        f"    nbd: {status.nbd_uri}",
        f"   acknowledgements: {_acknowledgements(status)}",
        *(f"   scan: {scan.line(repair)}" for repair in status.repairs),
        "config:",
        "",
        f"        {'SEAT':4}  {'DISK':16}  {'STATE':10} {'READ':>5} {'WRITE':>5} {'CKSUM':>5}  {'EVIDENCE':12}  "
        f"{'PLATFORM':9}  {'MEASUREMENT':17}  ADDRESS",
        *(_disk_line(disk) for disk in status.disks),
        "",
        f" errors: {_errors(status)}",
    ]
    lines += [f" seat {disk.seat}: {disk.reason}" for disk in status.disks if disk.reason]
    lines += [f"  stray: {stray['address']}: {stray['reason']}" for stray in status.strays]
    return "\n".join(lines)


def _what_is(status: ArrayStatus) -> str:
    if status.failure is not None:
        return f"The array has stopped. {status.failure['message']}"
    if status.state is State.SUSPENDED:
        return f"Suspended: fewer than {status.k} disks answer, and all requests wait for them."
    bad = [f"seat {disk.seat} is {disk.state}" for disk in status.disks if disk.state is not DiskState.ONLINE]
    return f"Serving, without full redundancy: {', '.join(bad)}." if bad else "Serving; every disk is in its seat."


def _acknowledgements(status: ArrayStatus) -> str:
    age = "" if status.evidence_age_ms is None else f"; last evidence of every disk {_seconds(status.evidence_age_ms)}"
    if status.exposure is None:
        return f"{status.acknowledgements}: every FLUSH rests on the hardware's evidence{age}"
    limits = status.exposure
    return (
        f"{status.acknowledgements} (weaker: whoever knows a disk's secret can forge up to {limits['ms'] / 1000:g} s, "
        f"{limits['commands']} commands or {limits['entries']} journal entries, whichever comes first){age}"
    )


def _seconds(age_ms: int) -> str:
    return f"{age_ms / 1000:.1f} s ago"


def _disk_line(disk: DiskStatus) -> str:
    name = "-" if disk.instance is None else disk.instance[:_DISK_LABEL_CHARS]
    evidence = "-"
    if disk.evidence_age_ms is not None:
        evidence = _seconds(disk.evidence_age_ms)
    counts = " ".join(f"{disk.errors[kind]:5}" for kind in ("read", "write", "checksum"))
    state = disk.state.upper()
    runs = f"{disk.platform or '-':9}  {_measurement(disk):17}"
    return f"        {disk.seat:4}  {name:16}  {state:10} {counts}  {evidence:12}  {runs}  {disk.address or '-'}"


def _measurement(disk: DiskStatus) -> str:
    """The register that tells most of what runs, and the start of its value; `--json` has all of all."""
    name = _TELLING.get(disk.platform or "", "pcr0")
    value = (disk.measurement or {}).get(name)
    return "-" if value is None else f"{name} {value[:_MEASUREMENT_CHARS]}"


def _errors(status: ArrayStatus) -> str:
    total = sum(sum(disk.errors.values()) for disk in status.disks)
    return (
        "No known data errors"
        if not total
        else f"{_count(total, 'error')} on disks; what was read was right all the same"
    )


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


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
