"""Debian's own kernel and the modules that a disk's machine needs, as the inputs of `perdure image build`."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "linux-image-cloud-amd64"
MODULES = (  # in loading order
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci.ko",
    "net/core/failover.ko",
    "drivers/net/net_failover.ko",
    "drivers/net/virtio_net.ko",
)
VSOCK_MODULES = (
    "net/vmw_vsock/vsock.ko",
    "net/vmw_vsock/vmw_vsock_virtio_transport_common.ko",
    "net/vmw_vsock/vsock_loopback.ko",
)


@dataclass(frozen=True)
class Kernel:
    """`image` is a bzImage; `modules` the folder of its modules."""

    image: Path
    modules: Path

    def blobs(self, directory: Path, modules: tuple[str, ...] = MODULES) -> Path:
        """A folder for --init-blobs with these modules."""
        directory.mkdir()
        for name in modules:
            (directory / Path(name).name).write_bytes((self.modules / name).read_bytes())
        (directory / "modules").write_text("".join(f"{Path(name).name}\n" for name in modules))
        return directory


def debian_kernel(directory: Path) -> Kernel:
    """Bring the kernel's package into `directory`, unless it is there, and unpack it."""
    directory.mkdir(parents=True, exist_ok=True)
    if not list(directory.glob("unpacked/boot/vmlinuz-*")):
        depends = subprocess.run(
            ["apt-cache", "show", "--no-all-versions", PACKAGE], check=True, capture_output=True, text=True, timeout=60
        )
        name = re.search(r"linux-image-[0-9][^ ,]*", depends.stdout)
        assert name is not None, f"{PACKAGE} depends on no kernel"
        subprocess.run(
            ["apt-get", "-q", "download", name[0]], check=True, cwd=directory, capture_output=True, timeout=600
        )
        (package,) = directory.glob("linux-image-*.deb")
        subprocess.run(["dpkg-deb", "-x", package, directory / "unpacked"], check=True, timeout=120)
        package.unlink()
    (image,) = directory.glob("unpacked/boot/vmlinuz-*")
    version = image.name.removeprefix("vmlinuz-")
    return Kernel(image, directory / "unpacked" / "lib" / "modules" / version / "kernel")
