"""Repair as the main program's own work, on real disks: one piece a seat, found again, stopped cleanly."""

import asyncio
import json
import os
import tomllib

import pytest

from perdure import api
from perdure.api import Host
from perdure.array.geometry import SECTOR_BYTES, Geometry
from perdure.errors import Misuse, Unavailable
from perdure.image.build import build_simulated
from perdure.service.control import Request
from perdure.service.main import settings_of
from perdure.service.observe import Surroundings, observe
from perdure.service.site import artefacts, config, local, processes
from perdure.service.site.config import RATE_MIN
from perdure.service.status import DiskState, RepairState
from tests.service.furnished import SIZE_BYTES, Site, content, lose, until

SLOW = 2 << 20


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    site.end()


async def over(repairs, seat):
    """The repair of a seat, once it has ended."""
    await until(lambda: all(repair.state.is_over for repair in repairs.look() if repair.seat == seat))
    return next(repair for repair in repairs.look() if repair.seat == seat)


# A life ---------------------------------------------------------------------------------------------------


def test_asked_for_again_the_same_work_is_found_and_a_different_one_refused(site):
    async def story(array, repairs):
        await array.pwrite(0, content(1))
        await lose(site, array, 1)
        address = site.fresh("new")
        first = repairs.start(Request("replace", 1, address, SLOW))
        again = repairs.start(Request("replace", 1))
        assert (first["attached"], again) == (False, {"id": first["id"], "attached": True})
        for other in (Request("rejoin", 1), Request("replace", 1, f"{address}x")):
            with pytest.raises(Misuse, match=f"Seat 1 is being rebuilt already, by `perdure replace` on .*{address}"):
                repairs.start(other)
        await until(lambda: repairs.look()[0].done_bytes)
        status = observe(array, repairs.addresses, 0, "nbd:", repairs.look())
        assert (status.disks[1].state, status.disks[1].address) == (DiskState.REBUILDING, address)
        assert (status.summary, status.losses_survived, status.exit_code) == ("[U_U]", 0, 1)
        assert "Seat 1 is being rebuilt." in status.action
        done = await over(repairs, 1)
        assert (done.state, done.done_bytes, done.error, done.note) == (RepairState.DONE, SIZE_BYTES, None, None)
        assert done.mended_sectors == 1024
        status = observe(array, repairs.addresses, 0, "nbd:", repairs.look())
        assert (status.disks[1].state, status.disks[1].address) == (DiskState.ONLINE, address)
        await lose(site, array, 0)
        assert await array.pread(4096, 4096) == content(1)[4096:8192]

    site.run(story)
    text = (site.directory / config.NAME).read_text()
    assert f'"unix:{site.directory}/new",\n' in text
    assert "# Hints by the owner" in text
    assert tomllib.loads(text)["disks"]["addresses"][::2] == ["unix:disk-0.sock", "unix:disk-2.sock"]


def test_a_configuration_that_cannot_be_changed_is_said_and_the_disk_is_a_member(site):
    async def story(array, repairs):
        await lose(site, array, 1)
        path = site.found.path
        path.write_text(path.read_text().replace("addresses = [", "addresses = # here\n[").replace("[\n", "[\n", 1))
        path.write_text(path.read_text().replace('"unix:disk-1.sock"', "'''unix:disk-1.sock'''"))
        repairs.start(Request("replace", 1, site.fresh("new")))
        done = await over(repairs, 1)
        assert done.state is RepairState.DONE
        assert "write it into [disks] yourself" in done.note
        assert array.members.roster.seats[1] is not None

    site.run(story)


