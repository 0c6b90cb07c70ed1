"""One array under every fault that it must survive, for half an hour, with its memory watched.

Four clients write over NBD and check all they read, while disks pause, die, fall silent and are mended, ranges are
erased, and the main program is killed. After each crash every flushed byte must be there, and of the rest no later
write without the earlier ones. Memory, threads and open files of every process are written down every ten seconds and
must be flat. PERDURE_SOAK_S is how long it takes, 1800 s by default.
"""

import contextlib
import csv
import os
import random
import shutil
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass

import psutil
import pytest

from perdure.array.geometry import Geometry
from perdure.service.site import config, local
from perdure.service.site.local import Wish
from tests.cli.rig import WAIT_S, Rig, _Nbd
from tests.system.rig import seeded, up_again

SOAK_S = float(os.environ.get("PERDURE_SOAK_S") or 1800)
LONG_LIFE = (0.3, 0.85)
"""Between these parts of the soak the main program is not killed: flat memory means something in a long life only."""
SIZE = 64 << 20
SECTOR = 4096
WRITERS = 4
AREA = SIZE // WRITERS
LENGTH_MAX = 256 << 10
DEAD_AFTER_MS = 4000
ANSWER_MS_MAX = 2000
PAUSE_S_MAX = 0.8
COMMAND_S = 300
SAMPLE_S = 10.0

MIB = 1 << 20
GROWTH_MAX, SLACK_BYTES = 1.15, 16 * MIB
"""While a vote waits the write cache may fill to 33 MiB once; the allocator keeps some of that."""
DISK_ALLOWANCE_BYTES = 40 * MIB
"""The interpreter with its modules, and 8 connections with 2.3 MiB of buffers each."""
DESCRIPTORS_MAX, THREADS_MAX = 64, 16
LIFE_S_MIN = 180.0


# What clients wrote ---------------------------------------------------------------------------------------


