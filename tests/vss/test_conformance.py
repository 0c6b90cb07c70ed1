"""What the public server's own test suite checks (`rust/api/src/kv_store_tests.rs` of lightningdevkit/vss-server),
over real HTTP and on both kinds of database. Names are that suite's; docs/lightning.md lists them.
"""

from __future__ import annotations

import pytest

from tests.vss.client import Client, Refused

GLOBAL = "global_version"


def refused(code: str):
    return pytest.raises(Refused, match=code)


def test_put_should_succeed_when_single_object_put_operation(client: Client) -> None:
    client.put([("k1", b"k1v1", 0)], global_version=0)
    client.put([("k1", b"k1v2", 1)], global_version=1)
    for count, value in enumerate((b"k2v1", b"k2v2", b"k2v3")):
        client.put([("k2", value, -1)], global_version=2 + count)
    assert client.get("k1") == (b"k1v2", 2)
    assert client.get("k2") == (b"k2v3", 1)
    assert client.get(GLOBAL)[1] == 5


def test_put_should_succeed_when_multi_object_put_operation(client: Client) -> None:
    client.put([("k1", b"k1v1", 0), ("k2", b"k2v1", 0)], global_version=0)
    client.put([("k1", b"k1v2", 1), ("k2", b"k2v2", 1)], global_version=1)
    assert [client.get(key) for key in ("k1", "k2")] == [(b"k1v2", 2), (b"k2v2", 2)]
    assert client.get(GLOBAL)[1] == 2


def test_put_should_fail_when_key_version_mismatched(client: Client) -> None:
    client.put([("k1", b"k1v1", 0)], global_version=0)
    with refused("CONFLICT"):
        client.put([("k1", b"k1v2", 0)], global_version=1)
    assert client.get("k1") == (b"k1v1", 1)
    assert client.get(GLOBAL)[1] == 1


def test_put_multi_object_should_fail_when_single_key_version_mismatched(client: Client) -> None:
    client.put([("k1", b"k1v1", 0), ("k2", b"k2v1", 0)])
    with refused("CONFLICT"):
        client.put([("k2", b"k2v2", 1), ("k1", b"k1v2", 0)])
    assert [client.get(key) for key in ("k1", "k2")] == [(b"k1v1", 1), (b"k2v1", 1)]


def test_put_should_fail_when_global_version_mismatched(client: Client) -> None:
    client.put([("k1", b"k1v1", 0)], global_version=0)
    with refused("CONFLICT"):
        client.put([("k1", b"k1v2", 1)], global_version=0)
    assert client.get("k1") == (b"k1v1", 1)


def test_put_should_succeed_when_no_global_version_is_given(client: Client) -> None:
    client.put([("k1", b"k1v1", 0)])
    client.put([("k1", b"k1v2", 1)])
    assert client.get("k1") == (b"k1v2", 2)
    assert client.get(GLOBAL) == (b"", 0)


def test_put_and_delete_should_succeed_as_atomic_transaction(client: Client) -> None:
    client.put([("k1", b"k1v1", 0)])
    client.put([("k2", b"k2v1", 0)], [("k1", 1)])
    assert client.get("k2") == (b"k2v1", 1)
    with refused("NO_SUCH_KEY"):
        client.get("k1")
    for items, deletes, version in (
        ([("k3", b"k3v1", 0)], [("k2", 3)], None),  # what is deleted has another version
        ([("k3", b"k3v1", 1)], [("k2", 1)], None),  # what is written has
        ([("k3", b"k3v1", 0)], [("k2", 1)], 2),  # the whole store has
        ([("k3", b"k3v1", 0)], [("k4", -1)], None),  # what is deleted is not there
    ):
        with refused("CONFLICT"):
            client.put(items, deletes, version)
        with refused("NO_SUCH_KEY"):
            client.get("k3")
        assert client.get("k2") == (b"k2v1", 1)
    assert client.get(GLOBAL)[1] == 0