def test_a_spare_that_became_a_member_before_that_was_written_down_is_found_by_the_next_mount(site):
    path = site.found.path
    before = path.read_text()
    spare, waiting = site.fresh("spare"), site.fresh("waiting")

    async def filled(array, repairs):
        await array.pwrite(0, content(1))
        await lose(site, array, 1)
        repairs.start(Request("replace", 1, spare))
        assert (await over(repairs, 1)).state is RepairState.DONE

    async def next_mount(array, repairs):
        assert dict(array.members)[1].channel.address == spare
        repairs.keep_found()
        assert repairs.addresses[1] == spare
        around = Surroundings(spares=(waiting,))
        strays = observe(array, repairs.addresses, 0, "nbd:", (), around).strays
        assert [stray["address"] for stray in strays] == [f"unix:{site.directory}/disk-1.sock"], (
            "not the one that waits"
        )
        await lose(site, array, 0)
        assert await array.pread(4096, 4096) == content(1)[4096:8192]

    site.run(filled)
    example = '# spares = ["tcp:10.0.0.9:7001"]'
    assert example in before
    path.write_text(before.replace(example, f'spares = ["{spare}", "{waiting}"]'))  # as if killed before it was written
    site.found = config.load(path)
    site.run(next_mount)
    disks = tomllib.loads(path.read_text())["disks"]
    assert (disks["addresses"][1], disks["spares"]) == (spare, [waiting])


def test_seats_are_rebuilt_one_after_another(tmp_path):
    site = Site(tmp_path, disks=5, threshold=3)
    try:
        site.run(lambda array, repairs: rebuild_two(site, array, repairs))
    finally:
        site.end()


async def rebuild_two(site, array, repairs):
    await array.pwrite(0, content(2))
    for seat in (1, 3):
        await lose(site, array, seat)
        local.start_fresh_disk(site.found, seat)
        repairs.start(Request("replace", seat, None, SLOW if seat == 1 else None))
    await until(lambda: repairs.look()[0].done_bytes)
    assert [repair.state for repair in repairs.look()] == [RepairState.RUNNING, RepairState.WAITING]
    for seat in (1, 3):
        assert (await over(repairs, seat)).state is RepairState.DONE
    for seat in (0, 2):
        await lose(site, array, seat)
    assert await array.pread(4096, SIZE_BYTES - 4096) == content(2)[4096:]


@pytest.mark.parametrize("moment", ["at once", "in the middle", "at the end"])
def test_stopped_it_leaves_an_array_that_closes_and_the_same_request_begins_again(site, moment):
    async def interrupted(array, repairs):
        await array.pwrite(0, content(3))
        await lose(site, array, 1)
        local.start_fresh_disk(site.found, 1)
        repairs.start(Request("replace", 1, None, SLOW))
        repairs.start(Request("scrub", None, None, SLOW))
        done = {"at once": 0, "in the middle": 2 << 20, "at the end": SIZE_BYTES}[moment]
        await until(lambda: repairs.look()[0].done_bytes >= done)
        await repairs.stop()
        rebuild, scrub = repairs.look()
        ended = RepairState.DONE if moment == "at the end" else RepairState.STOPPED
        assert rebuild.state is ended
        assert scrub.state.is_over
        return ended

    ended = site.run(interrupted)

    async def again(array, repairs):
        assert (array.members.roster.seats[1] is None) is (ended is not RepairState.DONE)
        if ended is not RepairState.DONE:
            repairs.start(Request("replace", 1))
            assert (await over(repairs, 1)).error is None
        await lose(site, array, 2)
        assert await array.pread(4096, SIZE_BYTES - 4096) == content(3)[4096:]

    site.run(again)


def test_one_scrub_at_a_time_and_its_result_stays_to_be_seen(site):
    async def story(array, repairs):
        await array.pwrite(0, content(4))
        first = repairs.start(Request("scrub", None, None, SLOW))
        assert repairs.start(Request("scrub")) == {"id": first["id"], "attached": True}
        await until(lambda: 0 < repairs.look()[0].done_bytes < SIZE_BYTES)
        await until(lambda: repairs.note() or repairs.look()[0].left_s is not None)
        running = repairs.look()[0]
        assert running.left_s in (1, 2, 3)
        assert 0 < running.bytes_per_s < 4 << 20
        done = await over(repairs, None)
        assert (done.state, done.mended_sectors, done.wrong_by_seat) == (RepairState.DONE, 0, (0, 0, 0))
        assert (done.left_s, done.bytes_per_s) == (None, None)
        assert done.duration_ms >= 1500, "4 MiB at 2 MiB a second"
        assert repairs.look() == (done,)
        assert repairs.start(Request("scrub"))["id"] != first["id"]

    site.run(story)


