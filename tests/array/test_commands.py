"""Signed commands that a real disk obeys, and replies of which no alteration is taken for an answer."""

from __future__ import annotations

import hashlib
import random

import pytest
from coincurve import PublicKey
from coincurve.ecdsa import cdata_to_der, deserialize_compact
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.array import commands, journal
from perdure.array.commands import Answer, Authority, Command, build, parse_reply
from perdure.array.geometry import Run
from perdure.disk import wire
from perdure.disk.wire import Opcode, Reason
from perdure.errors import Corrupt, MalformedEvidence, Misuse, Refused

from .one_disk import AUTHORITY, EPOCH, INSTANCE, NONCE, PRIVATE_KEY, OneDisk, document_over, frame_reply

ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
SECTORS = 64
LATER = (2).to_bytes(8, "big") + bytes(8)


@pytest.fixture
def disk() -> OneDisk:
    """Opened, with seq 1 and its first sectors filled with letters; its leaf is the second of three."""
    disk = OneDisk(SECTORS, index=1, count=3)
    disk.open()
    disk.execute([journal.write(0, 4)], b"a" * 64, b"b" * 128 + b"c" * 64)
    return disk


def read(*runs: Run, nonce: bytes | None = None, epoch: bytes = EPOCH, instance: bytes = INSTANCE) -> Command:
    body = wire.COUNT.pack(len(runs)) + b"".join(wire.RUN.pack(run.start, run.count) for run in runs)
    total = sum(run.count for run in runs) * 64
    return build(AUTHORITY, Opcode.READ, instance=instance, epoch=epoch, body=(body,), data_bytes=total, nonce=nonce)


def execute(seq: int, *ops: bytes, data: bytes = b"", nonce: bytes | None = None) -> Command:
    body = (wire.COUNT.pack(len(ops)) + b"".join(ops), data)
    return build(AUTHORITY, Opcode.EXECUTE, instance=INSTANCE, epoch=EPOCH, seq=seq, body=body, nonce=nonce)


# The authority --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 31, 33, 64])
def test_a_private_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(Misuse, match=f"^the authority's private key is 32 bytes, not {length}$"):
        Authority(b"\x01" * length)


@pytest.mark.parametrize("number", [0, ORDER, ORDER + 1, (1 << 256) - 1])
def test_a_private_key_that_the_curve_does_not_allow_is_refused_without_showing_it(number: int) -> None:
    with pytest.raises(Misuse, match="not a number that secp256k1 allows") as refused:
        Authority(number.to_bytes(32, "big"))
    assert refused.value.__suppress_context__


@pytest.mark.parametrize("number", [1, 2, ORDER - 1])
def test_the_smallest_and_largest_private_keys_are_allowed(number: int) -> None:
    authority = Authority(number.to_bytes(32, "big"))
    assert authority.private_key == number.to_bytes(32, "big")
    assert len(authority.public_key) == 33


def test_the_public_key_of_one_is_the_generator() -> None:
    generator = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
    assert Authority((1).to_bytes(32, "big")).public_key.hex() == generator


def test_the_private_key_does_not_show_itself() -> None:
    assert PRIVATE_KEY.hex() not in repr(AUTHORITY)
    assert repr(PRIVATE_KEY) not in repr(vars(AUTHORITY))


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_signatures_verify_have_a_low_s_and_are_the_same_every_time(digest: bytes, secret: bytes) -> None:
    if not 0 < int.from_bytes(secret, "big") < ORDER:
        return
    authority = Authority(secret)
    signature = authority.sign(digest)
    assert len(signature) == 64
    assert 0 < int.from_bytes(signature[:32], "big") < ORDER
    assert 0 < int.from_bytes(signature[32:], "big") <= ORDER // 2
    assert PublicKey(authority.public_key).verify(cdata_to_der(deserialize_compact(signature)), digest, None)
    assert authority.sign(digest) == signature


def test_a_signature_is_the_one_that_rfc_6979_gives() -> None:
    """Key 1 over SHA-256 of "Satoshi Nakamoto": a vector that many libraries publish."""
    digest = hashlib.sha256(b"Satoshi Nakamoto").digest()
    assert Authority((1).to_bytes(32, "big")).sign(digest).hex() == (
        "934b1ea10a4b3c1757e2b0c017d0b6143ce3c9a7e6a4a49860d7a6ab210ee3d8"
        "2442ce9d2b916064108014783e923ec36b49743e2ffa1c4496f01a512aafd9e5"
    )


@pytest.mark.parametrize("length", [0, 31, 33])
def test_only_a_whole_digest_is_signed(length: int) -> None:
    with pytest.raises(ValueError):
        AUTHORITY.sign(bytes(length))


