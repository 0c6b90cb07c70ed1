"""The status of an array for people, in the layout of `zpool status`, with the line of /proc/mdstat."""

from __future__ import annotations

from typing import Final

import click

from perdure.cli import scan
from perdure.cli.output import human_size
from perdure.service.status import ArrayStatus, DiskState, DiskStatus, State

_TELLING: Final = {"sev-snp": "measurement", "tdx": "rtmr2", "tpm": "pcr9", "nitrotpm": "pcr4"}
_MEASUREMENT_CHARS: Final = 12
_DISK_LABEL_CHARS: Final = 16
IN_THE_CLEAR: Final = "sealing: NONE; hosts read whatever is not encrypted above the array"
_HEALTHY: Final = "all arrays are healthy"
_COLOURS: Final = {DiskState.ONLINE: "green", DiskState.REBUILDING: "cyan", DiskState.SUSPECT: "yellow"}


def is_healthy(status: ArrayStatus) -> bool:
    """Whether there is nothing that an operator must know: what `status -x` leaves out."""
    has_errors = any(sum(disk.errors.values()) for disk in status.disks)
    return status.exit_code == 0 and status.http_error is None and not has_errors


def brief_text(status: ArrayStatus) -> str:
    """`status -x`: everything about an array with trouble, else one line."""
    return _HEALTHY if is_healthy(status) else text(status)


def text(status: ArrayStatus, *, is_verbose: bool = False) -> str:
    """The whole status; `is_verbose` adds what each disk's last evidence shows, in full."""
    lines = [
        *_alarm(status),
        f"  array: {status.name}  {status.array_id}" if status.name else f"  array: {status.array_id}",
        f"  state: {_state(status)} {status.summary}",
        f" status: {_what_is(status)}",
        f" action: {status.action}",
        f"   size: {human_size(status.size_bytes)}; any {status.k} of {status.n} disks hold it, "
        f"{count(status.losses_survived, 'more disk')} may be lost",
        f"    nbd: {status.nbd_uri}",
        *_page(status),
        f"   acknowledgements: {_acknowledgements(status)}",
        *([] if status.is_sealed else [f"   {IN_THE_CLEAR}"]),
        *(f"   scan: {scan.line(repair)}" for repair in status.repairs),
        *([] if status.repairs else ["   scan: none requested"]),
        "config:",
        "",
        f"        {'SEAT':4}  {'DISK':16}  {'STATE':10} {'READ':>5} {'WRITE':>5} {'CKSUM':>5}  {'EVIDENCE':12}  "
        f"{'LATENCY':>9}  {'DOMAIN':12}  {'PLATFORM':9}  {'MEASUREMENT':17}  ADDRESS",
        *(_disk_line(disk) for disk in status.disks),
        *(f"        spare  {spare}" for spare in status.spares),
        "",
        f" errors: {_errors(status)}",
    ]
    lines += [f" seat {disk.seat}: {disk.reason}" for disk in status.disks if disk.reason]
    lines += [f"  stray: {stray['address']}: {stray['reason']}" for stray in status.strays]
    if is_verbose:
        lines += [line for disk in status.disks for line in _in_full(disk)]
    return "\n".join(lines)


def _alarm(status: ArrayStatus) -> list[str]:
    """What must not be overlooked."""
    forked = [disk for disk in status.disks if disk.is_fork]
    lines = [f"seat {disk.seat} ({disk.address}): {disk.state.upper()}" for disk in forked]
    if status.state in (State.FORKED, State.FENCED):
        lines.insert(0, f"the array is {status.state.upper()}")
    if not lines:
        return []
    return [
        click.style(f"!!! EVIDENCE OF ROLLBACK, CLONING OR A SECOND OWNER: {'; '.join(lines)} !!!", fg="red", bold=True)
    ]


def _state(status: ArrayStatus) -> str:
    colour = {0: "green", 1: "yellow"}.get(status.exit_code, "red")
    return click.style(status.state.upper(), fg=colour, bold=colour == "red" or None)


def _what_is(status: ArrayStatus) -> str:
    if status.failure is not None:
        return f"The array has stopped. {status.failure['message']}"
    bad = [f"seat {disk.seat} is {disk.state}" for disk in status.disks if disk.state is not DiskState.ONLINE]
    if status.state is State.SUSPENDED:
        return f"Suspended: fewer than {status.k} disks answer, and all requests wait for them: {', '.join(bad)}."
    return f"Serving, without full redundancy: {', '.join(bad)}." if bad else "Serving; every disk is in its seat."


def _page(status: ArrayStatus) -> list[str]:
    if status.http_error is not None:
        return [f"   page: {click.style('NOT SERVED', fg='yellow')}. {status.http_error}"]
    return [] if status.http_url is None else [f"   page: {status.http_url}"]


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
    evidence = "-" if disk.evidence_age_ms is None else _seconds(disk.evidence_age_ms)
    latency = "-" if disk.latency_us is None else f"{disk.latency_us / 1000:.2f} ms"
    counts = " ".join(f"{disk.errors[kind]:5}" for kind in ("read", "write", "checksum"))
    state = f"{disk.state.upper():10}"
    state = (
        click.style(state, fg="red", bold=True)
        if disk.is_fork
        else click.style(state, fg=_COLOURS.get(disk.state, "red"))
    )
    runs = f"{disk.platform or '-':9}  {_measurement(disk):17}"
    place = f"{latency:>9}  {(disk.domain or '-')[:12]:12}"
    return f"        {disk.seat:4}  {name:16}  {state} {counts}  {evidence:12}  {place}  {runs}  {disk.address or '-'}"


def _measurement(disk: DiskStatus) -> str:
    """The register that tells most of what runs, and the start of its value; `-v` and `--json` have all of all."""
    name = _TELLING.get(disk.platform or "", "pcr0")
    value = (disk.measurement or {}).get(name)
    return "-" if value is None else f"{name} {value[:_MEASUREMENT_CHARS]}"


def _in_full(disk: DiskStatus) -> list[str]:
    if disk.measurement is None:
        return []
    registers = [f"          {name}: {value}" for name, value in disk.measurement.items()]
    return [
        "",
        f" seat {disk.seat}: instance {disk.instance}",
        f"          launch: {disk.module_id}; vouched for by {disk.root} ({disk.platform})",
        *registers,
    ]


def _errors(status: ArrayStatus) -> str:
    total = sum(sum(disk.errors.values()) for disk in status.disks)
    return (
        "No known data errors"
        if not total
        else f"{count(total, 'error')} on disks; what was read was right all the same"
    )


def count(number: int, what: str) -> str:
    """`1 disk`, `2 disks`."""
    return f"{number} {what}{'' if number == 1 else 's'}"
