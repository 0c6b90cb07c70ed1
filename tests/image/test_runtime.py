"""The image's Python: the lock, and files out of packages that the test makes itself."""

import lzma
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import Misuse
from perdure.image import cpio, runtime
from perdure.image.runtime import Package

from .packages import FOLDER, HARD_LINK, INPUTS, LINK, PACKAGES, RUNTIME, ar, data_tar, deb, package, wheel


def unpack(data, *files, **options):
    one = package(data, *files, **options)
    return runtime.unpack((one,), {one.file_name: data})


def test_the_chosen_files_of_every_package_are_taken_and_no_others():
    assert runtime.unpack(PACKAGES, INPUTS) == RUNTIME


def test_inputs_that_no_package_names_do_not_matter():
    assert runtime.unpack(PACKAGES, {**INPUTS, "other.deb": b"x"}) == RUNTIME
    assert runtime.unpack((), INPUTS) == {}


# The lock ----------------------------------------------------------------------------------------------------


def test_the_builtin_lock_is_well_formed():
    packages = runtime.parse_lock(runtime.builtin_lock())
    assert len({one.file_name for one in packages}) == len(packages) > 5
    files = [name for one in packages for name in one.files]
    assert len(set(files)) == len(files)
    for one in packages:
        assert one.kind in ("deb", "wheel")
        assert re.fullmatch("[0-9a-f]{64}", one.sha256)
        assert re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", one.name)
        assert one.version
        assert list(one.files) == sorted(one.files)
        assert one.files
    cpio.pack(dict.fromkeys(files, b""))  # every path is one that an archive may hold
    assert "usr/bin/python3.11" in files
    assert not [name for name in files if name.endswith((".pyc", "/"))]


def test_a_lock_that_is_written_is_read():
    builtin = runtime.parse_lock(runtime.builtin_lock())
    assert runtime.parse_lock(runtime.lock_text(builtin).encode()) == builtin
    assert runtime.parse_lock(runtime.lock_text(PACKAGES).encode()) == PACKAGES


texts = st.text(st.characters(max_codepoint=0x7E), max_size=20)
packages = st.builds(
    Package, texts, st.sampled_from(("deb", "wheel")), texts, texts, st.lists(texts, max_size=3).map(tuple)
)


@given(st.lists(packages, min_size=1, max_size=3).map(tuple))
def test_any_lock_that_is_written_is_read(lock):
    assert runtime.parse_lock(runtime.lock_text(lock).encode()) == lock


LINE = '[[package]]\nname = "a"\nkind = "deb"\nversion = "1"\nsha256 = "00"\nfiles = []\n'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[[package",
        b"package = " + b"[" * 100_000,
        b"package = 1",
        b'package = "abc"',
        b"package = [1, 2]",
        b"[package]\nname = 'a'",
        LINE.replace('name = "a"\n', "").encode(),
        LINE.replace("files = []\n", "").encode(),
        LINE.replace("files = []", "files = 5").encode(),
        (LINE + 'other = "x"\n').encode(),
        (LINE + 'name = "b"\n').encode(),
    ],
)
def test_what_is_no_lock_is_refused_in_one_sentence(data):
    with pytest.raises(Misuse, match=r"^The lock of the image's Python is not one: .*\.$"):
        runtime.parse_lock(data)


def test_the_file_of_a_package_is_named_after_it():
    assert [one.file_name for one in PACKAGES] == ["python.deb", "libc6.deb", "coincurve.whl"]


# Packages that do not fit ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INPUTS)
def test_a_missing_package_is_told_with_what_brings_it(name):
    inputs = {other: data for other, data in INPUTS.items() if other != name}
    with pytest.raises(Misuse, match=f"{name} is missing; `perdure image fetch` brings it"):
        runtime.unpack(PACKAGES, inputs)


@pytest.mark.parametrize("name", INPUTS)
def test_one_other_byte_in_a_package_is_refused(name):
    changed = INPUTS[name][:-1] + bytes([INPUTS[name][-1] ^ 1])
    with pytest.raises(Misuse, match=f"{name} is not version 1 that the lock pins"):
        runtime.unpack(PACKAGES, {**INPUTS, name: changed})


def test_a_file_that_is_not_in_the_package_is_told():
    with pytest.raises(Misuse, match=r"p\.deb cannot be read: 'usr/none'"):
        unpack(INPUTS["python.deb"], "usr/none")
    with pytest.raises(Misuse, match=r"p\.whl cannot be read: .*none"):
        unpack(INPUTS["coincurve.whl"], "none", kind="wheel")


def test_what_is_no_wheel_is_refused():
    for data in (b"", b"text", INPUTS["coincurve.whl"][:-30]):
        with pytest.raises(Misuse, match=r"The wheel p\.whl cannot be read"):
            unpack(data, "a", kind="wheel")


# Links -------------------------------------------------------------------------------------------------------


