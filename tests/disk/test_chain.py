"""The disk's acknowledgement chain: what is shown, when, to whom, and what is refused before anything has changed."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.disk import wire
from perdure.disk.chain import Chain
from perdure.disk.wire import LINK_BYTES, LINKS, Opcode, Reason, Wants, hashed_link

from . import client
from .test_core import E1, E2, E3, INSTANCE, KEY, NONCE, SECTORS, Disk, execute_body, raw, sector

W = client.write(0, sector("!"))
DATA = execute_body(W, data=sector("!"))


def renewing(seq: int, epoch: bytes = E1, body: bytes = DATA, nonce: bytes = NONCE) -> bytes:
    return raw(Opcode.EXECUTE, body, seq=seq, epoch=epoch, wanted=Wants.CHAIN, nonce=nonce)


def linked(seq: int, epoch: bytes = E1, body: bytes = DATA) -> bytes:
    return raw(Opcode.EXECUTE, body, seq=seq, epoch=epoch, wanted=Wants.LINK)


def plain(seq: int, epoch: bytes = E1) -> bytes:
    return raw(Opcode.EXECUTE, DATA, seq=seq, epoch=epoch)


def hashed(link: bytes, steps: int) -> bytes:
    tag = hashlib.sha256(b"perdure/link/1").digest()
    for _ in range(steps):
        link = hashlib.sha256(tag + tag + link).digest()
    return link


@pytest.fixture
def disk() -> Disk:
    """Opened in epoch 1; its random bytes are all 1, then all 2 and so on."""
    disk = Disk()
    disk.handle(client.open_disk(KEY, INSTANCE, E1, NONCE))
    return disk


def secrets_of(disk: Disk) -> bytes:
    return bytes(disk.core._chain._links)


def test_a_chain_ends_in_the_anchor_that_its_evidence_covers(disk: Disk) -> None:
    answer = disk.handle(renewing(1))
    anchor = bytes(answer.data)
    assert anchor == hashed(bytes([1]) * 32, LINKS)
    assert answer.head == wire.RESULT.pack(INSTANCE, E1, 1, SECTORS)
    digest = wire.command_digest(renewing(1)[4 + 64 :])
    result = hashlib.sha256(answer.head + anchor).digest()
    assert answer.leaf == wire.leaf(INSTANCE, E1, 1, NONCE, digest, result)
    assert disk.sectors(0) == sector("!")


def test_every_link_hashes_to_the_anchor_in_as_many_steps_as_seqs_have_passed(disk: Disk) -> None:
    anchor = bytes(disk.handle(renewing(1)).data)
    for step in range(1, LINKS + 1):
        answer = disk.handle(linked(1 + step))
        assert answer.leaf is None
        assert answer.head == wire.RESULT.pack(INSTANCE, E1, 1 + step, SECTORS)
        assert hashed(bytes(answer.data), step) == anchor
    assert bytes(answer.data) == bytes([1]) * 32


def test_a_command_that_wants_no_link_skips_its_own(disk: Disk) -> None:
    anchor = bytes(disk.handle(renewing(1)).data)
    assert not disk.handle(plain(2)).data
    assert not disk.handle(raw(Opcode.EXECUTE, DATA, seq=3, wanted=Wants.EVIDENCE, nonce=NONCE)).data
    assert hashed(bytes(disk.handle(linked(4)).data), 3) == anchor


def test_a_command_of_another_kind_shows_nothing(disk: Disk) -> None:
    disk.handle(renewing(1))
    before = secrets_of(disk)
    assert not disk.handle(client.hello(KEY, NONCE)).data
    assert len(disk.handle(client.read(KEY, INSTANCE, E1, [(0, 1)])).data) == 64
    assert secrets_of(disk) == before


def test_what_was_shown_is_wiped_and_what_was_not_stays(disk: Disk) -> None:
    disk.handle(renewing(1))
    before = secrets_of(disk)
    disk.handle(plain(2))
    shown = bytes(disk.handle(linked(3)).data)
    assert before[LINK_BYTES : 2 * LINK_BYTES] == shown
    assert secrets_of(disk) == bytes(2 * LINK_BYTES) + before[2 * LINK_BYTES :]


def test_the_same_command_again_shows_nothing_again(disk: Disk) -> None:
    disk.handle(renewing(1))
    disk.handle(linked(2))
    before = secrets_of(disk)
    assert disk.refuses(linked(2)) is Reason.WRONG_SEQ
    assert disk.refuses(renewing(1)) is Reason.WRONG_SEQ
    assert secrets_of(disk) == before
    assert len(disk.drawn) == 1


NO_LINK = {
    "before any chain": [],
    "before any chain, after other commands": [plain(1), plain(2)],
    "after an OPEN": [renewing(1), linked(2), client.open_disk(KEY, INSTANCE, E2, NONCE)],
    "after an OPEN and as many commands": [
        renewing(1),
        client.open_disk(KEY, INSTANCE, E2, NONCE),
        *(plain(seq, E2) for seq in range(1, 5)),
    ],
    "after the last link": [renewing(1), *(plain(seq) for seq in range(2, LINKS + 2))],
    "after the last link was shown": [renewing(1), *(linked(seq) for seq in range(2, LINKS + 2))],
}


@pytest.mark.parametrize("before", NO_LINK.values(), ids=NO_LINK.keys())
def test_a_link_that_is_not_there_is_refused_before_anything_is_done(disk: Disk, before: list[bytes]) -> None:
    for frame in before:
        disk.handle(frame)
    frame = linked(disk.core.seq + 1, disk.core.epoch, execute_body(client.write(0, sector("?")), data=sector("?")))
    assert disk.refuses(frame) is Reason.NO_LINK


REFUSED = {
    "another seq": (Reason.WRONG_SEQ, linked(3)),
    "a seq past the chain": (Reason.WRONG_SEQ, linked(LINKS + 2)),
    "another epoch": (Reason.WRONG_EPOCH, linked(2, E3)),
    "a body cut short": (Reason.MALFORMED, linked(2, body=DATA[:-1])),
    "a range past the end": (Reason.OUT_OF_RANGE, linked(2, body=execute_body(W, client.trim(SECTORS, 1)))),
    "another instance": (Reason.WRONG_INSTANCE, raw(Opcode.EXECUTE, DATA, seq=2, wanted=3, instance=b"J" * 32)),
    "a nonce with a link": (Reason.MALFORMED, raw(Opcode.EXECUTE, DATA, seq=2, wanted=3, nonce=NONCE)),
    "a want past the last": (Reason.MALFORMED, raw(Opcode.EXECUTE, DATA, seq=2, wanted=4, nonce=NONCE)),
    "an altered command": (Reason.BAD_SIGNATURE, linked(2)[:-1] + b"?"),
    "a renewal out of order": (Reason.WRONG_SEQ, renewing(3)),
    "a renewal of a bad body": (Reason.MALFORMED, renewing(2, body=DATA[:-1])),
    "a READ for a link": (Reason.MALFORMED, raw(Opcode.READ, wire.COUNT.pack(0), wanted=3)),
    "a READ for a chain": (Reason.MALFORMED, raw(Opcode.READ, wire.COUNT.pack(0), wanted=2, nonce=NONCE)),
    "an OPEN for a chain": (Reason.MALFORMED, raw(Opcode.OPEN, epoch=E2, wanted=2, nonce=NONCE)),
    "an OPEN for a link": (Reason.MALFORMED, raw(Opcode.OPEN, epoch=E2, wanted=3)),
    "an OPEN of an old epoch": (Reason.WRONG_EPOCH, client.open_disk(KEY, INSTANCE, E1, NONCE)),
    "a HELLO for a chain": (
        Reason.MALFORMED,
        raw(Opcode.HELLO, instance=wire.NO_INSTANCE, epoch=wire.NO_EPOCH, wanted=2, nonce=NONCE),
    ),
    "a HELLO for a link": (Reason.MALFORMED, raw(Opcode.HELLO, instance=bytes(32), epoch=bytes(16), wanted=3)),
}


@pytest.mark.parametrize(("reason", "frame"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused_shows_draws_and_wipes_nothing(disk: Disk, reason: Reason, frame: bytes) -> None:
    anchor = bytes(disk.handle(renewing(1)).data)
    before = secrets_of(disk)
    assert disk.refuses(frame) is reason
    assert (secrets_of(disk), len(disk.drawn)) == (before, 1)
    assert hashed(bytes(disk.handle(linked(2)).data), 1) == anchor


def test_the_missing_link_is_noticed_after_the_seq_and_before_the_body(disk: Disk) -> None:
    assert disk.refuses(linked(2)) is Reason.WRONG_SEQ
    assert disk.refuses(linked(1, body=b"")) is Reason.NO_LINK


def test_an_open_wipes_the_chain(disk: Disk) -> None:
    disk.handle(renewing(1))
    assert all(secrets_of(disk)[at : at + LINK_BYTES] != bytes(LINK_BYTES) for at in range(0, 32 * LINKS, 32))
    disk.handle(client.open_disk(KEY, INSTANCE, E2, NONCE))
    assert not any(secrets_of(disk))


def test_a_new_chain_takes_the_place_of_the_old(disk: Disk) -> None:
    first = bytes(disk.handle(renewing(1)).data)
    old = secrets_of(disk)
    disk.handle(linked(2))
    second = bytes(disk.handle(renewing(3)).data)
    assert second == hashed(bytes([2]) * 32, LINKS) != first
    new = secrets_of(disk)
    assert all(old[at : at + LINK_BYTES] not in new for at in range(0, len(old), LINK_BYTES))
    assert hashed(bytes(disk.handle(linked(4)).data), 1) == second


def test_a_chain_may_end_with_the_last_seq_of_an_epoch(disk: Disk) -> None:
    disk.core.seq = 2**64 - 4
    anchor = bytes(disk.handle(renewing(2**64 - 3)).data)
    assert hashed(bytes(disk.handle(linked(2**64 - 1 - 1)).data), 1) == anchor
    assert hashed(bytes(disk.handle(linked(2**64 - 1)).data), 2) == anchor


@given(st.lists(st.sampled_from([Wants.NOTHING, Wants.LINK, Wants.LINK, Wants.CHAIN]), max_size=80))
@settings(max_examples=60, deadline=None)
def test_no_link_is_ever_known_before_its_command(wanted: list[Wants]) -> None:
    """Whatever is asked: what was shown so far never hashes forward to what is still to come."""
    drawn: list[bytes] = []
    chain = Chain(lambda count: drawn.append(bytes([len(drawn) + 1]) * count) or drawn[-1])  # type: ignore[func-returns-value]
    anchor_seq, shown = -LINKS - 1, {}
    for seq, wants in enumerate(wanted, 1):
        if wants is Wants.CHAIN:
            anchor_seq, shown = seq, {seq: chain.renew(seq)}
            assert len(drawn[-1]) == LINK_BYTES
        assert (seq in chain.seqs) is (anchor_seq < seq <= anchor_seq + LINKS)
        if wants is Wants.LINK and seq in chain.seqs:
            shown[seq] = chain.show(seq)
            last = max(before for before in shown if before < seq)
            assert hashed(shown[seq], seq - last) == shown[last]
            left = bytes(chain._links)
            assert all(link not in left for link in shown.values())
    assert hashed_link(b"x" * 32) == hashed(b"x" * 32, 1)
