"""The door to a TPM: its commands byte for byte, what it makes of good replies, and every reply that is not good."""

from __future__ import annotations

import hashlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from functools import partial
from threading import Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.disk import tpm
from perdure.disk.tpm import Tpm
from perdure.evidence.envelope import TPM, open_envelope

PCR_READ, QUOTE, NV_READ, NV_READ_PUBLIC = 0x17E, 0x158, 0x14E, 0x169
COMMANDS = (PCR_READ, QUOTE, NV_READ, NV_READ_PUBLIC)
DATA = bytes(range(64))
CERTIFICATE = b"\x30\x82\x02\x10" + bytes(number % 251 for number in range(0x210))
PASSWORD_AUTH_READ, OWNER_READ = 0x00040000, 0x00020000
SIGNATURE = bytes.fromhex("0018 000b 0020") + b"r" * 32 + b"\0\x20" + b"s" * 32
NO_SESSION, SESSION = 0x8001, 0x8002
SESSION_END = bytes.fromhex("0000 01 0000")

Change = Callable[[bytes], bytes | None]


def sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def framed(tag: int, code: int, body: bytes = b"") -> bytes:
    return struct.pack(">HII", tag, 10 + len(body), code) + body


def parameters(data: bytes) -> bytes:
    """The reply to a command with a session."""
    return framed(SESSION, 0, struct.pack(">I", len(data)) + data + SESSION_END)


def body_of(reply: bytes) -> bytes:
    """The parameters of a reply to a command with a session."""
    return reply[14:-5]


class FakeTpm:
    """A TPM that a script spoils: `changes` has for each command what becomes of its next replies.

    A change returns other bytes, or None for none at all. Replies leave in pieces of `piece_bytes`.
    """

    def __init__(self) -> None:
        self.pcrs = [bytes([number]) * 32 for number in range(24)]
        self.index = CERTIFICATE.ljust(1300, b"\0")
        self.attributes = PASSWORD_AUTH_READ | OWNER_READ
        self.policy = b""
        self.digest: Callable[[bytes], hashlib._Hash] = hashlib.sha256
        self.commands: list[bytes] = []
        self.changes: dict[int, list[Change]] = {command: [] for command in COMMANDS}
        self.piece_bytes = 4096
        self.hangs_up_after_change = False

    def spoil(self, command: int, *changes: Change) -> None:
        self.changes[command] += changes

    def refuse(self, command: int, *codes: int) -> None:
        self.spoil(command, *(lambda _, code=code: framed(NO_SESSION, code) for code in codes))

    def serve(self, end: socket.socket) -> None:
        with end:
            while command := end.recv(4096):
                self.commands.append(command)
                code = int.from_bytes(command[6:10], "big")
                reply = self.answer(code, command)
                changed = bool(self.changes[code])
                if changed:
                    reply = self.changes[code].pop(0)(reply) or b""
                for at in range(0, len(reply), self.piece_bytes):
                    end.send(reply[at : at + self.piece_bytes])
                if changed and self.hangs_up_after_change:
                    return

    def answer(self, code: int, command: bytes) -> bytes:
        if code == NV_READ_PUBLIC:
            index = bytes.fromhex("01c101d0 000b") + struct.pack(">I", self.attributes)
            return framed(NO_SESSION, 0, sized(index + sized(self.policy) + sized(self.index)[:2]) + sized(b"name"))
        if code == NV_READ:
            count, at = struct.unpack(">HH", command[-4:])
            return parameters(sized(self.index[at : at + count]))
        if code == PCR_READ:
            chosen = int.from_bytes(command[-3:], "little")
            values = [value for number, value in enumerate(self.pcrs) if chosen >> number & 1]
            head = struct.pack(">I", 77) + command[10:] + struct.pack(">I", len(values))
            return framed(NO_SESSION, 0, head + b"".join(map(sized, values)))
        extra, digest = command[27:61], self.digest(b"".join(self.pcrs)).digest()
        head = bytes.fromhex("ff544347 8018 0004 6e616d65") + extra + bytes(25)
        return parameters(sized(head + bytes.fromhex("00000001 000b 03 ffffff") + sized(digest)) + SIGNATURE)


