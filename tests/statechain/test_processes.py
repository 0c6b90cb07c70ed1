"""The attack on real processes: a signer, disks, every link and the authority's private key in the operator's hands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from hashlib import sha256
from itertools import combinations

import psutil
import pytest
from coincurve import PrivateKey

from examples.statechain import curve, proof
from examples.statechain.owner import Owner
from perdure.array.geometry import SECTOR_BYTES
from perdure.array.sealing import Keys
from perdure.keystore.slots import Place
from perdure.service.site import artefacts, config, local
from tests.cli.rig import perdure
from tests.disk import client
from tests.keystore import operator
from tests.lying_host.host import LyingHost
from tests.lying_host.test_memory import found, pieces_of
from tests.statechain.process import drawn, signer

MESSAGE = sha256(b"steal").digest()
MIB_SECTORS = (1 << 20) // 64
LOOK_S = 0.02
WAIT_S = 30


@pytest.fixture
def host(tmp_path):
    with LyingHost(tmp_path) as host:
        yield host


def memory_of(host, disk):
    """All of a disk's memory, read with the private key as any main program may; it notices nothing else of it."""
    with client.Client(f"unix:{disk}") as peer:
        known = peer.ask(client.hello(host.key, os.urandom(32)))
        starts = range(0, known.size, MIB_SECTORS)
        runs = [(start, min(MIB_SECTORS, known.size - start)) for start in starts]
        return b"".join(peer.ask(client.read(host.key, known.instance, known.epoch, [run])).data for run in runs)


def secrets_in(host, slot, kept, live):
    """What the private key opens of a slot in these memories."""
    index = Place(0, slot).secret_start // SECTOR_BYTES
    keys = Keys.derive(host.authority.private_key, host.config.array.array_id)
    sectors = operator.opened(host.geometry, keys, index, kept, live)
    return {sector[57:89] for sector in sectors if sector[:4] == b"PKSS"}


def when_home(host, slot):
    """The disks' memories once the slot's secret stands in all homes."""
    place = host.geometry.tag_start(Place(0, slot).secret_start // SECTOR_BYTES) * 64
    give_up = time.monotonic() + WAIT_S
    while True:
        memories = [memory_of(host, host.disk(seat)) for seat in range(host.n)]
        if all(any(memory[place : place + 64]) for memory in memories):
            return memories
        assert time.monotonic() < give_up, "it never came home"
        time.sleep(LOOK_S)  # how often to look, not how long to wait


def fragment_in(host, slot, memory):
    index, shape = Place(0, slot).secret_start // SECTOR_BYTES, host.geometry
    start = shape.fragment_start(index) * 64
    return memory[start : start + shape.fragment_bytes]


def steals(owner, shares):
    keys = [PrivateKey(curve.add(share, owner._share)) for share in shares]
    return any(curve.verify(owner.key, MESSAGE, one.sign_schnorr(MESSAGE)) for one in keys)


@pytest.mark.timeout(600)
def test_an_operator_with_the_key_a_kept_disk_and_the_old_owner_does_not_get_the_old_share_back(host, tmp_path):
    settings = host.directory / config.NAME
    policy = artefacts.read_policy(host.directory / local.POLICY_FILE)
    array_id = host.config.array.array_id
    alice, bob = Owner(os.urandom), Owner(os.urandom)
    seed = os.urandom(16).hex()
    old = drawn(seed, 0)
    with signer(settings, seed) as remote:
        alice.deposit(remote, 0)
        before = when_home(host, 0)
        processes = [host.disk_processes(seat) for seat in range(host.n)]
        main = [psutil.Process(remote.pid)]
        columns = [pieces_of(fragment_in(host, 0, memory)) for memory in before]
        for group, column in zip(processes, columns, strict=True):
            assert found(group, column) >= 1  # it is looked for in the right way
        remote.say("hold", 0)
        assert remote.listen() == "held"
        assert found(main, [old]) >= 1, "whoever looks into the signer while it signs has the share"
        assert remote.ask("go on") == "let go"

        host.proxies[0].hide()  # the operator keeps this one from the erasure, and running
        handover = alice.hand_over(remote, bob.address)
        erased = bob.take(remote, handover, lambda value, key: proof.check(value, policy, array_id, key))
        assert curve.verify(alice.key, MESSAGE, bob.sign(remote, MESSAGE))

        for group, column in zip(processes[1:], columns[1:], strict=True):
            assert found(group, [*column, old]) == 0
        assert found(processes[0], columns[0]) >= 1, "it was kept"
        assert found(main, [old, *(piece for column in columns for piece in column)]) == 0
        live = [memory_of(host, host.disk(seat)) for seat in range(host.n)]
        assert secrets_in(host, 0, {}, live) == set()
        new = secrets_in(host, 1, {}, live)
        assert [curve.point(one) for one in new] == [remote.share(0)], "the key opens what is alive"
        assert not steals(alice, new)
        for seats in combinations(range(host.n), host.k):
            stolen = secrets_in(host, 0, {seat: before[seat] for seat in seats}, live)
            assert stolen == {old}, "k kept disks would give it back"
            assert steals(alice, stolen)
    check_by_hand(host, tmp_path, erased, policy)
    a_mount_with_the_kept_disk_is_refused(host, settings, seed)


def check_by_hand(host, tmp_path, erased, policy):
    """What Bob, or anybody, types; the signer has ended."""
    (tmp_path / "receipt.json").write_text(json.dumps(erased.receipt.to_json()))
    (tmp_path / "policy.json").write_bytes(policy.to_json())
    key = erased.receipt.public_key.hex()
    words = ("--policy", tmp_path / "policy.json", "--array-id", host.config.array.array_id.hex(), "--public-key", key)
    done = perdure("evidence", "verify-receipt", *words, tmp_path / "receipt.json")
    assert done.code == 0, done.err
    assert f"  {key}\n" in done.out
    assert f"  seat 0  {host.instance(0)[:16]}\n" in done.out
    assert "they hold the fragments of 1 seats at most. It takes those of 2 to open it" in done.out


def a_mount_with_the_kept_disk_is_refused(host, settings, seed):
    """With one live disk, or a blank one, in the place of the others."""
    blank = host.new_disk("blank")
    for shown in ((host.disk(0), host.disk(1), None), (host.disk(0), blank, None)):
        host.present(*shown)
        command = [sys.executable, "-m", "tests.statechain.process", str(settings), seed]
        done = subprocess.run(command, capture_output=True, text=True, input="", timeout=60, check=False)
        assert (done.returncode, done.stdout) == (2, '"Unavailable"\n'), done
