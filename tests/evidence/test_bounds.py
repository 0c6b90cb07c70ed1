"""Whatever is read, time and memory stay bounded: mutants of good evidence, policies and images, under hard limits.

A process of its own reads them all, since its limits are not those of the test: address space (RLIMIT_AS) beyond what
its modules and the good inputs need, processor time for every case and for all, and its greatest resident size. What
comes out must be an answer, or the one family of errors that the reader promises.

Seeded: the same mutants every time. `python -m tests.evidence.test_bounds SEED` runs them with another seed.
"""

import hashlib
import itertools
import json
import lzma
import random
import re
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from perdure.errors import BadEvidence, Misuse, PerdureError
from perdure.evidence import envelope
from perdure.evidence.collateral import Collateral
from perdure.evidence.nitro import cbor, cose, document
from perdure.evidence.policy import Policy
from perdure.evidence.roots import Platform
from perdure.evidence.snp import report
from perdure.evidence.snp.certificates import certificate_table
from perdure.evidence.tdx import quote
from perdure.evidence.tpm import certificates
from perdure.evidence.verifier import Verifier, stated_time_ms
from perdure.image import cpio, eif, runtime
from tests.evidence import support
from tests.evidence.snp import support as snp
from tests.evidence.tdx import support as tdx
from tests.evidence.test_verifier import ANY_POLICY, Case, case_of, table
from tests.evidence.tpm import support as tpm
from tests.image import packages
from tests.image.test_eif import with_crc

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
RANDOM_CASES = 100
"""Of each reader, after those that are fixed."""
ADDRESSES_MAX = 256 * MIB
"""More than the process has when all is loaded; whatever would take a length at its word gets nothing beyond."""
RESIDENT_MAX = 96 * MIB
"""More than then: the mutant, a few copies or decoded forms of it, and what allocator and caches keep."""
CASE_CPU_S = 1.0
ALL_CPU_S = 60
CERTIFICATE_BYTES = 4096
"""Where a mutant is cut that stands in a Nitro document: four times what is legal there, and the form has room."""
MUTANT_BYTES_MAX = 2 * MIB


class TooLong(BaseException):
    """A case that has used up its time. No error that a reader could take for one of its own."""


@dataclass(frozen=True)
class Target:
    """A reader, what it may raise, and good inputs of its. `wrap` makes what is read of a mutant."""

    read: Callable[..., object]
    may_raise: type[PerdureError]
    good: tuple[bytes, ...]
    wrap: Callable[[bytes], object] = lambda mutant: mutant
    rejects_some: bool = True
    accepts_good: bool = True


# Mutants --------------------------------------------------------------------------------------------------

LENGTHS = [bytes.fromhex(f"{length:0{2 * size}x}") for size in (1, 2, 4, 8) for length in (0, 1, 256**size - 1)]
LENGTHS += [bytes.fromhex(text) for text in ("7fffffff", "80000000", "00010000", "01000000", "ffffff7f", "ffffff")]
LENGTHS += [head + length for head, length in ((b"\x5a", b"\1\0\0\0"), (b"\x5b", b"\xff" * 8), (b"\x7b", b"\xff" * 8))]
LENGTHS += [head + b"\xff" * 8 for head in (b"\x9b", b"\xbb")]
LENGTHS += [head + bytes((1, 0, 0, 0)) for head in (b"\x9a", b"\xba", b"\x30\x84", b"\x04\x84", b"\x02\x84")]
LENGTHS += [b"\x9f", b"\xbf", b"\x30\x80", b"\x30\x88" + b"\xff" * 8]
"""Numbers of all sizes; CBOR's strings, arrays and maps; DER's sequences, strings and integers; and without an end."""
TEXTS = (b"9" * 5000, b"1e999999999", b"-0.0", b'"\\ud800"', b"null", b"true", b"\xff\xfe", b"FFFFFFFF", b"9999999999")
VALUES = (None, True, 0, -1, 1 << 70, 0.5, float("inf"), "", "0", [], {}, [[]], [None], {"": 0})
NESTS = (b"\x81", b"\xa1\x01", b"\xc1", b"\x9f", b"[", b'{"a":', b"0\x80", b"\x30\x84\x00\x0f\x00\x00")


def flipped(data, at_random):
    mutant = bytearray(data)
    for _ in range(at_random.choice((1, 1, 2, 8))):
        mutant[at_random.randrange(len(mutant))] ^= 1 << at_random.randrange(8)
    return bytes(mutant)