class Bench:
    """A fake TPM, and doors to it."""

    def __init__(self, kind: int = socket.SOCK_STREAM) -> None:
        self.fake = FakeTpm()
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, kind)
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 10, 0))
        self.thread = Thread(target=self.fake.serve, args=(self.theirs,))
        self.thread.start()

    def tpm(self) -> Tpm:
        return Tpm(self.ours.fileno())

    def close(self) -> None:
        self.ours.close()
        self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


# Good replies ---------------------------------------------------------------------------------------------


def test_the_certificate_is_read_once_in_pieces_that_every_tpm_gives(bench: Bench) -> None:
    assert bench.tpm()
    session = "00000009 40000009 0000 00 0000"
    assert bench.fake.commands == [
        bytes.fromhex("8001 0000000e 00000169 01c101d0"),
        bytes.fromhex(f"8002 00000023 0000014e 01c101d0 01c101d0 {session} 0200 0000"),
        bytes.fromhex(f"8002 00000023 0000014e 01c101d0 01c101d0 {session} 0200 0200"),
        bytes.fromhex(f"8002 00000023 0000014e 01c101d0 01c101d0 {session} 0114 0400"),
    ]


def test_the_quote_is_over_the_first_half_of_the_report_data_and_all_pcrs(bench: Bench) -> None:
    door = bench.tpm()
    bench.fake.commands.clear()
    assert door.attest(DATA)
    bank = "00000001 000b 03"
    assert bench.fake.commands == [
        bytes.fromhex(f"8001 00000014 0000017e {bank} ff0000"),
        bytes.fromhex(f"8001 00000014 0000017e {bank} 00ff00"),
        bytes.fromhex(f"8001 00000014 0000017e {bank} 0000ff"),
        bytes.fromhex("8002 00000049 00000158 81000003 00000009 40000009 0000 00 0000 0020")
        + DATA[:32]
        + bytes.fromhex(f"0010 {bank} ffffff"),
    ]


def test_the_evidence_has_the_four_parts_that_a_verifier_reads(bench: Bench) -> None:
    door = bench.tpm()
    for data in (DATA, bytes(64)):
        envelope = open_envelope(door.attest(data))
        assert envelope.name == TPM
        attest, signature, pcrs, certificate = envelope.parts
        assert attest.startswith(b"\xffTCG\x80\x18")
        assert data[:32] in attest
        assert signature == SIGNATURE
        assert pcrs == b"".join(bench.fake.pcrs)
        assert certificate == CERTIFICATE


@pytest.mark.parametrize("piece_bytes", [1, 9, 10, 11, 100])
def test_replies_may_come_in_pieces(bench: Bench, piece_bytes: int) -> None:
    bench.fake.piece_bytes = piece_bytes
    assert open_envelope(bench.tpm().attest(DATA)).parts[3] == CERTIFICATE


def test_a_device_that_forgets_what_is_not_read_at_once_serves_as_well() -> None:
    bench = Bench(socket.SOCK_SEQPACKET)
    try:
        assert open_envelope(bench.tpm().attest(DATA)).parts[3] == CERTIFICATE
    finally:
        bench.close()


@pytest.mark.parametrize("digest", [hashlib.sha256, hashlib.sha384, hashlib.sha512])
def test_a_key_may_sign_with_any_of_sha_2(bench: Bench, digest: Callable[[bytes], hashlib._Hash]) -> None:
    bench.fake.digest = digest
    assert bench.tpm().attest(DATA)


@pytest.mark.parametrize("length", [0, 32, 63, 65])
def test_report_data_of_another_length_is_not_sent(bench: Bench, length: int) -> None:
    door = bench.tpm()
    bench.fake.commands.clear()
    with pytest.raises(ValueError, match="64 bytes"):
        door.attest(bytes(length))
    assert bench.fake.commands == []


# The certificate ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "handle"),
    [
        (PASSWORD_AUTH_READ, "01c101d0"),
        (PASSWORD_AUTH_READ | OWNER_READ, "01c101d0"),
        (OWNER_READ, "40000001"),
        (0xFFFFFFFF ^ PASSWORD_AUTH_READ, "40000001"),
    ],
)
def test_the_index_is_read_by_its_own_authority_or_else_the_owners(bench: Bench, attributes: int, handle: str) -> None:
    bench.fake.attributes = attributes
    bench.tpm()
    assert {command[10:18] for command in bench.fake.commands[1:]} == {bytes.fromhex(handle + "01c101d0")}


