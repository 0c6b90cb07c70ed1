"""The handshake, one hand-made frame at a time, through the whole core."""

import struct

import pytest

from perdure.errors import Misuse
from perdure.nbd.events import Close, Read, Send
from perdure.nbd.handshake import Export
from perdure.nbd.protocol import Connection
from tests.nbd import frames as f

SIZE = 1 << 20
FLAGS_SIMPLE = 0b1_0110_1101  # HAS_FLAGS, FLUSH, FUA, TRIM, WRITE_ZEROES, CAN_MULTI_CONN
FLAGS_STRUCTURED = FLAGS_SIMPLE | 0b1000_0000  # and DF


def connection(name=b"perdure"):
    return Connection(Export(name, b"an array", SIZE))


def haggle(*options, flags=f.FIXED | f.NO_ZEROES):
    core = connection()
    return f.feed(core, f.flags(flags) + b"".join(options))


def test_greets_as_fixed_newstyle_without_zeroes():
    assert connection().greeting == f.GREETING


def test_refuses_client_flags_it_does_not_know():
    assert haggle(flags=4) == [Close("unknown client flags 0x4")]


def test_refuses_an_option_without_magic():
    assert haggle(b"IHAVEOPS" + bytes(8)) == [Close("an option without its magic number")]


@pytest.mark.parametrize("name", [b"", b"perdure"])
@pytest.mark.parametrize(("client_flags", "padding"), [(f.FIXED | f.NO_ZEROES, 0), (f.FIXED, 124), (0, 124)])
def test_export_name_opens_the_disk(name, client_flags, padding):
    core = connection()
    replies = f.sent(f.feed(core, f.flags(client_flags) + f.option(f.EXPORT_NAME, name)))
    assert replies.take(">QH") == (SIZE, FLAGS_SIMPLE)
    assert replies.data == bytes(padding)
    assert f.feed(core, f.request(f.READ, 7, 0, 512)) == [Read(7, 0, 512)]


def test_export_name_that_is_not_here_ends_the_connection():
    (end,) = haggle(f.option(f.EXPORT_NAME, b"other"))
    assert isinstance(end, Close)
    assert "not here" in end.reason


def test_oversized_export_name_ends_the_connection():
    assert haggle(f.option(f.EXPORT_NAME, b"", length=70_000)) == [Close("an option of 70000 bytes")]


@pytest.mark.parametrize("name", [b"", b"perdure"])
def test_go_tells_size_and_flags_and_opens_the_disk(name):
    core = connection()
    replies = f.sent(f.feed(core, f.flags() + f.option(f.GO, f.info(name))))
    assert replies.option() == (f.GO, f.REP_INFO, struct.pack(">HQH", 0, SIZE, FLAGS_SIMPLE))
    assert replies.option() == (f.GO, f.ACK, b"")
    assert replies.data == b""
    assert f.feed(core, f.request(f.READ, 7, 0, 512)) == [Read(7, 0, 512)]


def test_info_tells_all_that_is_wanted_and_stays_in_the_handshake():
    core = connection()
    replies = f.sent(f.feed(core, f.flags() + f.option(f.INFO, f.info(b"", [3, 1, 2, 99, 3]))))
    assert replies.option() == (f.INFO, f.REP_INFO, struct.pack(">HQH", 0, SIZE, FLAGS_SIMPLE))
    assert replies.option() == (f.INFO, f.REP_INFO, b"\x00\x01perdure")
    assert replies.option() == (f.INFO, f.REP_INFO, b"\x00\x02an array")
    assert replies.option() == (f.INFO, f.REP_INFO, struct.pack(">HIII", 3, 1, 4096, 32 << 20))
    assert replies.option() == (f.INFO, f.ACK, b"")
    assert f.sent(f.feed(core, f.option(f.LIST))).option()[1] == f.SERVER


def test_offers_df_once_replies_are_structured():
    replies = f.sent(haggle(f.option(f.STRUCTURED), f.option(f.GO, f.info())))
    assert replies.option() == (f.STRUCTURED, f.ACK, b"")
    assert replies.option() == (f.GO, f.REP_INFO, struct.pack(">HQH", 0, SIZE, FLAGS_STRUCTURED))