def cut(data, at_random):
    start = at_random.randrange(len(data))
    return data[:start] + data[at_random.choice((len(data), at_random.randint(start, len(data)))) :]


def relengthed(data, at_random):
    new, at = at_random.choice((*LENGTHS, *TEXTS)), at_random.randrange(len(data))
    return data[:at] + new + data[at + at_random.choice((0, len(new))) :]


def repeated(data, at_random):
    start = at_random.randrange(len(data))
    piece = data[start : start + at_random.choice((4, 16, 64, 512))]
    return data[:start] + piece * (at_random.choice((2, 40, 4000, MIB)) // len(piece) + 2) + data[start:]


def stretched(data, at_random):
    """One byte or two, a million times: a number, name or string that is legal but for its length."""
    at = at_random.randrange(len(data))
    piece = data[at : at + at_random.choice((1, 2))]
    return data[:at] + piece * (at_random.choice((1 * MIB, MUTANT_BYTES_MAX)) // len(piece) - len(data)) + data[at:]


def nested(data, at_random):
    at, depth = at_random.choice((0, at_random.randrange(len(data)))), at_random.choice((9, 500, 5000, 200_000))
    return data[:at] + at_random.choice(NESTS) * depth + data[at:]


def huge(data, at_random):
    size, fill = at_random.choice((1 * MIB, MUTANT_BYTES_MAX)), at_random.choice((b"\0", b"\xff", b" ", b"0", data))
    at = at_random.choice((0, len(data), at_random.randrange(len(data))))
    return data[:at] + fill * (size // len(fill)) + data[at:]


def as_json(data):
    """What JSON says; None if it is none, or no object."""
    try:
        whole = json.loads(data)
    except ValueError:
        return None
    return whole if isinstance(whole, dict) else None


def retyped(data, at_random):
    """JSON with a value of another type somewhere; what is no JSON with flipped bits."""
    if not (inner := as_json(data)):
        return flipped(data, at_random)
    whole, key = inner, at_random.choice(list(inner))
    while isinstance(inner[key], dict | list) and inner[key] and at_random.random() < 0.9:
        inner = inner[key]
        key = at_random.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
    inner[key] = at_random.choice(VALUES)
    return json.dumps(whole).encode()


MUTATIONS = (
    retyped,
    flipped,
    flipped,
    flipped,
    cut,
    relengthed,
    relengthed,
    relengthed,
    repeated,
    stretched,
    nested,
    huge,
)


def mutant_of(data, at_random):
    for _ in range(at_random.choice((1, 1, 1, 2))):
        data = at_random.choice(MUTATIONS)(data, at_random)[:MUTANT_BYTES_MAX] or b"\0"
    return data


def fixed_mutants(data):
    """What is worth trying of everything: at the very start there is always something that is read."""
    yield from (nest * 20_000 + data for nest in NESTS)
    yield from (length + data for length in LENGTHS)
    whole = as_json(data) or {}
    yield from (json.dumps({**whole, key: value}).encode() for key in whole for value in (None, 0, []))


# What reads them ------------------------------------------------------------------------------------------


def parts_of(platform):
    return list(envelope.open_envelope(case_of(platform).evidence).parts)


def part_targets(platform):
    """Evidence whose envelope is whole, and one part of which is not."""
    case, name = case_of(platform), case_of(platform).evidence[:4]
    for number, good in enumerate(parts_of(platform)):

        def wrap(mutant, number=number):
            parts = parts_of(platform)
            return envelope.seal(name, *parts[:number], mutant, *parts[number + 1 :])

        if good:
            yield f"{platform}, part {number}", evidence_target(case, (good,), wrap)


def evidence_target(case: Case, good=None, wrap=lambda mutant: mutant):
    verifier = Verifier(case.policy, case.collateral)
    return Target(lambda data: verifier.read(data, case.at_ms), BadEvidence, good or (case.evidence,), wrap)


def hint_target(case: Case, *good, wrap, rejects_some=True):
    def judge(collateral):
        return Verifier(case.policy, collateral).read(case.evidence, case.at_ms)

    return Target(judge, BadEvidence, good, wrap, rejects_some)


def signed(payload):
    """A document of any payload, signed by a leaf that is good. Of more bytes than it may have: the form ends there."""
    return support.sign(payload[: cose.PAYLOAD_BYTES_MAX], support.leaf().key)


def certified(mutant):
    """A document with this in the place of its leaf's certificate."""
    return support.document(certificate=mutant[:CERTIFICATE_BYTES])


def issued(mutant):
    """A document with this in the place of an issuer's certificate."""
    root, _, *others = support.leaf().cabundle
    return support.document(cabundle=[root, mutant[:CERTIFICATE_BYTES], *others])


def as_text(mutant):
    return mutant.decode("utf-8", "replace")


def locked(kind, file):
    """A package that the lock names with the mutant's own hash, so that its contents are read."""

    def unpack(data):
        package = runtime.Package("p", kind, "1", hashlib.sha256(data).hexdigest(), (file,))
        return runtime.unpack((package,), {package.file_name: data})

    return unpack


def with_right_crc(mutant):
    return with_crc(mutant.ljust(548, b"\0"))


def measured(image):
    return eif.measure(eif.parse(image))


def targets():
    simulated, machine = case_of(Platform.SIMULATED), case_of(Platform.NITROTPM)
    sev, intel, quoted = case_of(Platform.SEV_SNP), case_of(Platform.TDX), case_of(Platform.TPM)
    payload = cose.split(simulated.evidence).payload
    leaf, (vcek, ask) = support.leaf(), snp.machine().hints
    snp_bare = replace(sev, evidence=envelope.seal(envelope.TSM, b"sev_guest", parts_of(Platform.SEV_SNP)[1], b""))
    tpm_bare = replace(quoted, evidence=envelope.seal(envelope.TPM, *parts_of(Platform.TPM)[:3], b""))
    every = tuple(case_of(platform).evidence for platform in Platform)
    any_verifier = Verifier(ANY_POLICY, Collateral((tpm.ISSUER.der, ask), (tdx.MAKER.text(),)))
    statements = json.loads(tdx.MAKER.text())

    def restated(name):
        return Target(
            lambda text: Verifier(intel.policy, Collateral(tdx=(text,))).read(intel.evidence, intel.at_ms),
            BadEvidence,
            (statements[name].encode(),),
            lambda mutant: json.dumps({**statements, name: as_text(mutant)}),
        )

    return {
        **{str(platform): evidence_target(case_of(platform)) for platform in Platform},
        "any platform": Target(
            lambda data: any_verifier.read(data, support.NOW_MS), BadEvidence, every, accepts_good=False
        ),
        "stated time": Target(stated_time_ms, BadEvidence, every),
        # The parsers by themselves.
        "envelope": Target(envelope.open_envelope, BadEvidence, (sev.evidence, quoted.evidence)),
        "CBOR": Target(cbor.decode, BadEvidence, (payload,)),
        "COSE": Target(cose.split, BadEvidence, (simulated.evidence,)),
        "Nitro payload": Target(document.parse, BadEvidence, (payload, cose.split(machine.evidence).payload)),
        "SNP table": Target(certificate_table, BadEvidence, (table(vcek),)),
        "SNP report": Target(report.parse, BadEvidence, (parts_of(Platform.SEV_SNP)[1],)),
        "TDX quote": Target(quote.parse, BadEvidence, (parts_of(Platform.TDX)[1],)),
        "PEM": Target(quote.from_pem, BadEvidence, (tdx.LEAF.pem + tdx.ROOT.pem,)),
        "certificate hints": Target(
            certificates.read_hints, BadEvidence, tpm.HINTS, lambda mutant: (mutant,) * (1 + mutant[0]), False
        ),
        # Behind a form or a signature that is good.
        "signed payload": evidence_target(simulated, (payload,), signed),
        "issuer of a leaf": evidence_target(simulated, (leaf.cabundle[1],), issued),
        "leaf": evidence_target(simulated, (leaf.certificate,), certified),
        **dict(part_targets(Platform.SEV_SNP)),
        **dict(part_targets(Platform.TDX)),
        **dict(part_targets(Platform.TPM)),
        # Beside the evidence.
        "AMD's certificates": hint_target(
            snp_bare, vcek, ask, wrap=lambda mutant: Collateral((mutant, ask if mutant[50:] != ask[50:] else vcek))
        ),
        "TPM's certificates": hint_target(
            tpm_bare,
            tpm.AK.der,
            tpm.ISSUER.der,
            wrap=lambda mutant: Collateral((mutant, *tpm.HINTS)),
            rejects_some=False,
        ),
        "TPM's key": hint_target(tpm_bare, tpm.AK.der, wrap=lambda mutant: Collateral((mutant, tpm.ISSUER.der))),
        "TPM's issuer": hint_target(tpm_bare, tpm.ISSUER.der, wrap=lambda mutant: Collateral((tpm.AK.der, mutant))),
        "Intel's statements": hint_target(
            intel, tdx.MAKER.text().encode(), wrap=lambda mutant: Collateral(tdx=(as_text(mutant),))
        ),
        **{f"Intel's {name}": restated(name) for name, value in statements.items() if isinstance(value, str)},
        # Files.
        "policy": Target(Policy.from_json, Misuse, (support.POLICY.to_json(), ANY_POLICY.to_json())),
        "image": Target(measured, Misuse, (GOOD_IMAGE,)),
        "image with a right CRC": Target(
            measured, Misuse, (GOOD_IMAGE,), lambda data: with_crc(data.ljust(548, b"\0"))
        ),
        "ramdisk": Target(cpio.unpack, Misuse, (cpio.pack({"a/b": b"#!x", "a/c": bytes(300), "d": b""}),)),
        "lock": Target(runtime.parse_lock, Misuse, (runtime.lock_text(packages.PACKAGES).encode(),)),
        "deb": Target(locked("deb", "usr/lib/libc.so.6"), Misuse, (packages.LIBRARY,)),
        "tar of a deb": Target(
            locked("deb", "usr/lib/libc.so.6"),
            Misuse,
            (TAR,),
            lambda tar: packages.ar({"data.tar.xz": lzma.compress(tar, preset=0)}),
        ),
        "wheel": Target(locked("wheel", "coincurve/__init__.py"), Misuse, (packages.SIGNATURES,)),
    }


TAR = packages.data_tar({"usr/lib/libc.so.6": (packages.LINK, "libc-2.so"), "usr/lib/libc-2.so": b"\x7fELF libc"})
GOOD_IMAGE = eif.build(b"kernel", b"cmdline", [b"one", b"two"], b"{}")


# The process ----------------------------------------------------------------------------------------------


def status(field):
    """A size of this process in bytes. Not `getrusage`: its greatest size includes the parent's at the fork."""
    return int(re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)[1]) << 10


def too_long(*_):
    raise TooLong


def judge(target, data):
    """Whether it is accepted; raises what may not come out."""
    signal.setitimer(signal.ITIMER_PROF, CASE_CPU_S)
    try:
        target.read(data)
    except target.may_raise:
        return False
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return True


def run(seed):
    """Judge everything; the result as JSON on standard output."""
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGPROF, too_long)
    all_targets = targets()
    for name, target in all_targets.items():
        for good in target.good:  # which also loads what is loaded late
            assert judge(target, target.wrap(good)) is target.accepts_good, name
    resource.setrlimit(resource.RLIMIT_CPU, (ALL_CPU_S, ALL_CPU_S))
    addresses = status("VmSize") + ADDRESSES_MAX
    resource.setrlimit(resource.RLIMIT_AS, (addresses, addresses))
    cases, slowest, failures, idle = 0, (0.0, ""), [], []
    before = peak = status("VmHWM")
    largest = (0, "")
    for name, target in all_targets.items():
        at_random, refused = random.Random(f"{seed}/{name}"), 0
        mutants = (mutant_of(at_random.choice(target.good), at_random) for _ in range(RANDOM_CASES))
        for number, mutant in enumerate(itertools.chain(fixed_mutants(target.good[0]), mutants)):
            what, data = f"{name}, case {number}", target.wrap(mutant)
            start = time.process_time()
            try:
                refused += not judge(target, data)
            except (Exception, TooLong) as error:
                failures.append(f"{what}: {error!r:.200}")
            slowest = max(slowest, (time.process_time() - start, what))
            peak, previous = status("VmHWM"), peak
            largest = max(largest, (peak - previous, what))
            cases += 1
        if target.rejects_some and not refused:
            idle.append(name)
    found = {"cases": cases, "failures": failures, "idle": idle, "slowest": slowest}
    print(json.dumps({**found, "grown": peak - before, "largest": largest}))


def test_whatever_is_read_only_its_own_errors_come_out_in_bounded_time_and_memory():
    command = [sys.executable, "-m", "tests.evidence.test_bounds", "1"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = json.loads(ended.stdout)
    assert found["failures"] == []
    assert found["idle"] == [], "of these, no mutant was refused: they cannot have been read"
    assert found["cases"] >= 6000
    assert found["slowest"][0] <= CASE_CPU_S, found["slowest"]
    assert found["grown"] <= RESIDENT_MAX, found["largest"]


if __name__ == "__main__":
    run(sys.argv[1])
