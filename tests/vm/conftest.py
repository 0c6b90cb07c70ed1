"""What the machines share: kernel and Python are fetched once, into build/vm, and kept there."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.errors import PerdureError
from perdure.service import images
from tests.cli.rig import Rig

from . import initramfs
from .guest import Guest
from .kernel import Kernel, debian_kernel
from .machine import missing

CACHE = Path(__file__).parents[2] / "build" / "vm"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    lacking = missing()
    for item in items:
        if lacking and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=f"NO IMAGE WAS BOOTED: {', '.join(lacking)} is not here"))


@pytest.fixture(scope="session")
def kernel() -> Kernel:
    try:
        return debian_kernel(CACHE / "kernel")
    except subprocess.SubprocessError as error:
        pytest.skip(f"NO IMAGE WAS BOOTED: Debian's kernel cannot be fetched ({error})")


@pytest.fixture(scope="session")
def runtime() -> Path:
    """The packages of the image's Python: those that are locked, or what there is where these are not to be had."""
    directory = CACHE / "runtime"
    try:
        images.fetch(directory)
    except PerdureError:
        directory = CACHE / "runtime-newest"
        try:
            if not (directory / images.LOCK_FILE).exists():
                images.fetch(directory, newest=True)
        except PerdureError as error:
            pytest.skip(f"NO IMAGE WAS BOOTED: its Python cannot be fetched ({error})")
    return directory


@pytest.fixture(scope="session")
def ramdisk(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of machines that use an array."""
    if lacking := initramfs.missing():
        pytest.skip(f"NOTHING RAN ON AN ARRAY IN A MACHINE: {', '.join(lacking)} is not here")
    path = tmp_path_factory.mktemp("ramdisk") / "guest.initramfs"
    path.write_bytes(initramfs.build(kernel))
    return path


@pytest.fixture
def guest(tmp_path: Path, kernel: Kernel, ramdisk: Path) -> Iterator[Guest]:
    """A machine that is off."""
    with Guest(tmp_path / "guest", kernel.image, ramdisk) as guest:
        yield guest


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Where `perdure up` is to make an array."""
    with Rig(tmp_path) as rig:
        yield rig
