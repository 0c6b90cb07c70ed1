"""Inputs of images: read, compared and fetched by an apt-get and a pip that are the test's own."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from perdure.errors import Misuse, Unavailable
from perdure.evidence.policy import TrustedRoot
from perdure.evidence.roots import AWS_NITRO_G1, BUILTIN_CERTIFICATES
from perdure.image import runtime
from perdure.service import images
from tests.image.packages import INPUTS, PACKAGES, RUNTIME, deb, wheel
from tests.image.test_platforms import KERNEL

REGISTERS = {f"pcr{number}": bytes([number]) * 48 for number in range(3)}


# Kernel and modules ------------------------------------------------------------------------------------------


def test_a_kernel_is_read_up_to_a_limit(tmp_path, monkeypatch):
    (tmp_path / "kernel").write_bytes(KERNEL)
    assert images.read_kernel(tmp_path / "kernel") == KERNEL
    with pytest.raises(Misuse, match=r"The kernel .*none cannot be read \(No such file"):
        images.read_kernel(tmp_path / "none")
    monkeypatch.setattr(images, "KERNEL_BYTES_MAX", 1)
    with pytest.raises(Misuse, match="more than 1 bytes"):
        images.read_kernel(tmp_path / "kernel")


@pytest.fixture
def blobs(tmp_path):
    for name in ("b.ko", "a.ko", "nsm.ko"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def test_modules_are_those_of_the_list_in_its_order(blobs):
    (blobs / "modules").write_text("b.ko\n\n  a.ko \n")
    (blobs / "cmdline").write_bytes(b" panic=1 quiet\n")
    read = images.read_blobs(blobs)
    assert list(read.modules.items()) == [("b.ko", b"b.ko"), ("a.ko", b"a.ko")]
    assert read.cmdline == "panic=1 quiet"


def test_without_a_list_it_is_awss_folder(blobs):
    assert images.read_blobs(blobs) == images.Blobs({"nsm.ko": b"nsm.ko"}, None)
    (blobs / "nsm.ko").unlink()
    assert images.read_blobs(blobs) == images.Blobs({}, None)
    (blobs / "cmdline").write_bytes(b"")
    assert images.read_blobs(blobs).cmdline == ""


def test_an_empty_list_means_no_modules(blobs):
    (blobs / "modules").write_text("\n")
    assert images.read_blobs(blobs).modules == {}


@pytest.mark.parametrize("data", [b"", b"\x7fELF" + bytes(600), KERNEL[:0x204], KERNEL.replace(b"HdrS", b"HdrT")])
def test_what_is_no_kernel_is_told(tmp_path, data):
    (tmp_path / "kernel").write_bytes(KERNEL)
    assert images.read_kernel(tmp_path / "kernel") == KERNEL
    (tmp_path / "kernel").write_bytes(data)
    with pytest.raises(Misuse, match="is not a kernel in the form bzImage"):
        images.read_kernel(tmp_path / "kernel")


def test_a_folder_of_modules_that_is_not_there_is_told(tmp_path):
    with pytest.raises(Misuse, match=r"folder of modules .* is not there"):
        images.read_blobs(tmp_path / "none")


@pytest.mark.parametrize("name", ["../a.ko", "/etc/passwd", "net/a.ko", "..", ".", "a.ko.xz", "a"])
def test_a_module_from_elsewhere_is_refused(blobs, name):
    (blobs / "modules").write_text(f"b.ko {name}")
    with pytest.raises(Misuse, match=r"which is no file in .*; nothing was written"):
        images.read_blobs(blobs)


@pytest.mark.parametrize("name", [b"none.ko", b".ko", b"\xff.ko"])
def test_a_module_that_cannot_be_read_is_told(blobs, name):
    (blobs / "modules").write_bytes(name)
    with pytest.raises(Misuse, match=r"The module .* cannot be read"):
        images.read_blobs(blobs)


# The packages ------------------------------------------------------------------------------------------------


@pytest.fixture
def locked(monkeypatch):
    """A release whose lock is of the test's small packages."""
    monkeypatch.setattr("perdure.image.runtime.builtin_lock", lambda: runtime.lock_text(PACKAGES).encode())


