"""What a volume holds, and what must be true of every sector of its array."""

from perdure.array.geometry import SECTOR_BYTES
from perdure.volume.record import DATA_START, Record, State
from perdure.volume.volume import Volume

ZEROS = bytes(SECTOR_BYTES)


def content(volume: Volume) -> dict[str, bytes]:
    files = {name: volume.file(name) for name in volume.names}
    return {name: volume.read(file, 0, file.size) for name, file in files.items()}


def require_clean(array) -> None:
    """No sector is two files', all growing is settled, and whatever belongs to no file is zeros."""
    data = array.pread(0, array.size)
    sectors = array.size // SECTOR_BYTES
    owned = {}
    for place in range(1, DATA_START):
        record = Record.decode(data[place * SECTOR_BYTES : (place + 1) * SECTOR_BYTES], sectors)
        if record is None:
            continue
        assert record.state is State.QUIET
        left = record.size
        for run in record.extents:
            for index in range(run.start, run.end):
                assert index not in owned
                owned[index] = min(left, SECTOR_BYTES)
                left -= owned[index]
    for index in range(DATA_START, sectors):
        rest = data[index * SECTOR_BYTES + owned.get(index, 0) : (index + 1) * SECTOR_BYTES]
        assert rest == ZEROS[: len(rest)], f"sector {index} keeps what no file has"


def reopened(array) -> dict[str, bytes]:
    """What the next main program finds."""
    with Volume(array) as volume:
        found = content(volume)
    require_clean(array)
    return found
