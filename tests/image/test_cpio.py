import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import Misuse
from perdure.image import cpio

FILES = {"b/c.py": b"print()\n", "a": b"", "b/d/e": bytes(range(7))}
names = st.lists(st.sampled_from(["a", "b", "c.py", "__main__.py"]), min_size=1, max_size=3).map("/".join)


@given(st.dictionaries(names, st.binary(max_size=20), max_size=5))
def test_what_is_packed_is_unpacked(files):
    try:
        archive = cpio.pack(files)
    except Misuse:
        assert any(other.startswith(f"{name}/") for name in files for other in files)
        return
    assert cpio.unpack(archive) == files
    assert cpio.pack(dict(reversed(files.items()))) == archive


def test_the_bytes_are_those_of_the_newc_format():
    # Written by hand from the kernel's description of the format.
    header = "070701 {ino} {mode} 00000000 00000000 {links} 00000000 {size} " + "00000000 " * 4 + "{name} 00000000"
    directory = header.format(ino="00000001", mode="000041ED", links="00000002", size="00000000", name="00000002")
    file = header.format(ino="00000002", mode="000081A4", links="00000001", size="00000005", name="00000004")
    trailer = header.format(ino="00000000", mode="00000000", links="00000001", size="00000000", name="0000000B")
    parts = (
        directory.replace(" ", "").encode() + b"d\0",
        file.replace(" ", "").encode() + b"d/f\0\0\0" + b"hello\0\0\0",
        trailer.replace(" ", "").encode() + b"TRAILER!!!\0\0\0\0",
    )
    assert cpio.pack({"d/f": b"hello"}) == b"".join(parts)


NOT_PLAIN = ("", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "./a", "a b", "a\0b", "é", "TRAILER!!!", "x" * 101)


@pytest.mark.parametrize("name", [*NOT_PLAIN, "a/" * 100 + "a"])
def test_refuses_to_pack_a_path_that_is_not_plain(name):
    with pytest.raises(Misuse):
        cpio.pack({name: b""})


def test_refuses_a_path_that_is_both_file_and_directory():
    with pytest.raises(Misuse, match="both"):
        cpio.pack({"a": b"", "a/b": b""})


def test_every_changed_byte_gives_other_files_or_is_refused():
    archive = cpio.pack(FILES)
    for at, byte in enumerate(archive):
        mutant = archive[:at] + bytes([byte ^ 1]) + archive[at + 1 :]
        try:
            files = cpio.unpack(mutant)
        except Misuse:
            continue
        assert files != FILES
        assert cpio.pack(files) == mutant


@given(st.binary(max_size=300) | st.integers(0, 700).map(lambda n: cpio.pack(FILES)[:n]))
def test_other_bytes_are_refused(data):
    if data != cpio.pack(FILES):
        with pytest.raises(Misuse):
            cpio.unpack(data)


def test_refuses_links_devices_times_doubles_and_names_that_leave_the_directory():
    good = cpio.pack({"ab/c": b"x"})
    for old, new in (
        (b"000081A4", b"0000A1A4"),
        (b"000081A4", b"000021A4"),
        (b"000081A4", b"000089A4"),
        (b"ab/c\0", b"../c\0"),
        (b"ab/c\0", b"/b/c\0"),
        (b"ab/c\0", b"ab\0c\0"),
        (b"0000000100000000", b"0000000100000001"),
    ):
        assert old in good
        with pytest.raises(Misuse):
            cpio.unpack(good.replace(old, new))
    for data in (good + bytes(4), good + good, bytes(4) + good, good[: -len(cpio.pack({}))] + good):
        with pytest.raises(Misuse):
            cpio.unpack(data)


def listing(archive):
    """Names and modes by the format's fields, not by the reader under test."""
    found, at = {}, 0
    while at < len(archive):
        mode, size, length = (int(archive[at + start : at + start + 8], 16) for start in (14, 54, 94))
        found[archive[at + 110 : at + 110 + length - 1].decode()] = mode
        at += (110 + length + 3) // 4 * 4 + (size + 3) // 4 * 4
    return found


def test_every_directory_comes_before_what_is_in_it():
    """The kernel makes none by itself."""
    found = listing(cpio.pack({"a/b/c/d": b"", "a-/e": b"", "a/b.c": b"x"}))
    assert list(found) == ["a", "a-", "a-/e", "a/b", "a/b.c", "a/b/c", "a/b/c/d", "TRAILER!!!"]
    assert {name for name, mode in found.items() if mode == 0o040755} == {"a", "a-", "a/b", "a/b/c"}


def test_a_name_may_have_200_characters():
    name = "/".join(["x" * 99, "y" * 100])
    assert len(name) == 200
    assert cpio.unpack(cpio.pack({name: b"1"})) == {name: b"1"}
    with pytest.raises(Misuse):
        cpio.pack({f"z{name}": b"1"})


def test_a_file_is_executable_exactly_if_it_starts_as_a_program_or_script():
    files = {"a": b"\x7fELF", "b": b"#!/x", "c": b"\x7fEL", "d": b" #!/x", "e": b""}
    assert [f"{mode & 0o777:o}" for mode in listing(cpio.pack(files)).values()] == [
        "755",
        "755",
        "644",
        "644",
        "644",
        "0",
    ]
