"""Makes docs/vectors.json: for each format of docs/spec.md, inputs and the bytes or the failure that must follow.

    python docs/make_vectors.py          write docs/vectors.json beside this file
    python docs/make_vectors.py --check  exit with 1 if that file is not what would be written

Deterministic: fixed keys, fixed "randomness", RFC 6979 signatures. The test beside (tests/spec) recomputes the central
ones without this project's code, so that a wrong program cannot bless its own vectors.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import coincurve

from perdure.array import derivation, history, journal, sealing
from perdure.array.commands import Authority, Command, build, parse_reply
from perdure.array.erasure import Code
from perdure.array.genesis import Genesis
from perdure.array.geometry import Geometry, Run
from perdure.array.journal import Entry, Head
from perdure.array.roster import Departed, Label, Roster, Version, choose_base
from perdure.array.sealing import Keys
from perdure.disk import wire
from perdure.disk.core import DiskCore, Refusal
from perdure.disk.wire import Opcode, Wants
from perdure.errors import PerdureError
from perdure.evidence.measurement import Measurement
from perdure.evidence.policy import Policy, TrustedRoot
from perdure.image import build as image
from perdure.image import eif
from perdure.keystore import slots
from perdure.manifest import signatures
from perdure.manifest.developers import Developer, Developers, KeyKind
from perdure.manifest.manifest import Manifest, Overrides, Program, ProgramKind

FILE = Path(__file__).parent / "vectors.json"
Json = dict[str, Any]

KEY = b"\x01" * 32
OTHER_KEY = b"\x02" * 32
AUTHORITY = Authority(KEY)
INSTANCES = tuple(bytes([0xA0 + seat]) * 32 for seat in range(5))
INSTANCE = INSTANCES[0]
EPOCH = (1).to_bytes(8, "big") + b"\x22" * 8
LATER_EPOCH = (2).to_bytes(8, "big") + b"\x33" * 8
NONCE = b"\x44" * 32
DISK_SECTORS = 16
POLICY = Policy(
    roots=(TrustedRoot.builtin("aws-nitro-g1"),),
    measurements=(Measurement.enclave("aws-nitro-g1", b"\x10" * 48, b"\x11" * 48, b"\x12" * 48),),
)
GENESIS = Genesis(Geometry(3, 5, 1 << 18), AUTHORITY.public_key, POLICY.digest(), INSTANCES)
KEYS = Keys.derive(KEY, GENESIS.array_id)
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def pattern(count: int, start: int = 0) -> bytes:
    """Byte i is (start + 7 i) mod 256."""
    return bytes((start + 7 * at) & 255 for at in range(count))


def fixed(count: int) -> bytes:
    """What stands for randomness: bytes 0x80, 0x81 and so on."""
    return bytes((0x80 + at) & 255 for at in range(count))


def failure(work: Callable[[], object]) -> str:
    """The name of the error class that `work` raises."""
    try:
        work()
    except PerdureError as error:
        return type(error).__name__
    raise AssertionError("a vector that must fail did not")


# Commands and the disk ------------------------------------------------------------------------------------


def frame(command: Command) -> bytes:
    """The command as it goes over the wire."""
    body = b"".join(bytes(part) for part in command.parts)
    return wire.FRAME_HEADER.pack(len(body)) + body


def hello() -> Command:
    """A HELLO."""
    return build(AUTHORITY, Opcode.HELLO, nonce=NONCE)


def open_disk(epoch: bytes = EPOCH, instance: bytes = INSTANCE, body: bytes = b"") -> Command:
    """An OPEN."""
    return build(AUTHORITY, Opcode.OPEN, instance=instance, epoch=epoch, nonce=NONCE, body=(body,))


def execute(
    seq: int,
    ops: Sequence[bytes],
    data: bytes = b"",
    *,
    nonce: bytes | None = None,
    epoch: bytes = EPOCH,
    wants: Wants | None = None,
) -> Command:
    """An EXECUTE."""
    body = (wire.COUNT.pack(len(ops)) + b"".join(ops), data)
    return build(
        AUTHORITY, Opcode.EXECUTE, instance=INSTANCE, epoch=epoch, seq=seq, nonce=nonce, body=body, wants=wants
    )


def read(runs: Sequence[tuple[int, int]], *, nonce: bytes | None = None, seq: int = 0, tail: bytes = b"") -> Command:
    """A READ."""
    body = wire.COUNT.pack(len(runs)) + b"".join(wire.RUN.pack(*run) for run in runs) + tail
    size = sum(count for _, count in runs) * wire.DISK_SECTOR_BYTES
    return build(
        AUTHORITY, Opcode.READ, instance=INSTANCE, epoch=EPOCH, seq=seq, nonce=nonce, body=(body,), data_bytes=size
    )


def raw(header: bytes, body: bytes = b"", key: Authority = AUTHORITY) -> bytes:
    """The frame of a well signed command whose header `build` would not make."""
    payload = header + body
    return wire.FRAME_HEADER.pack(64 + len(payload)) + key.sign(wire.command_digest(payload)) + payload


def high_s(command: bytes) -> bytes:
    """The same command with the other signature that ECDSA would accept: (r, n - s)."""
    s = int.from_bytes(command[36:68], "big")
    return command[:36] + (N - s).to_bytes(32, "big") + command[68:]


def flipped(data: bytes, at: int) -> bytes:
    """One bit changed."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def disk_steps() -> list[tuple[str, bytes]]:
    """Name and frame of each command that one disk gets, in order."""
    write, copy, trim = journal.write, journal.copy, journal.trim
    two = pattern(128)
    header = wire.COMMAND_HEADER.pack
    nobody, never = wire.NO_INSTANCE, wire.NO_EPOCH
    later_link = execute(1, [], epoch=LATER_EPOCH, wants=Wants.LINK)
    first = frame(execute(1, [write(2, 1)], pattern(64), nonce=NONCE))
    return [
        ("HELLO to a disk that was never opened", frame(hello())),
        ("empty frame", bytes(4)),
        ("shorter than a signature and a header", wire.FRAME_HEADER.pack(155) + bytes(155)),
        ("signature by another key", raw(header(1, 1, 1, nobody, never, 0, NONCE), key=Authority(OTHER_KEY))),
        ("one bit of the nonce altered", flipped(frame(hello()), 4 + 64 + 91)),
        ("signature with high s", high_s(frame(hello()))),
        ("signature of zeros", frame(hello())[:4] + bytes(64) + frame(hello())[68:]),
        ("version 2", raw(header(2, 1, 1, nobody, never, 0, NONCE))),
        ("HELLO that wants a chain", raw(header(1, 1, 2, nobody, never, 0, NONCE))),
        ("reserved byte set", raw(flipped(header(1, 1, 1, nobody, never, 0, NONCE), 3))),
        ("nonce without evidence", raw(header(1, 1, 0, nobody, never, 0, NONCE))),
        ("HELLO without evidence", raw(header(1, 1, 0, nobody, never, 0, bytes(32)))),
        ("HELLO with a body", raw(header(1, 1, 1, nobody, never, 0, NONCE), b"\0")),
        ("HELLO that names an instance", raw(header(1, 1, 1, INSTANCE, never, 0, NONCE))),
        ("READ before any OPEN", raw(header(1, 4, 0, INSTANCE, never, 0, bytes(32)), b"\0\0")),
        ("OPEN of another instance", frame(open_disk(instance=INSTANCES[1]))),
        ("OPEN at epoch zero", frame(open_disk(epoch=never))),
        ("OPEN with a body", frame(open_disk(body=b"\0"))),
        ("OPEN", frame(open_disk())),
        ("OPEN at the same epoch again", frame(open_disk())),
        ("unknown opcode, wrong instance", raw(header(1, 9, 0, INSTANCES[1], EPOCH, 0, bytes(32)))),
        ("unknown opcode, wrong epoch", raw(header(1, 9, 0, INSTANCE, LATER_EPOCH, 0, bytes(32)))),
        ("unknown opcode", raw(header(1, 9, 0, INSTANCE, EPOCH, 0, bytes(32)))),
        ("EXECUTE at seq 2 first, malformed as well", raw(header(1, 3, 0, INSTANCE, EPOCH, 2, bytes(32)))),
        ("EXECUTE without a count", raw(header(1, 3, 0, INSTANCE, EPOCH, 1, bytes(32)))),
        ("EXECUTE of an unknown operation", frame(execute(1, [wire.OP.pack(4, 0, 1, 0)]))),
        ("WRITE of no sectors", frame(execute(1, [write(0, 0)]))),
        ("TRIM with a source", frame(execute(1, [wire.OP.pack(3, 0, 1, 1)]))),
        ("WRITE beyond the end, after a good one", frame(execute(1, [write(0, 1), write(16, 1)], two))),
        ("COPY from beyond the end", frame(execute(1, [copy(0, 2, 15)]))),
        ("WRITE with a byte too many", frame(execute(1, [write(0, 2)], two + b"\0"))),
        ("WRITE with a byte too few", frame(execute(1, [write(0, 2)], two[:-1]))),
        ("EXECUTE with one WRITE", first),
        ("the same EXECUTE again", first),
        ("EXECUTE with three operations", frame(execute(2, [write(4, 2), copy(5, 2, 4), trim(2, 1)], two))),
        ("EXECUTE with no operations", frame(execute(3, [], nonce=NONCE))),
        ("READ with evidence", frame(read([(5, 2), (4, 1)], nonce=NONCE))),
        ("READ without evidence", frame(read([(4, 1)]))),
        ("READ of nothing", frame(read([]))),
        ("READ with a seq", frame(read([(0, 1)], seq=3))),
        ("READ of an empty run", frame(read([(0, 0)]))),
        ("READ with a byte too many", frame(read([(0, 1)], tail=b"\0"))),
        ("READ beyond the end", frame(read([(15, 2)]))),
        ("READ of more than 1 MiB", frame(read([(0, 16)] * 1025))),
        ("EXECUTE that wants a link, and there is no chain", frame(execute(4, [], wants=Wants.LINK))),
        ("EXECUTE that wants more than there is", raw(header(1, 3, 4, INSTANCE, EPOCH, 4, bytes(32)), b"\0\0")),
        ("EXECUTE that wants a chain", frame(execute(4, [trim(6, 1)], nonce=NONCE, wants=Wants.CHAIN))),
        ("EXECUTE that wants its link", frame(execute(5, [copy(7, 1, 4)], wants=Wants.LINK))),
        ("EXECUTE that wants its link, with a nonce", raw(header(1, 3, 3, INSTANCE, EPOCH, 6, NONCE), b"\0\0")),
        ("EXECUTE that does not want its link", frame(execute(6, []))),
        ("EXECUTE that wants the next link", frame(execute(7, [], wants=Wants.LINK))),
        ("the same EXECUTE with a link again", frame(execute(7, [], wants=Wants.LINK))),
        ("READ that wants a link", raw(header(1, 4, 3, INSTANCE, EPOCH, 0, bytes(32)), b"\0\0")),
        ("OPEN at a later epoch", frame(open_disk(epoch=LATER_EPOCH))),
        ("EXECUTE of the earlier epoch", frame(execute(4, [trim(0, 16)]))),
        ("EXECUTE that wants a link of the chain that OPEN wiped", frame(later_link)),
        ("EXECUTE of the later epoch starts at 1", frame(execute(1, [trim(4, 1)], epoch=LATER_EPOCH))),
        ("OPEN at the earlier epoch", frame(open_disk())),
    ]


