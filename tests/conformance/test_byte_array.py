"""The served array against a byte array, in the manner of fsx: the model of tests/array over NBD, processes killed.

What is asked for is as in virtual time; what is real is the rest: sockets, `kill -9`, disks that end, `perdure up`.
"""

import hashlib
import random

import pytest

from tests.array.byte_array import ByteArray
from tests.cli.rig import Rig
from tests.conformance.rig import libnbd
from tests.system.rig import CLIENT_S, seeded

pytestmark = pytest.mark.timeout(300)  # some start the main program again and again

AREA = 1 << 20
STEPS = 150


def test_it_holds_what_a_byte_array_holds_through_crashes_a_loss_and_a_rebuild(tmp_path):
    live(tmp_path, seeded(), rounds=1)


def live(directory, rng, *, rounds):
    """Each round: a crash, a crash with a disk lost, a rebuild, an orderly end; random steps before each."""
    model = ByteArray(AREA)
    with Rig(directory, disks=3, threshold=2) as rig:
        rig.up()
        for _ in range(rounds):
            crash(rig, model, rng)
            rig.kill_disk(rng.randrange(3))
            crash(rig, model, rng, code=1)
            (seat,) = [disk["seat"] for disk in rig.status()["disks"] if disk["state"] != "online"]
            carry_out(rig, model, steps(rng))
            rig.run("replace", seat)
            carry_out(rig, model, steps(rng))
            rig.down()
            model.flushed()
            rig.up()
            assert rig.read(0, AREA) == model.now


def crash(rig, model, rng, *, code=0):
    """Steps, and kill -9 while the last of them is under way; what is there afterwards must be a prefix."""
    main = rig.process("main")
    carry_out(rig, model, [*steps(rng), ("pwrite", rng.randrange(AREA // 2), AREA // 2, 0)], victim=main.pid)
    assert main.wait(CLIENT_S)
    print(f"killed with {len(model.pending)} changes of sectors not flushed")
    rig.up(code=code)
    model.crashed(rig.read(0, AREA))


def steps(rng):
    """Commands of libnbd with offset, length and whether FUA; a FLUSH now and then."""
    drawn = []
    for _ in range(STEPS):
        length = max(1, int(rng.choice((300, 9000, 120000)) * rng.random()))
        kind = rng.choice(("pwrite",) * 5 + ("zero", "trim") + ("pread",) * 2 + ("flush",))
        drawn.append((kind, rng.randrange(AREA - length), length, int(rng.random() < 0.1)))
    return drawn


def carry_out(rig, model, drawn, *, victim=None):
    """One after another on the array and the model; every read must be the same. `victim` dies within the last."""
    read = libnbd(
        rig.nbd_uri,
        f"""
import hashlib, os, random, signal
h, read, drawn, victim = connected(), [], {drawn!r}, {victim!r}
for number, (kind, offset, length, fua) in enumerate(drawn):
    is_last = victim is not None and number == len(drawn) - 1
    data = random.Random(number << 32 | offset).randbytes(length)
    if is_last:
        h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), offset)
        h.poll(0)
        os.kill(victim, signal.SIGKILL)
    elif kind == "pread":
        read.append(hashlib.sha256(h.pread(length, offset)).hexdigest())
    elif kind == "flush":
        h.flush()
    else:
        getattr(h, kind)(data if kind == "pwrite" else length, offset, nbd.CMD_FLAG_FUA if fua else 0)
tell(read)
sys.stdout.flush()
os._exit(0)
""",
    )
    assert read == [digest for one in enumerate(drawn) for digest in expected(model, *one)]


def expected(model, number, step):
    """Carry one step out on the model; the digest of what it read, if it did."""
    kind, offset, length, fua = step
    if kind == "pread":
        return [hashlib.sha256(model.now[offset : offset + length]).hexdigest()]
    if kind == "pwrite":
        model.write(offset, random.Random(number << 32 | offset).randbytes(length))
    elif kind != "flush":
        model.zero(offset, length)
    if fua or kind == "flush":
        model.flushed()
    return []