@pytest.mark.parametrize("padding", [b"", b"\0", b"\xff" * 600, bytes(4096)])
def test_the_certificate_is_cut_to_its_own_length(bench: Bench, padding: bytes) -> None:
    bench.fake.index = CERTIFICATE + padding
    bench.fake.policy = b"p" * 32
    assert open_envelope(bench.tpm().attest(DATA)).parts[3] == CERTIFICATE


@pytest.mark.parametrize(
    "index",
    [b"", b"\x30", b"\x30\x82\x01", bytes(512), b"\xff" * 512, CERTIFICATE[:-1], b"\x30\x81\x80" + bytes(200)],
)
def test_what_is_no_whole_certificate_is_refused(bench: Bench, index: bytes) -> None:
    bench.fake.index = index
    with pytest.raises(ValueError, match="no whole certificate"):
        bench.tpm()


@pytest.mark.parametrize(("command", "code"), [(NV_READ_PUBLIC, 0x18B), (NV_READ, 0x14A)])
def test_a_tpm_without_a_certificate_gives_evidence_without_one(bench: Bench, command: int, code: int) -> None:
    bench.fake.refuse(command, code)
    assert open_envelope(bench.tpm().attest(DATA)).parts[3] == b""


@pytest.mark.parametrize("command", [NV_READ_PUBLIC, NV_READ])
@pytest.mark.parametrize("code", [0x149, 0x12F, 0x98E, 0x9A2, 0x921])
def test_a_certificate_that_cannot_be_read_is_told(bench: Bench, command: int, code: int) -> None:
    bench.fake.refuse(command, code)
    with pytest.raises(OSError, match=f"refuses command {command:#x} with code {code:#x}") as error:
        bench.tpm()
    assert error.value.errno == code


@pytest.mark.parametrize(
    "change",
    [
        lambda _: framed(NO_SESSION, 0),
        lambda _: framed(NO_SESSION, 0, sized(b"")),
        lambda good: framed(NO_SESSION, 0, sized(good[12:25])),
        lambda good: framed(NO_SESSION, 0, sized(good[12:26] + b"\0")),
        lambda good: good.replace(bytes.fromhex("0000 0514"), bytes.fromhex("0001 0514")),
    ],
)
def test_another_description_of_the_index_is_refused(bench: Bench, change: Change) -> None:
    bench.fake.spoil(NV_READ_PUBLIC, change)
    with pytest.raises(ValueError, match=r"index is malformed|cut short"):
        bench.tpm()


@pytest.mark.parametrize(
    "change",
    [
        lambda good: parameters(sized(body_of(good)[2:-1])),
        lambda good: parameters(sized(body_of(good)[2:] + b"\0")),
        lambda good: parameters(body_of(good) + b"\0"),
        lambda _: parameters(sized(b"")),
    ],
)
def test_another_piece_of_the_certificate_is_refused(bench: Bench, change: Change) -> None:
    bench.fake.spoil(NV_READ, change)
    with pytest.raises(ValueError, match="another part"):
        bench.tpm()


# PCRs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [1, 2, 3])
def test_a_pcr_that_changes_before_the_quote_is_read_again(bench: Bench, changes: int) -> None:
    door = bench.tpm()

    def change(good: bytes) -> bytes:
        bench.fake.pcrs[16] = hashlib.sha256(bench.fake.pcrs[16]).digest()
        return bench.fake.answer(QUOTE, bench.fake.commands[-1])

    bench.fake.spoil(QUOTE, *[change] * changes)
    attest, _, pcrs, _ = open_envelope(door.attest(DATA)).parts
    assert pcrs == b"".join(bench.fake.pcrs)
    assert attest.endswith(hashlib.sha256(pcrs).digest())
    assert len([command for command in bench.fake.commands if command[9] == 0x58]) == changes + 1


