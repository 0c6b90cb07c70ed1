"""Statuses for those who show them: plain values, with every field that a status can have."""

from dataclasses import replace

from perdure.service.status import ArrayStatus, DiskState, DiskStatus, Repair, RepairState, State, Verb
from perdure.shell.meter import Meter

NO_ERRORS = {"read": 0, "write": 0, "checksum": 0}


def meter(*seconds, length=4096, failed=0):
    """What is counted of work that took so long each."""
    made = Meter()
    for one in seconds:
        made.note(one, length)
    made.failed = failed
    return made.to_json()


def disk(seat, state=DiskState.ONLINE, **changes):
    values = {
        "instance": f"{seat:064x}",
        "address": f"tcp:10.0.0.{seat}:7001",
        "state": state,
        "errors": NO_ERRORS,
        "platform": "nitro",
        "root": "aws",
        "measurement": {"pcr0": "ab" * 48, "pcr1": "cd" * 48},
        "module_id": "i-1-enc2",
        "evidence_age_ms": 1500,
        "domain": ("oslo", "paris", "rome")[seat % 3],
        "latency_us": 800,
        "answers": meter(0.0004, 0.003, length=1408),
    }
    return DiskStatus(seat=seat, **{**values, **changes})


def repair(verb=Verb.REPLACE, seat=1, state=RepairState.RUNNING, **changes):
    values = {
        "id": f"{verb}{seat}",
        "address": "tcp:10.0.0.9:7001",
        "total_bytes": 64 << 20,
        "done_bytes": 16 << 20,
        "mended_sectors": 4096,
        "bytes_per_s_max": None,
        "bytes_per_s": 2 << 20,
        "left_s": 24,
        "started_unix_ms": 1_790_000_000_000,
        "duration_ms": 8000,
    }
    return Repair(verb=verb, seat=seat, state=state, **{**values, **changes})


def whole(*states, **changes):
    """A status of five disks, all online unless told otherwise."""
    given = (*states, *[DiskState.ONLINE] * (5 - len(states)))
    disks = tuple(disk(seat, state) for seat, state in enumerate(given))
    values = {
        "array_id": "ab" * 32,
        "state": State.ONLINE,
        "k": 3,
        "n": 5,
        "size_bytes": 64 << 20,
        "disks": disks,
        "losses_survived": 2,
        "summary": "[UUUUU]",
        "roster_version": f"{3:016x}{7:016x}.2",
        "dirty_sectors": 5,
        "tags_known": 1024,
        "journal_last": 77,
        "strays": (),
        "nbd_uri": "nbd+unix:///perdure?socket=/x/nbd.sock",
        "action": "None is needed.",
        "failure": None,
        "exit_code": 0,
        "evidence_age_ms": 1500,
        "name": "node",
        "uptime_ms": 60_000,
        "requests": {
            "read": meter(0.0001, 0.002, 0.002, failed=1),
            "write": meter(0.00004),
            "flush": meter(0.011, 0.3, length=0),
            "trim": meter(),
        },
        "evidence": meter(0.0003, 0.0004, length=5000, failed=2),
        "events_last": 12,
        "scrubbed_unix_ms": 1_790_000_000_000,
    }
    return ArrayStatus(**{**values, **changes})


def with_disk(status, seat, **changes):
    """The same with one disk changed."""
    disks = list(status.disks)
    disks[seat] = replace(disks[seat], **changes)
    return replace(status, disks=tuple(disks))
