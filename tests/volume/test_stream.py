"""Python's file objects over a volume: what the standard library does with files works, and the modes mean the same."""

import csv
import io
import json
import os
import tempfile
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.errors import Misuse
from perdure.volume.volume import Volume
from tests.volume.recorded import Recorded


@pytest.fixture
def volume():
    with Volume(Recorded()) as made:
        yield made


def test_csv_json_and_zip_files_come_back(volume):
    with volume.open("rows.csv", "w", newline="") as file:
        csv.writer(file).writerows([["a", "b"], ["1", "zwei\nZeilen"]])
    with volume.open("rows.csv", "r", newline="") as file:
        assert list(csv.reader(file)) == [["a", "b"], ["1", "zwei\nZeilen"]]
    with volume.open("state.json", "w") as file:
        json.dump({"größe": [1, 2]}, file, ensure_ascii=False)
    with volume.open("state.json", "r") as file:
        assert json.load(file) == {"größe": [1, 2]}
    with zipfile.ZipFile(volume.open("all.zip", "w+b"), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside", b"x" * 100_000)
    with zipfile.ZipFile(volume.open("all.zip", "r+b"), "a") as archive:
        archive.writestr("more", b"y")
    with volume.open("all.zip") as file, zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert archive.read("inside") == b"x" * 100_000


@pytest.mark.parametrize("mode", ["rb", "r+b", "wb", "w+b", "ab", "a+b", "xb", "x+b"])
@pytest.mark.parametrize("is_there", [False, True])
def test_a_mode_means_what_it_means_for_the_hosts_files(volume, tmp_path, mode, is_there):
    def story(opener, missing):
        seen = []
        try:
            with opener() as file:
                for step in (
                    lambda: file.read(3),
                    lambda: file.write(b"12345"),
                    lambda: file.seek(-2, os.SEEK_END),
                    lambda: file.write(b"ab"),
                    file.truncate,
                    lambda: file.seek(1),
                    lambda: file.seek(2, os.SEEK_CUR),
                    lambda: file.truncate(9),
                    file.read,
                    file.tell,
                    lambda: (file.readable(), file.writable(), file.seekable()),
                ):
                    try:
                        seen.append(step())
                    except (io.UnsupportedOperation, OSError) as error:
                        seen.append("refused" if isinstance(error, io.UnsupportedOperation) else "negative")
        except missing as error:
            seen.append(type(error) in (Misuse, FileNotFoundError, FileExistsError))
        return seen

    host = tmp_path / "file"
    if is_there:
        host.write_bytes(b"0123456789")
        with volume.open("file", "wb") as file:
            file.write(b"0123456789")
    ours = story(lambda: volume.open("file", mode), Misuse)
    assert ours == story(lambda: host.open(mode), (FileNotFoundError, FileExistsError))
    assert ("file" in volume) == host.exists()
    if host.exists():
        with volume.open("file") as file:
            assert file.read() == host.read_bytes()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.binary(max_size=9000)),
            st.tuples(st.just("seek"), st.integers(0, 20_000)),
            st.tuples(st.just("read"), st.integers(0, 9000)),
            st.tuples(st.just("truncate"), st.integers(0, 20_000)),
        ),
        max_size=20,
    )
)
def test_it_behaves_like_a_file_of_the_host(steps):
    with Volume(Recorded()) as volume, volume.open("file", "w+b") as ours, tempfile.TemporaryFile() as theirs:
        for name, argument in steps:
            assert getattr(ours, name)(argument) == getattr(theirs, name)(argument)
        assert ours.seek(0) == theirs.seek(0)
        assert ours.read() == theirs.read()


def test_what_a_stream_wrote_is_durable_after_sync_and_not_before():
    array = Recorded()
    with Volume(array) as volume, volume.open("log", "ab") as file:
        file.write(b"line\n")
        flushes = len(array.flushes)
        file.flush()
        assert len(array.flushes) == flushes
        volume.sync()
        assert array.flushes[-1] == len(array.effects)
        assert b"line\n" in array.data
    assert file.closed


def test_an_unknown_mode_and_a_closed_stream_are_refused(volume):
    with pytest.raises(Misuse, match="not 'rw'"):
        volume.open("file", "rw")
    assert volume.names == []
    file = volume.open("file", "w+b")
    raw = file.raw
    file.close()
    with pytest.raises(ValueError, match="closed"):
        raw.seek(0)
    with volume.open("file") as again:
        with pytest.raises(OSError, match="negative"):
            again.raw.seek(-1)
        with pytest.raises(ValueError, match="whence is 3"):
            again.raw.seek(0, 3)
        with pytest.raises(io.UnsupportedOperation, match="'file' was not opened for writing"):
            again.raw.truncate()