def test_pcrs_that_change_all_the_time_are_told(bench: Bench) -> None:
    door = bench.tpm()
    bench.fake.digest = lambda data: hashlib.sha256(data + b"changed")  # as if one changed before each quote
    with pytest.raises(OSError, match="do not hold still"):
        door.attest(DATA)
    assert len([command for command in bench.fake.commands if command[9] == 0x58]) == tpm.QUOTES_MAX
    bench.fake.digest = hashlib.sha256
    assert door.attest(DATA)


@pytest.mark.parametrize(
    "change",
    [
        lambda good: framed(NO_SESSION, 0, good[10:-34]),
        lambda good: framed(NO_SESSION, 0, good[10:] + sized(bytes(32))),
        lambda _: framed(NO_SESSION, 0, bytes.fromhex("00000001 00000001 000b 03 000000 00000000")),
        lambda _: framed(NO_SESSION, 0),
    ],
)
def test_a_tpm_that_does_not_give_eight_pcrs_is_refused(bench: Bench, change: Change) -> None:
    door = bench.tpm()
    bench.fake.spoil(PCR_READ, change)
    with pytest.raises(ValueError, match="does not give its PCRs"):
        door.attest(DATA)


@pytest.mark.parametrize(
    ("at", "wrong"),
    [
        (14, "00000002"),  # two selections
        (18, "0004"),  # SHA-1's bank
        (20, "04"),
        (21, "00ff00"),  # other PCRs
        (21, "7f0000"),
        (24, "00000007"),
        (28, "0014"),  # the first is of another length
        (28 + 7 * 34, "0021"),
    ],
)
def test_other_pcrs_than_asked_for_are_refused(bench: Bench, at: int, wrong: str) -> None:
    door = bench.tpm()
    changed = bytes.fromhex(wrong)
    bench.fake.spoil(PCR_READ, lambda good: good[:at] + changed + good[at + len(changed) :])
    with pytest.raises(ValueError, match="other PCRs"):
        door.attest(DATA)


# Any reply ------------------------------------------------------------------------------------------------


def ask(bench: Bench) -> None:
    """Have each of the commands sent."""
    bench.tpm().attest(DATA)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "code", [0x01, 0x100, 0x101, 0x128, 0x143, 0x1C4, 0x8E, 0x98E, 0x907, 0x920, 0x921, 0xFFFFFFFF]
)
def test_the_response_code_of_a_refusal_is_told(bench: Bench, command: int, code: int) -> None:
    bench.fake.refuse(command, code)
    with pytest.raises(OSError, match=f"refuses command {command:#x} with code {code:#x}$") as error:
        ask(bench)
    assert error.value.errno == code


def test_a_key_that_is_not_there_is_told_and_not_taken_for_a_missing_certificate(bench: Bench) -> None:
    bench.fake.refuse(QUOTE, 0x18B)
    with pytest.raises(OSError, match="0x158 with code 0x18b"):
        ask(bench)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("code", [0x908, 0x90A, 0x922])
def test_a_busy_tpm_is_asked_again_some_times(bench: Bench, pauses: list[float], command: int, code: int) -> None:
    bench.fake.refuse(command, *[code] * len(tpm.PAUSES_S))
    ask(bench)
    assert pauses == list(tpm.PAUSES_S)
    times = [sent for sent in bench.fake.commands if int.from_bytes(sent[6:10], "big") == command]
    assert len(set(times[: len(tpm.PAUSES_S) + 1])) == 1


@pytest.mark.parametrize("code", [0x908, 0x90A, 0x922])
def test_a_tpm_that_stays_busy_is_given_up(bench: Bench, pauses: list[float], code: int) -> None:
    bench.fake.refuse(QUOTE, *[code] * (len(tpm.PAUSES_S) + 1))
    with pytest.raises(OSError, match=f"with code {code:#x}"):
        ask(bench)
    assert len(pauses) == len(tpm.PAUSES_S)