# Commands that a disk obeys -------------------------------------------------------------------------------


def test_a_command_is_signature_header_and_body_as_given() -> None:
    body = (b"\x00\x01", memoryview(b"data"))
    command = build(AUTHORITY, Opcode.EXECUTE, instance=INSTANCE, epoch=EPOCH, seq=9, nonce=NONCE, body=body)
    header = bytes([1, 3, 1, 0]) + INSTANCE + EPOCH + (9).to_bytes(8, "big") + NONCE
    assert command.parts[1:] == (header, *body)
    tag = hashlib.sha256(b"perdure/command/1").digest()
    assert command.digest == hashlib.sha256(tag + tag + header + b"\x00\x01data").digest()
    assert command.parts[0] == AUTHORITY.sign(command.digest)


def test_hello_is_answered_with_evidence_over_what_was_answered() -> None:
    disk = OneDisk(SECTORS)
    answer = disk.ask(build(AUTHORITY, Opcode.HELLO, nonce=NONCE))
    assert (answer.instance, answer.epoch, answer.seq, answer.size) == (INSTANCE, bytes(16), 0, SECTORS)
    assert answer.commitment is not None
    assert answer.document == document_over(answer.commitment)


def test_open_takes_the_disk_over() -> None:
    disk = OneDisk(SECTORS)
    answer = disk.open()
    assert (answer.instance, answer.epoch, answer.seq) == (INSTANCE, EPOCH, 0)
    assert disk.core.epoch == EPOCH


def test_execute_writes_copies_and_trims(disk: OneDisk) -> None:
    ops = (journal.copy(10, 2, 0), journal.trim(0, 1), journal.write(20, 1))
    answer = disk.ask(execute(2, *ops, data=b"z" * 64))
    assert answer == Answer(INSTANCE, EPOCH, 2, SECTORS, memoryview(b""), None, b"")
    assert disk.part(10, 2) == b"a" * 64 + b"b" * 64
    assert disk.part(0, 1) == bytes(64)
    assert disk.part(20, 1) == b"z" * 64


@pytest.mark.parametrize("nonce", [None, NONCE])
def test_read_gives_the_bytes_of_the_runs_end_to_end(disk: OneDisk, nonce: bytes | None) -> None:
    answer = disk.ask(read(Run(3, 1), Run(0, 2), nonce=nonce))
    assert answer.data == b"c" * 64 + b"a" * 64 + b"b" * 64
    assert (answer.commitment is None) == (nonce is None)
    if answer.commitment is not None:
        assert answer.document == document_over(answer.commitment)


