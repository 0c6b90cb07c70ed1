"""Whatever bytes come, what comes back is an answer of VSS or a closed connection, and others are served."""

from __future__ import annotations

import socket

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from perdure.errors import Misuse
from perdure.vss import service
from tests.vss import wire
from tests.vss.client import Client, Refused

CALLS = ("getObject", "putObjects", "deleteObject", "listKeyVersions")
NUMBERS = st.integers(-(1 << 63), (1 << 63) - 1)
FIELD = st.integers(1, 6)
SCALAR = st.one_of(
    st.builds(wire.number, FIELD, NUMBERS),
    st.builds(wire.data, FIELD, st.one_of(st.binary(max_size=40), st.text(max_size=20))),
)
MESSAGE = st.lists(
    st.one_of(SCALAR, st.builds(lambda at, parts: wire.data(at, b"".join(parts)), FIELD, st.lists(SCALAR, max_size=4))),
    max_size=6,
).map(b"".join)
"""Near enough to the protocol that much of it is understood."""


@given(st.sampled_from(CALLS), st.one_of(MESSAGE, st.binary(max_size=200)))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@example("putObjects", wire.data(3, wire.key_value("k", -(1 << 63), b"")))
@example("getObject", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f")
@example("putObjects", wire.data(3, wire.data(1, b"\xff\xfe")))
def test_any_body_gets_a_result_or_an_error_of_the_protocol(client: Client, call: str, body: bytes) -> None:
    status, headers, reply = client.raw(call, body)
    assert headers["vss-protocol-version"] == "0"
    if status != 200:
        assert Refused(status, reply).code in ("CONFLICT", "INVALID_REQUEST", "NO_SUCH_KEY")


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_bytes_that_are_no_message_are_misuse_and_nothing_else(body: bytes) -> None:
    for call in CALLS:
        try:
            sentence = None
            service.work(f"/vss/{call}", "user", body)
        except Misuse as error:
            sentence = str(error)
        assert sentence is None or "nothing was" in sentence


@given(
    st.one_of(
        st.binary(min_size=1, max_size=400),
        st.binary(max_size=100).map(lambda raw: b"POST /vss/getObject HTTP/1.1\r\n" + raw),
    )
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_stream_is_answered_or_closed_and_others_are_served(client: Client, stream: bytes) -> None:
    with socket.create_connection((client.place.hostname, client.place.port), timeout=30) as raw:
        raw.sendall(stream)
        raw.shutdown(socket.SHUT_WR)
        reply = b""
        while part := raw.recv(4096):
            reply += part
    assert reply[:9] in (b"", b"HTTP/1.1 ")
    assert client.list().items == []
