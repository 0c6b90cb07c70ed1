"""The key store for threads, over real disk processes; and its receipts, checked by the command line alone."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure import api
from perdure.array.commands import Authority
from perdure.errors import Misuse
from perdure.keystore.slots import State
from perdure.keystore.threads import SyncKeyStore
from perdure.service.main import settings_of
from perdure.service.site import local
from tests.cli.rig import Done, Rig, perdure
from tests.keystore.world import key
from tests.system.rig import new_array

OFFSET = 1 << 20


class Home:
    """A machine with five disks and an array on them."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        found = new_array(rig)
        assert found.array.array_id is not None
        self.settings, self.array_id = settings_of(found), found.array.array_id

    def kill_disk(self, seat: int) -> None:
        self.rig.kill_disk(seat)

    def store(self, array: api.SyncArray) -> SyncKeyStore:
        return SyncKeyStore(array, Authority(self.settings.private_key), OFFSET, 8)

    def verify(self, file: Path, *words: object, code: int = 0) -> Done:
        policy = self.rig.directory / local.POLICY_FILE
        words = ("--policy", policy, "--array-id", self.array_id.hex(), *words, file)
        done = perdure("evidence", "verify-receipt", *words)
        assert done.code == code, done.err
        return done


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with Rig(tmp_path_factory.mktemp("home")) as rig:
        yield Home(rig)


def test_keys_are_kept_used_and_erased_across_mounts(home: Home, tmp_path: Path) -> None:
    with api.open_array(home.settings, home.array_id) as array:
        store = home.store(array)
        assert store.put(0, *key(1)) == 1
        assert store.use(0, bytes) == key(1)[0]
    with api.open_array(home.settings, home.array_id) as array:
        store = home.store(array)
        found = store.get(0)
        assert (found.state, found.version, found.public_key) == (State.HELD, 1, key(1)[1])
        erased = store.erase(0)
        assert store.get(0).state is State.ERASED
        with pytest.raises(Misuse, match="was erased"):
            store.use(0, bytes)
    assert (erased.receipt.version, erased.receipt.public_key) == (1, key(1)[1])
    file = tmp_path / "receipt.json"
    file.write_text(json.dumps(erased.receipt.to_json()))
    done = home.verify(file, "--public-key", key(1)[1].hex())
    assert done.out.startswith("The key in slot 0, version 1, is erased.")
    assert "none can hold a fragment of it" in done.out
    assert "is about the key" in home.verify(file, "--public-key", key(2)[1].hex(), code=3).sentence
    value = json.loads(file.read_text())
    file.write_text(json.dumps({**value, "public_key": key(2)[1].hex()}))
    assert "did not sign the receipt for the key" in home.verify(file, code=2).sentence
    file.write_text(json.dumps(value["erasure"]))
    assert "names no key" in home.verify(file, "--public-key", key(1)[1].hex(), code=3).sentence


def test_an_erasure_waits_until_nobody_has_the_secret(home: Home) -> None:
    with api.open_array(home.settings, home.array_id) as array:
        store = home.store(array)
        store.put(1, *key(3))
        order: list[str] = []
        is_used, may_end = threading.Event(), threading.Event()

        def use(_: bytearray) -> None:
            is_used.set()
            assert may_end.wait(20)
            order.append("used")

        def erase() -> None:
            store.erase(1)
            order.append("erased")

        user = threading.Thread(target=store.use, args=(1, use))
        user.start()
        assert is_used.wait(20)
        eraser = threading.Thread(target=erase)
        eraser.start()
        eraser.join(0.2)
        assert order == []
        may_end.set()
        user.join()
        eraser.join()
        assert order == ["used", "erased"]


def test_a_receipt_names_the_dead_that_may_hold_fragments_and_says_why_they_are_not_enough(
    home: Home, tmp_path: Path
) -> None:
    with api.open_array(home.settings, home.array_id) as array:
        store = home.store(array)
        store.put(2, *key(4))
        home.kill_disk(3)
        erased = store.erase(2)
    file = tmp_path / "receipt.json"
    file.write_text(json.dumps(erased.receipt.to_json()))
    out = home.verify(file).out
    (gone,) = erased.holders
    assert gone.seat == 3
    assert f"  seat 3  {gone.instance.hex()[:16]}\n" in out
    assert "Of any one sealing of it they hold the fragments of 1 seats at most. It takes those of 3 to open it" in out
    value = home.verify(file, "--json").json
    assert (value["slot"], value["version"], value["public_key"]) == (2, 1, key(4)[1].hex())
    assert value["offset"] == OFFSET + 2 * 8192 + 4096
    assert [(one["seat"], one["may_hold"]) for one in value["departed"]] == [(3, True)]
    assert (value["seats_exposed"], value["seats_needed"], value["beyond_recall"]) == (1, 3, True)
    assert [witness["seat"] for witness in value["witnesses"]] == [0, 1, 2, 4]


def test_an_interrupt_while_a_secret_is_fetched_leaves_no_copy_of_it(home: Home, monkeypatch) -> None:
    """Else what keeps the interrupt, a traceback, keeps the secret too, and `erase` would return beside it."""
    lent = []
    with api.open_array(home.settings, home.array_id) as array:
        store = home.store(array)
        store.put(5, *key(5))
        lend = store._store.lend

        async def interrupted(slot: int) -> bytearray:
            lent.append(await lend(slot))
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, signal.SIGINT)  # as Ctrl-C, while it waits
            return lent[0]

        monkeypatch.setattr(store._store, "lend", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.use(5, bytes)
        assert lent == [bytearray(32)]
        monkeypatch.undo()
        assert store.use(5, bytes) == key(5)[0]
        store.erase(5)