def test_a_refusal_leaves_the_door_usable(bench: Bench) -> None:
    door = bench.tpm()
    bench.fake.refuse(QUOTE, 0x101)
    with pytest.raises(OSError, match="0x101"):
        door.attest(DATA)
    assert door.attest(DATA)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "change",
    [
        lambda good: struct.pack(">H", NO_SESSION + SESSION - int.from_bytes(good[:2], "big")) + good[2:],
        lambda good: b"\x00\xc4" + good[2:],
        lambda good: good + b"\0",
        lambda good: good[:2] + struct.pack(">I", len(good) - 1) + good[6:],
        lambda good: good[:2] + bytes(4) + good[6:],
        lambda good: good[:2] + struct.pack(">I", 9) + good[6:],
        lambda good: good[:2] + struct.pack(">I", 4097) + good[6:],
        lambda good: good[:2] + b"\xff\xff\xff\xff" + good[6:],
        lambda _: framed(NO_SESSION, 0x101, b"\0"),
        lambda _: framed(NO_SESSION, 0x101) + b"\0",
        lambda _: framed(SESSION, 0x101),
        lambda _: bytes.fromhex("00c4 0000000a 0000001e"),  # TPM_RC_BAD_TAG, in the form of TPM 1.2
        lambda _: bytes(10),
        lambda _: b"\xff" * 4096,
    ],
)
def test_a_reply_of_another_form_is_refused_at_once(bench: Bench, command: int, change: Change) -> None:
    bench.fake.spoil(command, change)
    with pytest.raises(ValueError, match="reply is malformed"):
        ask(bench)


@pytest.mark.parametrize("command", [QUOTE, NV_READ])
@pytest.mark.parametrize(
    "change",
    [
        lambda good: good[:-1],
        lambda good: good + b"\0",
        lambda good: good[:-5],
        lambda _: b"",
        lambda _: bytes(8),
        lambda good: struct.pack(">I", len(good) - 8) + good[4:],
        lambda good: b"\xff\xff\xff\xff" + good[4:],
    ],
)
def test_a_session_with_other_lengths_is_refused(bench: Bench, command: int, change: Change) -> None:
    bench.fake.spoil(command, lambda good: framed(SESSION, 0, change(good[10:]) or b""))
    with pytest.raises(ValueError, match="wrong length"):
        ask(bench)


@pytest.mark.parametrize("command", [QUOTE, NV_READ, NV_READ_PUBLIC])
def test_a_part_that_is_longer_than_its_reply_is_refused(bench: Bench, command: int) -> None:
    at = 10 if command == NV_READ_PUBLIC else 14
    bench.fake.spoil(command, lambda good: good[:at] + struct.pack(">H", len(good)) + good[at + 2 :])
    with pytest.raises(ValueError, match="cut short"):
        ask(bench)


def cut(length: int, good: bytes) -> bytes | None:
    """The first `length` bytes of a reply, and never all of it."""
    return good[: min(length, len(good) - 1)] or None


@pytest.mark.parametrize("command", COMMANDS)
def test_a_tpm_that_goes_away_is_told(command: int) -> None:
    for length in (0, 1, 9, 10, 11, 50):
        bench = Bench()
        bench.fake.hangs_up_after_change = True
        bench.fake.spoil(command, partial(cut, length))
        with pytest.raises(OSError, match="the TPM is gone"):
            ask(bench)
        bench.close()


def test_a_longest_reply_is_taken(bench: Bench) -> None:
    door = bench.tpm()

    def lengthen(good: bytes) -> bytes:
        body = body_of(good)
        return parameters(body + bytes(4096 - len(good)))

    bench.fake.spoil(QUOTE, lengthen)
    assert open_envelope(door.attest(DATA)).parts[1].startswith(SIGNATURE + b"\0")


def mutate(good: bytes, changes: list[tuple[int, int]] | bytes) -> bytes:
    """Other bytes, or `good` with some of its first bytes changed."""
    if isinstance(changes, bytes):
        return changes
    spoilt = bytearray(good)
    for at, value in changes:
        spoilt[at % len(good)] = value
    return bytes(spoilt)


CHANGES = st.one_of(st.binary(max_size=100), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=4))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(COMMANDS), CHANGES)
def test_whatever_a_tpm_says_there_is_evidence_or_an_error(
    command: int, changes: list[tuple[int, int]] | bytes
) -> None:
    bench = Bench()
    bench.fake.hangs_up_after_change = True
    bench.fake.spoil(command, lambda good: mutate(good, changes))
    try:
        evidence = bench.tpm().attest(DATA)
    except (OSError, ValueError):
        return
    else:
        open_envelope(evidence)
    finally:
        bench.close()