def disk() -> Json:
    """One disk from its start through all of `disk_steps`."""
    memory = bytearray(DISK_SECTORS * wire.DISK_SECTOR_BYTES)
    core = DiskCore(memoryview(memory), INSTANCE, AUTHORITY.public_key, fixed)
    out = memoryview(bytearray(wire.READ_BYTES_MAX))
    steps = []
    for name, command in disk_steps():
        shown = command.hex() if len(command) <= 1024 else {"start": command[:256].hex(), "bytes": len(command)}
        step: Json = {"name": name, "frame": shown}
        try:
            answer = core.handle(memoryview(command)[4:], out)
        except Refusal as refused:
            step["refused"] = refused.reason.name
        else:
            step["result"] = (answer.head + answer.data).hex()
            step["leaf"] = answer.leaf.hex() if answer.leaf else None
        steps.append(step)
    return {"instance": INSTANCE.hex(), "disk_sectors": DISK_SECTORS, "steps": steps, "memory_after": memory.hex()}


def commands() -> list[Json]:
    """Digests and signatures."""
    made = {
        "HELLO": hello(),
        "OPEN": open_disk(),
        "EXECUTE with one WRITE": execute(1, [journal.write(2, 1)], pattern(64), nonce=NONCE),
        "READ without evidence": read([(4, 1)]),
    }
    return [
        {
            "name": name,
            "payload": frame(command)[68:].hex(),
            "digest": command.digest.hex(),
            "signature": bytes(command.parts[0]).hex(),
            "frame": frame(command).hex(),
        }
        for name, command in made.items()
    ]


