"""Something else than the array's own disk answers at its address (A9, A11 to A15, A20).

Most of these are shown with a *turncoat*: a disk program that takes any instance for its own, so that our recorded log
makes it into one of the array's disks as it was long ago. Two of them, the third disk hidden, are an older array.
Only the evidence about the program and the platform stands between them and a rollback.
"""

from __future__ import annotations

import dataclasses

import pytest

from perdure.array.commands import Authority
from perdure.disk import wire
from perdure.disk.wire import NO_EPOCH, SIGNATURE_BYTES
from tests.disk import client
from tests.lying_host.crooked import turncoat
from tests.lying_host.host import SECTOR, LyingHost, data_of, replay
from tests.system.proxy import Way

OTHER_KEY = bytes(range(7, 39))
ANOTHER_PROGRAM = "The evidence is genuine but speaks for"


def age(host):
    """Mount twice, and write the same sector; `host.old` is each seat's log up to the end of the first mount."""
    host.mount()
    host.write(0, data_of(1))
    host.unmount()
    host.old = [host.log(seat) for seat in range(host.n)]
    host.mount()
    host.write(0, data_of(2))
    host.unmount()


@pytest.fixture(scope="module")
def aged(tmp_path_factory):
    """An array with a past (`age`); after all tests it must be as it was."""
    with LyingHost(tmp_path_factory.mktemp("aged"), too=listed_turncoat) as host:
        age(host)
        yield host
        host.present_own()
        assert host.remount()["summary"] == "[UUU]"
        assert host.read(0, SECTOR) == data_of(2)


@pytest.fixture
def host(aged):
    """The same for one test, with everything at its place and nothing mounted."""
    aged.present_own()
    yield aged
    aged.kill_main()


@pytest.fixture
def fresh(tmp_path):
    with LyingHost(tmp_path) as host:
        host.mount()
        host.write(0, data_of(1))
        yield host


def listed_turncoat(authority):
    """One that the array's policy lists, so that it stands for a weakness that was found too late."""
    return turncoat(authority, note=b"# listed\n")


def new_turncoats(host, name, *, image=None, crooked=None):
    """Two disks that have carried out the old log of seats 0 and 1 under the instances of the true ones."""
    image = turncoat(host.authority.public_key) if image is None else image
    disks = host.new_disks([f"{name}-{seat}" for seat in (0, 1)], image=image, crooked=crooked)
    for seat, disk in enumerate(disks):
        answers = replay(disk, host.old[seat])
        assert all(isinstance(answer, client.Result) for answer in answers)
        assert answers[-1].instance.hex() == host.instance(seat)
    return disks


def refused_turncoats(host, disks, *, says):
    """`import` of two turncoats, with the third disk hidden, ends with this said of each."""
    host.present(*disks, None)
    assert host.refusal(2).count(says) == 2


# A9 -------------------------------------------------------------------------------------------------------


def test_a09_an_answer_from_the_wrong_disk_is_not_taken_when_mounting(fresh):
    fresh.unmount()
    fresh.present(fresh.disk(1), fresh.disk(1), fresh.disk(2))
    status = fresh.mount(code=1)
    assert status["summary"] == "[_UU]"
    assert "two addresses lead to this disk" in status["strays"][0]["reason"]
    assert fresh.read(0, SECTOR) == data_of(1)
    fresh.unmount()
    fresh.present(*[fresh.disk(1)] * 3)
    assert "only 1 of the 2 disks that the array needs are here" in fresh.refusal(2)


def test_a09_an_answer_from_the_wrong_disk_is_a_clone_while_serving_and_ends_with_exit_code_3(fresh):
    fresh.present(fresh.disk(1), fresh.disk(1), fresh.disk(2))
    assert "another disk answers at" in fresh.status_verb(code=3).out
    assert fresh.read(0, SECTOR) == data_of(1)
    fresh.write(0, data_of(2))
    assert fresh.read(0, SECTOR) == data_of(2)


# A11 to A15 -----------------------------------------------------------------------------------------------


def test_the_turncoats_would_be_an_older_array_if_only_their_evidence_were_good(host):
    """What the tests below are about: where the policy lists their program, two of them *are* a rollback."""
    host.present(*new_turncoats(host, "listed", image=listed_turncoat(host.authority.public_key)), None)
    assert host.mount(code=1)["summary"] == "[UU_]"
    assert host.read(0, SECTOR) == data_of(1)
    host.unmount()


