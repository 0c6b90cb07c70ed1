"""Every disk asked now, anew, who it is and where it stands: fresh hardware evidence, and the roster that it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perdure.array.engine import Array
from perdure.array.geometry import ROSTER_AREA, Run
from perdure.array.ports import Runtime
from perdure.array.roster import Roster
from perdure.array.session import Session
from perdure.errors import PerdureError, Unavailable, error_to_json


async def verify(array: Array, runtime: Runtime) -> Mapping[str, Any]:
    """One report for each member: `verified`, what its evidence shows, or the error; and for the array as a whole.

    A member that is found to be gone is reported lost, as if a write had found it. Raises what has ended the mount.
    """
    array.committer.require_working()
    members = list(array.members)
    reports = await runtime.gather(*(_report(array, seat, session) for seat, session in members))
    array.committer.require_working()
    codes = [0 if report["error"] is None else report["error"]["exit_code"] for report in reports]
    missing = array.geometry.n - len(members)
    return {
        "array_id": array.array_id.hex(),
        "verified": not any(codes),
        "disks": reports,
        "empty_seats": missing,
        "exit_code": 3 if 3 in codes else 1 if any(codes) or missing else 0,
    }


async def _report(array: Array, seat: int, session: Session) -> Mapping[str, Any]:
    report: dict[str, Any] = {
        "seat": seat,
        "instance": session.instance.hex(),
        "address": session.channel.address,
        "verified": False,
        "error": None,
    }
    try:
        await session.probe()
        held = await session.read([Run(array.geometry.current_start, ROSTER_AREA)], evidence=True)
        roster = Roster.decode(bytes(held))
        attested = session.attested
        assert attested is not None, "it has just been asked for"
        report |= {
            "platform": str(attested.platform),
            "root": attested.root,
            "module_id": attested.module_id,
            "measurement": {name: value.hex() for name, value in attested.measurement.items() if any(value)},
            "evidence_unix_ms": attested.time_ms,
            "carried_out": session.proved_seq,
            "roster_version": None if roster is None else f"{roster.version.epoch.hex()}.{roster.version.counter}",
        }
        if roster != array.members.roster and not array.committer.is_changing:
            raise Unavailable("its roster is not the one in force; a change may be under way: ask again.")
    except PerdureError as error:
        if session.lost is not None:
            array.members.report_lost(session, session.lost)
        return {**report, "error": error_to_json(error)}
    return {**report, "verified": True}
