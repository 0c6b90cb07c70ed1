"""What `vss.proto` says and the public suite does not check; limits; and that users and stores are apart."""

from __future__ import annotations

import socket

import pytest

from perdure.vss.http import BODY_BYTES_MAX
from tests.vss import wire
from tests.vss.client import Client, Refused
from tests.vss.served import Served


def refused(code: str):
    return pytest.raises(Refused, match=code)


def test_all_items_of_a_request_have_different_keys(client: Client) -> None:
    with refused("INVALID_REQUEST"):
        client.put([("k", b"1", 0), ("k", b"2", 1)])
    with refused("INVALID_REQUEST"):
        client.put([("k", b"1", 0)], [("k", 1)])
    assert client.list().items == []


def test_a_write_without_a_check_resets_the_version_to_1(client: Client) -> None:
    for version in range(3):
        client.put([("k", b"v", version)])
    client.put([("k", b"w", -1)])
    assert client.get("k") == (b"w", 1)
    client.put([("k", b"x", 1)])
    assert client.get("k") == (b"x", 2)


def test_a_conditional_delete_of_another_version_changes_nothing(client: Client) -> None:
    client.put([("k", b"v", 0)])
    client.delete("k", 2)
    assert client.get("k") == (b"v", 1)


def test_stores_are_apart_and_one_may_have_no_name(served: Served) -> None:
    one, two = served.client(), served.client("")
    one.put([("k", b"one", 0)], global_version=0)
    two.put([("k", b"two", -1)])
    assert one.get("k") == (b"one", 1)
    assert two.get("k") == (b"two", 1)
    assert one.list().global_version == 1
    two.delete("k", -1)
    assert [key for key, _ in one.list().items] == ["k"]


def test_a_key_prefix_is_taken_literally(client: Client) -> None:
    client.put([(key, b"", 0) for key in ("a%b", "axb", "a_b", "A%", "ä%")])
    assert {key for key, _ in client.list("a%").items} == {"a%b"}
    assert {key for key, _ in client.list("ä").items} == {"ä%"}


def test_a_page_of_no_items_has_the_global_version_alone(client: Client) -> None:
    client.put([("k", b"v", 0)], global_version=0)
    page = client.list(size=0)
    assert (page.items, page.token, page.global_version) == ([], "", 1)


@pytest.mark.parametrize("token", ["x", "-1", "", "9" * 40, "१"])
def test_a_page_token_that_was_not_given_out_is_refused(client: Client, token: str) -> None:
    with refused("INVALID_REQUEST"):
        client.list(token=token)


def test_names_and_counts_have_limits(client: Client) -> None:
    client.put([("k" * 600, b"v", 0)])
    for bad in ("k" * 601, "k\0"):
        with refused("INVALID_REQUEST"):
            client.put([(bad, b"v", 0)])
    with refused("INVALID_REQUEST"):
        client.put([(f"k{at}", b"", 0) for at in range(1001)])
    with refused("INVALID_REQUEST"):
        client.list(size=-1)
    assert len(client.list().items) == 1


def test_a_delete_that_names_no_key_is_refused(client: Client) -> None:
    with refused("INVALID_REQUEST"):
        client.call("deleteObject", wire.data(1, client.store))


def test_a_value_of_a_megabyte_comes_back(client: Client) -> None:
    value = bytes(range(256)) * 4096
    client.put([("large", value, 0)])
    assert client.get("large") == (value, 1)


def test_fields_that_nobody_knows_are_ignored(client: Client) -> None:
    client.put([("k", b"v", 0)])
    found = client.call("getObject", wire.data(1, client.store) + wire.data(2, "k") + wire.data(99, b"new"))
    assert wire.fields(found[2][0])[3] == [b"v"]


@pytest.mark.parametrize("call", ["nothing", "", "getObject/", "../vss/getObject"])
def test_another_path_is_refused(client: Client, call: str) -> None:
    status, _, body = client.raw(call, b"")
    assert (status, Refused(status, body).code) == (400, "INVALID_REQUEST")


def test_only_post_is_a_call(client: Client) -> None:
    status, _, body = client.raw("getObject", b"", "GET")
    assert (status, Refused(status, body).code) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize("headers", [{"Origin": "http://127.0.0.1"}, {"Host": "evil.example"}])
def test_without_authorization_a_browser_is_not_served(client: Client, headers: dict[str, str]) -> None:
    body = wire.data(1, client.store) + wire.data(3, wire.key_value("k", 0, b"v"))
    status, _, reply = client.raw("putObjects", body, headers=headers)
    assert (status, Refused(status, reply).code) == (401, "AUTH")
    assert client.list().items == []


def test_a_body_that_is_too_large_is_not_taken(client: Client) -> None:
    with socket.create_connection((client.place.hostname, client.place.port), timeout=60) as raw:
        head = f"POST /vss/putObjects HTTP/1.1\r\nHost: localhost\r\nContent-Length: {1 << 40}\r\n\r\n"
        raw.sendall(head.encode())
        sent, reply = 0, b""
        with raw.makefile("rb") as file:
            try:
                while sent <= BODY_BYTES_MAX + (1 << 20):
                    sent += raw.send(bytes(1 << 20))
                reply = file.readline()
            except ConnectionError:
                reply = b"HTTP/1.1 413 closed"
        assert b" 413 " in reply
    client.put([("k", b"others are served", 0)])
    assert client.get("k")[1] == 1


def test_a_body_in_chunks_after_a_100_continue_is_taken(client: Client) -> None:
    body = wire.data(1, client.store) + wire.data(3, wire.key_value("k", 0, b"v"))
    with (
        socket.create_connection((client.place.hostname, client.place.port), timeout=60) as raw,
        raw.makefile("rb") as file,
    ):
        raw.sendall(b"POST /vss/putObjects HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n")
        raw.sendall(b"Expect: 100-continue\r\n\r\n")
        assert file.readline() == b"HTTP/1.1 100 \r\n"
        raw.sendall(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        assert file.readline() == b"\r\n"
        assert file.readline() == b"HTTP/1.1 200 OK\r\n"
    assert client.get("k") == (b"v", 1)