@pytest.mark.parametrize("count", [1, 2, 3, 5, wire.LEAVES_MAX])
def test_a_reply_leads_to_the_root_from_wherever_its_leaf_stands(count: int) -> None:
    for index in {0, count // 2, count - 1}:
        disk = OneDisk(SECTORS, index=index, count=count)
        answer = disk.ask(build(AUTHORITY, Opcode.HELLO, nonce=NONCE))
        assert answer.commitment is not None
        assert answer.document == document_over(answer.commitment)


def test_the_commitment_depends_on_nonce_command_and_answer() -> None:
    def commitment(command: Command, disk: OneDisk) -> bytes | None:
        return disk.ask(command).commitment

    def opened() -> OneDisk:
        disk = OneDisk(SECTORS)
        disk.open()
        return disk

    other_data = opened()
    other_data.memory[0] = 1
    found = [
        commitment(read(Run(0, 1), nonce=NONCE), opened()),
        commitment(read(Run(0, 1), nonce=b"n" * 32), opened()),
        commitment(read(Run(1, 1), nonce=NONCE), opened()),
        commitment(read(Run(0, 1), nonce=NONCE), other_data),
        commitment(build(AUTHORITY, Opcode.HELLO, nonce=NONCE), opened()),
    ]
    assert None not in found
    assert len(set(found)) == len(found)


def test_the_same_command_sent_again_is_refused_not_carried_out_twice(disk: OneDisk) -> None:
    command = execute(2, journal.copy(1, 1, 0))
    disk.ask(command)
    with pytest.raises(Refused) as refused:
        disk.ask(command)
    assert refused.value.reason == Reason.WRONG_SEQ
    assert disk.core.seq == 2


# Refusals -------------------------------------------------------------------------------------------------


def test_every_refusal_of_a_disk_is_raised_with_its_reason_and_in_words(disk: OneDisk) -> None:
    stranger = Authority(b"\x22" * 32)
    cases = {
        Reason.MALFORMED: (build(AUTHORITY, Opcode.HELLO), "it could not read the command"),
        Reason.BAD_SIGNATURE: (build(stranger, Opcode.HELLO, nonce=NONCE), "it obeys another authority"),
        Reason.WRONG_INSTANCE: (read(Run(0, 1), instance=b"?" * 32), "not the instance that was addressed"),
        Reason.WRONG_EPOCH: (read(Run(0, 1), epoch=LATER), "a later mount has taken it over"),
        Reason.WRONG_SEQ: (execute(3, journal.trim(0, 1)), "the command is out of order"),
        Reason.OUT_OF_RANGE: (execute(2, journal.trim(SECTORS - 1, 2)), "reaches beyond its memory"),
    }
    for reason, (command, words) in cases.items():
        with pytest.raises(Refused, match=f"^the disk refused: .*{words}") as refused:
            disk.ask(command)
        assert refused.value.reason == reason


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_words_of_its_own(reason: Reason) -> None:
    reply = memoryview(wire.REPLY_HEADER.pack(wire.REFUSAL, reason))
    with pytest.raises(Refused) as refused:
        parse_reply(read(Run(0, 1)), reply)
    assert refused.value.reason == reason
    assert "no known reason" not in str(refused.value)
    assert len({commands._REASONS[each] for each in Reason}) == len(Reason)


@pytest.mark.parametrize("reason", [0, 9, 0xFFFFFFFF])
def test_a_reason_outside_the_list_is_still_a_refusal(reason: int) -> None:
    reply = memoryview(wire.REPLY_HEADER.pack(wire.REFUSAL, reason))
    with pytest.raises(Refused, match=r"^the disk refused: for no known reason$") as refused:
        parse_reply(read(Run(0, 1)), reply)
    assert refused.value.reason == reason


# Replies that were altered --------------------------------------------------------------------------------

DOCUMENT_BYTES = len(document_over(bytes(64)))


def exchanged(nonce: bytes | None) -> tuple[Command, bytes]:
    disk = OneDisk(SECTORS, index=1, count=3)
    disk.open()
    disk.execute([journal.write(0, 1)], b"a" * 64)
    command = read(Run(0, 2), nonce=nonce)
    return command, disk.reply(command)


def is_believed(command: Command, reply: bytes) -> bool:
    """Whether what is parsed comes with the document over it; fails unless errors are of the two kinds allowed."""
    try:
        answer = parse_reply(command, memoryview(reply))
    except (MalformedEvidence, Refused):
        return False
    return answer.commitment is not None and answer.document == document_over(answer.commitment)


def test_a_reply_as_it_was_sent_is_believed() -> None:
    assert is_believed(*exchanged(NONCE))


@pytest.mark.parametrize("bit", range(8))
def test_no_reply_with_a_flipped_bit_is_believed(bit: int) -> None:
    command, reply = exchanged(NONCE)
    for at in range(len(reply)):
        assert not is_believed(command, reply[:at] + bytes([reply[at] ^ 1 << bit]) + reply[at + 1 :]), at


def test_no_reply_cut_short_is_believed() -> None:
    command, reply = exchanged(NONCE)
    for length in range(len(reply)):
        assert not is_believed(command, reply[:length]), length


def test_no_reply_with_a_byte_put_in_or_taken_out_is_believed() -> None:
    command, reply = exchanged(NONCE)
    for at in range(len(reply) + 1):
        assert not is_believed(command, reply[:at] + b"\0" + reply[at:]), at
        if at < len(reply):
            assert not is_believed(command, reply[:at] + reply[at + 1 :]), at


def test_no_reply_to_another_command_is_believed() -> None:
    command, reply = exchanged(NONCE)
    assert not is_believed(read(Run(0, 2), nonce=b"n" * 32), reply)
    assert not is_believed(read(Run(1, 2), nonce=NONCE), reply)
    assert is_believed(command, reply)


@settings(max_examples=200)
@given(st.binary(max_size=300), st.booleans())
def test_noise_is_refused_in_our_own_words(noise: bytes, evidence: bool) -> None:
    assert not is_believed(read(Run(0, 1), nonce=NONCE if evidence else None), noise)
    assert not is_believed(read(Run(0, 1), nonce=NONCE if evidence else None), b"\x01" + noise)


def test_a_reply_without_evidence_of_another_length_is_refused() -> None:
    """Its bytes prove nothing, but their number is what was asked for."""
    command, reply = exchanged(None)
    assert parse_reply(command, memoryview(reply)).data == b"a" * 64 + bytes(64)
    for length in range(len(reply)):
        with pytest.raises(MalformedEvidence):
            parse_reply(command, memoryview(reply[:length]))


@pytest.mark.parametrize("length", range(5))
def test_a_reply_too_short_for_a_header_is_refused(length: int) -> None:
    with pytest.raises(MalformedEvidence, match=r"^a disk's reply is cut short$"):
        parse_reply(read(Run(0, 1)), memoryview(bytes([wire.REFUSAL, 0, 0, 0, 1])[:length]))


def result(data: bytes = bytes(64)) -> bytes:
    return wire.RESULT.pack(INSTANCE, EPOCH, 1, SECTORS) + data


@pytest.mark.parametrize(
    "reply",
    [
        b"\x00" + frame_reply(result(), b"")[1:],
        b"\x03" + frame_reply(result(), b"")[1:],
        frame_reply(result(b""), b""),
        frame_reply(result(bytes(63)), b""),
        frame_reply(result(bytes(128)), b""),
        frame_reply(b"", b""),
        wire.REPLY_HEADER.pack(wire.REFUSAL, Reason.WRONG_SEQ) + b"more",
        wire.REPLY_HEADER.pack(wire.ANSWER, 0xFFFFFFFF) + result(),
    ],
)
def test_a_reply_of_another_shape_is_refused(reply: bytes) -> None:
    with pytest.raises(MalformedEvidence, match=r"^a disk's reply has the wrong shape$"):
        parse_reply(read(Run(0, 1)), memoryview(reply))


def test_evidence_that_was_not_asked_for_is_refused() -> None:
    reply = frame_reply(result(), b"", wire.PATH_HEADER.pack(0, 1) + b"document")
    with pytest.raises(MalformedEvidence, match="was not asked for"):
        parse_reply(read(Run(0, 1)), memoryview(reply))


@pytest.mark.parametrize("evidence", [b"", b"\0\0\0"])
def test_evidence_that_was_asked_for_and_is_missing_is_refused(evidence: bytes) -> None:
    with pytest.raises(MalformedEvidence, match="lacks the evidence that was asked for"):
        parse_reply(read(Run(0, 1), nonce=NONCE), memoryview(frame_reply(result(), b"", evidence)))


@pytest.mark.parametrize(
    ("index", "count"), [(0, 0), (1, 1), (3, 2), (0, wire.LEAVES_MAX + 1), (0, 0xFFFF), (0xFFFF, 0xFFFF)]
)
def test_a_place_in_the_tree_that_cannot_be_is_refused(index: int, count: int) -> None:
    reply = frame_reply(result(), b"", wire.PATH_HEADER.pack(index, count) + bytes(2000))
    with pytest.raises(MalformedEvidence, match="an impossible Merkle path"):
        parse_reply(read(Run(0, 1), nonce=NONCE), memoryview(reply))


@pytest.mark.parametrize("length", [0, 1, 64, 127])
def test_a_path_cut_short_is_refused(length: int) -> None:
    reply = frame_reply(result(), b"", wire.PATH_HEADER.pack(1, 3) + bytes(length))
    with pytest.raises(MalformedEvidence, match="a Merkle path of the wrong length"):
        parse_reply(read(Run(0, 1), nonce=NONCE), memoryview(reply))


def test_the_same_answer_under_another_place_in_the_tree_has_another_commitment() -> None:
    """Leaf 2 of 3 has but one sibling, as leaf 1 of 2 has: the place is not attested, what stands in it is."""
    path = random.Random(1).randbytes(64 * 9)
    found = set()
    for index, count in [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (511, 512)]:
        reply = frame_reply(result(), b"", wire.PATH_HEADER.pack(index, count) + path)
        found.add(parse_reply(read(Run(0, 1), nonce=NONCE), memoryview(reply)).commitment)
    assert len(found) == 6


def test_a_recorded_hello_is_judged_as_when_it_was_asked() -> None:
    disk = OneDisk(SECTORS)
    hello = build(AUTHORITY, Opcode.HELLO, nonce=NONCE)
    reply = memoryview(disk.reply(hello))
    again = commands.recorded_hello(b"".join(hello.parts))
    assert (again.digest, again.nonce) == (hello.digest, NONCE)
    assert parse_reply(again, reply) == parse_reply(hello, reply)


@pytest.mark.parametrize(
    "frame", [b"", bytes(300), b"".join(build(AUTHORITY, Opcode.HELLO, nonce=NONCE).parts) + b"\0"]
)
def test_what_is_no_hello_is_not_taken_for_one(frame: bytes) -> None:
    with pytest.raises(Corrupt, match="no HELLO"):
        commands.recorded_hello(frame)


def test_another_command_is_no_hello() -> None:
    frame = b"".join(build(AUTHORITY, Opcode.OPEN, instance=INSTANCE, epoch=EPOCH, nonce=NONCE).parts)
    with pytest.raises(Corrupt, match="no HELLO"):
        commands.recorded_hello(frame)
