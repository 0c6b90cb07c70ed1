"""A connection that is handed over between two bytes goes on as if nothing had happened."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.errors import Misuse
from perdure.nbd.carried import Carried, Phase
from perdure.nbd.events import Close, Flush, Read, Send, Write
from perdure.nbd.handshake import Export
from perdure.nbd.protocol import BUFFER_BYTES, Connection
from perdure.nbd.wire import OPTION_COUNT_MAX, Error
from tests.nbd import frames as f
from tests.nbd.test_protocol_fuzz import SIZE, connection, streams

EXPORT = Export(b"perdure", b"", SIZE)


def handed_over(core):
    """The connection that another program makes of what this one leaves, through bytes and JSON."""
    carried = core.carried()
    head = json.loads(json.dumps(carried.head()))
    data = b"".join(bytes(blob) for blob in carried.blobs())
    at = 0

    def take(count):
        nonlocal at
        at += count
        return data[at - count : at]

    found = Carried.decode(head, take)
    assert at == len(data)
    return Connection.resumed(EXPORT, found)


def events_of(core):
    events = []
    while (event := core.next_event()) is not None:
        events.append(event)
    return events


@settings(deadline=None)
@given(streams, st.lists(st.integers(0, 100_000), min_size=1, max_size=4))
def test_cut_anywhere_and_handed_over_the_events_are_the_same(data, places):
    core, events, start = connection(), [], 0
    for place in [*sorted(place % (len(data) + 1) for place in places), len(data)]:
        events += f.feed(core, data[start:place])
        start = max(start, place)
        if any(isinstance(event, Close) for event in events):
            break
        core = handed_over(core)
        events += events_of(core)
    assert events == f.feed(connection(), data)


@pytest.mark.parametrize("structured", [True, False])
def test_replies_keep_the_form_that_was_negotiated(structured):
    core = connection()
    f.feed(core, f.opening(structured))
    core = handed_over(core)
    (read,) = f.feed(core, f.request(f.READ, 5, 0, 4))
    reply = f.Replies(core.data_header(read) + b"data").reply({5: 4})
    assert reply == f.Reply(5, 0, b"data", offset=0 if structured else None)
    (flush,) = f.feed(core, f.request(f.FLUSH, 6))
    failed = f.Replies(core.failed(flush, Error.EIO, "why")).reply()
    assert failed == f.Reply(6, f.EIO, message="why" if structured else "")


def test_dont_fragment_stays_allowed_with_structured_replies_only():
    for structured in (True, False):
        core = connection()
        f.feed(core, f.opening(structured))
        (event,) = f.feed(handed_over(core), f.request(f.READ, 5, 0, 4, f.DF))
        assert isinstance(event, Read) == structured


def test_a_large_write_travels_with_what_came_of_it():
    payload = bytes(range(256)) * 2000
    frame = f.write(9, 4096, payload, f.FUA)
    core = connection()
    f.feed(core, f.opening())
    assert f.feed(core, frame[:300_000]) == []
    assert sum(len(blob) for blob in core.carried().blobs()) == 300_000 - 28
    core = handed_over(handed_over(core))
    assert f.feed(core, frame[300_000:] + f.request(f.FLUSH, 10)) == [
        Write(9, 4096, bytearray(payload), True),
        Flush(10),
    ]


def test_a_refused_payload_is_dropped_to_its_end_and_refused_then():
    core = connection()
    f.feed(core, f.opening())
    frame = f.write(3, SIZE - 1, b"x" * 100_000)
    assert f.feed(core, frame[:50_000]) == []
    core = handed_over(core)
    (refusal,) = f.feed(core, frame[50_000:])
    assert isinstance(refusal, Send)
    assert f.sent([refusal]).reply().error == f.ENOSPC
    assert f.feed(core, f.request(f.FLUSH, 4)) == [Flush(4)]


def test_a_full_buffer_of_requests_travels_whole():
    """The shell was at its limits, so that requests were left untaken."""
    core = connection()
    f.feed(core, f.opening())
    stream = b"".join(f.request(f.FLUSH, cookie) for cookie in range(BUFFER_BYTES // 28 + 1))[:BUFFER_BYTES]
    filled = 0
    while filled < BUFFER_BYTES:
        room = core.get_buffer()
        count = min(len(room), BUFFER_BYTES - filled)
        room[:count] = stream[filled : filled + count]
        core.received(count)
        filled += count
    core = handed_over(core)
    assert core.next_event() == Flush(0)
    assert len(core.get_buffer()) > 0, "with one taken there is room again"
    assert [event.cookie for event in events_of(core)] == list(range(1, BUFFER_BYTES // 28))


def test_options_are_counted_on():
    core = connection()
    f.feed(core, f.flags())
    for _ in range(OPTION_COUNT_MAX):
        (answer,) = f.feed(core, f.option(f.LIST))
        assert isinstance(answer, Send)
        core = handed_over(core)
    (end,) = f.feed(core, f.option(f.LIST))
    assert isinstance(end, Close)


def test_zeroes_after_an_export_name_are_sent_unless_the_client_had_said_no():
    for flags, length in ((f.FIXED, 134), (f.FIXED | f.NO_ZEROES, 10)):
        core = connection()
        f.feed(core, f.flags(flags))
        (answer,) = f.feed(handed_over(core), f.option(f.EXPORT_NAME))
        assert len(answer.data) == length


def test_an_abort_that_was_answered_ends_in_the_next_program():
    core = connection()
    data = f.flags() + f.option(f.ABORT)
    core.get_buffer()[: len(data)] = data
    core.received(len(data))
    assert isinstance(core.next_event(), Send)
    assert core.carried().phase is Phase.GOODBYE
    assert handed_over(core).next_event() == Close(None)


@pytest.mark.parametrize(
    "change",
    [
        {"phase": "ELSEWHERE"},
        {"large": [1, 2, 3]},
        {"large": [1, 2, 1 << 30, False], "large_filled": 0},
        {"large": [1, 2, 10, False], "large_filled": 11},
        {"unread": None},
        {"skip": "x"},
    ],
    ids=str,
)
def test_what_no_connection_wrote_is_refused(change):
    core = connection()
    f.feed(core, f.opening())
    with pytest.raises(Misuse, match="form"):
        Carried.decode({**core.carried().head(), **change}, lambda count: bytes([0]) * count)
    incomplete = core.carried().head()
    del incomplete["skip"]
    with pytest.raises(Misuse, match="form"):
        Carried.decode(incomplete, bytes)


def test_more_unread_bytes_than_a_buffer_holds_are_refused():
    head = {**connection().carried().head(), "unread": BUFFER_BYTES + 1}
    with pytest.raises(Misuse, match="unread"):
        Connection.resumed(EXPORT, Carried.decode(head, bytes))