def test_links_are_followed_inside_the_package():
    files = {
        "lib/real.so": b"real",
        "lib/same": (LINK, "real.so"),
        "lib64/up": (LINK, "../lib/real.so"),
        "lib64/absolute": (LINK, "/lib/real.so"),
        "lib/twice": (LINK, "../lib64/up"),
        "lib/hard": (HARD_LINK, "./lib/real.so"),
        "lib/leaving": (LINK, "../../../../lib/real.so"),
        "first": (LINK, "later"),
        "later": b"later",
    }
    wanted = [name for name in files if name not in ("lib/real.so", "later", "first")]
    assert unpack(deb(files), *wanted) == dict.fromkeys(wanted, b"real")
    assert unpack(deb(files), "first") == {"first": b"later"}


def test_a_chain_of_links_is_followed_seven_steps():
    files = {f"l{n}": (LINK, f"l{n + 1}") for n in range(9)} | {"l9": b"x"}
    assert unpack(deb(files), "l2") == {"l2": b"x"}
    with pytest.raises(Misuse, match="l1 leads through too many links"):
        unpack(deb(files), "l1")


@pytest.mark.parametrize(
    "files",
    [
        {"a": (LINK, "a")},
        {"a": (LINK, "b"), "b": (LINK, "a")},
        {"a": (LINK, "none")},
        {"a": (LINK, "/")},
        {"a": (LINK, "/etc/passwd")},
        {"a": (HARD_LINK, "./none")},
        {"a": (FOLDER, "")},
        {"a": (LINK, "d"), "d": (FOLDER, "")},
        {**{f"l{n}": (LINK, f"l{n + 1}") for n in range(1, 20)}, "a": (LINK, "l1"), "l20": b"too far"},
    ],
    ids=str,
)
def test_a_link_that_leads_to_no_file_is_refused(files):
    with pytest.raises(Misuse, match=r"The package p\.deb cannot be read"):
        unpack(deb(files), "a")


# Damaged packages, which a lock made of them pins ------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"!<arch>\n",
        b"text" * 40,
        ar({"debian-binary": b"2.0\n"}),
        ar({"data.tar.xz": b"no xz"}),
        ar({"data.tar.gz": b""}),
        INPUTS["python.deb"].replace(b"!<arch>\n", b"!<arch>\r"),
    ],
)
def test_what_is_no_package_is_refused(data):
    with pytest.raises(Misuse, match=r"The package p\.deb cannot be read"):
        unpack(data, "usr/bin/python3.11")


@pytest.mark.parametrize("size", ["x", "", "-60", "-120", "1_0", "99999999"])
def test_a_member_of_impossible_size_is_refused(size):
    data = ar({"debian-binary": b"2.0\n"}).replace(b"4         `", f"{size:10}`".encode())
    data += ar({"data.tar.xz": b"x"}).removeprefix(b"!<arch>\n")
    with pytest.raises(Misuse, match=r"The package p\.deb cannot be read"):
        unpack(data, "a")


def test_a_package_cut_anywhere_is_refused():
    whole = INPUTS["libc6.deb"]
    for length in range(len(whole) - 3):
        with pytest.raises(Misuse):
            unpack(whole[:length], "usr/lib/libc.so.6")


def test_a_tar_cut_anywhere_is_refused_or_still_has_the_file():
    whole = data_tar({"a": b"x" * 600, "b": b"y"})
    refused = 0
    for length in range(0, len(whole) + 1, 64):
        data = ar({"data.tar.xz": lzma.compress(whole[:length])})
        try:
            assert unpack(data, "a") == {"a": b"x" * 600}
            assert length >= 512 + 600
        except Misuse:
            refused += 1
    assert refused >= (512 + 600) // 64


def test_dpkg_reads_what_these_tests_take_for_a_package(tmp_path):
    """So they test the format and not themselves."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("THE TESTS' OWN PACKAGES ARE NOT COMPARED: dpkg-deb is not here")
    (tmp_path / "p.deb").write_bytes(INPUTS["libc6.deb"])
    tar = subprocess.run(
        ["dpkg-deb", "--fsys-tarfile", tmp_path / "p.deb"], capture_output=True, timeout=20, check=True
    )
    (tmp_path / "data.tar").write_bytes(tar.stdout)
    with tarfile.open(tmp_path / "data.tar") as archive:
        assert {member.name for member in archive} == {"./usr/lib/libc.so.6", "./usr/lib/libc-2.so"}
    assert Path(tmp_path / "data.tar").read_bytes() == data_tar(
        {"usr/lib/libc.so.6": (LINK, "libc-2.so"), "usr/lib/libc-2.so": b"\x7fELF libc"}
    )


def test_a_wheel_of_two_paths_is_put_beside_the_program():
    data = wheel({"a/b.py": b"b", "c.py": b"c"})
    assert unpack(data, "c.py", "a/b.py", kind="wheel") == {"perdure-disk/c.py": b"c", "perdure-disk/a/b.py": b"b"}


def test_a_kind_of_package_that_there_is_not_is_refused():
    for kind in ("rpm", "Deb", ""):
        lock = runtime.lock_text(PACKAGES[:1]).replace('"deb"', f'"{kind}"')
        with pytest.raises(Misuse, match=f"there is no kind '{kind}'"):
            runtime.parse_lock(lock.encode())
