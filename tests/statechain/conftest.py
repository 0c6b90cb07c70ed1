"""What every room of these tests stands on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.statechain.world import Chain


@pytest.fixture
def chain() -> Iterator[Chain]:
    """A signer on an array of three disks."""
    with Chain() as chain:
        yield chain
