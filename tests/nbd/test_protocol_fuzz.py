"""What holds for every stream, however it is cut: nothing raises, memory stays bounded, cuts do not matter."""

import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.nbd.events import Close, Flush, Read, Send, Trim, Write, WriteZeroes
from perdure.nbd.handshake import Export
from perdure.nbd.protocol import BUFFER_BYTES, Connection
from tests.nbd import frames as f

SIZE = 1 << 20

u16 = st.integers(0, 2**16 - 1)
u32 = st.one_of(st.integers(0, 300), st.integers(0, 2**32 - 1))
u64 = st.one_of(st.integers(0, SIZE), st.integers(0, 2**64 - 1))
blob = st.binary(max_size=200)
options = st.one_of(
    st.builds(f.option, st.integers(0, 12), blob),
    st.builds(f.option, st.integers(0, 12), blob, u32),
    st.builds(lambda names: f.option(f.SET_META, f.queries(*names)), st.lists(blob, max_size=5)),
    st.builds(lambda name, wanted: f.option(f.INFO, f.info(name, wanted)), blob, st.lists(u16, max_size=5)),
    st.just(f.option(f.STRUCTURED)),
)
requests = st.one_of(
    st.builds(f.request, st.integers(0, 9), u64, u64, u32, st.integers(0, 31)),
    st.builds(f.write, u64, st.integers(0, SIZE), st.binary(max_size=70_000), st.integers(0, 3)),
)
streams = st.builds(
    lambda haggling, opening, transmission, garbage: (
        f.flags() + b"".join(haggling) + opening + b"".join(transmission) + garbage
    ),
    st.lists(options, max_size=5),
    st.sampled_from([b"", f.option(f.GO, f.info()), f.option(f.EXPORT_NAME)]),
    st.lists(requests, max_size=20),
    blob,
)
cuts = st.lists(st.integers(1, 5000), min_size=1, max_size=20)


def connection():
    return Connection(Export(b"perdure", b"", SIZE))


def feed_in_cuts(core, data, lengths):
    """Feed `data` cut into pieces of these lengths, again and again."""
    events, position, turn = [], 0, 0
    while position < len(data):
        piece = data[position : position + lengths[turn % len(lengths)]]
        events += f.feed(core, piece)
        position += len(piece)
        turn += 1
    return events


def check_valid(event):
    """What the backend may rely on."""
    assert isinstance(event, Send | Close | Read | Write | Flush | Trim | WriteZeroes)
    if isinstance(event, Write):
        assert 0 < len(event.data) <= 32 * f.MIB
        assert event.offset + len(event.data) <= SIZE
    if isinstance(event, Read | Trim | WriteZeroes):
        assert event.length > 0
        assert event.offset + event.length <= SIZE


@settings(deadline=None)
@given(st.binary(max_size=5000), cuts)
def test_random_bytes_never_raise(data, lengths):
    for event in feed_in_cuts(connection(), data, lengths):
        check_valid(event)


@settings(deadline=None)
@given(st.binary(max_size=5000), cuts, st.booleans())
def test_random_bytes_after_the_handshake_never_raise(data, lengths, structured):
    core = connection()
    f.feed(core, f.opening(structured))
    for event in feed_in_cuts(core, data, lengths):
        check_valid(event)


@settings(deadline=None)
@given(streams, cuts)
def test_frames_in_any_cut_are_the_same_events(data, lengths):
    whole = f.feed(connection(), data)
    for event in whole:
        check_valid(event)
    assert feed_in_cuts(connection(), data, lengths) == whole


@settings(deadline=None)
@given(
    st.lists(st.builds(f.write, u64, st.integers(0, 100), st.binary(min_size=1, max_size=90_000)), max_size=12), cuts
)
def test_writes_in_any_cut_arrive_whole(frames, lengths):
    core = connection()
    f.feed(core, f.opening())
    arrived = feed_in_cuts(core, b"".join(frames), lengths)
    assert [f.write(write.cookie, write.offset, bytes(write.data)) for write in arrived] == frames


def test_memory_stays_bounded_whatever_lengths_a_client_states():
    piece = b"x" * 100_000
    opened = f.opening() + f.request(f.WRITE, 1, SIZE, 60 * f.MIB)
    for head in (opened, f.flags() + f.option(f.INFO, length=60 * f.MIB)):
        tracemalloc.start()
        try:
            core = connection()
            f.feed(core, head)
            for _ in range(300):
                assert f.feed(core, piece) == []
            assert tracemalloc.get_traced_memory()[1] < 3 * BUFFER_BYTES
        finally:
            tracemalloc.stop()
