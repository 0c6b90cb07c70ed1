import hashlib
import os
import resource
import shutil
import socket
import stat
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import Corrupt, Misuse
from perdure.manifest import tree

from .archives import archive, member

needs_tar = pytest.mark.skipif(shutil.which("tar") is None, reason="tar is not installed")
FILES = {"run": (b"#!/bin/sh\n", 0o755), "lib/a.py": (b"a = 1\n", 0o644), "lib/deep/b c.py": (b"", 0o600)}


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program"
    for name, (contents, mode) in FILES.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(contents)
        (path / name).chmod(mode)
    (path / "empty").mkdir()
    return path


@pytest.fixture
def empty(tmp_path):
    path = tmp_path / "unpacked"
    path.mkdir()
    return path


def tar(program, *options):
    words = ["tar", "--format=ustar", "-C", program, *options, "-cf", "-", "."]
    return subprocess.run(words, capture_output=True, check=True).stdout


def refuse(data, empty, said):
    """Both who wants the digest and who unpacks is told; nothing is written, not even if it had been signed."""
    with pytest.raises(Misuse, match=said):
        tree.tarball_digest(data)
    with pytest.raises((Misuse, Corrupt)):
        tree.unpack(data, empty, bytes(32))
    assert not any(empty.iterdir())


# Digests --------------------------------------------------------------------------------------------------


def test_the_digest_is_that_of_a_listing_that_anybody_can_make(program):
    sha = {name: hashlib.sha256(contents).hexdigest() for name, (contents, _) in FILES.items()}
    lines = [f"{sha['lib/a.py']} - lib/a.py", f"{sha['lib/deep/b c.py']} - lib/deep/b c.py", f"{sha['run']} x run"]
    listing = "".join(f"{line}\n" for line in ("perdure/tree/1", *lines))
    assert tree.digest(program) == hashlib.sha256(listing.encode()).digest()


def test_a_shell_makes_the_same_digest(program):
    """The recipe of docs/spec.md, 16.3."""
    recipe = (
        "{ echo perdure/tree/1; find . -type f -printf '%P\\n' | LC_ALL=C sort | while read -r f; do "
        'if [ -n "$(find "./$f" -prune -perm -u+x)" ]; then x=x; else x=-; fi; '
        'echo "$(sha256sum < "$f" | cut -c1-64) $x $f"; done; } | sha256sum'
    )
    done = subprocess.run(["sh", "-c", recipe], cwd=program, capture_output=True, check=True, text=True)
    assert done.stdout[:64] == tree.digest(program).hex()


@needs_tar
def test_a_tarball_has_the_digest_of_its_tree_whatever_its_times_owners_and_order(program):
    digest = tree.digest(program)
    for options in ((), ("--sort=name", "--mtime=@0", "--owner=7:7"), ("--mode=u+s,g-r",)):
        assert tree.tarball_digest(tar(program, *options)) == digest
    os.utime(program / "run", (0, 0))
    assert tree.digest(program) == digest


def test_every_change_of_a_tree_is_another_digest(program):
    found = {tree.digest(program)}
    (program / "lib/a.py").write_bytes(b"a = 2\n")
    found.add(tree.digest(program))
    (program / "lib/a.py").chmod(0o755)
    found.add(tree.digest(program))
    (program / "lib/a.py").rename(program / "lib/b.py")
    found.add(tree.digest(program))
    (program / "more").write_bytes(b"")
    found.add(tree.digest(program))
    (program / "run").unlink()
    found.add(tree.digest(program))
    assert len(found) == 6


def test_an_image_is_named_by_its_sha256(tmp_path):
    (tmp_path / "disk.img").write_bytes(b"image")
    assert tree.image_digest(tmp_path / "disk.img") == hashlib.sha256(b"image").digest()
    with pytest.raises(Misuse, match="cannot be read"):
        tree.image_digest(tmp_path / "missing")


def make_link(path):
    path.symlink_to("run")


def make_link_out(path):
    path.symlink_to("/etc")


@pytest.mark.parametrize("make", [make_link, make_link_out, os.mkfifo], ids=["link", "link out", "pipe"])
def test_a_tree_with_something_else_than_files_is_refused_by_name(program, make):
    make(program / "lib" / "evil")
    with pytest.raises(Misuse, match="'lib/evil', which is neither a file nor a directory"):
        tree.digest(program)


