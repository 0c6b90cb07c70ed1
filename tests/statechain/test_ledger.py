"""The signer's coins: a change needs what it was decided on, and what was counted stays counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from examples.statechain.ledger import Coin, Ledger, ledger_on
from perdure.array.geometry import SECTOR_BYTES
from perdure.errors import Conflict, Corrupt, Misuse
from tests.volume.recorded import Recorded

COINS = 3
START = 4 * SECTOR_BYTES
SECTORS = 700
OWNER = bytes(range(32))


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with ledger_on(Recorded(SECTORS), START, COINS) as ledger:
        yield ledger


def test_coins_are_found_again_as_they_were_written() -> None:
    array = Recorded(SECTORS)
    coins = [Coin(0, OWNER, 1, 7, 3), Coin(2, OWNER[::-1], 4, (1 << 64) - 1, 1 << 32)]
    with ledger_on(array, START, COINS) as ledger:
        for coin in coins:
            ledger.write(coin)
    assert not any(array.data[:START]), "what is before it is the key store's"
    with ledger_on(array, START, COINS) as ledger:
        assert [ledger.find(number) for number in range(COINS)] == [
            replace(coins[0], version=1),
            None,
            replace(coins[1], version=1),
        ]


def test_a_change_that_was_decided_on_an_older_coin_is_refused_so_the_count_never_goes_down(ledger: Ledger) -> None:
    ledger.write(Coin(0, OWNER, 0))
    old = ledger.get(0)
    ledger.count_signature(old)
    moved = replace(old, owner=OWNER[::-1], slot=1, transfers=1)
    for stale in (
        lambda: ledger.write(moved),
        lambda: ledger.count_signature(old),
        lambda: ledger.write(Coin(0, b"", 0)),
    ):
        with pytest.raises(Conflict, match="nothing was changed"):
            stale()
    assert ledger.get(0) == replace(old, signatures=1, version=2)


def test_what_was_counted_is_counted_wherever_it_is_cut() -> None:
    array, counted = Recorded(SECTORS), []
    with ledger_on(array, START, COINS) as ledger:
        ledger.write(Coin(0, OWNER, 0))
        for number in range(1, 13):
            ledger.count_signature(ledger.get(0))
            counted.append((array.flushes[-1], number))
    for count, cut in array.cuts(counted[0][0]):
        told = max(number for flushed, number in counted if flushed <= count)
        with ledger_on(cut, START, COINS) as ledger:
            assert told <= ledger.get(0).signatures <= told + 1


@pytest.mark.parametrize(
    "value", [b"", bytes(51), bytes(53), (2).to_bytes(4, "big") + bytes(48)], ids=["empty", "short", "long", "other"]
)
def test_what_is_no_coin_is_corrupt(ledger: Ledger, value: bytes) -> None:
    ledger._store.put(bytes(4), value, expected=0)
    with pytest.raises(Corrupt, match="in the place of coin 0 is no coin"):
        ledger.get(0)
    assert ledger.find(1) is None


def test_a_number_has_room_or_is_refused(ledger: Ledger) -> None:
    for number in (-1, COINS):
        for use in (ledger.find, ledger.get, lambda number: ledger.write(Coin(number, OWNER, 2 * number))):
            with pytest.raises(Misuse, match="room for coins 0 to 2"):
                use(number)
    with pytest.raises(Misuse, match="There is no coin 2"):
        ledger.get(2)


def test_an_array_with_no_room_behind_the_keys_is_refused() -> None:
    with pytest.raises(Misuse, match="too small"), ledger_on(Recorded(600), START, COINS):
        pass
