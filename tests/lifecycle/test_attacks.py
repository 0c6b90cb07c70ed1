"""What a loader, an operator and a running loader refuse, each attack by its name; and that the honest way works."""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
from dataclasses import replace

import pytest

from perdure.array.roster import Program
from perdure.errors import (
    Corrupt,
    Misuse,
    NotAuthorised,
    OldProgram,
    PerdureError,
    Unavailable,
    WrongCommitment,
    WrongMeasurement,
    error_to_json,
)
from perdure.loader.offer import NONCE_BYTES, Offer, Purpose
from perdure.loader.sealed import Recipient, Secret, seal
from perdure.loader.talk import connected, packed, unpacked
from perdure.service import lifecycle
from tests.lifecycle.world import World, require_one_owner_at_a_time_and_nothing_lost, until

ALTERED = "signature 2 does not verify: it is for another manifest, or was altered"


@pytest.fixture(scope="module")
def world():
    with World() as world:
        yield world


@pytest.fixture(scope="module")
def v1(world):
    return world.release(1)


@pytest.fixture(scope="module")
def signed(world, v1):
    return world.sign(v1, "alice", "bob")


@pytest.fixture
def loader(world, request):
    running = world.loader(f"l{len(world.loaders)}")
    yield running
    running.kill()


def refused(loader, release, signatures, error, sentence, **hints):
    with pytest.raises(error, match=sentence):
        loader.load(release, signatures, **hints)
    assert loader.health()["state"] == "empty"


# What is signed -------------------------------------------------------------------------------------------


def test_fewer_signatures_than_the_threshold(world, v1, loader):
    refused(loader, v1, world.sign(v1, "carol"), NotAuthorised, "1 of the 2 developers that are needed signed")
    refused(loader, v1, (), NotAuthorised, "0 of the 2 developers that are needed signed")


def test_a_developer_who_was_removed(world, v1, signed):
    world.image("without-bob.eif", world.list_of("alice", "carol"))
    loader = world.loader("without-bob", "without-bob.eif")
    refused(loader, v1, signed, NotAuthorised, "signature 2 is by an SSH key that is not listed")
    assert loader.load(v1, world.sign(v1, "alice", "carol"))["state"] == "loaded"
    loader.kill()


def test_one_developer_twice(world, v1, loader):
    refused(loader, v1, world.sign(v1, "alice", "alice"), NotAuthorised, "who counts once")


def test_a_changed_byte_of_the_program(v1, signed, loader):
    at = v1.program.index(b"VERSION = 1")
    changed = v1.program[: at + 10] + b"2" + v1.program[at + 11 :]
    refused(loader, replace(v1, program=changed), signed, Corrupt, "another one than the manifest names")


def test_a_changed_byte_of_the_manifest(v1, signed, loader):
    changed = replace(v1.manifest, version=9)
    refused(
        loader,
        replace(v1, manifest=changed),
        signed,
        NotAuthorised,
        ALTERED,
    )


def test_a_policy_that_a_host_has_changed(world, v1, signed, loader):
    changed = replace(v1.manifest, policy=world.loaders_allowed)
    refused(
        loader,
        replace(v1, manifest=changed),
        signed,
        NotAuthorised,
        ALTERED,
    )


@pytest.mark.parametrize("path", ["../outside", "/outside", "perdure/../../outside"])
def test_a_path_that_climbs_out_of_the_tarball(v1, signed, loader, path):
    packed_files = io.BytesIO(v1.program)
    with tarfile.open(fileobj=packed_files, mode="a", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo(path), io.BytesIO())
    hostile = replace(v1, program=packed_files.getvalue())
    refused(loader, hostile, signed, Misuse, "absolute, climbs out or is not in plain form")


def test_a_link_in_the_tarball(v1, signed, loader):
    packed_files = io.BytesIO(v1.program)
    with tarfile.open(fileobj=packed_files, mode="a", format=tarfile.USTAR_FORMAT) as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    refused(loader, replace(v1, program=packed_files.getvalue()), signed, Misuse, "link")


# Who gets the key -----------------------------------------------------------------------------------------


def test_evidence_of_another_measurement_gets_no_key(world, v1, signed):
    """A loader of the same program whose developers are the host's own."""
    world.image("hosts-own.eif", world.list_of("carol", threshold=1))
    loader = world.loader("hosts-own", "hosts-own.eif")
    loader.load(v1, world.sign(v1, "carol"))
    with pytest.raises(WrongMeasurement, match="other contents"):
        loader.provision()
    assert loader.health()["state"] == "loaded"
    loader.kill()


