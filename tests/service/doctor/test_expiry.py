"""Until when collateral holds."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from perdure.evidence.collateral import Collateral
from perdure.evidence.roots import BUILTIN_CERTIFICATES
from perdure.service.doctor import expiry
from perdure.service.doctor.expiry import SOON_MS, End
from perdure.service.doctor.finding import Level
from tests.evidence.tdx import support as tdx

NOW = 1_800_000_000_000
FOLDER = Path("collateral")


def ends(*after_ms):
    return [End(f"thing {at}", NOW + ms) for at, ms in enumerate(after_ms)]


@pytest.mark.parametrize(
    ("found", "level"),
    [
        (ends(SOON_MS + 1), Level.OK),
        (ends(SOON_MS), Level.WARN),
        (ends(SOON_MS + 1, 1), Level.WARN),
        (ends(SOON_MS + 1, 0), Level.WARN),
        (ends(0, -5), Level.FAIL),
        ([], Level.WARN),
    ],
)
def test_what_ends_soon_warns_and_what_is_all_over_fails(found, level):
    assert expiry.judge(FOLDER, found, NOW).level is level


def test_the_first_to_end_is_named_with_its_time():
    found = expiry.judge(FOLDER, ends(5000, 1000), NOW).found
    assert "2 things" in found
    assert "thing 1, at 2027-01-15T08:00:01Z" in found


def test_a_certificates_end_is_the_one_that_it_states():
    (end,) = expiry.ends_of(Collateral((BUILTIN_CERTIFICATES["aws-nitro-g1"][1],)))
    assert "aws.nitro-enclaves" in end.what
    assert datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=end.at_ms) == datetime(
        2049, 10, 28, 14, 28, 5, tzinfo=UTC
    )


def test_a_statement_ends_with_the_first_of_its_parts():
    maker = tdx.Maker(tcb={"nextUpdate": tdx.stamp(tdx.NOW + 3 * tdx.DAY)})
    (end,) = expiry.ends_of(Collateral(tdx=(maker.text(),)))
    assert end.at_ms == tdx.NOW_MS + 3 * tdx.DAY_MS
    assert tdx.FMSPC.hex() in end.what
