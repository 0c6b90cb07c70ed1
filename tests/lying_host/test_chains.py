"""A3 and A10 where FLUSHes rest on acknowledgement chains: old links shown again, new ones made up."""

from __future__ import annotations

import pytest

from perdure.disk import wire
from perdure.disk.wire import LINK_BYTES, Opcode, Wants
from perdure.service.site.config import Acknowledgements
from tests.lying_host.host import SECTOR, LyingHost, data_of, forged_answer
from tests.system.proxy import Forged, Way, unchanged


@pytest.fixture
def host(tmp_path):
    with LyingHost(tmp_path, acknowledgements=Acknowledgements.CHAINS) as host:
        yield host


def links_of(host, seat):
    """Every link that this disk has shown, the newest last."""
    answers = [frame for frame in host.proxies[seat].replies() if frame.command.opcode is Opcode.EXECUTE]
    start = wire.REPLY_HEADER.size + wire.RESULT.size
    shown = [frame for frame in answers if frame.command.wants is Wants.LINK and len(frame.payload) > start]
    return [frame.payload[start : start + LINK_BYTES] for frame in shown]


def forge(host, seats, link_of):
    """From now on what asks for no evidence is dropped and acknowledged; `link_of` seat and seq makes the links."""
    size = host.greet(host.disk(0)).size
    forged = []

    def at(seat):
        def alter(frame):
            if frame.way is Way.TO_DISK and frame.opcode is Opcode.EXECUTE and not frame.wants_evidence:
                link = link_of(seat) if frame.wants is Wants.LINK else b""
                forged.append(frame.wants)
                return (Forged(forged_answer(frame, size, link)),)
            return (frame.payload,)

        return alter

    for seat in seats:
        host.proxies[seat].alter = at(seat)
    return forged


def write_durably(host, numbers):
    """One after another, so that each rests on a proof of its own."""
    for number in numbers:
        host.write(number * SECTOR, data_of(number))


def test_flushes_rest_on_links_with_evidence_now_and_then(host):
    assert host.mount()["acknowledgements"] == "chains"
    write_durably(host, range(30))
    wanted = [frame.wants for frame in host.proxies[0].commands() if frame.opcode is Opcode.EXECUTE]
    assert wanted.count(Wants.LINK) >= 10
    assert wanted.count(Wants.CHAIN) >= 3
    host.kill_main()
    host.mount()
    assert all(host.read(number * SECTOR, SECTOR) == data_of(number) for number in range(30))


@pytest.mark.parametrize("kind", ["the newest", "the oldest", "made up", "another disk's"])
def test_a03_no_flush_returns_on_links_that_a_host_has_or_makes(host, kind):
    host.mount()
    write_durably(host, range(12))
    links = {seat: links_of(host, seat) for seat in range(host.n)}
    assert all(links.values())
    make = {
        "the newest": lambda seat: links[seat][-1],
        "the oldest": lambda seat: links[seat][0],
        "made up": lambda _seat: b"L" * LINK_BYTES,
        "another disk's": lambda seat: links[(seat + 1) % host.n][-1],
    }[kind]
    forged = forge(host, range(host.n), make)
    acknowledged = []
    with pytest.raises(OSError, match="error"):
        for number in range(12, 80):
            host.write(number * SECTOR, data_of(number))
            acknowledged.append(number)
    assert Wants.LINK in forged
    host.kill_main()
    for proxy in host.proxies:
        proxy.alter = unchanged
    host.mount(code=None)
    for number in [*range(12), *acknowledged]:  # those that evidence proved before any link was asked for
        assert host.read(number * SECTOR, SECTOR) == data_of(number)


def test_a10_links_of_one_disk_that_are_shown_again_cost_that_disk_alone(host):
    host.mount()
    write_durably(host, range(12))
    newest = links_of(host, 1)[-1]
    forged = forge(host, [1], lambda _seat: newest)
    write_durably(host, range(12, 24))
    assert Wants.LINK in forged
    status = host.wait_for(lambda status: status["summary"] == "[U_U]")
    assert status["disks"][1]["state"] in ("rollback", "dead")
    host.present_own()
    host.remount(code=1)
    assert all(host.read(number * SECTOR, SECTOR) == data_of(number) for number in range(24))


def test_what_rests_on_links_is_proved_by_evidence_as_soon_as_it_is_quiet(host):
    host.mount()
    write_durably(host, range(5))

    def last():
        return [frame for frame in host.proxies[0].commands() if frame.opcode is Opcode.EXECUTE][-1]

    host.wait_for(lambda _status: last().wants_evidence)