def fill(directory, **changes):
    directory.mkdir(exist_ok=True)
    for name, data in {**INPUTS, **changes}.items():
        (directory / name).write_bytes(data)
    return directory


@pytest.mark.usefixtures("locked")
def test_the_runtime_is_read_by_the_releases_lock(tmp_path):
    assert images.read_runtime(fill(tmp_path)) == RUNTIME
    (tmp_path / "libc6.deb").unlink()
    with pytest.raises(Misuse, match=r"libc6\.deb is missing; `perdure image fetch` brings it"):
        images.read_runtime(tmp_path)
    fill(tmp_path, **{"libc6.deb": b"another"})
    with pytest.raises(Misuse, match="not version 1"):
        images.read_runtime(tmp_path)


@pytest.mark.usefixtures("locked")
def test_the_folders_own_lock_goes_before(tmp_path):
    fill(tmp_path)
    (tmp_path / "runtime.toml").write_text(runtime.lock_text(PACKAGES[:1]))
    assert images.read_runtime(tmp_path).keys() == set(PACKAGES[0].files)
    (tmp_path / "runtime.toml").write_text("[[package")
    with pytest.raises(Misuse, match="lock"):
        images.read_runtime(tmp_path)


@pytest.mark.usefixtures("locked")
def test_a_package_above_the_limit_is_not_read(tmp_path, monkeypatch):
    assert runtime.PACKAGE_BYTES_MAX == 64 << 20
    monkeypatch.setattr("perdure.image.runtime.PACKAGE_BYTES_MAX", 100)
    with pytest.raises(Misuse, match="more than 100 bytes"):
        images.read_runtime(fill(tmp_path))


# Fetching ----------------------------------------------------------------------------------------------------

APT = """#!/bin/sh
# A false apt-get: takes the package from a folder beside, and notes what it was asked.
echo "apt-get $*" >> "$SHELF/asked"
name=${3%%:*}
[ -e "$SHELF/$name.deb" ] || { echo "Reading lists" >&2; echo "E: Unable to locate package $name" >&2; exit 100; }
cp "$SHELF/$name.deb" "./${name}_1_amd64.deb"
"""


class Shelf:
    """What there is to be had, and what was asked of it."""

    def __init__(self, path, monkeypatch):
        self.path = path / "shelf"
        fill(self.path)
        (path / "bin").mkdir()
        self.apt = path / "bin" / "apt-get"
        self.apt.write_text(APT)
        self.apt.chmod(0o755)
        monkeypatch.setenv("SHELF", str(self.path))
        monkeypatch.setenv("PATH", f"{path / 'bin'}:/usr/bin:/bin")
        self._run = subprocess.run
        monkeypatch.setattr("subprocess.run", self.run)
        self.folders = []

    def run(self, command, **options):
        """pip is in this process's interpreter, so it is replaced here; apt-get is run for real."""
        self.folders.append(Path(options["cwd"]))
        if command[:3] != [sys.executable, "-m", "pip"]:
            return self._run(command, **options)
        with (self.path / "asked").open("a") as asked:
            asked.write(" ".join(["pip", *command[3:]]) + "\n")
        name = command[-1].partition("==")[0]
        source = self.path / f"{name}.whl"
        if not source.exists():
            return subprocess.CompletedProcess(command, 1, "", "")
        (Path(options["cwd"]) / f"{name}-1-cp311.whl").write_bytes(source.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "a warning\n")

    def asked(self):
        path = self.path / "asked"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def shelf(tmp_path, monkeypatch, locked):
    return Shelf(tmp_path, monkeypatch)


PIP = "pip --quiet download --no-deps --only-binary=:all: --python-version=3.11 --implementation=cp"


