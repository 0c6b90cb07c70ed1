"""What each geometry survives: the document's table is the code's, and every set of losses is tried."""

from __future__ import annotations

from itertools import combinations

import pytest

from model.__main__ import RULES
from model.losses import DISKS_MAX, geometries, rows, table
from perdure.array.geometry import Geometry
from perdure.array.roster import Label, Roster, Version, choose_base, require_quorum
from perdure.errors import Unavailable

GEOMETRIES = list(geometries())


def test_the_documents_table_is_what_the_code_says() -> None:
    assert f"<!-- table -->\n{table()}\n<!-- end -->" in RULES.read_text()


def test_the_table_has_every_majority_of_up_to_twelve_disks() -> None:
    assert [(shape.k, shape.n) for shape in GEOMETRIES] == [
        (k, n) for n in range(2, DISKS_MAX + 1) for k in range(n // 2 + 1, n + 1)
    ]
    assert rows()[1] == ("2-of-3", "1", "2", "1.50 (1.50)", "1", "1")
    assert ("3-of-5", "2", "3", "1.72 (1.67)", "2", "2") in rows()


def _labels(n: int) -> dict[bytes, Label]:
    instances = tuple(bytes([at + 1]) * 32 for at in range(n))
    roster = Roster(Version(b"\1" * 16, 0), Version(bytes(16), 0), 0, 0, instances)
    return dict.fromkeys(instances, Label(roster, None))


@pytest.mark.parametrize("shape", GEOMETRIES, ids=lambda shape: f"{shape.k}-of-{shape.n}")
def test_any_n_minus_k_disks_may_be_missing_and_not_one_more(shape: Geometry) -> None:
    labels = _labels(shape.n)
    for count in range(1, shape.n + 1):
        for left in combinations(labels, count):
            shown = {instance: labels[instance] for instance in left}
            base = choose_base(shown)
            if shape.n - count <= shape.n - shape.k:
                assert len(require_quorum(base, shown, shape.k)) == count
            else:
                with pytest.raises(Unavailable):
                    require_quorum(base, shown, shape.k)


@pytest.mark.parametrize("shape", GEOMETRIES, ids=lambda shape: f"{shape.k}-of-{shape.n}")
def test_any_two_sets_of_disks_that_can_mount_share_one(shape: Geometry) -> None:
    """And k disks of the array, whichever, share one with every roster of at least k: the lemma that all rests on."""
    enough = [sum(1 << at for at in some) for some in combinations(range(shape.n), shape.k)]
    assert all(one & other for one in enough for other in enough)