def test_a_socket_in_a_tree_is_refused(program, monkeypatch):
    monkeypatch.chdir(program)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("evil")
        with pytest.raises(Misuse, match="'evil', which is neither"):
            tree.digest(program)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("RUN", "differs by case alone"),
        ("Lib/x", "differs by case alone"),
        ("a\nb", "only printable ASCII"),
        ("a\\b", "only printable ASCII"),
        ("\u00e9", "only printable ASCII"),
        ("d" * 200 + "/" + "f" * 56, "longer than 256"),
    ],
)
def test_a_tree_that_no_tarball_may_hold_is_refused(program, name, said):
    (program / name).parent.mkdir(exist_ok=True)
    (program / name).write_bytes(b"")
    with pytest.raises(Misuse, match=said):
        tree.digest(program)


def test_a_tree_that_is_not_there_or_has_no_files_is_refused(tmp_path, program):
    for path in (tmp_path / "missing", program / "run"):
        with pytest.raises(Misuse, match="cannot be read"):
            tree.digest(path)
    with pytest.raises(Misuse, match="has no files"):
        tree.digest(program / "empty")


def test_the_number_of_files_is_bounded(program, monkeypatch):
    """Three files and three directories."""
    monkeypatch.setattr(tree, "MEMBERS_MAX", 6)
    tree.digest(program)
    monkeypatch.setattr(tree, "MEMBERS_MAX", 5)
    with pytest.raises(Misuse, match="more than 5 files and directories"):
        tree.digest(program)


# Unpacking ------------------------------------------------------------------------------------------------


@needs_tar
def test_what_is_unpacked_is_what_was_packed_and_nothing_else(program, empty):
    tree.unpack(tar(program, "--mode=u+s,o+w"), empty, tree.digest(program))
    assert tree.digest(empty) == tree.digest(program)
    modes = {path.relative_to(empty).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in empty.rglob("*")}
    assert modes == {"run": 0o755, "lib": 0o755, "lib/deep": 0o755, "lib/a.py": 0o644, "lib/deep/b c.py": 0o644}


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_modes_do_not_depend_on_the_umask(empty, umask):
    data = archive(member(b"a/b/c/run", b"x", mode=b"0000755"))
    before = os.umask(umask)
    try:
        tree.unpack(data, empty, tree.tarball_digest(data))
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in empty.rglob("*")] == [0o755] * 4


def test_paths_are_printable_ascii_and_all_of_it_but_the_backslash():
    allowed = {at for at in range(1, 128) if chr(at) not in "/." and is_path(bytes([at]))}
    assert allowed == {*range(0x20, 0x7F)} - {ord("/"), ord("."), ord("\\")}
    assert not any(is_path(bytes([at])) for at in range(128, 256))


def is_path(name):
    try:
        tree.tarball_digest(archive(member(name)))
    except Misuse:
        return False
    return True


@needs_tar
def test_every_changed_byte_of_a_tree_is_another_program_and_nothing_is_written(program, empty):
    digest, good = tree.digest(program), tar(program)
    at = good.index(b"a = 1\n")
    for place in range(at, at + 6):
        with pytest.raises(Corrupt, match="another one than the manifest names; nothing of it was written"):
            tree.unpack(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :], empty, digest)
        assert not any(empty.iterdir())


@pytest.mark.parametrize(
    "name",
    [b"../evil", b"lib/../../evil", b"/evil", b"lib//evil", b"lib/./evil", b"..", b".", b"evil/", b"././evil", b""],
)
def test_a_path_that_climbs_out_or_is_not_plain_is_refused_by_name(empty, name):
    refuse(archive(member(b"run"), member(name, b"x")), empty, "absolute, climbs out or is not in plain form")


@pytest.mark.parametrize("name", [b"..", b"../out", b"/", b"/tmp", b"a//b"])
def test_a_directory_that_climbs_out_is_refused_by_name(empty, name):
    refuse(archive(member(b"run"), member(name, kind=b"5")), empty, "climbs out")


def test_a_link_through_which_a_later_file_would_climb_out_is_refused(empty):
    data = archive(member(b"lib", kind=b"2", link=b"/tmp"), member(b"lib/evil", b"x"))
    refuse(data, empty, "'lib' is neither a file nor a directory")


