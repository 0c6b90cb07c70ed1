"""The transmission phase of the core, one hand-made frame at a time."""

import pytest

from perdure.errors import Misuse
from perdure.nbd.events import Close, Flush, Read, Send, Trim, Write, WriteZeroes
from perdure.nbd.handshake import Export
from perdure.nbd.protocol import BUFFER_BYTES, GATHER_BYTES_MAX, Connection
from perdure.nbd.wire import Error
from tests.nbd import frames as f

SIZE = 100 << 20


@pytest.fixture(params=[True, False], ids=["structured", "simple"])
def structured(request):
    return request.param


def opened(structured=True, size=SIZE):
    core = Connection(Export(b"perdure", b"", size))
    f.feed(core, f.opening(structured))
    return core


def test_requests_become_events(structured):
    core = opened(structured)
    stream = (
        f.request(f.READ, 1, 10, 20)
        + f.write(2, 30, b"abc")
        + f.write(3, 30, b"abc", f.FUA)
        + f.request(f.FLUSH, 4)
        + f.request(f.TRIM, 5, 1, 2)
        + f.request(f.TRIM, 6, 1, 2, f.FUA)
        + f.request(f.WRITE_ZEROES, 7, 1, 2)
        + f.request(f.WRITE_ZEROES, 8, 1, 2, f.FUA | f.NO_HOLE)
        + f.request(f.DISC)
    )
    assert f.feed(core, stream) == [
        Read(1, 10, 20),
        Write(2, 30, bytearray(b"abc"), False),
        Write(3, 30, bytearray(b"abc"), True),
        Flush(4),
        Trim(5, 1, 2, False),
        Trim(6, 1, 2, True),
        WriteZeroes(7, 1, 2, False, True),
        WriteZeroes(8, 1, 2, True, False),
        Close(None),
    ]


def test_last_byte_of_the_disk_is_within_reach(structured):
    core = opened(structured)
    last = SIZE - 1
    stream = f.request(f.READ, 1, last, 1) + f.write(2, last, b"a") + f.request(f.TRIM, 3, last, 1)
    assert f.feed(core, stream + f.request(f.WRITE_ZEROES, 4, 0, SIZE)) == [
        Read(1, last, 1),
        Write(2, last, bytearray(b"a"), False),
        Trim(3, last, 1, False),
        WriteZeroes(4, 0, SIZE, False, True),
    ]


def test_fua_is_harmless_on_every_command(structured):
    core = opened(structured)
    assert f.feed(core, f.request(f.READ, 1, 0, 1, f.FUA)) == [Read(1, 0, 1)]
    assert f.feed(core, f.request(f.FLUSH, 2, flags=f.FUA)) == [Flush(2)]


def test_nothing_is_taken_after_the_end():
    core = opened()
    assert f.feed(core, f.request(f.DISC) + f.request(f.READ, 1, 0, 1)) == [Close(None)]
    assert f.feed(core, f.request(f.READ, 1, 0, 1) * 20_000) == []


def test_request_without_magic_ends_the_connection():
    core = opened()
    assert f.feed(core, f.request(f.READ, magic=0x12560953)) == [Close("a request without its magic number")]


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (f.request(f.READ, 9, SIZE - 1, 2), f.EINVAL),
        (f.request(f.READ, 9, 2**64 - 1, 1), f.EINVAL),
        (f.request(f.READ, 9, 0, 0), f.EINVAL),
        (f.request(f.READ, 9, 0, 1, f.NO_HOLE), f.EINVAL),
        (f.write(9, SIZE - 1, b"ab"), f.ENOSPC),
        (f.write(9, 2**64 - 1, b"ab"), f.ENOSPC),
        (f.write(9, 0, b""), f.EINVAL),
        (f.write(9, 0, b"ab", f.DF), f.EINVAL),
        (f.write(9, 0, b"ab", 1 << 15), f.EINVAL),
        (f.write(9, 0, bytes(32 * f.MIB + 1)), f.EINVAL),
        (f.request(f.TRIM, 9, SIZE, 1), f.EINVAL),
        (f.request(f.TRIM, 9, 0, 1, f.NO_HOLE), f.EINVAL),
        (f.request(f.WRITE_ZEROES, 9, SIZE, 1), f.ENOSPC),
        (f.request(f.WRITE_ZEROES, 9, 0, 1, f.FAST_ZERO), f.EINVAL),
        (f.request(f.FLUSH, 9, 1, 0), f.EINVAL),
        (f.request(f.FLUSH, 9, 0, 1), f.EINVAL),
        (f.request(f.CACHE, 9, 0, 1), f.EINVAL),
        (f.request(f.BLOCK_STATUS, 9, 0, 1, f.REQ_ONE), f.EINVAL),
        (f.request(99, 9), f.EINVAL),
    ],
)
def test_bad_request_is_refused_and_the_next_one_served(structured, frame, error):
    core = opened(structured)
    *refused, served = f.feed(core, frame + f.request(f.READ, 10, 0, 1))
    reply = f.sent(refused).reply()
    assert (reply.cookie, reply.error) == (9, error)
    assert bool(reply.message) is structured
    assert served == Read(10, 0, 1)