def test_everything_is_fetched_in_the_locked_version(shelf, tmp_path):
    directory = tmp_path / "a" / "runtime"
    assert images.fetch(directory) == ["python", "libc6", "coincurve"]
    assert shelf.asked() == [
        "apt-get -q download python:amd64=1",
        "apt-get -q download libc6:amd64=1",
        f"{PIP} --platform=manylinux_2_17_x86_64 coincurve==1",
    ]
    assert {path.name for path in directory.iterdir()} == INPUTS.keys()
    assert images.read_runtime(directory) == RUNTIME
    assert not any(folder.exists() for folder in shelf.folders)
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} <= {0o644, 0o600, 0o640}


def test_what_is_there_is_not_fetched_again(shelf, tmp_path):
    images.fetch(tmp_path / "runtime")
    (tmp_path / "runtime" / "libc6.deb").unlink()
    before = len(shelf.asked())
    assert images.fetch(tmp_path / "runtime") == ["libc6"]
    assert shelf.asked()[before:] == ["apt-get -q download libc6:amd64=1"]
    assert images.fetch(tmp_path / "runtime") == []


def test_a_package_of_other_contents_is_refused_and_left_as_it_is(shelf, tmp_path):
    directory = fill(tmp_path / "runtime", **{"libc6.deb": b"mine"})
    with pytest.raises(Misuse, match=r"libc6\.deb is not version 1 of libc6 that the lock pins; move it away"):
        images.fetch(directory)
    assert (directory / "libc6.deb").read_bytes() == b"mine"


def test_a_source_that_gives_other_contents_is_refused(shelf, tmp_path):
    (shelf.path / "libc6.deb").write_bytes(b"not what the lock says")
    with pytest.raises(Misuse, match="is not version 1 of libc6"):
        images.fetch(tmp_path / "runtime")
    assert {path.name for path in (tmp_path / "runtime").iterdir()} == {"python.deb"}  # so far, and nothing wrong


def test_a_package_that_is_not_to_be_had_is_told_with_the_way_out(shelf, tmp_path):
    (shelf.path / "libc6.deb").unlink()
    with pytest.raises(Unavailable) as refused:
        images.fetch(tmp_path / "runtime")
    sentence = str(refused.value)
    assert "Version 1 of libc6 cannot be fetched (E: Unable to locate package libc6)." in sentence
    assert hashlib.sha256(INPUTS["libc6.deb"]).hexdigest() in sentence
    assert "as libc6.deb yourself, or take what there is with --newest." in sentence
    (shelf.path / "libc6.deb").write_bytes(INPUTS["libc6.deb"])
    (shelf.path / "coincurve.whl").unlink()
    with pytest.raises(Unavailable, match=r"coincurve cannot be fetched \(nothing was said\)"):
        images.fetch(tmp_path / "runtime")
    fill(tmp_path / "runtime")  # as the sentence says
    assert images.fetch(tmp_path / "runtime") == []


def test_a_command_that_brings_nothing_or_too_much_is_not_believed(shelf, tmp_path):
    for script in ("exit 0", "touch a b", "touch a; exit 1"):
        shelf.apt.write_text(f"#!/bin/sh\n{script}\n")
        with pytest.raises(Unavailable, match="nothing was said"):
            images.fetch(tmp_path / "runtime")


def test_a_machine_without_apt_get_says_so(shelf, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="no apt-get to bring python with"):
        images.fetch(tmp_path / "runtime")
    fill(tmp_path / "runtime")
    assert images.fetch(tmp_path / "runtime") == []  # nor is it needed when all is there


NEWER = {
    "python.deb": deb({"usr/bin/python3.11": b"\x7fELF newer", "usr/lib/os.py": b"newer os\n"}),
    "coincurve.whl": wheel({"coincurve/__init__.py": b"newer coincurve\n"}),
}