class Area:
    """What a part of the array may hold: the bytes now, and what sectors written since the last FLUSH held before."""

    def __init__(self, start):
        self.start = start
        self.now = bytearray(AREA)
        self.writes = 0
        self.since = {}

    def write(self, offset, data):
        """A write that begins now: from here on a crash may leave it, or not."""
        self.writes += 1
        for sector in range(offset // SECTOR, -(-(offset + len(data)) // SECTOR)):
            self.since.setdefault(sector, [(0, self._sector(sector))])
        self.now[offset : offset + len(data)] = data
        for sector in range(offset // SECTOR, -(-(offset + len(data)) // SECTOR)):
            self.since[sector].append((self.writes, self._sector(sector)))

    def flushed(self):
        self.writes, self.since = 0, {}

    def crashed(self, held):
        """Take what is there after a crash. Fails unless all that was flushed is, and of the rest a prefix.

        Of one write, which need not be atomic, some sectors may be there.
        """
        last_seen, first_missed = (0, -1), (self.writes + 1, -1)
        for sector, states in self.since.items():
            found = held[sector * SECTOR : (sector + 1) * SECTOR]
            fitting = [place for place, (_, state) in enumerate(states) if state == found]
            require(fitting, f"sector {sector} of the area at {self.start} holds none of {len(states)} states")
            last_seen = max(last_seen, (states[fitting[0]][0], sector))
            if fitting[-1] + 1 < len(states):
                first_missed = min(first_missed, (states[fitting[-1] + 1][0], sector))
            self.now[sector * SECTOR : (sector + 1) * SECTOR] = found
        require(last_seen[0] <= first_missed[0], f"{last_seen} is there, the earlier {first_missed} is not")
        require(held == self.now, f"flushed bytes differ in the area at {self.start}")
        self.flushed()

    def _sector(self, number):
        return bytes(self.now[number * SECTOR : (number + 1) * SECTOR])


class Wrong(Exception):
    """The array holds what it must not; never to be taken for a connection that broke."""


def require(condition, why):
    if not condition:
        raise Wrong(why)


class Writer(threading.Thread):
    """One client with an area of its own, one request at a time; `held` keeps it from beginning another."""

    READ, WRITE, FLUSH, TRIM, ZEROES = 0, 1, 3, 4, 6

    def __init__(self, soak, number, seed):
        super().__init__(name=f"writer-{number}")
        self.soak, self.rng = soak, random.Random(seed)
        self.area = Area(number * AREA)
        self.held = threading.Lock()
        self.failure = None
        self._life = None
        self._nbd = None

    def run(self):
        try:
            while not self.soak.is_over.is_set():
                with self.held:
                    self.step()
                time.sleep(self.rng.uniform(0, 0.02))
            with self.held:
                self.connect()
                self.check(0, AREA)
        except BaseException as error:
            self.failure = error
            self.soak.is_over.set()
            raise

    def step(self):
        try:
            self.connect()
            self.one_request()
        except (AssertionError, OSError, struct.error) as error:
            # A server that ends leaves its client with half a reply, or an error for what was under way.
            require(self._life != self.soak.life, f"a request failed while the main program ran: {error!r}")

    def connect(self):
        """Connect if the main program is another; what a crash left must be as it may be."""
        if self._life == self.soak.life:
            return
        life = self.soak.life
        assert self.soak.is_main_up.wait(COMMAND_S)
        self._nbd = _Nbd(self.soak.rig.directory / "nbd.sock")
        self._nbd._socket.settimeout(120)
        parts = [self._nbd.request(self.READ, self.area.start + at, length=4 * MIB) for at in range(0, AREA, 4 * MIB)]
        self.area.crashed(b"".join(parts))
        self._life = life

    def check(self, offset, length):
        expected = bytes(self.area.now[offset : offset + length])
        while length:
            count = min(length, MIB)
            found = self._nbd.request(self.READ, self.area.start + offset, length=count)
            wanted, expected = expected[:count], expected[count:]
            require(found == wanted, f"a read of {count} bytes at {self.area.start + offset} gave other bytes")
            offset, length = offset + count, length - count

    def one_request(self):
        area, rng = self.area, self.rng
        length = rng.choice((SECTOR, rng.randrange(1, 4 * SECTOR), rng.randrange(1, LENGTH_MAX)))
        offset = rng.randrange(0, AREA - length)
        if rng.random() < 0.4:
            offset -= offset % SECTOR
        kind = rng.choices(("write", "read", "flush", "trim", "zero"), (50, 35, 6, 6, 3))[0]
        if kind == "write":
            data = rng.randbytes(length)
            area.write(offset, data)
            self._nbd.request(self.WRITE, area.start + offset, data=data)
        elif kind == "read":
            self.check(offset, length)
        elif kind == "flush":
            self._nbd.request(self.FLUSH, 0)
            area.flushed()
        else:
            area.write(offset, bytes(length))
            self._nbd.request(self.TRIM if kind == "trim" else self.ZEROES, area.start + offset, length=length)
        self.soak.counts[kind] += 1


# Memory over time -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """One process at one moment."""

    at_s: float
    name: str
    pid: int
    age_s: float
    rss_bytes: int
    threads: int
    files: int


class Sampler(threading.Thread):
    """Looks at every process of the rig every ten seconds, and writes down what it sees."""

    def __init__(self, rig, path, is_over):
        super().__init__(name="sampler")
        self.rig, self.path, self.is_over = rig, path, is_over
        self.samples = []

    def run(self):
        began = time.monotonic()
        with open(self.path, "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(Sample.__dataclass_fields__)
            while not self.is_over.wait(SAMPLE_S):
                for name, process in self.processes():
                    with contextlib.suppress(psutil.Error):
                        with process.oneshot():
                            sample = Sample(
                                round(time.monotonic() - began, 1),
                                name,
                                process.pid,
                                round(time.time() - process.create_time(), 1),
                                process.memory_info().rss,
                                process.num_threads(),
                                process.num_fds(),
                            )
                        self.samples.append(sample)
                        rows.writerow(vars(sample).values())
                file.flush()

    def processes(self):
        with contextlib.suppress(AssertionError, psutil.Error):
            yield "main", psutil.Process(self.rig.process("main").pid)
        for seat in range(5):
            with contextlib.suppress(AssertionError, psutil.Error, ValueError):
                launcher = psutil.Process(self.rig.process(f"disk-{seat}").pid)
                yield f"launcher-{seat}", launcher
                (program,) = launcher.children()
                yield f"disk-{seat}", program

    def lives(self, name):
        """The samples of each process that had this name, oldest first."""
        found = {}
        for sample in self.samples:
            if sample.name == name:
                found.setdefault(sample.pid, []).append(sample)
        return list(found.values())


def median_bytes(samples):
    return statistics.median(sample.rss_bytes for sample in samples)


def assert_flat(samples, what):
    """The last quarter of a life needs no more memory than the second."""
    quarter = len(samples) // 4
    before, after = median_bytes(samples[quarter : 2 * quarter]), median_bytes(samples[-quarter:])
    print(f"{what}: {before / MIB:.1f} MiB in the second quarter of {samples[-1].age_s:.0f} s, {after / MIB:.1f} last")
    assert after <= GROWTH_MAX * before + SLACK_BYTES, what
    for count in ("threads", "files"):
        values = [getattr(sample, count) for sample in samples]
        assert max(values[-quarter:]) <= max(values[:-quarter]) + 2, (what, count, values)


def assert_memory_is_flat(sampler, disk_bytes):
    long = [life for name in ("main", *map("disk-{}".format, range(5))) for life in sampler.lives(name)]
    for samples in long:
        if samples[-1].age_s - samples[0].age_s >= LIFE_S_MIN:
            assert_flat(samples, f"{samples[0].name}, process {samples[0].pid}")
    lives = [[sample for sample in life if 15 <= sample.age_s <= 45] for life in sampler.lives("main")]
    young = [median_bytes(life) for life in lives if life]
    print("main, each life at 15 to 45 s of age, MiB:", [round(value / MIB, 1) for value in young])
    assert not young or young[-1] <= GROWTH_MAX * young[0] + SLACK_BYTES
    for sample in sampler.samples:
        if sample.name == "main":
            assert sample.files <= DESCRIPTORS_MAX, sample
            assert sample.threads <= THREADS_MAX, sample
        elif sample.name.startswith("disk"):
            assert sample.rss_bytes <= disk_bytes + DISK_ALLOWANCE_BYTES, sample


# Faults ---------------------------------------------------------------------------------------------------


class Soak:
    """The array, its clients, and whoever does them harm."""

    def __init__(self, rig, rng, log_path):
        self.rig, self.rng, self.log_path = rig, rng, log_path
        self.counts = Counter()
        self.is_over = threading.Event()
        self.is_main_up = threading.Event()
        self.life = 0
        """How often the main program has begun; counted before it is killed."""
        self.writers = [Writer(self, number, rng.random()) for number in range(WRITERS)]
        self.paused = threading.Lock()
        self.gone = set()
        """Seats whose disk was killed and is not replaced yet."""
        self.began = time.monotonic()

    @property
    def part(self):
        return (time.monotonic() - self.began) / SOAK_S

    def log(self, *words):
        line = f"{time.monotonic() - self.began:7.1f} " + " ".join(map(str, words))
        with open(self.log_path, "a") as file:
            print(line, file=file)

    def verb(self, *words, codes=(0, 1)):
        """A verb to its end; its exit code."""
        command = [sys.executable, "-m", "perdure.cli.main", *map(str, words)]
        began = time.monotonic()
        done = subprocess.run(command, env=self.rig.env, capture_output=True, text=True, timeout=COMMAND_S, check=False)
        said = (done.stderr.splitlines() or done.stdout.splitlines() or [""])[-1]
        self.log(*words[:2], "->", done.returncode, f"{time.monotonic() - began:.1f} s", said)
        assert done.returncode in codes, (words, done.returncode, done.stdout, done.stderr)
        self.counts[words[0]] += 1
        return done.returncode

    def run(self):
        harms = (self.kill_and_replace, self.silence_and_rejoin, self.scrub, self.erase, self.kill_main)
        end = self.began + SOAK_S
        pauser = threading.Thread(target=self.keep_pausing, args=(random.Random(self.rng.random()),), name="pauser")
        self.is_main_up.set()
        for thread in (*self.writers, pauser):
            thread.start()
        try:
            while time.monotonic() < end and not self.is_over.wait(self.rng.uniform(1, 8)):
                self.rng.choices(harms, (4, 3, 2, 4, 3))[0]()
                self.mend()
        finally:
            self.is_over.set()
            for thread in (pauser, *self.writers):
                thread.join(COMMAND_S)
        for writer in self.writers:
            assert writer.failure is None, writer.failure
            assert not writer.is_alive()
        assert not pauser.is_alive()

    def keep_pausing(self, rng):
        """Silences too short for a vote, at any time, also while others are mended."""
        while not self.is_over.wait(rng.uniform(0.5, 6)):
            with self.paused:
                seat = rng.randrange(5)
                with contextlib.suppress(AssertionError, psutil.Error):
                    self.rig.pause_disk(seat)
                    time.sleep(rng.uniform(0.05, PAUSE_S_MAX))
                    self.counts["pause"] += 1
                with contextlib.suppress(AssertionError, psutil.Error):
                    self.rig.resume_disk(seat)

    def kill_disk(self):
        living = [seat for seat in range(5) if seat not in self.gone]
        seat = self.rng.choice(living)
        with self.paused:
            self.rig.kill_disk(seat)
        self.gone.add(seat)
        self.counts["disk killed"] += 1
        self.log("killed disk", seat)

    def kill_and_replace(self):
        """One disk or two; sometimes the second while the first is rebuilt; sometimes main dies meanwhile."""
        self.kill_disk()
        what = self.rng.choices(("one", "two", "during", "main"), (4, 2, 2, 1))[0]
        if what == "two":
            self.kill_disk()
        elif what in ("during", "main"):
            (seat,) = self.gone
            command = [sys.executable, "-m", "perdure.cli.main", "replace", str(seat)]
            with subprocess.Popen(
                command, env=self.rig.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ) as it:
                time.sleep(self.rng.uniform(1, 12))
                if what == "during":
                    self.kill_disk()
                else:
                    self.kill_main()
                it.wait(COMMAND_S)
            self.log("replace", seat, "with", what, "->", it.returncode)

    def silence_and_rejoin(self):
        seat = self.rng.randrange(5)
        with self.paused:
            self.rig.pause_disk(seat)
            try:
                self.rig.wait_for(lambda status: status["disks"][seat]["state"] not in ("online", "suspect"))
                self.log("silenced disk", seat)
            finally:
                self.rig.resume_disk(seat)

    def scrub(self):
        self.verb("scrub")

    def erase(self):
        writer, length = self.rng.choice(self.writers), SECTOR * self.rng.randrange(1, 64)
        at = SECTOR * self.rng.randrange(0, (AREA - length) // SECTOR)
        with writer.held:
            writer.connect()
            receipt = self.rig.directory / f"receipt-{self.counts['erase']}.json"
            self.verb("erase", "--offset", writer.area.start + at, "--length", length, "-o", receipt)
            receipt.unlink()
            writer.area.write(at, bytes(length))
            writer.check(at, length)
            writer._nbd.request(Writer.FLUSH, 0)
            writer.area.flushed()

    def kill_main(self):
        if LONG_LIFE[0] <= self.part <= LONG_LIFE[1]:
            return
        self.is_main_up.clear()
        self.life += 1
        self.rig.kill_main()
        self.counts["main killed"] += 1
        self.log("killed main")
        up_again(self.rig, code=None)
        self.log("main is up again")
        self.is_main_up.set()

    def mend(self):
        """Give every empty seat a disk again."""
        give_up = time.monotonic() + COMMAND_S
        while True:
            status = self.rig.status()
            assert status["failure"] is None, status
            empty = [disk["seat"] for disk in status["disks"] if disk["state"] not in ("online", "suspect")]
            empty = sorted({*empty, *self.gone})
            if not empty:
                return
            assert time.monotonic() < give_up, status
            for seat in empty:
                self.verb("replace" if seat in self.gone else "rejoin", seat, codes=(0, 1, 2))
            now = self.rig.status()["disks"]
            self.gone -= {seat for seat in self.gone if now[seat]["state"] == "online"}


@pytest.mark.timeout(SOAK_S + 900)
def test_an_array_lives_under_every_fault_and_its_memory_is_flat(tmp_path):
    rng = seeded()
    with Rig(tmp_path) as rig:
        rig.directory.mkdir(mode=0o700)
        local.prepare(rig.directory, Wish("64M", 5, 3, "unix:nbd.sock", DEAD_AFTER_MS))
        path = rig.directory / config.NAME
        text = path.read_text()
        assert "answer-ms-max = 5000" in text
        path.write_text(text.replace("answer-ms-max = 5000", f"answer-ms-max = {ANSWER_MS_MAX}"))
        rig.up(size="64M", dead_after_ms=DEAD_AFTER_MS)
        soak = Soak(rig, rng, tmp_path / "faults.log")
        sampler = Sampler(rig, tmp_path / "memory.csv", soak.is_over)
        sampler.start()
        try:
            soak.run()
        finally:
            soak.is_over.set()
            sampler.join(WAIT_S)
            for log in rig.directory.glob("*.log"):
                shutil.copy(log, tmp_path)
            print(f"{tmp_path}: {time.monotonic() - soak.began:.0f} s, {dict(soak.counts)}")
        assert_memory_is_flat(sampler, Geometry.for_size(3, 5, SIZE).disk_bytes)