def test_a_key_that_the_host_has_put_into_the_offer_gets_no_key(world, v1, signed, loader):
    """The host answers in the loader's place with the true evidence and an ephemeral key of its own."""
    loader.load(v1, signed)
    own = Recipient()

    async def between(reader, writer):
        line = await reader.readline()
        async with connected(loader.address) as true:
            answer = await true.ask("offer", nonce=json.loads(line)["nonce"])
        writer.write(json.dumps({**answer, "public_key": packed(own.public_key)}).encode() + b"\n")
        await writer.drain()
        assert not await reader.readline(), "nothing else was sent"

    async def attack():
        path = str(world.place / "between.sock")
        async with await asyncio.start_unix_server(between, path):
            with pytest.raises(WrongCommitment):
                await lifecycle.provision(f"unix:{path}", world.authority, world.array_id, world.loaders_allowed)

    asyncio.run(attack())


def test_what_was_sealed_to_another_offer_is_not_taken(world, v1, signed, loader):
    loader.load(v1, signed)

    async def attack():
        async with connected(loader.address) as first, connected(loader.address) as second:
            offers = []
            for conversation in (first, second):
                nonce = bytes(NONCE_BYTES)
                answer = await conversation.ask("offer", nonce=packed(nonce))
                program = Program(1, v1.manifest.digest())
                offers.append(Offer(Purpose.CEREMONY, nonce, unpacked(answer, "public_key"), program))
            secret = Secret(world.authority.private_key, world.array_id, world.loaders_allowed)
            with pytest.raises(Corrupt, match="not sealed to this loader's key in answer to this offer"):
                await first.ask("provide", sealed=packed(seal(secret, offers[1])))
            with pytest.raises(Misuse, match="Nothing was offered on this connection"):
                await first.ask("provide", sealed=packed(seal(secret, offers[0])))

    asyncio.run(attack())
    assert loader.health()["state"] == "loaded"


def test_a_program_that_a_host_loads_after_the_offer_was_judged_gets_no_key(world, v1, signed, loader):
    """Both are signed; the operator has judged the second version, and the host wants the first to have the key."""
    v2 = world.release(2)
    loader.load(v2, world.sign(v2, "alice", "bob"))

    async def attack():
        async with connected(loader.address) as conversation:
            nonce = bytes(NONCE_BYTES)
            answer = await conversation.ask("offer", nonce=packed(nonce))
            await lifecycle.load(loader.address, loader.bundle(v1, signed))
            offer = Offer(Purpose.CEREMONY, nonce, unpacked(answer, "public_key"), Program(2, v2.manifest.digest()))
            secret = Secret(world.authority.private_key, world.array_id, world.loaders_allowed)
            with pytest.raises(Corrupt, match="Another program was loaded since the offer was judged"):
                await conversation.ask("provide", sealed=packed(seal(secret, offer)))

    asyncio.run(attack())
    assert loader.health()["state"] == "loaded"
    assert not world.witness()


def test_a_host_that_answers_in_the_loaders_place_that_all_is_well_is_not_believed(world, v1, signed, loader):
    """It swallows the key, which it cannot open, and says that the program serves."""
    loader.load(v1, signed)

    async def between(reader, writer):
        async with connected(loader.address) as true:
            while line := await reader.readline():
                request = json.loads(line)
                if request["do"] == "provide":
                    answer = {**await true.ask("health"), "state": "running", "signers": ["alice", "mallory"], "pid": 7}
                else:
                    try:
                        answer = await true.ask(request.pop("do"), **request)
                    except PerdureError as error:
                        answer = {"error": error_to_json(error)}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        writer.close()

    async def attack():
        path = str(world.place / "swallows.sock")
        async with await asyncio.start_unix_server(between, path, limit=1 << 20):
            with pytest.raises(Misuse, match="is loaded, and that can be asked only of one that is running"):
                await lifecycle.provision(f"unix:{path}", world.authority, world.array_id, world.loaders_allowed)

    asyncio.run(attack())


