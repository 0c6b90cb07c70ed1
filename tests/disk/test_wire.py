"""The tree that lets one document answer for many requests, and the constants that both ends must share."""

from __future__ import annotations

import hashlib

import pytest

from perdure.array.paths import merkle_root, path_bytes
from perdure.disk import wire

COUNTS = range(1, 21)


def leaves(count: int) -> list[bytes]:
    return [hashlib.sha512(bytes([number])).digest() for number in range(count)]


def shape(index: int, count: int) -> list[int]:
    """On which side the sibling stands at each step from leaf `index` of `count` to the root; 1 is left."""
    steps = []
    while count > 1:
        if index ^ 1 < count:
            steps.append(index & 1)
        index, count = index >> 1, (count + 1) >> 1
    return steps


@pytest.mark.parametrize("count", COUNTS)
def test_every_path_leads_from_its_leaf_to_the_root(count: int) -> None:
    own = leaves(count)
    levels = wire.merkle_levels(own)
    for index in range(count):
        path = wire.merkle_path(levels, index)
        assert len(path) == path_bytes(index, count) == 64 * len(shape(index, count))
        assert merkle_root(own[index], index, count, path) == levels[-1][0]


def test_the_most_leaves_that_one_document_answers_for_have_paths() -> None:
    own = [hashlib.sha512(number.to_bytes(2, "big")).digest() for number in range(wire.LEAVES_MAX)]
    levels = wire.merkle_levels(own)
    assert all(merkle_root(own[i], i, len(own), wire.merkle_path(levels, i)) == levels[-1][0] for i in range(len(own)))


def test_the_root_of_one_leaf_is_the_leaf_and_of_three_is_as_documented() -> None:
    a, b, c = leaves(3)
    fork = b"perdure/fork/1"
    assert wire.merkle_levels([a])[-1] == [a]
    low = hashlib.sha512(fork + a + b).digest()
    assert wire.merkle_levels([a, b, c])[-1] == [hashlib.sha512(fork + low + c).digest()]


@pytest.mark.parametrize("count", COUNTS)
def test_no_other_leaf_or_position_leads_to_the_root(count: int) -> None:
    """A position is told by the sides on which siblings stand: (2 of 3) and (1 of 2) are the same walk."""
    own = leaves(count)
    levels = wire.merkle_levels(own)
    root = levels[-1][0]
    for index in range(count):
        path = wire.merkle_path(levels, index)
        for other in range(count):
            if other != index:
                assert merkle_root(own[other], index, count, path) != root
        for claimed_count in range(24):
            for claimed in range(24):
                same = claimed < claimed_count and shape(claimed, claimed_count) == shape(index, count)
                assert (merkle_root(own[index], claimed, claimed_count, path) == root) is same


@pytest.mark.parametrize("count", COUNTS)
def test_a_path_of_another_length_gives_no_root(count: int) -> None:
    own = leaves(count)
    levels = wire.merkle_levels(own)
    for index in range(count):
        path = wire.merkle_path(levels, index)
        longer = [path + b"\0", path + bytes(64), bytes(64) + path]
        shorter = [path[:-1], path[:-64], path[64:], b""] if path else []
        for wrong in longer + shorter:
            assert merkle_root(own[index], index, count, wrong) is None


def test_an_altered_path_gives_another_root() -> None:
    own = leaves(7)
    levels = wire.merkle_levels(own)
    path = wire.merkle_path(levels, 4)
    for byte in range(len(path)):
        altered = bytearray(path)
        altered[byte] ^= 0x80
        assert merkle_root(own[4], 4, 7, bytes(altered)) not in (levels[-1][0], None)


@pytest.mark.parametrize(("index", "count"), [(0, 0), (1, 0), (1, 1), (2, 2), (3, 3), (5, 5), (7, 7), (65535, 65535)])
def test_an_index_that_does_not_exist_gives_no_root(index: int, count: int) -> None:
    for steps in range(18):
        assert merkle_root(bytes(64), index, count, bytes(64 * steps)) is None


