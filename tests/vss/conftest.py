"""One server of each kind for the tests that need no other; every test has stores of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vss.client import Client
from tests.vss.served import Place, Served, array_place, file_place, serving


@pytest.fixture(scope="session")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Served]]:
    base = tmp_path_factory.mktemp("vss")
    with array_place(base / "a") as array, serving(array) as on_array, serving(file_place(base / "f")) as on_file:
        yield {"array": on_array, "file": on_file}


@pytest.fixture(params=["array", "file"])
def served(request: pytest.FixtureRequest, kinds: dict[str, Served]) -> Served:
    """A server that is shared: on an array, then on an ordinary file."""
    return kinds[request.param]


@pytest.fixture
def client(served: Served) -> Client:
    """A store of the test's own."""
    return served.client()


@pytest.fixture(params=["array", "file"])
def place(request: pytest.FixtureRequest, tmp_path) -> Iterator[Place]:
    """A place of the test's own, for a server that it kills."""
    if request.param == "file":
        yield file_place(tmp_path / "f")
        return
    with array_place(tmp_path / "a") as found:
        yield found