def test_a11_a_changed_disk_program_is_refused(host):
    refused_turncoats(host, new_turncoats(host, "changed"), says=ANOTHER_PROGRAM)


def test_a11_a_changed_disk_program_among_true_ones_is_left_out(tmp_path):
    with LyingHost(tmp_path) as host:
        age(host)
        host.proxies[0].present(new_turncoats(host, "changed")[0])
        status = host.mount(code=1)
        assert status["summary"] == "[_UU]"
        assert ANOTHER_PROGRAM in status["strays"][0]["reason"]
        assert host.read(0, SECTOR) == data_of(2)


def test_a12_a_disk_in_debug_mode_is_refused(host):
    disks = new_turncoats(host, "debug", crooked="debug")
    refused_turncoats(host, disks, says="debug mode")


def test_a13_blank_disks_at_the_start_are_never_made_into_a_new_array(host):
    blanks = host.new_disks([f"blank-{seat}" for seat in range(host.n)])
    host.present(*blanks)
    sentence = host.refusal(2)
    assert sentence.count("it is blank, and what it held is gone") == host.n
    assert "already has an array" in host.run("create", code=2).sentence
    host.run("up", code=2)
    for blank in blanks:
        assert (host.greet(blank).epoch, host.greet(blank).seq) == (NO_EPOCH, 0)


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        ("foreign", "whose root certificate the policy does not name"),
        ("forged", "certificate chain does not verify"),
        ("expired", "certificates ended"),
    ],
)
def test_a14_a_certificate_chain_that_is_not_good_is_refused(host, lie, says):
    refused_turncoats(host, new_turncoats(host, lie, crooked=lie), says=says)


def test_a15_an_image_with_another_authority_is_refused(host):
    """Even of a program that the policy lists. Its host can sign for it: it signs our commands anew on their way, and
    the disk obeys and attests them. Only the key in the measurement is another."""
    other = Authority(OTHER_KEY)

    def sign_anew(frame):
        if frame.way is Way.TO_MAIN:
            return (frame.payload,)
        payload = frame.payload[SIGNATURE_BYTES:]
        return (other.sign(wire.command_digest(payload)) + payload,)

    disks = host.new_disks(["other-0", "other-1"], image=listed_turncoat(other.public_key))
    for seat, disk in enumerate(disks):
        signed = [dataclasses.replace(frame, payload=sign_anew(frame)[0]) for frame in host.old[seat]]
        assert all(isinstance(answer, client.Result) for answer in replay(disk, signed))
    host.present(*disks, None)
    assert host.refusal(2).count("it obeys another authority") == 2
    for proxy in host.proxies:
        proxy.alter = sign_anew
    assert host.refusal(2).count("an allowed program that was built for another authority") == 2


# A20 ------------------------------------------------------------------------------------------------------


def test_a20_a_disk_that_restarts_blank_at_its_address_is_not_taken_for_the_old_one(fresh):
    blank, other = fresh.new_disks(["again-1", "again-2"])
    fresh.kill_disk(1)
    fresh.present(fresh.disk(0), blank, fresh.disk(2))
    status = fresh.wait_for(lambda status: status["summary"] == "[U_U]")
    assert (status["disks"][1]["state"], status["exit_code"]) == ("blank", 1)
    assert "it is blank" in fresh.run("status", code=1).out
    fresh.write(0, data_of(2))
    status = fresh.remount(code=1)
    assert (status["summary"], status["disks"][1]["state"]) == ("[U_U]", "blank")
    assert fresh.read(0, SECTOR) == data_of(2)
    # One more than may be lost: closed, and no blank disk is written to.
    fresh.kill_disk(2)
    fresh.proxies[2].present(other)
    fresh.wait_for(lambda status: status["state"] == "unusable")
    with pytest.raises(OSError, match="error"):
        fresh.read(0, SECTOR)
    fresh.kill_main()
    assert fresh.refusal(2).count("it is blank, and what it held is gone") == 2
    assert {fresh.greet(disk).epoch for disk in (blank, other)} == {NO_EPOCH}
