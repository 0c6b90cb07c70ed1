"""What a main program believes of a disk's chain: the link of the very command, in the chain's order, and no other."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.array.chain import CHAIN_ASK_MS_MAX, CHAIN_MS_MAX, Chain
from perdure.disk import chain as disks
from perdure.disk.wire import LINK_BYTES, LINKS, hashed_link
from perdure.errors import WrongCommitment

ANCHOR_SEQ = 7
LAST_SEQ = ANCHOR_SEQ + LINKS


class Pair:
    """A disk's chain and what the main program knows of it; `link` of any seq, also of those to come."""

    def __init__(self, asked_ms: int = 0) -> None:
        own = disks.Chain(os.urandom)
        self.chain = Chain(own.renew(ANCHOR_SEQ), ANCHOR_SEQ, asked_ms)
        whole = bytes(own._links)
        self.links = {ANCHOR_SEQ + at + 1: whole[at * LINK_BYTES : (at + 1) * LINK_BYTES] for at in range(LINKS)}

    def refuses(self, seq: int, link: bytes) -> bool:
        """Whether it is refused, and then changes nothing."""
        before = (self.chain._known, self.chain._seq)
        try:
            self.chain.accept(seq, link, 0)
        except WrongCommitment:
            assert (self.chain._known, self.chain._seq) == before
            return True
        return False


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_every_link_is_taken_in_its_order(pair: Pair) -> None:
    for seq, link in pair.links.items():
        pair.chain.accept(seq, link, 0)


@pytest.mark.parametrize("seq", [ANCHOR_SEQ + 2, ANCHOR_SEQ + 9, LAST_SEQ])
def test_links_may_be_skipped(pair: Pair, seq: int) -> None:
    pair.chain.accept(seq, pair.links[seq], 0)
    assert pair.refuses(seq - 1, pair.links[seq - 1])


FORGED: dict[str, Callable[[Pair], tuple[int, bytes]]] = {
    "the anchor": lambda pair: (12, hashed_link(pair.links[ANCHOR_SEQ + 1])),
    "the last that was shown": lambda pair: (12, pair.links[11]),
    "one that was shown before": lambda pair: (12, pair.links[10]),
    "the next but one": lambda pair: (12, pair.links[13]),
    "the hash of the right one": lambda pair: (12, hashed_link(pair.links[12])),
    "the right one for an earlier seq": lambda pair: (10, pair.links[10]),
    "the one before for the seq that it is of": lambda pair: (11, pair.links[11]),
    "the right one for a later seq": lambda pair: (13, pair.links[12]),
    "nothing": lambda _pair: (12, b""),
    "zeros": lambda _pair: (12, bytes(LINK_BYTES)),
    "cut short": lambda pair: (12, pair.links[12][:-1]),
    "too long": lambda pair: (12, pair.links[12] + b"\0"),
    "another chain's": lambda _pair: (12, Pair().links[12]),
    "a seq before the anchor": lambda pair: (1, pair.links[12]),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED.keys())
def test_no_other_link_is_taken(pair: Pair, forge: Callable[[Pair], tuple[int, bytes]]) -> None:
    pair.chain.accept(11, pair.links[11], 0)
    assert pair.refuses(*forge(pair))
    pair.chain.accept(12, pair.links[12], 0)


def test_there_is_no_link_past_the_end(pair: Pair) -> None:
    """Whoever can find a preimage of the seed could; the disk cannot, so it is not even looked at."""
    pair.chain.accept(LAST_SEQ, pair.links[LAST_SEQ], 0)
    made = Chain(hashed_link(b"l" * 32), LAST_SEQ, 0)
    made._last_seq = LAST_SEQ
    with pytest.raises(WrongCommitment):
        made.accept(LAST_SEQ + 1, b"l" * 32, 0)


def test_a_chain_is_used_for_a_while_and_for_its_links() -> None:
    chain = Pair(asked_ms=5000).chain
    assert chain.reaches(ANCHOR_SEQ + 1, 5000)
    assert chain.reaches(LAST_SEQ, 5000 + CHAIN_ASK_MS_MAX - 1)
    assert not chain.reaches(LAST_SEQ + 1, 5000)
    assert not chain.reaches(ANCHOR_SEQ + 1, 5000 + CHAIN_ASK_MS_MAX)


def test_a_link_that_comes_late_counts_for_nothing() -> None:
    """A host holds the command back until it has taken the secret out of the disk."""
    pair = Pair(asked_ms=5000)
    pair.chain.accept(8, pair.links[8], 5000 + CHAIN_MS_MAX)
    with pytest.raises(WrongCommitment, match="does not count any more"):
        pair.chain.accept(9, pair.links[9], 5000 + CHAIN_MS_MAX + 1)


@given(
    tried=st.lists(st.tuples(st.integers(ANCHOR_SEQ - 2, LAST_SEQ + 2), st.integers(ANCHOR_SEQ + 1, LAST_SEQ))),
    bit=st.integers(-60, LINK_BYTES * 8 - 1),
)
@settings(max_examples=100, deadline=None)
def test_a_link_is_taken_exactly_if_it_is_the_commands_own_and_newer(tried: list[tuple[int, int]], bit: int) -> None:
    pair, newest = Pair(), ANCHOR_SEQ
    for seq, of_seq in tried:
        link = bytearray(pair.links[of_seq])
        if bit >= 0:
            link[bit // 8] ^= 1 << bit % 8
        is_good = seq == of_seq and seq > newest and bit < 0
        assert pair.refuses(seq, bytes(link)) is not is_good
        newest = seq if is_good else newest
