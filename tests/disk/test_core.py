"""The disk's state machine: what each command does, what it refuses and why, and that a refusal changes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from coincurve import PrivateKey
from coincurve.ecdsa import cdata_to_der, der_to_cdata, deserialize_compact, serialize_compact
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.disk import wire
from perdure.disk.core import Answer, DiskCore, Refusal
from perdure.disk.wire import DISK_SECTOR_BYTES, Opcode, OpKind, Reason

from . import client
from .client import Op

KEY = PrivateKey(b"\x11" * 32)
OTHER_KEY = PrivateKey(b"\x22" * 32)
INSTANCE = b"I" * 32
NONCE = b"N" * 32
E1, E2, E3 = (bytes(15) + bytes([number]) for number in (1, 2, 3))
SECTORS = 64
ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141


class Disk:
    """A core with its memory and an arena, driven by frames."""

    def __init__(self, sectors: int = SECTORS, arena_bytes: int = wire.READ_BYTES_MAX, instance: bytes = INSTANCE):
        self.memory = bytearray(sectors * DISK_SECTOR_BYTES)
        self.out = bytearray(arena_bytes)
        self.drawn: list[bytes] = []
        self.core = DiskCore(memoryview(self.memory), instance, KEY.public_key.format(), self.random)

    def random(self, count: int) -> bytes:
        self.drawn.append(bytes([len(self.drawn) + 1]) * count)
        return self.drawn[-1]

    def handle(self, frame: bytes) -> Answer:
        return self.core.handle(memoryview(frame)[wire.FRAME_HEADER.size :], memoryview(self.out))

    def state(self) -> tuple[bytes, bytes, bytes, int]:
        return bytes(self.memory), self.core.instance, self.core.epoch, self.core.seq

    def refuses(self, frame: bytes) -> Reason:
        """The reason for which `frame` is refused; fails if it is not, or if anything changed."""
        before, arena = self.state(), bytes(self.out)
        with pytest.raises(Refusal) as refused:
            self.handle(frame)
        assert self.state() == before
        assert self.out == arena
        return refused.value.reason

    def execute(self, *ops: Op, seq: int | None = None) -> Answer:
        return self.handle(client.execute(KEY, INSTANCE, self.core.epoch, seq or self.core.seq + 1, ops))

    def read(self, *runs: tuple[int, int]) -> bytes:
        return bytes(self.handle(client.read(KEY, INSTANCE, self.core.epoch, runs)).data)

    def sectors(self, start: int, count: int = 1) -> bytes:
        return bytes(self.memory[start * DISK_SECTOR_BYTES : (start + count) * DISK_SECTOR_BYTES])


def sector(letter: str) -> bytes:
    return letter.encode() * DISK_SECTOR_BYTES


def fill(letters: str) -> bytes:
    return b"".join(sector(letter) for letter in letters)


@pytest.fixture
def blank() -> Disk:
    return Disk()


@pytest.fixture
def disk() -> Disk:
    """A disk opened in epoch 1, with seq 1 and the sectors 0 to 7 holding the letters a to h."""
    disk = Disk()
    disk.handle(client.open_disk(KEY, INSTANCE, E1, NONCE))
    disk.execute(client.write(0, fill("abcdefgh")))
    return disk


def execute_body(*ops: Op, count: int | None = None, data: bytes = b"") -> bytes:
    records = b"".join(wire.OP.pack(op.kind, op.target, op.count, op.source) for op in ops)
    return wire.COUNT.pack(len(ops) if count is None else count) + records + data


def raw(opcode: int, body: bytes = b"", **fields: Any) -> bytes:
    """A signed frame with any header at all."""
    values: dict[str, Any] = {
        "version": wire.VERSION,
        "wanted": 0,
        "instance": INSTANCE,
        "epoch": E1,
        "seq": 0,
        "nonce": wire.NO_NONCE,
        "reserved": 0,
    } | fields
    names = ("wanted", "instance", "epoch", "seq", "nonce")
    payload = wire.COMMAND_HEADER.pack(values["version"], opcode, *(values[name] for name in names))
    return client.sign(KEY, payload[:3] + bytes([values["reserved"]]) + payload[4:] + body)


# The four commands ----------------------------------------------------------------------------------------


def test_a_new_disk_is_zero_unopened_and_says_so(blank: Disk) -> None:
    answer = blank.handle(client.hello(KEY, NONCE))
    assert answer.head == wire.RESULT.pack(INSTANCE, wire.NO_EPOCH, 0, SECTORS)
    assert not answer.data
    assert not any(blank.memory)


def test_hello_reports_epoch_and_seq_and_changes_nothing(disk: Disk) -> None:
    before = disk.state()
    assert disk.handle(client.hello(KEY, NONCE)).head == wire.RESULT.pack(INSTANCE, E1, 1, SECTORS)
    assert disk.state() == before


def test_open_raises_the_epoch_resets_seq_and_keeps_memory(disk: Disk) -> None:
    before = bytes(disk.memory)
    answer = disk.handle(client.open_disk(KEY, INSTANCE, E2, NONCE))
    assert answer.head == wire.RESULT.pack(INSTANCE, E2, 0, SECTORS)
    assert (disk.core.epoch, disk.core.seq, bytes(disk.memory)) == (E2, 0, before)


def test_open_may_skip_epochs_up_to_the_last(blank: Disk) -> None:
    blank.handle(client.open_disk(KEY, INSTANCE, b"\xff" * 16, NONCE))
    assert blank.refuses(client.open_disk(KEY, INSTANCE, b"\xff" * 16, NONCE)) is Reason.WRONG_EPOCH


@pytest.mark.parametrize("epoch", [wire.NO_EPOCH, E1, E2])
def test_open_needs_a_strictly_greater_epoch(blank: Disk, epoch: bytes) -> None:
    blank.handle(client.open_disk(KEY, INSTANCE, E2, NONCE))
    assert blank.refuses(client.open_disk(KEY, INSTANCE, epoch, NONCE)) is Reason.WRONG_EPOCH


def test_epochs_compare_as_big_endian_numbers(blank: Disk) -> None:
    blank.handle(client.open_disk(KEY, INSTANCE, bytes(15) + b"\xff", NONCE))
    assert blank.refuses(client.open_disk(KEY, INSTANCE, bytes(15) + b"\xfe", NONCE)) is Reason.WRONG_EPOCH
    blank.handle(client.open_disk(KEY, INSTANCE, bytes(14) + b"\x01\x00", NONCE))


def test_an_unopened_disk_cannot_be_opened_with_epoch_zero(blank: Disk) -> None:
    assert blank.refuses(client.open_disk(KEY, INSTANCE, wire.NO_EPOCH, NONCE)) is Reason.WRONG_EPOCH


def test_execute_does_its_ops_in_order_and_counts_one(disk: Disk) -> None:
    answer = disk.execute(client.write(8, fill("xy")), client.copy(20, 2, 8), client.trim(8, 1), client.copy(21, 1, 8))
    assert answer.head == wire.RESULT.pack(INSTANCE, E1, 2, SECTORS)
    assert not answer.data
    assert disk.sectors(8, 2) == bytes(64) + sector("y")
    assert disk.sectors(20, 2) == sector("x") + bytes(64)


def test_the_order_of_ops_decides() -> None:
    ops = [client.write(0, sector("n")), client.copy(1, 1, 0), client.trim(0, 1)]
    seen = set()
    for order in ((0, 1, 2), (1, 0, 2), (2, 1, 0), (2, 0, 1), (0, 2, 1)):
        disk = Disk()
        disk.handle(client.open_disk(KEY, INSTANCE, E1, NONCE))
        disk.execute(client.write(0, sector("o")))
        disk.execute(*(ops[i] for i in order))
        seen.add(disk.sectors(0, 2))
    n, o, zero = sector("n"), sector("o"), bytes(64)
    assert seen == {zero + n, zero + o, n + zero, n + n, zero + zero}


def test_writes_take_their_data_in_order_between_other_ops(disk: Disk) -> None:
    disk.execute(
        client.write(10, fill("pq")), client.trim(11, 1), client.write(40, fill("r")), client.write(12, fill("st"))
    )
    assert disk.sectors(10, 4) == sector("p") + bytes(64) + fill("st")
    assert disk.sectors(40) == sector("r")


def test_an_execute_without_ops_counts_one(disk: Disk) -> None:
    memory = bytes(disk.memory)
    disk.execute()
    assert (disk.core.seq, bytes(disk.memory)) == (2, memory)


@pytest.mark.parametrize(("target", "source"), [(2, 0), (0, 2), (3, 3)])
def test_an_overlapping_copy_moves_what_was_there(disk: Disk, target: int, source: int) -> None:
    expected = bytearray(disk.memory[: 8 * 64])
    expected[target * 64 : (target + 4) * 64] = bytes(expected[source * 64 : (source + 4) * 64])
    disk.execute(client.copy(target, 4, source))
    assert disk.sectors(0, 8) == expected


def test_trim_zeroes_its_run_and_nothing_beside_it(disk: Disk) -> None:
    disk.execute(client.trim(2, 3))
    assert disk.sectors(0, 8) == fill("ab") + bytes(3 * 64) + fill("fgh")


@pytest.mark.parametrize("sectors", [1023, 1024, 1025, 2048, 2500])
def test_trim_reaches_the_last_byte_of_long_runs(sectors: int) -> None:
    disk = Disk(sectors + 2)
    disk.memory[:] = b"x" * len(disk.memory)
    disk.handle(client.open_disk(KEY, INSTANCE, E1, NONCE))
    disk.execute(client.trim(1, sectors))
    assert disk.memory == sector("x") + bytes(sectors * 64) + sector("x")


def test_every_sector_up_to_the_last_can_be_used(disk: Disk) -> None:
    disk.execute(
        client.write(SECTORS - 1, sector("z")), client.copy(SECTORS - 2, 1, SECTORS - 1), client.trim(SECTORS - 1, 1)
    )
    assert disk.read((SECTORS - 2, 2)) == sector("z") + bytes(64)
    disk.execute(client.copy(0, SECTORS, 0), client.trim(0, SECTORS))
    assert not any(disk.memory)


def test_read_returns_its_runs_in_order(disk: Disk) -> None:
    assert disk.read((4, 2), (0, 1), (5, 3), (0, 1)) == fill("efafgha")


def test_read_of_no_runs_is_empty(disk: Disk) -> None:
    assert disk.read() == b""


def test_read_changes_neither_seq_nor_memory_and_may_be_repeated(disk: Disk) -> None:
    before = disk.state()
    frame = client.read(KEY, INSTANCE, E1, [(0, 2)])
    assert bytes(disk.handle(frame).data) == bytes(disk.handle(frame).data) == fill("ab")
    assert disk.state() == before


def test_a_read_fills_the_start_of_the_arena_only(disk: Disk) -> None:
    disk.out[:] = b"\xaa" * len(disk.out)
    disk.read((0, 2))
    assert disk.out == fill("ab") + b"\xaa" * (len(disk.out) - 128)


# Limits ---------------------------------------------------------------------------------------------------


def test_a_read_of_the_largest_size_is_answered_and_one_sector_more_is_not() -> None:
    most = wire.READ_BYTES_MAX // 64
    disk = Disk(most + 1, arena_bytes=2 * wire.READ_BYTES_MAX)
    disk.handle(client.open_disk(KEY, INSTANCE, E1, NONCE))
    assert len(disk.read((1, most))) == wire.READ_BYTES_MAX
    assert disk.refuses(client.read(KEY, INSTANCE, E1, [(0, most + 1)])) is Reason.OUT_OF_RANGE
    assert disk.refuses(client.read(KEY, INSTANCE, E1, [(0, most), (0, 1)])) is Reason.OUT_OF_RANGE


def test_a_read_never_exceeds_the_arena_it_is_given(disk: Disk) -> None:
    disk.out = bytearray(128)
    assert disk.read((0, 2)) == fill("ab")
    assert disk.refuses(client.read(KEY, INSTANCE, E1, [(0, 3)])) is Reason.OUT_OF_RANGE


def test_an_execute_may_carry_as_many_ops_as_its_count_can_say(disk: Disk) -> None:
    disk.execute(*[client.trim(1, 1)] * 0xFFFF)
    assert disk.read((0, 3)) == sector("a") + bytes(64) + sector("c")


@pytest.mark.parametrize(
    "op",
    [
        client.write(SECTORS, sector("x")),
        client.write(SECTORS - 1, fill("xy")),
        client.write(0xFFFFFFFF, sector("x")),
        client.trim(SECTORS, 1),
        client.trim(1, SECTORS),
        client.trim(0xFFFFFFFF, 0xFFFFFFFF),
        client.trim(0, 0xFFFFFFFF),
        client.copy(SECTORS - 1, 2, 0),
        client.copy(0, 2, SECTORS - 1),
        client.copy(0, 1, SECTORS),
        client.copy(0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        client.copy(0, 1, 0xFFFFFFFF),
    ],
)
def test_an_op_beyond_the_end_is_out_of_range_and_undoes_the_ops_before_it(disk: Disk, op: Op) -> None:
    good = [client.write(0, sector("!")), client.trim(1, 3), client.copy(5, 1, 0)]
    assert disk.refuses(client.execute(KEY, INSTANCE, E1, 2, [*good, op])) is Reason.OUT_OF_RANGE
    assert disk.refuses(client.execute(KEY, INSTANCE, E1, 2, [op, *good])) is Reason.OUT_OF_RANGE


@pytest.mark.parametrize("run", [(SECTORS, 1), (SECTORS - 1, 2), (0, SECTORS + 1), (0xFFFFFFFF, 1), (1, 0xFFFFFFFF)])
def test_a_run_beyond_the_end_is_out_of_range(disk: Disk, run: tuple[int, int]) -> None:
    assert disk.refuses(client.read(KEY, INSTANCE, E1, [(0, 1), run])) is Reason.OUT_OF_RANGE


# Malformed commands of the authority itself -----------------------------------------------------------------

W = client.write(0, sector("!"))

MALFORMED_EXECUTES = {
    "no count": b"",
    "half a count": b"\0",
    "fewer records than counted": execute_body(W, count=2, data=sector("!")),
    "a record cut short": execute_body(W, data=b"")[:-1],
    "no data for a write": execute_body(W),
    "data cut short": execute_body(W, data=sector("!")[:-1]),
    "data too long": execute_body(W, data=sector("!") + b"!"),
    "a sector too much": execute_body(W, data=fill("!!")),
    "data without a write": execute_body(client.trim(0, 1), data=sector("!")),
    "data without an op": execute_body(data=sector("!")),
    "kind zero": execute_body(Op(0, 0, 1)),
    "kind four": execute_body(Op(4, 0, 1)),
    "kind 255": execute_body(Op(255, 0, 1)),
    "an empty write": execute_body(Op(OpKind.WRITE, 0, 0)),
    "an empty copy": execute_body(Op(OpKind.COPY, 0, 0, 1)),
    "an empty trim": execute_body(Op(OpKind.TRIM, 0, 0)),
    "a write with a source": execute_body(Op(OpKind.WRITE, 0, 1, 1), data=sector("!")),
    "a trim with a source": execute_body(Op(OpKind.TRIM, 0, 1, 1)),
    "a bad last op": execute_body(W, client.trim(0, 2), Op(9, 0, 1), data=sector("!")),
}


@pytest.mark.parametrize("body", MALFORMED_EXECUTES.values(), ids=MALFORMED_EXECUTES.keys())
def test_a_malformed_execute_is_refused_whole(disk: Disk, body: bytes) -> None:
    assert disk.refuses(raw(Opcode.EXECUTE, body, seq=2)) is Reason.MALFORMED


MALFORMED_READS = {
    "no count": b"",
    "half a count": b"\0",
    "fewer runs than counted": wire.COUNT.pack(2) + wire.RUN.pack(0, 1),
    "a run cut short": (wire.COUNT.pack(1) + wire.RUN.pack(0, 1))[:-1],
    "bytes after the runs": wire.COUNT.pack(1) + wire.RUN.pack(0, 1) + b"\0",
    "bytes after no runs": wire.COUNT.pack(0) + b"\0",
    "an empty run": wire.COUNT.pack(1) + wire.RUN.pack(0, 0),
    "an empty run after a good one": wire.COUNT.pack(2) + wire.RUN.pack(0, 1) + wire.RUN.pack(5, 0),
}


@pytest.mark.parametrize("body", MALFORMED_READS.values(), ids=MALFORMED_READS.keys())
def test_a_malformed_read_is_refused(disk: Disk, body: bytes) -> None:
    assert disk.refuses(raw(Opcode.READ, body)) is Reason.MALFORMED


NO_OPS = execute_body()
ASKED: dict[str, Any] = {"wanted": 1, "nonce": NONCE}
UNBOUND = ASKED | {"instance": wire.NO_INSTANCE, "epoch": wire.NO_EPOCH}

MALFORMED_HEADERS = {
    "version 0": raw(Opcode.EXECUTE, NO_OPS, seq=2, version=0),
    "version 2": raw(Opcode.EXECUTE, NO_OPS, seq=2, version=2),
    "reserved byte set": raw(Opcode.EXECUTE, NO_OPS, seq=2, reserved=1),
    "flag 4": raw(Opcode.EXECUTE, NO_OPS, seq=2, wanted=4, nonce=NONCE),
    "flag 255": raw(Opcode.EXECUTE, NO_OPS, seq=2, wanted=255),
    "a nonce without the flag": raw(Opcode.EXECUTE, NO_OPS, seq=2, nonce=NONCE),
    "opcode 0": raw(0),
    "opcode 5": raw(5),
    "opcode 255": raw(255),
    "opcode 5 with the body of a read": raw(5, wire.COUNT.pack(0)),
    "a read with a seq": raw(Opcode.READ, wire.COUNT.pack(0), seq=1),
    "hello with a body": raw(Opcode.HELLO, b"\0", **UNBOUND),
    "hello without evidence": raw(Opcode.HELLO, instance=wire.NO_INSTANCE, epoch=wire.NO_EPOCH),
    "hello with a seq": raw(Opcode.HELLO, **(UNBOUND | {"seq": 1})),
    "hello with an instance": raw(Opcode.HELLO, **(UNBOUND | {"instance": INSTANCE})),
    "hello with an epoch": raw(Opcode.HELLO, **(UNBOUND | {"epoch": E1})),
    "open with a body": raw(Opcode.OPEN, b"\0", **(ASKED | {"epoch": E2})),
    "open without evidence": raw(Opcode.OPEN, epoch=E2),
    "open with a seq": raw(Opcode.OPEN, **(ASKED | {"epoch": E2, "seq": 1})),
}


@pytest.mark.parametrize("frame", MALFORMED_HEADERS.values(), ids=MALFORMED_HEADERS.keys())
def test_a_malformed_header_is_refused(disk: Disk, frame: bytes) -> None:
    assert disk.refuses(frame) is Reason.MALFORMED


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 64 + wire.COMMAND_HEADER.size - 1])
def test_a_command_shorter_than_its_header_is_malformed(disk: Disk, length: int) -> None:
    whole = client.hello(KEY, NONCE)[wire.FRAME_HEADER.size :]
    assert disk.refuses(client.frame(whole[:length])) is Reason.MALFORMED


# Binding: authority, instance, epoch, seq ---------------------------------------------------------------------


def test_another_authority_is_refused(disk: Disk) -> None:
    for frame in (
        client.hello(OTHER_KEY, NONCE),
        client.open_disk(OTHER_KEY, INSTANCE, E2, NONCE),
        client.execute(OTHER_KEY, INSTANCE, E1, 2, [W]),
        client.read(OTHER_KEY, INSTANCE, E1, [(0, 1)]),
    ):
        assert disk.refuses(frame) is Reason.BAD_SIGNATURE


@pytest.mark.parametrize("signature", [bytes(64), b"\xff" * 64, bytes(63) + b"\1", b"\1" * 64])
def test_a_nonsense_signature_is_refused(disk: Disk, signature: bytes) -> None:
    payload = client.hello(KEY, NONCE)[4 + 64 :]
    assert disk.refuses(client.frame(signature + payload)) is Reason.BAD_SIGNATURE


def test_the_mirrored_signature_is_refused(disk: Disk) -> None:
    """For (r, s) anyone can write (r, n - s); one command has one signature here."""
    frame = client.hello(KEY, NONCE)
    s = ORDER - int.from_bytes(frame[4 + 32 : 4 + 64], "big")
    mirrored = frame[: 4 + 32] + s.to_bytes(32, "big") + frame[4 + 64 :]
    assert disk.refuses(mirrored) is Reason.BAD_SIGNATURE


def test_a_signature_over_the_untagged_hash_is_refused(disk: Disk) -> None:
    payload = client.execute(KEY, INSTANCE, E1, 2, [W])[4 + 64 :]
    der = KEY.sign(payload)
    signature = serialize_compact(der_to_cdata(der))
    assert cdata_to_der(deserialize_compact(signature)) == der
    assert disk.refuses(client.frame(signature + payload)) is Reason.BAD_SIGNATURE


def test_the_signature_is_checked_before_anything_is_parsed(disk: Disk) -> None:
    """Whatever else is wrong with a command, a bad signature is all that a stranger learns."""
    for good in (*MALFORMED_HEADERS.values(), client.execute(KEY, b"J" * 32, E3, 9, [Op(9, 9, 0)])):
        broken = bytearray(good)
        broken[4] ^= 1
        assert disk.refuses(bytes(broken)) is Reason.BAD_SIGNATURE


def test_a_command_for_another_instance_is_refused(disk: Disk) -> None:
    other = b"J" * 32
    for instance in (other, wire.NO_INSTANCE):
        for frame in (
            client.open_disk(KEY, instance, E2, NONCE),
            client.execute(KEY, instance, E1, 2, [W]),
            client.read(KEY, instance, E1, [(0, 1)]),
        ):
            assert disk.refuses(frame) is Reason.WRONG_INSTANCE


def test_a_clone_refuses_the_whole_recorded_log_but_hello() -> None:
    log = [
        client.open_disk(KEY, INSTANCE, E1, NONCE),
        client.execute(KEY, INSTANCE, E1, 1, [W], NONCE),
        client.read(KEY, INSTANCE, E1, [(0, 1)], NONCE),
    ]
    original, clone = Disk(), Disk(instance=b"J" * 32)
    for frame in log:
        original.handle(frame)
        assert clone.refuses(frame) is Reason.WRONG_INSTANCE
    assert clone.handle(client.hello(KEY, NONCE)).head[:32] == b"J" * 32


def test_an_unopened_disk_executes_and_reads_nothing(blank: Disk) -> None:
    for epoch in (wire.NO_EPOCH, E1):
        assert blank.refuses(client.execute(KEY, INSTANCE, epoch, 1, [W])) is Reason.WRONG_EPOCH
        assert blank.refuses(client.read(KEY, INSTANCE, epoch, [(0, 1)])) is Reason.WRONG_EPOCH


@pytest.mark.parametrize("epoch", [wire.NO_EPOCH, E1, E3])
def test_only_the_current_epoch_may_execute_and_read(disk: Disk, epoch: bytes) -> None:
    disk.handle(client.open_disk(KEY, INSTANCE, E2, NONCE))
    assert disk.refuses(client.execute(KEY, INSTANCE, epoch, 1, [W])) is Reason.WRONG_EPOCH
    assert disk.refuses(client.read(KEY, INSTANCE, epoch, [(0, 1)])) is Reason.WRONG_EPOCH


def test_a_late_command_of_a_fenced_main_program_does_not_land(disk: Disk) -> None:
    late = client.execute(KEY, INSTANCE, E1, 2, [W])
    reopen = client.open_disk(KEY, INSTANCE, E1, NONCE)
    disk.handle(client.open_disk(KEY, INSTANCE, E2, NONCE))
    assert disk.refuses(late) is Reason.WRONG_EPOCH
    assert disk.refuses(reopen) is Reason.WRONG_EPOCH
    disk.execute()  # seq 1 of the new epoch: the late command's seq would now be the next
    assert disk.refuses(late) is Reason.WRONG_EPOCH


def test_an_execute_lands_once(disk: Disk) -> None:
    frame = client.execute(KEY, INSTANCE, E1, 2, [client.copy(0, 1, 1)])
    disk.handle(frame)
    assert disk.refuses(frame) is Reason.WRONG_SEQ
    disk.execute(client.write(0, sector("z")))
    assert disk.refuses(frame) is Reason.WRONG_SEQ


@pytest.mark.parametrize("seq", [0, 1, 3, 2**32 + 2, 2**64 - 1])
def test_only_the_next_seq_is_taken(disk: Disk, seq: int) -> None:
    assert disk.refuses(client.execute(KEY, INSTANCE, E1, seq, [W])) is Reason.WRONG_SEQ


def test_the_last_seq_of_an_epoch_is_followed_by_none(disk: Disk) -> None:
    disk.core.seq = 2**64 - 2
    disk.execute()
    assert disk.core.seq == 2**64 - 1
    for seq in (0, 1, 2**64 - 1):
        assert disk.refuses(client.execute(KEY, INSTANCE, E1, seq, [])) is Reason.WRONG_SEQ


def test_a_refused_execute_may_be_put_right_under_the_same_seq(disk: Disk) -> None:
    assert disk.refuses(client.execute(KEY, INSTANCE, E1, 2, [client.trim(SECTORS, 1)])) is Reason.OUT_OF_RANGE
    disk.handle(client.execute(KEY, INSTANCE, E1, 2, [W]))
    assert disk.sectors(0) == sector("!")


ORDER_OF_CHECKS = [
    ("version before instance", Reason.MALFORMED, raw(Opcode.EXECUTE, version=2, instance=b"J" * 32)),
    ("instance before epoch", Reason.WRONG_INSTANCE, raw(Opcode.EXECUTE, instance=b"J" * 32, epoch=E3)),
    ("instance before opcode", Reason.WRONG_INSTANCE, raw(77, instance=b"J" * 32)),
    ("instance before the shape of an open", Reason.WRONG_INSTANCE, raw(Opcode.OPEN, b"x", instance=b"J" * 32)),
    ("shape of an open before its epoch", Reason.MALFORMED, raw(Opcode.OPEN, b"x", epoch=wire.NO_EPOCH)),
    ("epoch before seq", Reason.WRONG_EPOCH, raw(Opcode.EXECUTE, epoch=E3, seq=9)),
    ("epoch before opcode", Reason.WRONG_EPOCH, raw(77, epoch=E3)),
    ("epoch before the shape of a read", Reason.WRONG_EPOCH, raw(Opcode.READ, b"x", epoch=E3)),
    ("seq before the body", Reason.WRONG_SEQ, raw(Opcode.EXECUTE, b"x", seq=9)),
    (
        "ops in their order",
        Reason.OUT_OF_RANGE,
        raw(Opcode.EXECUTE, execute_body(client.trim(SECTORS, 1), Op(9, 0, 0)), seq=2),
    ),
    ("ranges before the data's length", Reason.OUT_OF_RANGE, client.execute(KEY, INSTANCE, E1, 2, [Op(1, SECTORS, 1)])),
    ("shape of all runs before ranges", Reason.MALFORMED, client.read(KEY, INSTANCE, E1, [(SECTORS, 1), (0, 0)])),
]


@pytest.mark.parametrize(
    ("reason", "frame"), [case[1:] for case in ORDER_OF_CHECKS], ids=[c[0] for c in ORDER_OF_CHECKS]
)
def test_checks_come_in_one_order(disk: Disk, reason: Reason, frame: bytes) -> None:
    assert disk.refuses(frame) is reason


# Evidence -----------------------------------------------------------------------------------------------------


def evidence_commands(nonce: bytes) -> Iterator[tuple[bytes, bytes, int, bytes]]:
    """Frames for the disk of the fixture, each with the epoch, the seq and the data that its answer must hold."""
    yield client.hello(KEY, nonce), E1, 1, b""
    yield client.read(KEY, INSTANCE, E1, [(1, 2)], nonce), E1, 1, fill("bc")
    yield client.execute(KEY, INSTANCE, E1, 2, [W], nonce), E1, 2, b""
    yield client.open_disk(KEY, INSTANCE, E2, nonce), E2, 0, b""


@pytest.mark.parametrize("nonce", [NONCE, wire.NO_NONCE, b"\xff" * 32])
def test_the_leaf_is_the_documented_hash_of_state_nonce_command_and_result(disk: Disk, nonce: bytes) -> None:
    for frame, epoch, seq, data in evidence_commands(nonce):
        tag = hashlib.sha256(b"perdure/command/1").digest()
        command = hashlib.sha256(tag + tag + frame[4 + 64 :]).digest()
        result = INSTANCE + epoch + seq.to_bytes(8, "big") + SECTORS.to_bytes(4, "big") + data
        fields = INSTANCE + epoch + seq.to_bytes(8, "big") + nonce + command + hashlib.sha256(result).digest()
        answer = disk.handle(frame)
        assert answer.head + bytes(answer.data) == result
        assert answer.leaf == hashlib.sha512(b"perdure/leaf/1" + fields).digest()


def test_no_leaf_is_made_when_none_was_asked_for(disk: Disk) -> None:
    assert disk.execute(W).leaf is None
    assert disk.handle(client.read(KEY, INSTANCE, E1, [(0, 1)])).leaf is None


def test_leaves_differ_by_nonce_command_data_seq_epoch_and_instance() -> None:
    leaves = set()
    cases = 0
    for instance in (INSTANCE, b"J" * 32):
        disk = Disk(instance=instance)
        for epoch in (E1, E2):
            disk.handle(client.open_disk(KEY, instance, epoch, NONCE))
            for seq in (1, 2):
                disk.handle(client.execute(KEY, instance, epoch, seq, [client.write(0, fill(f"{seq}"))]))
                for nonce in (NONCE, b"M" * 32):
                    for runs in ([(0, 1)], [(0, 1), (0, 1)], [(1, 1)]):
                        leaves.add(disk.handle(client.read(KEY, instance, epoch, runs, nonce)).leaf)
                        cases += 1
    assert len(leaves) == cases


# Altered bytes ------------------------------------------------------------------------------------------------


def test_any_single_bit_flipped_in_a_command_is_refused(disk: Disk) -> None:
    frame = client.execute(KEY, INSTANCE, E1, 2, [client.trim(0, 3)])
    for bit in range(4 * 8, len(frame) * 8):
        flipped = bytearray(frame)
        flipped[bit // 8] ^= 1 << bit % 8
        assert disk.refuses(bytes(flipped)) is Reason.BAD_SIGNATURE, f"bit {bit}"
    disk.handle(frame)
    assert disk.sectors(0, 4) == bytes(192) + sector("d")


LONG = client.execute(KEY, INSTANCE, E1, 2, [client.write(3, bytes(range(256)) * 4), client.copy(40, 8, 3)], NONCE)
SHARED = Disk()
SHARED.handle(client.open_disk(KEY, INSTANCE, E1, NONCE))
SHARED.execute(client.write(0, fill("abcdefgh")))


@given(flips=st.sets(st.integers(4 * 8, len(LONG) * 8 - 1), min_size=1, max_size=20))
@settings(max_examples=300, deadline=None)
def test_any_bits_flipped_in_a_command_are_refused(flips: set[int]) -> None:
    flipped = bytearray(LONG)
    for bit in flips:
        flipped[bit // 8] ^= 1 << bit % 8
    assert SHARED.refuses(bytes(flipped)) is Reason.BAD_SIGNATURE


@given(cut=st.integers(4, len(LONG) - 1), more=st.binary(max_size=80))
@settings(max_examples=300, deadline=None)
def test_a_command_cut_short_or_made_longer_is_refused(cut: int, more: bytes) -> None:
    short = 4 + 64 + wire.COMMAND_HEADER.size
    assert SHARED.refuses(LONG[:cut]) is (Reason.MALFORMED if cut < short else Reason.BAD_SIGNATURE)
    assert SHARED.refuses(LONG + b"\0" + more) is Reason.BAD_SIGNATURE


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_whatever_the_authority_signs_is_carried_out_whole_or_refused_whole(body: bytes) -> None:
    disk = Disk(sectors=4)
    disk.handle(client.open_disk(KEY, INSTANCE, E1, NONCE))
    before = disk.state()
    for opcode, seq in ((Opcode.EXECUTE, 1), (Opcode.READ, 0), (Opcode.HELLO, 0), (Opcode.OPEN, 0)):
        try:
            disk.handle(raw(opcode, body, seq=seq))
        except Refusal:
            assert disk.state() == before
        before = disk.state()


OPS = st.lists(
    st.one_of(
        st.builds(
            lambda at, text: client.write(at, fill(text)), st.integers(0, 9), st.text("abc", min_size=1, max_size=4)
        ),
        st.builds(client.copy, st.integers(0, 9), st.integers(1, 4), st.integers(0, 9)),
        st.builds(client.trim, st.integers(0, 9), st.integers(1, 4)),
    ),
    max_size=6,
)


@given(st.lists(OPS, max_size=5))
@settings(max_examples=200, deadline=None)
def test_executes_do_what_a_plain_model_does(batches: list[list[Op]]) -> None:
    disk = Disk(sectors=12)
    disk.handle(client.open_disk(KEY, INSTANCE, E1, NONCE))
    model = [bytes(64)] * 12
    for ops in batches:
        after = list(model)
        for op in ops:
            new = {
                OpKind.WRITE: [op.data[i : i + 64] for i in range(0, len(op.data), 64)],
                OpKind.COPY: after[op.source : op.source + op.count],
                OpKind.TRIM: [bytes(64)] * op.count,
            }[OpKind(op.kind)]
            after[op.target : op.target + op.count] = new
        if all(op.target + op.count <= 12 and op.source + op.count <= 12 for op in ops):
            model = after
            disk.execute(*ops)
        else:
            assert disk.refuses(client.execute(KEY, INSTANCE, E1, disk.core.seq + 1, ops)) is Reason.OUT_OF_RANGE
        assert disk.memory == b"".join(model)