def trees() -> list[Json]:
    """Roots and paths of Merkle trees over leaves of one repeated byte."""
    found = []
    for count in (1, 2, 3, 5, 6, 8, 512):
        leaves = [at.to_bytes(2, "big") * 32 for at in range(count)]
        levels = wire.merkle_levels(leaves)
        shown = sorted({0, count // 2, count - 1})
        paths = {str(at): wire.merkle_path(levels, at).hex() for at in shown}
        found.append({"leaves": count, "root": levels[-1][0].hex(), "paths": paths})
    return found


def replies() -> list[Json]:
    """Whole replies to a HELLO, good and bad, with a stand-in for the platform's document."""
    result = wire.RESULT.pack(INSTANCE, EPOCH, 7, DISK_SECTORS)
    command = hello()
    leaf = wire.leaf(INSTANCE, EPOCH, 7, NONCE, command.digest, sha256(result).digest())
    leaves = [bytes(64), leaf, b"\x01" * 64]
    levels = wire.merkle_levels(leaves)
    path = wire.merkle_path(levels, 1)
    document = b"document"
    answer, evidence = wire.REPLY_HEADER.pack(wire.ANSWER, len(result)) + result, wire.PATH_HEADER.pack(1, 3)
    good = answer + evidence + path + document
    cases: list[tuple[str, bytes]] = [
        ("good, leaf 1 of 3", good),
        ("good, the only leaf", answer + wire.PATH_HEADER.pack(0, 1) + document),
        ("refusal WRONG_EPOCH", wire.REPLY_HEADER.pack(wire.REFUSAL, 4)),
        ("refusal with a byte behind it", wire.REPLY_HEADER.pack(wire.REFUSAL, 4) + b"\0"),
        ("cut short", good[:4]),
        ("of an unknown kind", b"\3" + good[1:]),
        ("result a byte too long", answer[:4] + b"\x3d" + answer[5:] + b"\0" + evidence + path + document),
        ("without evidence", answer),
        ("leaf 3 of 3", answer + wire.PATH_HEADER.pack(3, 3) + path + document),
        ("leaf 0 of 513", answer + wire.PATH_HEADER.pack(0, 513) + path * 5 + document),
        ("path cut short", answer + evidence + path[:100]),
    ]
    return [_reply(name, command, reply) for name, reply in cases]


def _reply(name: str, command: Command, reply: bytes) -> Json:
    case: Json = {"name": name, "reply": reply.hex()}
    try:
        answer = parse_reply(command, memoryview(reply))
    except PerdureError as error:
        return {**case, "fails": type(error).__name__}
    assert answer.commitment is not None
    return {**case, "commitment": answer.commitment.hex(), "document": answer.document.hex()}


def exchange() -> Json:
    """The listings of section 2: a HELLO, an EXECUTE with one WRITE, and the reply to it, as frames."""
    command = execute(1, [journal.write(2, 1)], pattern(64), nonce=NONCE)
    result = wire.RESULT.pack(INSTANCE, EPOCH, 1, DISK_SECTORS)
    reply = wire.REPLY_HEADER.pack(wire.ANSWER, len(result)) + result + wire.PATH_HEADER.pack(0, 1) + b"document"
    leaf = wire.leaf(INSTANCE, EPOCH, 1, NONCE, command.digest, sha256(result).digest())
    return {
        "hello": frame(hello()).hex(),
        "execute": frame(command).hex(),
        "execute_reply": (wire.FRAME_HEADER.pack(len(reply)) + reply).hex(),
        "execute_leaf": leaf.hex(),
    }


# The array ------------------------------------------------------------------------------------------------


def genesis() -> Json:
    """Genesis record, array id and keys."""
    record = GENESIS.encode()
    bad = {
        "cut short": record[:95],
        "another magic": b"PERDURE2" + record[8:],
        "reserved byte set": flipped(record, 11),
        "bytes behind the record": record + b"\1",
        "k not more than half of n": record[:8] + b"\2\5" + record[10:],
    }
    return {
        "k": 3,
        "n": 5,
        "sectors": GENESIS.geometry.sectors,
        "authority": AUTHORITY.public_key.hex(),
        "policy_digest": GENESIS.policy_digest.hex(),
        "instances": [instance.hex() for instance in INSTANCES],
        "record": record.hex(),
        "array_id": GENESIS.array_id.hex(),
        "hkdf": {"wrap": KEYS.wrap.hex(), "mac": KEYS.mac.hex(), "journal": KEYS.journal.hex()},
        "bad": {name: failure(lambda data=data: Genesis.decode(data)) for name, data in bad.items()},  # type: ignore[misc]
    }


def layouts() -> list[Json]:
    """Offsets in disk sectors."""
    names = "current_start next_start head_start slot_sectors tags_start fragment_sectors disk_sectors"
    found = []
    for k, n, size_bytes in ((2, 3, 4096), (3, 5, 1 << 30), (9, 16, 1 << 40)):
        shape = Geometry.for_size(k, n, size_bytes)
        offsets = {name: getattr(shape, name) for name in names.split()}
        found.append({"k": k, "n": n, "size_bytes": size_bytes, **offsets, "fragments_start": shape.fragment_start(0)})
    return found


def seals() -> Json:
    """One sector sealed as version 42, and what must not open."""
    plaintext = pattern(4096)
    rows, tag = sealing.seal(KEYS, [7], [plaintext], 42, 4096, fixed)
    ciphertext = rows.tobytes()
    attempts = {
        "another index": (8, tag, ciphertext),
        "generation altered": (7, flipped(tag, 63), ciphertext),
        "mac altered": (7, flipped(tag, 40), ciphertext),
        "wrap altered": (7, flipped(tag, 0), ciphertext),
        "ciphertext altered": (7, tag, flipped(ciphertext, 4095)),
    }

    def opened(index: int, tag: bytes, data: bytes) -> bytes:
        return bytes(sealing.unseal(KEYS, index, tag, memoryview(data)))

    assert opened(7, tag, ciphertext) == plaintext
    return {
        "index": 7,
        "generation": 42,
        "r": fixed(32).hex(),
        "plaintext": "byte i is 7 i mod 256, 4,096 bytes",
        "ciphertext_start": ciphertext[:32].hex(),
        "ciphertext_sha256": sha256(ciphertext).hexdigest(),
        "tag": tag.hex(),
        "bad": {name: failure(lambda case=case: opened(*case)) for name, case in attempts.items()},  # type: ignore[misc]
        "tag of zeros reads as zeros": opened(7, bytes(64), ciphertext) == bytes(4096),
    }


def codes() -> list[Json]:
    """Columns of 64 bytes, and their rebuilding from the last k."""
    found = []
    for k, n in ((2, 3), (3, 5)):
        code = Code(k, n)
        fragments = [bytes(fragment) for fragment in code.encode(pattern(64 * k))]
        last = {seat: fragments[seat] for seat in range(n - k, n)}
        assert b"".join(bytes(column) for column in code.decode(last)) == pattern(64 * k)
        found.append({"k": k, "n": n, "fragments": [fragment.hex() for fragment in fragments]})
    return found


def entries() -> Json:
    """A head, an entry of two writes and a trim, and the operations that apply it."""
    shape = GENESIS.geometry
    entry = Entry(17, EPOCH, (7, 8, 300), (Run(1000, 16),), pattern(192))
    encoded = entry.encode(KEYS.journal)
    bad = {
        "another key": lambda: Entry.decode(encoded, KEYS.mac),
        "a tag altered": lambda: Entry.decode(flipped(encoded, 130), KEYS.journal),
        "number altered": lambda: Entry.decode(flipped(encoded, 15), KEYS.journal),
        "padding altered": lambda: Entry.decode(flipped(encoded, 127), KEYS.journal),
        "no entry": lambda: Entry.decode(bytes(len(encoded)), KEYS.journal),
        "head applied beyond last": lambda: Head.decode(Head(4, 5).encode()),
        "head with bytes behind it": lambda: Head.decode(flipped(Head(5, 4).encode(), 63)),
    }
    return {
        "head_last_5_applied_4": Head(5, 4).encode().hex(),
        "number": 17,
        "epoch": EPOCH.hex(),
        "indices": list(entry.indices),
        "trims": [[run.start, run.count] for run in entry.trims],
        "tags": entry.tags.hex(),
        "encoded": encoded.hex(),
        "slot_start": shape.slot_start(17),
        "slot_sectors_filled": entry.slot_sectors(shape),
        "apply_ops": [op.hex() for op in journal.apply_ops(shape, entry)],
        "bad": {name: failure(work) for name, work in bad.items()},
    }


def _version(counter: int, epoch: bytes = EPOCH) -> Version:
    return Version(epoch, counter)


def history_records() -> Json:
    """Two records of the history, one of one part and one of three; the sectors by their hash."""
    records, previous = [], history.NOTHING_BEFORE
    for number, body in enumerate((b"one", bytes(range(256)) * 34), 1):
        data, previous = history._encode(number, previous, body)
        records.append(
            {
                "number": number,
                "body_sha256": sha256(body).hexdigest(),
                "digest": previous.hex(),
                "parts": len(data) // 4096,
                "sectors_sha256": sha256(data).hexdigest(),
            }
        )
    return {"records": records}


def key_store() -> Json:
    """A slot that is held, and what its bytes mean in other combinations."""
    place, secret = slots.Place(8 * 4096, 3), b"\x11" * 32
    public = coincurve.PrivateKey(secret).public_key.format()
    label = slots.encode_label(place, 2, 2, 9, public)
    sector = bytes(slots.encode_secret(place, 2, public, secret))
    torn = bytes(slots.encode_secret(place, 3, public, secret))
    old = bytes(slots.encode_secret(place, 1, public, secret))
    nothing = bytes(4096)
    return {
        "store": place.store,
        "slot": place.slot,
        "label_start": label[:73].hex(),
        "secret_start": sector[:89].hex(),
        "states": {
            "no label, no secret": slots.decode(place, nothing + nothing).state,
            "label 2, secret 2": slots.decode(place, label + sector).state,
            "label 2, no secret": slots.decode(place, label + nothing).state,
            "label 2, secret 3": slots.decode(place, label + torn).state,
            "no label, secret 2": slots.decode(place, nothing + sector).state,
        },
        "bad": {
            "label 2, secret 1": failure(lambda: slots.decode(place, label + old)),
            "another slot": failure(lambda: slots.decode(slots.Place(place.store, 4), label + sector)),
            "another store": failure(lambda: slots.decode(slots.Place(0, 3), label + sector)),
            "a byte behind": failure(lambda: slots.decode(place, label[:-1] + b"\1" + sector)),
        },
    }


def rosters() -> Json:
    """A roster with an empty seat, and which roster is the base of a mount."""
    seats = (INSTANCES[0], None, *INSTANCES[2:])
    roster = Roster(_version(1), _version(0), 9, 8, seats, (Departed(1, 9, INSTANCES[1]),))
    encoded = roster.encode()
    bad = {
        "another magic": b"PRSU" + encoded[4:],
        "cut short": encoded[:-1],
        "reserved byte set": flipped(encoded, 72 + 32 * len(seats) + 1),
        "bytes behind it": flipped(encoded, len(encoded) - 1),
    }
    return {
        "version": [EPOCH.hex(), 1],
        "predecessor": [EPOCH.hex(), 0],
        "last": 9,
        "applied": 8,
        "seats": [seat.hex() if seat else None for seat in seats],
        "departed": [[1, 9, INSTANCES[1].hex()]],
        "encoded_without_trailing_zeros": encoded.rstrip(b"\0").hex(),
        "encoded_bytes": len(encoded),
        "bad": {name: failure(lambda data=data: Roster.decode(data)) for name, data in bad.items()},  # type: ignore[misc]
        "bases": bases(),
    }


def bases() -> list[Json]:
    """Rule 2 on three disks, by counter; `next` proposes to leave disk 0 out."""
    disks = INSTANCES[:3]
    old = Roster(_version(0), Version(wire.NO_EPOCH, 0), 0, 0, disks)
    new = old.without([disks[0]], _version(1), 0, 0)
    shown: dict[Roster | None, int | None] = {old: 0, new: 1, None: None}
    cases = {
        "all in force": {0: Label(old, None), 1: Label(old, None), 2: Label(old, None)},
        "proposed on one": {0: Label(old, None), 1: Label(old, new), 2: Label(old, None)},
        "proposed on all of it": {0: Label(old, None), 1: Label(old, new), 2: Label(old, new)},
        "activated on one": {0: Label(old, None), 1: Label(new, None), 2: Label(old, new)},
        "activated on one, the other away": {0: Label(old, None), 1: Label(new, None)},
        "activated on all of it": {0: Label(old, None), 1: Label(new, None), 2: Label(new, None)},
        "only the one left out": {0: Label(old, None)},
        "no roster at all": {0: Label(None, None), 1: Label(None, None)},
    }
    found = []
    for name, labels in cases.items():
        case: Json = {"name": name, "labels": {str(at): [shown[x.current], shown[x.next]] for at, x in labels.items()}}
        try:
            case["base"] = shown[choose_base({disks[at]: label for at, label in labels.items()})]
        except PerdureError as error:
            case["fails"] = type(error).__name__
        found.append(case)
    return found


# Images and policies --------------------------------------------------------------------------------------


def images() -> Json:
    """PCRs of a small image; the second ramdisk of the test key."""
    program = {"__main__.py": b"print()\n", "perdure/__init__.py": b""}
    built = image.build_simulated(AUTHORITY.public_key, program)
    pcrs = eif.measure(eif.parse(built))
    return {
        "program": {name: contents.hex() for name, contents in program.items()},
        "authority_ramdisk": image.authority_ramdisk(AUTHORITY.public_key).hex(),
        "image_sha256": sha256(built).hexdigest(),
        "image_bytes": len(built),
        "pcr0": pcrs.pcr0.hex(),
        "pcr1": pcrs.pcr1.hex(),
        "pcr2": pcrs.pcr2.hex(),
    }


def policies() -> Json:
    """The canonical form of a policy and its digest."""
    good = POLICY.to_json()
    bad = {
        "unknown key": good[:-1] + b',"comment":""}',
        "version 2": good.replace(b'"version":1', b'"version":2'),
        "key twice": good[:-1] + b',"version":1}',
        "upper-case hexadecimal": good.replace(b"10" * 48, b"1A" * 48),
        "root not named": good.replace(b'"root":"aws-nitro-g1"', b'"root":"another"'),
    }
    return {
        "json": good.decode(),
        "digest": POLICY.digest().hex(),
        "bad": {name: failure(lambda data=data: Policy.from_json(data)) for name, data in bad.items()},  # type: ignore[misc]
    }


def manifests() -> Json:
    """A manifest, signed by three developers of whom two must: by BIP-340, and by two wallets."""
    good = Manifest(
        "node",
        7,
        Program(ProgramKind.TREE, b"\x55" * 32),
        ("python3", "{program}/main.py", "--config={directory}/perdure.toml"),
        GENESIS.array_id,
        3,
        5,
        POLICY,
        Overrides(attest="flush"),
    )
    keys = [coincurve.PrivateKey(bytes([number]) * 32) for number in (0x61, 0x62, 0x63)]
    listed = Developers(
        2,
        (
            Developer("alice", KeyKind.BIP340, keys[0].public_key_xonly.format()),
            *(Developer(f"bob-{at}", KeyKind.BITCOIN, key.public_key.format()) for at, key in enumerate(keys[1:])),
        ),
    )
    data = good.to_json()
    bad = {
        "format 2": data.replace(b'"format":1', b'"format":2'),
        "version 0": data.replace(b'"version":7', b'"version":0'),
        "key twice": data[:-1] + b',"version":8}',
        "unknown override": data.replace(b'"attest"', b'"dead-after-ms"'),
        "another place": data.replace(b"{program}", b"{home}"),
        "k = n/2": data.replace(b'"threshold":3', b'"threshold":2'),
    }
    files = [
        signatures.bip340_file(keys[0].sign_schnorr(good.digest(), bytes(32))),
        *(_wallet(key, good) for key in keys[1:]),
    ]
    assert signatures.verify(listed, data, files) == ("alice", "bob-0", "bob-1")
    return {
        "json": data.decode(),
        "digest": good.digest().hex(),
        "text_to_sign": signatures.text_to_sign(good.digest()),
        "bad": {name: failure(lambda text=text: Manifest.from_json(text)) for name, text in bad.items()},  # type: ignore[misc]
        "developers": listed.to_json().decode(),
        "signatures": [file.decode() for file in files],
        "one signature": failure(lambda: signatures.verify(listed, data, files[:1])),
        "one developer twice": failure(lambda: signatures.verify(listed, data, [files[0], files[0]])),
    }


def _wallet(key: coincurve.PrivateKey, manifest: Manifest) -> bytes:
    text = signatures.text_to_sign(manifest.digest()).encode()
    message = b"\x18Bitcoin Signed Message:\n" + bytes([len(text)]) + text
    made = key.sign_recoverable(sha256(sha256(message).digest()).digest(), hasher=None)
    return signatures.bitcoin_file(base64.b64encode(bytes([31 + made[64]]) + made[:64]).decode())


# Derived keys ---------------------------------------------------------------------------------------------

DERIVED = (
    ("a Lightning node's 32 bytes", bytes(range(32)), "my-node"),
    ("another label", bytes(range(32)), "my-node/2"),
    ("a BIP-39 seed of 64 bytes", bytes(range(64)), "my-node"),
    ("the shortest secret and label", bytes(range(16)), "a"),
)


def derived() -> Json:
    """Authorities by secret and label, the second candidate of the first, passphrases, and what is refused."""
    luks = derivation.Purpose.LUKS
    bad = {
        "secret of 15 bytes": lambda: derivation.authority(bytes(15), "a"),
        "secret of 65 bytes": lambda: derivation.authority(bytes(65), "a"),
        "no label": lambda: derivation.authority(KEY, ""),
        "label of 65 characters": lambda: derivation.authority(KEY, "a" * 65),
        "label with a space": lambda: derivation.authority(KEY, "my node"),
        "label with a zero": lambda: derivation.authority(KEY, "my\0node"),
        "label that is not ASCII": lambda: derivation.authority(KEY, "kn\u00f6del"),
        "no scalar among the candidates": lambda: derivation.first_authority([bytes(32), N.to_bytes(32, "big")]),
    }
    second = derivation.derive(DERIVED[0][1], derivation.Purpose.AUTHORITY, DERIVED[0][2], 1)
    return {
        "authorities": [_derived_authority(*case) for case in DERIVED],
        "second_candidate": second.hex(),
        "passphrases": [
            {"label": label, "passphrase": derivation.derive(KEY, luks, label).hex()} for label in ("data", "authority")
        ],
        "bad": {name: failure(work) for name, work in bad.items()},
    }


def _derived_authority(name: str, secret: bytes, label: str) -> Json:
    found = derivation.authority(secret, label)
    return {
        "name": name,
        "secret": secret.hex(),
        "label": label,
        "private": found.private_key.hex(),
        "public": found.public_key.hex(),
        "fingerprint": derivation.fingerprint(found.public_key),
    }


def make() -> str:
    """The file's text."""
    vectors = {
        "about": "Test vectors of docs/spec.md; made by docs/make_vectors.py. Hexadecimal unless it is plainly not.",
        "key": {"private": KEY.hex(), "public": AUTHORITY.public_key.hex()},
        "2 commands": commands(),
        "2 exchange": exchange(),
        "2 replies": replies(),
        "3 disk": disk(),
        "3 merkle": trees(),
        "4 layout": layouts(),
        "5 seal": seals(),
        "5 code": codes(),
        "6 journal": entries(),
        "7 genesis": genesis(),
        "7 roster": rosters(),
        "11 image": images(),
        "12 policy": policies(),
        "15 history": history_records(),
        "16 manifest": manifests(),
        "17 derived keys": derived(),
        "20 key store": key_store(),
    }
    return json.dumps(vectors, indent=1) + "\n"


def main() -> None:
    """Write the file, or compare with it."""
    text = make()
    if sys.argv[1:] == ["--check"]:
        sys.exit(0 if FILE.read_text() == text else f"{FILE} is not what make_vectors.py makes")
    FILE.write_text(text)


if __name__ == "__main__":
    main()
