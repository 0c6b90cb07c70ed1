"""Reports by configfs-tsm: from a file system with the kernel's semantics, undisturbed, contended and failing."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from perdure.disk.tsm import PAUSES_S, TsmReports
from perdure.evidence import envelope

from .configfs import LIBFUSES_SIGNALS, Entry, TsmKernel, failure, mounted

DATA = bytes(range(64))
OTHER = b"o" * 64
TABLE = b"table of certificates" * 100


def snp_report(inblob: bytes, privlevel: int) -> tuple[bytes, bytes]:
    """Shaped like the firmware's answer: it refuses data that is not 64 bytes."""
    if len(inblob) != 64:
        raise failure(errno.EINVAL)
    return b"report at %d over " % privlevel + inblob + bytes(1000), TABLE


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited; nothing is waited for in truth."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    return pauses


@pytest.fixture
def snp() -> TsmKernel:
    """The kernel of an SEV-SNP guest at level 0."""
    return TsmKernel(snp_report, "sev_guest", floor=0)


@pytest.fixture
def folder(tmp_path: Path, snp: TsmKernel) -> Iterator[str]:
    """Where the kernel `snp` is mounted."""
    with mounted(snp, tmp_path) as path:
        yield str(path)


def parts(evidence: bytes) -> tuple[bytes, ...]:
    """What the verifier takes out of the envelope."""
    opened = envelope.open_envelope(evidence)
    assert opened.name == envelope.TSM
    assert envelope.seal(opened.name, *opened.parts) == evidence
    return opened.parts


def test_an_snp_report_comes_with_its_provider_and_certificates(snp: TsmKernel, folder: str) -> None:
    assert parts(TsmReports(folder).attest(DATA)) == (b"sev_guest", *snp_report(DATA, 0))
    assert snp.written == [64]  # once, in one piece


def test_a_tdx_quote_comes_alone(tmp_path: Path) -> None:
    """TDX has neither privilege levels nor an auxblob."""
    kernel = TsmKernel(lambda inblob, level: (inblob + bytes(5000), b"never seen"), "tdx_guest", has_auxblob=False)
    with mounted(kernel, tmp_path) as path:
        assert parts(TsmReports(str(path)).attest(DATA)) == (b"tdx_guest", DATA + bytes(5000), b"")


def test_a_host_may_supply_no_certificates(snp: TsmKernel, folder: str) -> None:
    snp.report = lambda inblob, level: (inblob, b"")
    assert parts(TsmReports(folder).attest(DATA)) == (b"sev_guest", DATA, b"")


@pytest.mark.parametrize("floor", [1, 2, 3])
def test_a_guest_at_a_higher_level_asks_for_that_level(snp: TsmKernel, folder: str, floor: int) -> None:
    snp.floor = floor
    assert parts(TsmReports(folder).attest(DATA))[1] == snp_report(DATA, floor)[0]


def test_every_report_is_over_the_data_of_its_call(snp: TsmKernel, folder: str) -> None:
    reports = TsmReports(folder)
    for data in (DATA, OTHER, DATA):
        assert parts(reports.attest(data))[1] == snp_report(data, 0)[0]


def test_no_entry_is_left_and_those_of_others_stay(snp: TsmKernel, folder: str) -> None:
    """What a killed disk has left neither hinders a start nor a report."""
    left = {"perdure": Entry(), f"perdure-{os.getpid()}": Entry(inblob=OTHER, write_generation=7)}
    snp.entries.update(left)
    TsmReports(folder).attest(DATA)
    assert snp.entries == left


def test_reports_at_the_same_time_do_not_meet(snp: TsmKernel, folder: str) -> None:
    """Another disk of the same guest asks in the middle of our call; its entry is its own."""
    names: list[str] = []

    def meddle(name: str, entry: Entry) -> None:
        if name == "outblob":
            names.extend(snp.entries)
            snp.entries["another"] = Entry()
            snp.entries["another"].write(OTHER)

    snp.meddle = meddle
    reports = TsmReports(folder)
    for _ in range(2):
        assert parts(reports.attest(DATA))[1] == snp_report(DATA, 0)[0]
        del snp.entries["another"]
    assert len(set(names)) == 2


MOMENTS = ["privlevel_floor", "privlevel", "inblob", "provider", "outblob", "auxblob"]