def test_one_death_too_many_during_a_rebuild_fails_it_with_that(site):
    async def story(array, repairs):
        await lose(site, array, 1)
        local.start_fresh_disk(site.found, 1)
        repairs.start(Request("replace", 1, None, SLOW))
        await until(lambda: repairs.look()[0].done_bytes)
        site.kill(0)
        failed = await over(repairs, 1)
        assert failed.state is RepairState.FAILED
        assert failed.error["class"] == "Unavailable"
        with pytest.raises(Unavailable, match="are needed"):
            repairs.start(Request("scrub"))

    site.run(story)


def test_a_later_mount_ends_a_scrub_with_exit_code_3(site):
    async def story(array, repairs):
        await array.pwrite(0, content(5), fua=True)
        repairs.start(Request("scrub", None, None, SLOW))
        other = Host(settings_of(site.found))
        await (await other.mount(array.array_id)).close()
        await other.close()
        failed = await over(repairs, None)
        assert (failed.state, failed.error["class"], failed.error["exit_code"]) == (RepairState.FAILED, "Fenced", 3)

    site.run(story)


# What is refused ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wounded(tmp_path_factory):
    """An array without its seat 1; what is refused leaves it as it is."""
    site = Site(tmp_path_factory.mktemp("wounded"))

    async def wound(array, repairs):
        await array.pwrite(0, content(6))
        await lose(site, array, 1)

    site.run(wound)
    yield site
    site.end()


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (Request("replace", 3), "There is no seat 3: the array has seats 0 to 2; nothing was changed."),
        (Request("rejoin", -1), "There is no seat -1: the array has seats 0 to 2; nothing was changed."),
        (Request("replace", 0), "The disk in seat 0, at unix:D/disk-0.sock, is a live member; nothing was changed."),
        (Request("replace", 1, "ftp:x"), "nothing was changed."),
        (Request("replace", 1, "unix:D/disk-2.sock"), "unix:D/disk-2.sock is the address of seat 2 in the"),
        (Request("scrub", None, None, RATE_MIN - 1), "A limit of 262143 bytes a second is too low"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_asked(wounded, ask, sentence):
    async def story(array, repairs):
        with pytest.raises(Misuse) as refused:
            repairs.start(Request(ask.do, ask.seat, here(wounded, ask.address), ask.bytes_per_s_max))
        assert here(wounded, sentence) in str(refused.value)
        assert str(refused.value).endswith(".")
        assert repairs.look() == ()

    wounded.run(story)


def here(site, text):
    return text and text.replace("unix:D", f"unix:{site.directory}")


@pytest.mark.parametrize(
    ("verb", "disk", "sentence"),
    [
        ("replace", "nobody", "Seat 1 stays empty: it does not answer: cannot connect: "),
        ("rejoin", "fresh", "is fresh and holds nothing; nothing was changed. `perdure replace 1` rebuilds seat 1 on"),
        ("replace", "small", "Seat 1 stays empty: the disk at unix:D/small lends 65536 bytes; this array needs"),
        ("replace", "foreign", "Seat 1 stays empty: the disk refused: it obeys another authority"),
        ("replace", "other", "belongs to another array; it was left alone."),
        ("rejoin", "other", "was never in seat 1 of this array; it was left alone."),
    ],
)
def test_a_disk_that_will_not_do_is_said_in_one_sentence_and_left_alone(wounded, verb, disk, sentence):
    async def story(array, repairs):
        repairs.addresses[1] = await asyncio.to_thread(disk_of_kind, wounded, disk)
        repairs.start(Request(verb, 1))
        failed = await over(repairs, 1)
        assert failed.state is RepairState.FAILED
        assert here(wounded, sentence) in failed.error["message"]
        assert failed.error["message"].endswith(".")
        assert array.members.roster.seats[1] is None
        assert len(repairs._host.channels) == 3, "the way to it is closed and forgotten"
        assert await array.pread(4096, 4096) == content(6)[4096:8192]

    wounded.run(story)


def disk_of_kind(site, kind):
    name = f"{kind}-{len(site.extra)}"
    match kind:
        case "nobody":
            return f"unix:{site.directory}/{name}"
        case "small":
            return site.fresh("small", size_bytes=65536)
        case "foreign":
            stranger = artefacts._draw_authority()
            (site.directory / "other.eif").write_bytes(build_simulated(stranger.public_key))
            return site.fresh(name, image="other.eif")
        case "other":
            return disk_of_another_array(site, name)
    return site.fresh(name)


def disk_of_another_array(site, name):
    """One that the same authority uses elsewhere."""
    addresses = tuple(site.fresh(f"{name}-{seat}") for seat in range(2))

    async def create():
        settings = settings_of(site.found)
        host = Host(type(settings)(addresses, settings.private_key, settings.policy))
        await (await host.create(Geometry.for_size(2, 2, SIZE_BYTES // 2))).close()
        await host.close()

    asyncio.run(create())
    return addresses[0]


def test_a_disk_that_was_a_member_is_told_to_rejoin_and_gets_only_what_it_missed(site):
    async def story(array, repairs):
        await array.pwrite(0, content(7), fua=True)
        stop = processes.find(site.directory / "disk-1.pid").pid
        paused = [stop, *children(stop)]
        for pid in paused:
            os.kill(pid, 19)
        await array.pwrite(0, content(8)[: 7 * SECTOR_BYTES], fua=True)
        await until(lambda: array.members.roster.seats[1] is None)
        for pid in reversed(paused):
            os.kill(pid, 18)
        repairs.start(Request("replace", 1))
        refused = await over(repairs, 1)
        assert "is not fresh: it was in seat 1 before" in refused.error["message"]
        assert "`perdure rejoin 1` takes it back." in refused.error["message"]
        repairs.start(Request("rejoin", 1))
        done = await over(repairs, 1)
        assert (done.state, done.mended_sectors) == (RepairState.DONE, 7)
        session = array.members.sessions[array.members.roster.seats[1]]
        joined_ms = session.attested_ms
        await until(lambda: session.attested_ms > joined_ms + 1000)  # it is asked anew after two seconds
        assert array.members.roster.seats[1] is not None, "what was found out about its earlier session counts no more"
        await lose(site, array, 0)
        assert await array.pread(SECTOR_BYTES, 9 * SECTOR_BYTES) == (
            content(8)[SECTOR_BYTES : 7 * SECTOR_BYTES] + content(7)[7 * SECTOR_BYTES : 10 * SECTOR_BYTES]
        )

    site.run(story)


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]


def test_what_is_seen_goes_through_json(site):
    async def story(array, repairs):
        repairs.start(Request("scrub"))
        done = await over(repairs, None)
        status = observe(array, repairs.addresses, 0, "nbd:", repairs.look())
        again = type(status).from_json(json.loads(json.dumps(status.to_json())))
        assert again == status
        assert again.repairs == (done,)

    site.run(story)


# The same from Python -------------------------------------------------------------------------------------


def test_threads_repair_too_and_see_how_far_it_is(site):
    async def create(array, repairs):
        await array.pwrite(0, content(9))

    site.run(create)
    seen = []
    with api.open_array(settings_of(site.found), site.array_id) as array:
        site.kill(1)
        array.pwrite(0, b"x", fua=True)
        address = site.found.addresses[1]
        with pytest.raises(Misuse, match="is a live member"):
            array.replace(0, site.found.addresses[0])
        local.start_fresh_disk(site.found, 1)
        with pytest.raises(Misuse, match="`perdure replace 1` rebuilds"):
            array.rejoin(1, address)
        done = array.replace(1, address, sectors_per_s=800, on_progress=lambda progress: seen.append(progress.done))
        assert (done.done, done.total, done.mended) == (1024, 1024, 1024)
        assert array.scrub().mended == 0
    assert any(0 < done < 1024 for done in seen)
