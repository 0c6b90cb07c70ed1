"""Until when collateral holds: certificates, and Intel's statements, which live for a month. A core, as `machine`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509

from perdure.evidence.collateral import Collateral
from perdure.evidence.tdx import collateral as statements
from perdure.service.doctor.finding import Finding, fail, ok, warn

SOON_MS: Final = 7 * 24 * 3600 * 1000
"""How long before the end somebody should know."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_WHY: Final = (
    "Evidence is refused once what it is judged with has expired: at mounts and repairs, and at the next FLUSH."
)
_DO: Final = "Get new ones and put them into the folder, which the main program looks at every second."


@dataclass(frozen=True, slots=True)
class End:
    """Until when one of the folder's things holds, Unix milliseconds."""

    what: str
    at_ms: int


def ends_of(collateral: Collateral) -> list[End]:
    """When each certificate and each statement ends."""
    return [*(_certificate(der) for der in collateral.certificates), *(_statement(text) for text in collateral.tdx)]


def _certificate(der: bytes) -> End:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of AMD's serial number 0, as where they are read
        found = x509.load_der_x509_certificate(der)
    return End(f"the certificate of {found.subject.rfc4514_string()}", _ms(found.not_valid_after_utc))


def _statement(text: str) -> End:
    found = statements.read(text)
    assert found is not None, "it was read before"
    lists = (found.root_crl.next_update_utc, found.pck_crl.next_update_utc)
    ends = [found.tcb_info.window.not_after_ms, found.qe_identity.window.not_after_ms]
    ends += [_ms(time) for time in lists if time is not None]
    return End(f"Intel's statement about processors of kind {found.fmspc.hex()}", min(ends))


def _ms(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(milliseconds=1)


def judge(folder: Path, ends: Sequence[End], now_ms: int) -> Finding:
    """Whether any of it has ended, or will soon. An expired one may lie beside its successor: then it only warns."""
    if not ends:
        return warn("collateral", f"{folder} is empty", "It was named because something needs it.", _DO)
    first = min(ends, key=lambda end: end.at_ms)
    text = f"{folder}: {len(ends)} things; the first to end is {first.what}, at {_rfc3339(first.at_ms)}"
    if all(end.at_ms <= now_ms for end in ends):
        return fail("collateral", f"{text}: all have expired", _WHY, _DO)
    if first.at_ms <= now_ms + SOON_MS:
        return warn("collateral", text + (", and has" if first.at_ms <= now_ms else ""), _WHY, _DO)
    return ok("collateral", text)


def _rfc3339(at_ms: int) -> str:
    return (_EPOCH + timedelta(milliseconds=at_ms)).isoformat(timespec="seconds").replace("+00:00", "Z")
