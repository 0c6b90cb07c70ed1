"""Every subset of up to n - k disks dies at every effect of one operation (P1 to P4, P6; A17, A18). Exhaustive.

Operations: a durable write, a flush, an erase; roster changes (a removal, a mount, and the adding that ends a
rebuild); rebuilds (sealing anew, copying, and a disk that comes back). The arrays are as small as they can be, and
the network's order is that of one seed; all that is chosen by hand is in `tests/array/deaths.py`. Deaths one after
another, each at an effect of its own, are sampled elsewhere (`make sim`).
"""

from __future__ import annotations

import os

import pytest

from tests.array.deaths import OPERATIONS, Case, cases, run

IS_WHOLE = "PERDURE_DEATHS" in os.environ
QUICK = ("write", "flush", "erase", "removal")
"""Operations of which `make test` tries 3-of-5 as well; the others have a thousand cases and more there."""


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("is_main_too", [False, True], ids=["main_goes_on", "main_dies_too"])
@pytest.mark.parametrize(
    ("k", "n", "has_chains"),
    [(2, 3, False), (3, 5, False), (2, 3, True)],
    ids=["2-of-3", "3-of-5", "2-of-3-with-chains"],
)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_whoever_dies_at_whichever_effect_nothing_acknowledged_is_lost(
    operation: str, k: int, n: int, has_chains: bool, is_main_too: bool, record_property: pytest.RecordProperty
) -> None:
    if n == 5 and not IS_WHOLE and (operation not in QUICK or is_main_too):
        pytest.skip("minutes long: make deaths")
    count = 0
    for case in cases(operation, k, n, is_main_too=is_main_too, has_chains=has_chains):
        run(case)
        count += 1
    print(f"{operation} {k}-of-{n}: {count} cases")
    assert count > 2 * n


def test_one_case_is_the_same_each_time() -> None:
    """What makes the cases exhaustive: a run with a death is the run without one, up to that death."""
    case = Case("rebuild", 2, 3, (1,), 10)
    assert run(case) == run(case) == 10
    assert run(Case("rebuild", 2, 3)) == run(Case("rebuild", 2, 3))