def write_at(moment: str, times: int) -> tuple[list[Entry], Callable[[str, Entry], None]]:
    """A program that writes to our entry when we open `moment`, so often; and the entries that it wrote to."""
    entries: list[Entry] = []

    def meddle(name: str, entry: Entry) -> None:
        if name == moment and len(entries) < times:
            entries.append(entry)
            entry.write(OTHER)

    return entries, meddle


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_entry_that_another_program_writes_to_is_given_up_for_a_new_one(
    snp: TsmKernel, folder: str, pauses: list[float], moment: str
) -> None:
    reports = TsmReports(folder)
    entries, snp.meddle = write_at(moment, 1)
    assert parts(reports.attest(DATA)) == (b"sev_guest", *snp_report(DATA, 0))
    assert len(entries) == 1
    assert snp.written == [64, 64]
    assert pauses == [PAUSES_S[0]]
    assert snp.entries == {}


@pytest.mark.parametrize("moment", MOMENTS)
def test_another_program_that_always_writes_to_the_entry_is_told(
    snp: TsmKernel, folder: str, pauses: list[float], moment: str
) -> None:
    reports = TsmReports(folder)
    entries, snp.meddle = write_at(moment, 100)
    with pytest.raises(OSError, match="another program wrote to our report"):
        reports.attest(DATA)
    assert len(entries) == len({id(entry) for entry in entries}) == len(PAUSES_S) + 1
    assert pauses == list(PAUSES_S)
    assert snp.entries == {}


def test_data_that_the_kernel_silently_did_not_take_is_noticed(
    snp: TsmKernel, folder: str, pauses: list[float]
) -> None:
    """It refuses a write when its counters would meet; closing the file succeeds all the same."""
    reports = TsmReports(folder)

    def refuse(name: str, entry: Entry) -> None:
        if name == "inblob":
            entry.inblob, entry.read_generation = OTHER, entry.write_generation + 1

    snp.meddle = refuse
    with pytest.raises(OSError, match="another program wrote to our report"):
        reports.attest(DATA)
    assert len(pauses) == len(PAUSES_S)
    assert snp.entries == {}


def test_a_count_that_is_no_number_is_told(snp: TsmKernel, folder: str) -> None:
    reports = TsmReports(folder)
    snp.meddle = lambda name, entry: setattr(entry, "write_generation", "many") if snp.written else None
    with pytest.raises(ValueError, match="many"):
        reports.attest(DATA)
    assert snp.entries == {}


def test_an_attribute_may_be_read_in_pieces(snp: TsmKernel, folder: str) -> None:
    snp.read_bytes_max = 100
    assert parts(TsmReports(folder).attest(DATA)) == (b"sev_guest", *snp_report(DATA, 0))


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EAGAIN])
@pytest.mark.parametrize("times", [1, 4, 5])
def test_a_busy_platform_is_waited_for_in_a_few_attempts(
    snp: TsmKernel, folder: str, pauses: list[float], number: int, times: int
) -> None:
    reports = TsmReports(folder)
    asked = 0

    def busy(inblob: bytes, privlevel: int) -> tuple[bytes, bytes]:
        nonlocal asked
        asked += 1
        if asked <= times:
            raise failure(number)
        return snp_report(inblob, privlevel)

    snp.report = busy
    if times <= len(PAUSES_S):
        assert parts(reports.attest(DATA)) == (b"sev_guest", *snp_report(DATA, 0))
    else:
        with pytest.raises(OSError) as caught:
            reports.attest(DATA)
        assert caught.value.errno == number
    assert pauses == list(PAUSES_S[:times])
    assert snp.entries == {}


@pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL, errno.ETIMEDOUT, errno.ENOTTY, errno.ENXIO, errno.ENOMEM])
def test_any_other_failure_of_the_platform_is_told_at_once(
    snp: TsmKernel, folder: str, pauses: list[float], number: int
) -> None:
    """After some of these SEV-SNP destroys its key: another attempt would gain nothing."""
    reports = TsmReports(folder)
    asked: list[bytes] = []

    def fail(inblob: bytes, privlevel: int) -> tuple[bytes, bytes]:
        asked.append(inblob)
        raise failure(number)

    snp.report = fail
    with pytest.raises(OSError) as caught:
        reports.attest(DATA)
    assert caught.value.errno == number
    assert asked == [DATA]
    assert pauses == []
    assert snp.entries == {}


def test_an_empty_report_is_none(snp: TsmKernel, folder: str, pauses: list[float]) -> None:
    """TDX drivers before 2026 give it when the host has failed to sign."""
    snp.report = lambda inblob, level: (b"", TABLE)
    with pytest.raises(OSError, match="empty report"):
        TsmReports(folder).attest(DATA)
    assert pauses == []
    assert snp.entries == {}