def test_newest_takes_what_there_is_and_locks_it(shelf, tmp_path):
    directory = tmp_path / "runtime"
    images.fetch(directory)
    for name, data in NEWER.items():
        (shelf.path / name).write_bytes(data)
    before = len(shelf.asked())
    assert images.fetch(directory, newest=True) == ["python", "libc6", "coincurve"]
    assert shelf.asked()[before] == "apt-get -q download python:amd64"
    assert shelf.asked()[-1].endswith("coincurve==1")
    found = images.read_runtime(directory)
    assert found["usr/bin/python3.11"] == b"\x7fELF newer"
    assert found["usr/lib/libc.so.6"] == RUNTIME["usr/lib/libc.so.6"]
    fill(directory)
    with pytest.raises(Misuse, match="the lock pins"):  # this folder's lock rules, not the release's
        images.read_runtime(directory)


def test_newest_that_fails_half_way_leaves_a_folder_that_is_refused(shelf, tmp_path):
    directory = tmp_path / "runtime"
    images.fetch(directory)
    (shelf.path / "python.deb").write_bytes(NEWER["python.deb"])
    (shelf.path / "libc6.deb").unlink()
    with pytest.raises(Unavailable):
        images.fetch(directory, newest=True)
    assert not (directory / "runtime.toml").exists()
    with pytest.raises(Misuse, match=r"python\.deb is not version 1"):
        images.read_runtime(directory)


def test_newest_locks_the_version_that_it_took(shelf, tmp_path):
    shelf.apt.write_text(APT.replace("_1_amd64", "_2_amd64"))
    (shelf.path / "python.deb").write_bytes(NEWER["python.deb"])
    images.fetch(tmp_path / "runtime", newest=True)
    lock = runtime.parse_lock((tmp_path / "runtime" / "runtime.toml").read_bytes())
    assert {one.name: one.version for one in lock if one.kind == "deb"} == {"python": "2", "libc6": "2"}


def test_the_locked_versions_can_be_fetched_where_newest_was(shelf, tmp_path):
    directory = tmp_path / "runtime"
    (shelf.path / "python.deb").write_bytes(NEWER["python.deb"])
    images.fetch(directory, newest=True)
    fill(shelf.path)
    (directory / "python.deb").unlink()  # "move it away", as the refusal says
    images.fetch(directory)
    assert images.read_runtime(directory) == RUNTIME


def test_a_command_that_hangs_is_told(shelf, tmp_path, monkeypatch):
    shelf.apt.write_text("#!/bin/sh\ntouch half-a-package\nexec sleep 30\n")
    monkeypatch.setattr(images, "FETCH_S_MAX", 0.2)
    with pytest.raises(Unavailable, match=r"python cannot be fetched \(no end after 0.2 s\)"):
        images.fetch(tmp_path / "runtime")


def test_a_folder_that_cannot_be_made_is_told(shelf, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for directory in (tmp_path / "file", tmp_path / "file" / "runtime"):
        with pytest.raises(Misuse, match="cannot be made"):
            images.fetch(directory)


def test_a_package_that_cannot_be_read_is_told(shelf, tmp_path):
    (tmp_path / "runtime" / "python.deb").mkdir(parents=True)
    with pytest.raises(Misuse, match="cannot be read"):
        images.fetch(tmp_path / "runtime")


# Policies ----------------------------------------------------------------------------------------------------


def test_a_policy_accepts_these_registers_under_this_root_and_nothing_else():
    root = TrustedRoot.builtin(AWS_NITRO_G1)
    policy = images.policy_of(root, REGISTERS, 2)
    value = json.loads(policy.to_json())
    assert value["measurements"] == [{"root": AWS_NITRO_G1, **{name: data.hex() for name, data in REGISTERS.items()}}]
    assert [one["name"] for one in value["roots"]] == [AWS_NITRO_G1]
    assert policy.roots[0].certificate == BUILTIN_CERTIFICATES[AWS_NITRO_G1][1]
    assert value["seats_per_root_max"] == 2
    assert images.policy_of(root, REGISTERS).seats_per_root_max is None
    with pytest.raises(Misuse, match="lacks pcr2"):
        images.policy_of(root, {name: REGISTERS[name] for name in ("pcr0", "pcr1")})