def test_a_manifest_for_another_array(world, v1, signed, loader):
    other = replace(v1, manifest=replace(v1.manifest, array_id=b"o" * 32))
    loader.load(other, world.sign(other, "alice", "bob"))
    with pytest.raises(Misuse, match="and the key is for"):
        loader.provision()

    async def deceived():
        """The operator does not look; the loader does."""
        async with connected(loader.address) as conversation:
            nonce = bytes(NONCE_BYTES)
            answer = await conversation.ask("offer", nonce=packed(nonce))
            offer = Offer(Purpose.CEREMONY, nonce, unpacked(answer, "public_key"), Program(1, other.manifest.digest()))
            secret = Secret(world.authority.private_key, world.array_id, world.loaders_allowed)
            await conversation.ask("provide", sealed=packed(seal(secret, offer)))

    with pytest.raises(Misuse, match="The manifest is for array 6f6f6f"):
        asyncio.run(deceived())
    running = world.loader("has-the-key")
    running.load(v1, signed)
    running.provision()
    with pytest.raises(Misuse, match="The successor's manifest is for another array; this main program goes on"):
        loader.follow(running)
    assert running.health()["state"] == "running"
    running.kill()
    assert loader.health()["state"] == "loaded"


def test_another_manifest_than_the_operator_expects(world, v1, signed, loader):
    loader.load(v1, signed)
    with pytest.raises(Misuse, match="another manifest than the one that was given"):
        loader.provision(expected=replace(v1.manifest, version=2))


def test_addresses_that_a_host_has_changed_start_nothing(world, v1, signed, loader):
    before = world.witness()
    nowhere = tuple(f"unix:{world.place}/nobody-{seat}" for seat in range(3))
    loader.load(v1, signed, addresses=nowhere)
    with pytest.raises(Unavailable):
        loader.provision()
    assert loader.health()["state"] == "loaded"
    assert world.witness() == before


def test_an_address_that_says_more_than_an_address(world, v1, signed, loader):
    more = (*world.found.addresses, 'unix:x"]\n[serve]\nattest = "never')
    loader.load(v1, signed, addresses=more)
    with pytest.raises(PerdureError, match="printable text without quotes"):
        loader.provision()
    assert loader.health()["state"] == "loaded"


def test_a_policy_that_was_signed_and_is_not_the_arrays(world, v1, loader):
    """The array's id pins its policy, so even the developers cannot change it."""
    other = replace(v1, manifest=replace(v1.manifest, policy=replace(world.policy, skew_ms_max=1000)))
    loader.load(other, world.sign(other, "alice", "bob"))
    with pytest.raises(PerdureError, match="the evidence policy is not the one that this array was created with"):
        loader.provision()
    assert loader.health()["state"] == "loaded"


# Which version --------------------------------------------------------------------------------------------


def test_a22_an_older_signed_version_is_refused_by_the_running_loader_and_by_the_array(world, v1, signed):
    """And another manifest of the same version; the very same one may follow itself."""
    v2 = world.release(2)
    twin = world.release(2, main="# another program\n")
    one, two, three = (world.loader(f"a22-{name}") for name in ("one", "two", "three"))
    one.load(v1, signed)
    one.provision()
    world.counts_on(version=1)
    two.load(v2, world.sign(v2, "alice", "carol"))
    two.follow(one)
    world.counts_on(version=2)
    for older in ((v1, signed), (twin, world.sign(twin, "bob", "carol"))):
        three.load(*older)
        with pytest.raises(OldProgram, match="higher version, or the very same manifest"):
            three.follow(two)
        assert two.health()["state"] == "running"
    world.counts_on(version=2)
    two.kill()
    for older, sentence in (
        ((v1, signed), "version 2 of the signed main program was accepted"),
        ((twin, world.sign(twin, "bob", "carol")), "another manifest of version 2 was accepted"),
    ):
        three.load(*older)
        with pytest.raises(OldProgram, match=sentence):
            three.provision()
    three.load(v2, world.sign(v2, "alice", "bob"))
    three.provision()
    world.counts_on(version=2)
    three.stop()
    assert {line.version for line in world.witness()} == {1, 2}
    require_one_owner_at_a_time_and_nothing_lost(world.witness())


def test_a_running_loader_gives_the_key_to_no_other_measurement(world, signed):
    v3 = world.release(3)
    one = world.loader("keeps")
    one.load(v3, world.sign(v3, "alice", "bob"))
    one.provision()
    world.image("more.eif", world.list_of("alice", "bob", "carol", threshold=1))
    other = world.loader("more", "more.eif")
    v4 = world.release(4)
    other.load(v4, world.sign(v4, "alice"))
    with pytest.raises(NotAuthorised):
        other.follow(one)  # its own developers would have let it pass
    other.load(v4, world.sign(v4, "alice", "bob"))
    with pytest.raises(WrongMeasurement):
        other.follow(one)
    assert one.health()["state"] == "running"
    world.counts_on(version=3)
    one.stop()
    until(lambda: not one.process.is_running() or one.process.status() == "zombie")
