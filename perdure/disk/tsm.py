"""The disk's door to its evidence in an SEV-SNP or TDX guest: Linux's configfs-tsm reports (6.7 and later).

Standard library only. The kernel's side is Documentation/ABI/testing/configfs-tsm-report. It takes `inblob` when that
file is closed and tells no one if it does not: `generation`, which counts what it took, must move by our writes alone.
"""

import errno
import os
import time
from pathlib import Path

REPORT_DATA_BYTES = 64
PART_BYTES_MAX = 1 << 16
PAUSES_S = (0.1, 0.1, 0.2, 0.4)


class TsmReports:
    """The folder of reports, `directory`. Raises OSError if there is none, or no platform behind it."""

    def __init__(self, directory: str = "/sys/kernel/config/tsm/report") -> None:
        self._directory = Path(directory)
        self._new_entry().rmdir()

    def attest(self, report_data: bytes) -> bytes:
        """Return b"PTSM", then provider, report and certificates, each after its length as u32 big-endian.

        A busy platform and an entry that others wrote to are tried again. Raises OSError, or ValueError if the
        platform misspeaks.
        """
        if len(report_data) != REPORT_DATA_BYTES:
            raise ValueError("report data has 64 bytes")
        for pause_s in PAUSES_S:
            try:
                return self._attest(report_data)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EBUSY):
                    raise
            time.sleep(pause_s)
        return self._attest(report_data)

    def _new_entry(self) -> Path:
        entry = self._directory / f"perdure-{os.urandom(16).hex()}"  # what a killed disk left is in no one's way
        entry.mkdir()
        return entry

    def _attest(self, report_data: bytes) -> bytes:
        entry = self._new_entry()
        try:
            generation = int(_read(entry / "generation"))
            if (entry / "privlevel").exists():  # SEV-SNP refuses a level below the guest's; the default is 0
                (entry / "privlevel").write_bytes(_read(entry / "privlevel_floor"))
                generation += 1
            (entry / "inblob").write_bytes(report_data)
            parts = [_read(entry / "provider").removesuffix(b"\n"), _read(entry / "outblob")]
            parts.append(_read(entry / "auxblob") if (entry / "auxblob").exists() else b"")  # TDX has none
            if int(_read(entry / "generation")) != generation + 1:
                raise OSError(errno.EAGAIN, "another program wrote to our report")
        finally:
            entry.rmdir()
        if not parts[1]:
            raise OSError("the platform gave an empty report")
        return b"PTSM" + b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _read(path: Path) -> bytes:
    with path.open("rb", buffering=0) as file:
        data = b""
        while part := os.read(file.fileno(), PART_BYTES_MAX + 1 - len(data)):  # file.read takes EAGAIN for the end
            data += part
    if len(data) > PART_BYTES_MAX:
        raise ValueError(f"the platform's {path.name} is too long")
    return data
