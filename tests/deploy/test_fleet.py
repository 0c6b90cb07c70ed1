"""docs/fleet.md: the numbers of its table follow from k and n, and all that it leads to is there."""

from __future__ import annotations

import re

import pytest

from tests.deploy.files import DEPLOY, TOP

PAGE = (TOP / "docs/fleet.md").read_text()
ROWS = re.findall(r"^\| (\d) of (\d) \| (\d) \| ([\d, ]+) \| (\d) \| (\d|none suffice) \|$", PAGE, re.M)


def zones(n, most):
    """The fewest zones in which no one has more than `most` of n disks; None if no number suffices."""
    return -(-n // most) if most else None


def test_the_table_has_every_shape_that_the_platforms_page_has():
    shapes = re.findall(r"^\| (\d) of (\d) \| \d \| [\d, ]+ \| \d \|$", (TOP / "docs/platforms.md").read_text(), re.M)
    assert shapes
    assert set(shapes) <= {row[:2] for row in ROWS}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} of {row[1]}")
def test_its_numbers_follow(row):
    k, n, lost = (int(word) for word in row[:3])
    assert (2 * k > n, lost) == (True, n - k)
    assert [int(word) for word in row[3].split(",")] == [n // 3 + (zone < n % 3) for zone in range(3)]
    assert int(row[4]) == zones(n, lost)
    assert zones(n, lost - 1) == (None if row[5] == "none suffice" else int(row[5]))


@pytest.mark.parametrize(
    "page", [TOP / "docs/fleet.md", *sorted(DEPLOY.rglob("README.md"))], ids=lambda page: page.parent.name
)
def test_what_a_page_leads_to_is_there(page):
    targets = re.findall(r"\]\(([^)#]+)", page.read_text())
    assert all((page.parent / target).exists() for target in targets)
