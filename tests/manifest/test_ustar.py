import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import Misuse
from perdure.manifest import ustar

from .archives import END, archive, header, member


def read(data):
    return [(one.path, one.is_directory, one.is_executable, bytes(one.contents)) for one in ustar.members(data)]


def python_archive(kind, *names):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
    return file.getvalue()


def test_files_and_directories_are_read_with_what_counts_of_them():
    data = archive(
        member(b"./", kind=b"5", mode=b"0000755"),
        member(b"./sub/", kind=b"5", mode=b"0000755"),
        member(b"./sub/run", b"x" * 513, mode=b"0000755"),
        member(b"empty", mode=b"0000655"),
        member(b"old", b"y", kind=b"\0"),
        member(b"name", b"z", prefix=b"long/prefix"),
    )
    assert read(data) == [
        (".", True, True, b""),
        ("sub", True, True, b""),
        ("sub/run", False, True, b"x" * 513),
        ("empty", False, False, b""),
        ("old", False, False, b"y"),
        ("long/prefix/name", False, False, b"z"),
    ]


def test_each_field_may_be_full_to_its_last_byte():
    """Then nothing ends it but the next field, which begins with a digit or, behind the prefix, is padding."""
    name, prefix = b"n" * 100, b"p" * 155
    data = archive(
        header(name, prefix=prefix, mode=b"00000755", size_field=b"000000000003") + b"abc" + bytes(509),
        member(name, b"x", mode=b"00000644"),
        member(b"z"),
    )
    assert read(data) == [
        (f"{prefix.decode()}/{name.decode()}", False, True, b"abc"),
        (name.decode(), False, False, b"x"),
        ("z", False, False, b""),
    ]


def test_numbers_may_be_padded_with_spaces_as_old_writers_do():
    data = archive(header(b"a", mode=b"   755 \0", size_field=b"         3 \0") + b"abc" + bytes(509))
    assert read(data) == [("a", False, True, b"abc")]


def test_every_byte_of_a_header_is_in_its_checksum():
    good = member(b"name", b"x", prefix=b"prefix", link=b"link")
    for at in [*range(148), *range(156, 512)]:
        said = "no header of the plain ustar format" if 257 <= at < 265 else "wrong checksum"
        with pytest.raises(Misuse, match=said):
            read(archive(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]))


def test_what_stands_behind_the_prefix_is_no_part_of_it():
    made = header(b"name", prefix=b"p" * 155)
    total = sum(made[:148]) + 256 + sum(made[156:]) + ord("q")
    assert (
        read(archive(made[:148] + b"%06o\0 " % total + made[156:500] + b"q" + made[501:]))[0][0] == "p" * 155 + "/name"
    )


def test_another_writers_archive_is_read_the_same():
    long = "d" * 120 + "/" + "f" * 90
    assert read(python_archive(tarfile.USTAR_FORMAT, "a", long)) == [
        ("a", False, False, b"abc"),
        (long, False, False, b"abc"),
    ]


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_extended_formats_are_refused_with_what_to_do(kind):
    with pytest.raises(Misuse, match="tar --format=ustar"):
        read(python_archive(kind, "\u00e9" * 130))


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"6", b"7", b"g", b"x", b"L", b"K", b"S", b"\xff"])
def test_links_devices_and_extensions_are_refused_by_name(kind):
    with pytest.raises(Misuse, match="'evil' is neither a file nor a directory"):
        read(archive(member(b"evil", kind=kind, link=b"/etc/passwd")))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "cut short after 0 bytes"),
        (header(b"a")[:-1], "cut short after 0 bytes"),
        (member(b"a", b"x"), "cut short after 1024 bytes"),
        (header(b"a", 1), "cut short within 'a'"),
        (header(b"a", size_field=b"77777777777\0"), "cut short within 'a'"),
        (archive(header(b"a", size_field=b"\x80" + bytes(10) + b"\1")), "'a' has no size"),
        (archive(header(b"a", size_field=b"-0000000001\0")), "'a' has no size"),
        (archive(header(b"a", size_field=bytes(12))), "'a' has no size"),
        (archive(header(b"a", mode=b"000064x")), "header of 'a' is malformed"),
        (archive(member(b"a/", b"x", kind=b"5")), "header of 'a/' is malformed"),
        (archive(member(b"a", magic=b"ustar  \0")), "at byte 0 no header of the plain ustar format"),
        (archive(member(b"a"), member(b"b", checksum=1)), "at byte 512 a header with a wrong checksum"),
        (archive(member(b"a"), END, member(b"b")), "goes on behind its end"),
        (archive() + b"\1", "goes on behind its end"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_archive_of_another_form_is_misuse_that_names_the_place(data, said):
    with pytest.raises(Misuse, match=said):
        read(data)


def test_zeros_may_follow_the_end():
    assert read(archive(member(b"a")) + bytes(10_000)) == [("a", False, False, b"")]


@given(st.binary(max_size=1200))
def test_whatever_bytes_come_only_misuse_is_raised(data):
    if not any(data) and len(data) >= 512:
        return  # an empty archive
    with pytest.raises(Misuse):
        read(data)


@given(st.integers(0, 511), st.binary(min_size=1, max_size=40))
def test_whatever_is_written_over_a_header_it_is_read_or_misuse(at, piece):
    data = archive(member(b"a", b"x" * 600), member(b"b"))
    try:
        found = read(data[:at] + piece + data[at + len(piece) :])
    except Misuse:
        return
    assert found[-1] == ("b", False, False, b"")