@pytest.mark.parametrize(("structured_replies", "error"), [(True, f.EOVERFLOW), (False, f.EINVAL)])
def test_read_above_32_mib_is_refused(structured_replies, error):
    core = opened(structured_replies)
    assert f.sent(f.feed(core, f.request(f.READ, 9, 0, 32 * f.MIB + 1))).reply().error == error
    assert f.feed(core, f.request(f.READ, 9, 0, 32 * f.MIB)) == [Read(9, 0, 32 * f.MIB)]


def test_df_is_taken_only_with_structured_replies():
    frame = f.request(f.READ, 9, 0, 65_536, f.DF)
    assert f.feed(opened(True), frame) == [Read(9, 0, 65_536)]
    assert f.sent(f.feed(opened(False), frame)).reply().error == f.EINVAL


def test_absurd_write_ends_the_connection():
    events = f.feed(opened(), f.request(f.WRITE, 9, 0, 64 * f.MIB + 1))
    assert events == [Close("a write of 67108865 bytes")]


def test_refused_payload_is_dropped_before_the_refusal():
    core = opened()
    assert f.feed(core, f.request(f.WRITE, 9, SIZE, 5, data=b"abc")) == []
    (refusal,) = f.feed(core, b"de")
    assert f.sent([refusal]).reply().error == f.ENOSPC


@pytest.mark.parametrize(
    "length", [1, GATHER_BYTES_MAX, GATHER_BYTES_MAX + 1, BUFFER_BYTES - 28, BUFFER_BYTES, 32 * f.MIB]
)
def test_payload_of_any_allowed_size_arrives_whole(length):
    data = (bytes(range(251)) * (length // 251 + 1))[:length]
    core = opened()
    first, second = f.feed(core, f.write(1, 5, data) + f.request(f.FLUSH, 2))
    assert first == Write(1, 5, bytearray(data), False)
    assert second == Flush(2)


def test_large_payload_is_received_where_it_stays():
    core = opened()
    f.feed(core, f.request(f.WRITE, 1, 0, f.MIB, data=b"head"))
    room = core.get_buffer()
    assert len(room) == f.MIB - 4
    room[:] = b"x" * len(room)
    core.received(len(room))
    event = core.next_event()
    assert isinstance(event, Write)
    assert event.data == b"head" + b"x" * (f.MIB - 4)
    assert room.obj is event.data


def test_payload_stays_as_it_was_while_more_arrives():
    core = opened()
    (first,) = f.feed(core, f.write(1, 0, b"a" * 4096))
    f.feed(core, f.write(2, 0, b"b" * 4096) * 200)
    assert first.data == b"a" * 4096


def test_shell_that_leaves_events_untaken_is_told():
    core = opened()
    core.received(len(core.get_buffer()))
    with pytest.raises(Misuse, match="take the events"):
        core.get_buffer()


def test_read_reply_carries_its_data(structured):
    core = opened(structured)
    (read,) = f.feed(core, f.request(f.READ, 0xFFFFFFFFFFFFFFFF, 4096, 5))
    reply = f.Replies(core.data_header(read) + b"hello").reply({read.cookie: 5})
    assert (reply.cookie, reply.error, reply.data) == (0xFFFFFFFFFFFFFFFF, 0, b"hello")
    assert reply.offset == (4096 if structured else None)


def test_success_without_data(structured):
    core = opened(structured)
    (flush,) = f.feed(core, f.request(f.FLUSH, 3))
    replies = f.Replies(core.done(flush))
    assert replies.reply() == f.Reply(3, 0)
    assert replies.data == b""


def test_failure_carries_its_sentence(structured):
    core = opened(structured)
    (read,) = f.feed(core, f.request(f.READ, 3, 0, 1))
    reply = f.Replies(core.failed(read, Error.ESHUTDOWN, "Gone: é.")).reply()
    assert (reply.cookie, reply.error, reply.message) == (3, f.ESHUTDOWN, "Gone: é." if structured else "")


def test_sentence_is_cut_to_what_the_specification_allows():
    core = opened()
    (read,) = f.feed(core, f.request(f.READ, 3, 0, 1))
    assert f.Replies(core.failed(read, Error.EIO, "x" + "é" * 3000)).reply().message == "x" + "é" * 2047


def test_refusals_need_no_backend():
    (refusal,) = f.feed(opened(), f.request(f.READ, 1, SIZE, 1))
    assert isinstance(refusal, Send)