@pytest.mark.parametrize("lengths", [(1 << 16, 0), (1, 1 << 16)])
def test_a_blob_of_64_kib_is_taken_and_a_longer_one_refused(
    snp: TsmKernel, folder: str, lengths: tuple[int, int]
) -> None:
    snp.blob_bytes_max = 16 << 20  # as kernels of 2026 allow
    blobs = os.urandom(lengths[0]), os.urandom(lengths[1])
    snp.report = lambda inblob, level: blobs
    assert parts(TsmReports(folder).attest(DATA)) == (b"sev_guest", *blobs)
    for more in (bytes(1), bytes(1 << 20)):
        longer = (blobs[0] + more, blobs[1]) if lengths[0] > 1 else (blobs[0], blobs[1] + more)
        snp.report = lambda inblob, level, longer=longer: longer  # type: ignore[misc]
        with pytest.raises(ValueError, match=f"{'outblob' if lengths[0] > 1 else 'auxblob'} is too long"):
            TsmReports(folder).attest(DATA)
        assert snp.entries == {}


def test_a_blob_that_is_too_long_for_the_kernel_is_an_error(snp: TsmKernel, folder: str) -> None:
    snp.report = lambda inblob, level: (bytes((32 << 10) + 1), b"")
    with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        TsmReports(folder).attest(DATA)


@pytest.mark.parametrize("data", [b"", bytes(63), bytes(65)])
def test_report_data_of_another_length_is_not_written(snp: TsmKernel, folder: str, data: bytes) -> None:
    reports = TsmReports(folder)
    with pytest.raises(ValueError, match="64 bytes"):
        reports.attest(data)
    assert snp.written == []


def test_a_machine_without_a_platform_is_told_at_the_start(snp: TsmKernel, folder: str) -> None:
    snp.provider = None
    with pytest.raises(OSError, match=os.strerror(errno.ENXIO)):
        TsmReports(folder)


def test_a_machine_without_configfs_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        TsmReports(str(tmp_path / "report"))


def test_the_start_asks_for_no_report_and_leaves_nothing(snp: TsmKernel, folder: str) -> None:
    TsmReports(folder)
    assert snp.written == []
    assert snp.entries == {}


def test_a_platform_that_goes_away_is_told(snp: TsmKernel, folder: str) -> None:
    def leave(name: str, entry: Entry) -> None:
        if name == "provider":
            snp.provider = None

    reports = TsmReports(folder)
    snp.meddle = leave
    with pytest.raises(OSError, match=os.strerror(errno.ENXIO)):
        reports.attest(DATA)
    assert snp.entries == {}


def test_an_entry_that_another_program_removes_is_told(snp: TsmKernel, folder: str) -> None:
    reports = TsmReports(folder)
    snp.meddle = lambda name, entry: snp.entries.clear() if name == "outblob" else None
    with pytest.raises(FileNotFoundError):
        reports.attest(DATA)


def test_the_mounted_kernel_does_what_linux_does(snp: TsmKernel, folder: str) -> None:
    entry = Path(folder, "entry")
    entry.mkdir()
    assert (entry / "generation").read_text() == "0\n"
    for name in ("outblob", "auxblob"):
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):  # before inblob
            (entry / name).read_bytes()
    with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        (entry / "inblob").write_bytes(bytes(65))
    for name, mode in (("inblob", "rb"), ("inblob", "r+b"), ("outblob", "wb"), ("generation", "wb"), ("new", "wb")):
        with pytest.raises(PermissionError):
            (entry / name).open(mode, buffering=0)
    with pytest.raises(PermissionError):
        (entry / "folder").mkdir()
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        (entry / "privlevel").write_bytes(b"4\n")
    (entry / "inblob").write_bytes(b"short")
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):  # the firmware's
        (entry / "outblob").read_bytes()
    with (entry / "inblob").open("wb", buffering=0) as file:
        file.write(DATA)
        assert (entry / "generation").read_text() == "1\n"
    assert (entry / "generation").read_text() == "2\n"
    assert (entry / "outblob").read_bytes() == snp_report(DATA, 0)[0]
    (entry / "inblob").write_bytes(OTHER)
    assert (entry / "outblob").read_bytes() == snp_report(OTHER, 0)[0]
    assert (entry / "generation").read_text() == "3\n"


def test_the_stand_in_leaves_the_process_its_signals(tmp_path: Path, snp: TsmKernel) -> None:
    """libfuse would leave SIGPIPE deadly, and the next peer that hangs up would end the whole run."""
    before = [signal.getsignal(number) for number in LIBFUSES_SIGNALS]
    with mounted(snp, tmp_path):
        pass
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"x")
    os.close(writer)
    assert [signal.getsignal(number) for number in LIBFUSES_SIGNALS] == before