def test_delete_should_succeed_when_item_exists(client: Client) -> None:
    client.put([("k1", b"k1v1", 0)])
    client.delete("k1", 1)
    with refused("NO_SUCH_KEY"):
        client.get("k1")
    client.put([("k1", b"k1v1", 0)])
    client.put([("k1", b"k1v2", 1)])
    client.delete("k1", -1)
    with refused("NO_SUCH_KEY"):
        client.get("k1")


def test_delete_should_succeed_when_item_does_not_exist(client: Client) -> None:
    client.delete("non_existent_key", 0)
    assert client.list().items == []


def test_delete_should_be_idempotent(client: Client) -> None:
    client.put([("k1", b"k1v1", 0)])
    client.delete("k1", 1)
    client.delete("k1", 1)
    with refused("NO_SUCH_KEY"):
        client.get("k1")


def test_get_should_throw_no_such_key_exception_when_key_does_not_exist(client: Client) -> None:
    with refused("NO_SUCH_KEY"):
        client.get("non_existent_key")


def test_get_should_return_correct_value_when_key_exists(client: Client) -> None:
    client.put([("k1", b"k1v1", 0)], global_version=0)
    assert client.get("k1") == (b"k1v1", 1)
    client.put([("k1", b"k1v2", 1), ("k2", b"k2v1", 0)], global_version=1)
    client.put([("k2", b"k2v2", 1), ("k3", b"k3v1", 0)], global_version=2)
    assert [client.get(f"k{at}") for at in (1, 2, 3)] == [(b"k1v2", 2), (b"k2v2", 2), (b"k3v1", 1)]


def test_list_should_return_paginated_response(client: Client) -> None:
    keys = [f"k{at}" for at in range(350)]
    for number, start in enumerate(range(0, 350, 50)):
        client.put([(key, b"k1v1", 0) for key in keys[start : start + 50]], global_version=number)
    client.put([("k1", b"k1v2", 1)], global_version=7)
    client.put([("k2", b"k2v2", 1)], global_version=8)
    client.put([("k2", b"k2v3", 2)], global_version=9)
    pages = client.list_all()
    assert [page.global_version for page in pages] == [10] + [None] * (len(pages) - 1)
    found = [item for page in pages for item in page.items]
    assert len(found) == len(keys)
    assert dict(found) == {**dict.fromkeys(keys, 1), "k1": 2, "k2": 3}


def test_list_should_honour_page_size_and_key_prefix_if_provided(client: Client) -> None:
    for at in range(20):
        client.put([(f"{at}k", b"k1v1", 0)], global_version=at)
    pages = client.list_all("1", 5)
    assert all(len(page.items) <= 5 for page in pages)
    found = [key for page in pages for key, _ in page.items]
    assert sorted(found) == sorted(["1k", *(f"1{at}k" for at in range(10))])


def test_list_should_return_zero_global_version_when_global_versioning_not_enabled(client: Client) -> None:
    client.put([(f"k{at}", b"k1v1", 0) for at in range(120)])
    pages = client.list_all()
    assert pages[0].global_version == 0
    assert GLOBAL not in {key for page in pages for key, _ in page.items}


def test_list_should_limit_max_page_size(client: Client) -> None:
    client.put([(f"k{at}", b"k1v1", 0) for at in range(250)])
    pages = client.list_all(size=3000)
    assert [len(page.items) for page in pages] == [100, 100, 50]


def test_list_should_return_results_ordered_by_creation_time(client: Client) -> None:
    for number, key in enumerate(("z_first", "a_second", "m_third")):
        client.put([(key, b"v1", 0)], global_version=number)
    client.put([("z_first", b"v2", 1)], global_version=3)  # an update does not make it younger
    page = client.list()
    assert page.global_version == 4
    assert [key for key, _ in page.items] == ["m_third", "a_second", "z_first"]


def test_list_should_paginate_by_creation_time_with_prefix(client: Client) -> None:
    for number, key in enumerate(("pfx_z", "pfx_a", "other", "pfx_m")):
        client.put([(key, b"v1", 0)], global_version=number)
    pages = client.list_all("pfx_", 1)
    assert [page.global_version for page in pages] == [4] + [None] * (len(pages) - 1)
    assert [key for page in pages for key, _ in page.items] == ["pfx_m", "pfx_a", "pfx_z"]