@pytest.mark.parametrize("number", [f.INFO, f.GO])
def test_unknown_export_is_refused_and_haggling_goes_on(number):
    replies = f.sent(haggle(f.option(number, f.info(b"other")), f.option(f.LIST)))
    assert replies.option()[:2] == (number, f.ERR_UNKNOWN)
    assert replies.option() == (f.LIST, f.SERVER, b"\x00\x00\x00\x07perdure")
    assert replies.option() == (f.LIST, f.ACK, b"")


def test_abort_is_acknowledged_and_then_the_end():
    ack, end = haggle(f.option(f.ABORT, b"ignored"))
    assert isinstance(ack, Send)
    assert f.sent([ack]).option() == (f.ABORT, f.ACK, b"")
    assert end == Close(None)


@pytest.mark.parametrize("number", [f.STARTTLS, 4, 11, 0xFFFFFFFF])
def test_what_is_not_supported_is_said_so(number):
    replies = f.sent(haggle(f.option(number, b"whatever")))
    assert replies.option()[:2] == (number, f.ERR_UNSUP)


@pytest.mark.parametrize(
    ("number", "data"),
    [
        (f.LIST, b"x"),
        (f.STRUCTURED, b"x"),
        (f.GO, b""),
        (f.GO, b"\x00\x00\x00"),
        (f.GO, struct.pack(">I", 5) + b"abc"),
        (f.GO, struct.pack(">I", 0xFFFFFFFF) + b"abc"),
        (f.GO, struct.pack(">I", 5000) + bytes(5000) + b"\x00\x00"),
        (f.GO, f.info() + b"\x00"),
        (f.GO, f.info()[:-1]),
        (f.GO, struct.pack(">IH", 0, 2) + b"\x00\x03"),
        (f.SET_META, b""),
        (f.SET_META, f.queries(b"base:allocation") + b"\x00"),
        (f.SET_META, f.queries(b"base:allocation")[:-1]),
        (f.SET_META, struct.pack(">II", 0, 0xFFFFFFFF)),
        (f.SET_META, f.queries(bytes(4097))),
    ],
)
def test_malformed_option_data_is_refused_and_haggling_goes_on(number, data):
    replies = f.sent(haggle(f.option(f.STRUCTURED), f.option(number, data), f.option(f.LIST)))
    replies.option()
    refused, kind, text = replies.option()
    assert (refused, kind) == (number, f.ERR_INVALID)
    assert text.decode().endswith(".")
    assert replies.option()[1] == f.SERVER


@pytest.mark.parametrize("number", [f.LIST_META, f.SET_META])
@pytest.mark.parametrize("texts", [(), (b"base:",), (b"base:allocation", b"qemu:dirty-bitmap:x", b"no colon")])
def test_has_no_metadata_contexts(number, texts):
    replies = f.sent(haggle(f.option(f.STRUCTURED), f.option(number, f.queries(*texts))))
    replies.option()
    assert replies.option() == (number, f.ACK, b"")


def test_metadata_contexts_need_structured_replies():
    assert f.sent(haggle(f.option(f.SET_META, f.queries()))).option()[1] == f.ERR_INVALID


def test_metadata_contexts_of_an_unknown_export_are_refused():
    replies = f.sent(haggle(f.option(f.STRUCTURED), f.option(f.SET_META, f.queries(name=b"other"))))
    replies.option()
    assert replies.option()[1] == f.ERR_UNKNOWN


def test_oversized_option_is_dropped_and_refused():
    replies = f.sent(haggle(f.option(f.INFO, bytes(65_537)), f.option(f.LIST)))
    assert replies.option()[:2] == (f.INFO, f.ERR_TOO_BIG)
    assert replies.option()[1] == f.SERVER


def test_absurdly_long_option_ends_the_connection():
    assert haggle(f.option(f.INFO, length=(64 << 20) + 1)) == [Close("an option of 67108865 bytes")]


def test_endless_haggling_ends():
    events = haggle(*[f.option(f.LIST)] * 129)
    assert len(events) == 129
    assert events[-1] == Close("more than 128 options")


@pytest.mark.parametrize(("name", "size"), [(b"x" * 4097, 1), (b"", 0), (b"", 2**63)])
def test_refuses_an_export_that_cannot_be_served(name, size):
    with pytest.raises(Misuse):
        Export(name, b"", size)