@pytest.mark.parametrize("length", [0, 63, 65, 128])
def test_a_leaf_of_another_length_gives_no_root(length: int) -> None:
    assert merkle_root(bytes(length), 0, 1, b"") is None
    assert merkle_root(bytes(length), 0, 2, bytes(64)) is None


def test_no_fork_can_be_passed_off_as_a_leaf() -> None:
    """A leaf's and a fork's preimages begin differently, so no answer's fields spell out two children."""
    own = leaves(4)
    levels = wire.merkle_levels(own)
    low, high = levels[1]
    assert merkle_root(low, 0, 2, high) == levels[-1][0]  # the walk alone would allow an inner node ...
    children = own[0] + own[1]
    fields = (children[:32], children[32:48], int.from_bytes(children[48:56], "big"), children[56:88], children[88:120])
    assert wire.leaf(*fields, children[120:]) != low  # ... but no leaf hashes to one
    untagged = hashlib.sha512(children).digest()
    assert low != untagged
    assert wire.leaf(*fields, children[120:]) != untagged


def test_layouts_have_their_documented_sizes() -> None:
    sizes = {
        wire.FRAME_HEADER: 4,
        wire.COMMAND_HEADER: 92,
        wire.COUNT: 2,
        wire.OP: 13,
        wire.RUN: 8,
        wire.RESULT: 60,
        wire.REPLY_HEADER: 5,
        wire.PATH_HEADER: 4,
    }
    assert {layout.format: layout.size for layout in sizes} == {layout.format: size for layout, size in sizes.items()}


def test_the_command_digest_is_a_tagged_hash_of_all_parts() -> None:
    tag = hashlib.sha256(b"perdure/command/1").digest()
    expected = hashlib.sha256(tag + tag + b"abcdef").digest()
    assert wire.command_digest(b"abc", memoryview(b"def")) == wire.command_digest(bytearray(b"abcdef")) == expected


def test_a_link_is_hashed_with_a_tag_of_its_own() -> None:
    tag = hashlib.sha256(b"perdure/link/1").digest()
    assert wire.hashed_link(b"l" * 32) == hashlib.sha256(tag + tag + b"l" * 32).digest()


def test_every_number_on_the_wire_is_the_documented_one() -> None:
    """Both ends share these names, so no exchange between them would show that a number has changed (spec 2, 3)."""
    assert (wire.VERSION, wire.ANSWER, wire.REFUSAL, wire.DISK_SECTOR_BYTES, wire.LEAVES_MAX) == (1, 1, 2, 64, 512)
    assert (wire.COMMAND_BYTES_MAX, wire.READ_BYTES_MAX) == (1_048_576, 1_048_576)
    assert [(opcode.name, int(opcode)) for opcode in wire.Opcode] == [
        ("HELLO", 1),
        ("OPEN", 2),
        ("EXECUTE", 3),
        ("READ", 4),
    ]
    assert [(kind.name, int(kind)) for kind in wire.OpKind] == [("WRITE", 1), ("COPY", 2), ("TRIM", 3)]
    wants = [("NOTHING", 0), ("EVIDENCE", 1), ("CHAIN", 2), ("LINK", 3)]
    assert [(each.name, int(each)) for each in wire.Wants] == wants
    assert (wire.LINKS, wire.LINK_BYTES) == (32, 32)
    reasons = "MALFORMED BAD_SIGNATURE WRONG_INSTANCE WRONG_EPOCH WRONG_SEQ OUT_OF_RANGE NO_EVIDENCE NO_LINK"
    assert {reason.name: int(reason) for reason in wire.Reason} == {
        name: number for number, name in enumerate(reasons.split(), 1)
    }
    formats = (wire.FRAME_HEADER, wire.COMMAND_HEADER, wire.COUNT, wire.OP, wire.RUN, wire.RESULT, wire.REPLY_HEADER)
    assert [layout.format for layout in (*formats, wire.PATH_HEADER)] == [
        ">I",
        ">BBBx32s16sQ32s",
        ">H",
        ">BIII",
        ">II",
        ">32s16sQI",
        ">BI",
        ">HH",
    ]