def test_a_hard_link_to_the_outside_is_refused(empty):
    refuse(archive(member(b"evil", kind=b"1", link=b"/etc/shadow")), empty, "'evil' is neither")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((b"run", b"run"), "'run' twice"),
        ((b"run", b"./run"), "'run' twice"),
        ((b"run", b"Run"), "'Run' and another path that differs by case alone"),
        ((b"lib/a", b"LIB/b"), "'LIB' and another path that differs by case alone"),
        ((b"LIB", b"lib/b"), "'lib' and another path that differs by case alone"),
        ((b"lib", b"lib/b"), "'lib' as a file and as a directory"),
        ((b"lib/b", b"lib"), "'lib' as a file and as a directory"),
        ((b"a\x1b[2K",), "only printable ASCII"),
        ((b"a\nb",), "only printable ASCII"),
        (("\u0430".encode(),), "only printable ASCII"),
        ((b"\xff",), "only printable ASCII"),
        ((b"a\\b",), "only printable ASCII"),
        ((), "has no files"),
    ],
)
def test_paths_that_cannot_stand_beside_one_another_are_refused(empty, names, said):
    refuse(archive(*(member(name) for name in names)), empty, said)


def test_doubles_are_refused_even_if_they_were_signed(empty):
    listing = f"perdure/tree/1\n{2 * f'{hashlib.sha256().hexdigest()} - run{chr(10)}'}"
    with pytest.raises(Misuse, match="'run' twice"):
        tree.unpack(archive(member(b"run"), member(b"run")), empty, hashlib.sha256(listing.encode()).digest())
    assert not any(empty.iterdir())


def test_the_number_and_the_size_of_members_are_bounded(empty, monkeypatch):
    data = archive(member(b"a"), member(b"b", b"x"), member(b"c/", kind=b"5"))
    monkeypatch.setattr(tree, "MEMBERS_MAX", 3)
    assert len(tree.tarball_digest(data)) == 32
    monkeypatch.setattr(tree, "MEMBERS_MAX", 2)
    refuse(data, empty, "more than 2 members; 'c' is one too many")
    monkeypatch.setattr(tree, "TARBALL_BYTES_MAX", len(data) - 1)
    refuse(data, empty, f"more than {len(data) - 1} bytes")


def test_a_directory_that_is_not_empty_or_not_there_is_left_as_it_is(empty, tmp_path):
    data = archive(member(b"run", b"new"))
    digest = tree.tarball_digest(data)
    (empty / "run").write_bytes(b"old")
    for path in (empty, tmp_path / "missing", empty / "run"):
        with pytest.raises(Misuse, match="is not an empty directory; nothing was written"):
            tree.unpack(data, path, digest)
    assert (empty / "run").read_bytes() == b"old"


def test_a_file_that_cannot_be_written_is_named_and_the_program_must_not_run(empty):
    data = archive(member(b"small", b"x"), member(b"sub/large", b"x" * 100_000))
    digest = tree.tarball_digest(data)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(Misuse, match=r"'sub/large' could not be written .*incomplete and must not be run"):
            tree.unpack(data, empty, digest)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@given(st.binary(max_size=1500))
def test_whatever_bytes_come_only_misuse_is_raised(data):
    with pytest.raises(Misuse):
        tree.tarball_digest(data)


@given(st.lists(st.binary(min_size=1, max_size=12).filter(lambda name: b"\0" not in name), min_size=1, max_size=4))
def test_whatever_paths_a_tarball_has_they_are_plain_ones_or_misuse(tmp_path_factory, names):
    data = archive(*(member(name) for name in names))
    try:
        digest = tree.tarball_digest(data)
    except Misuse:
        return
    place = tmp_path_factory.mktemp("fuzz")
    tree.unpack(data, place, digest)
    assert tree.digest(place) == digest


def test_a_directory_that_no_loader_would_take_is_refused_before_it_is_signed(tmp_path, monkeypatch):
    (tmp_path / "large").write_bytes(bytes(1001))
    monkeypatch.setattr(tree, "TARBALL_BYTES_MAX", 1000)
    with pytest.raises(Misuse, match="more than 1000 bytes; no loader would take it"):
        tree.digest(tmp_path)
