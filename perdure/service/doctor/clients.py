"""Judgements about how the served disk can be used here, and how disks on a vsock are reached. A core, as `machine`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from perdure.service.doctor.finding import Finding, fail, ok, warn

_WHY: Final = (
    "The array is served over NBD. Programs that speak it (qemu, nbdcopy, libnbd) need nothing more; for all others "
    "the kernel's client makes a device of it, or nbdfuse a file."
)


@dataclass(frozen=True, slots=True)
class Attachment:
    """What is here of what makes a device or a file out of an NBD export."""

    has_nbd_module: bool
    has_nbd_client: bool
    has_fuse: bool
    has_nbdfuse: bool
    has_loop: bool

    @property
    def by_kernel(self) -> bool:
        """Whether `nbd-client` can make /dev/nbd0 of it."""
        return self.has_nbd_module and self.has_nbd_client

    @property
    def by_fuse(self) -> bool:
        """Whether `nbdfuse` can show it as a file."""
        return self.has_fuse and self.has_nbdfuse


def kernel_client(here: Attachment) -> Finding:
    """Whether the kernel can be the client. Missing is no weakness where nbdfuse does the same."""
    if here.by_kernel:
        return ok("kernel NBD client", "The nbd module and nbd-client are here")
    lacking = [
        name for name, there in (("nbd module", here.has_nbd_module), ("nbd-client", here.has_nbd_client)) if not there
    ]
    found = f"Not here: {' and '.join(lacking)}"
    if here.by_fuse:
        return ok("kernel NBD client", f"{found}; nbdfuse is")
    return warn(
        "kernel NBD client",
        found,
        _WHY,
        "Install the package nbd-client and run `modprobe nbd`, or install nbdfuse.",
    )


def fuse_client(here: Attachment) -> Finding:
    """Whether nbdfuse can be the client. Missing is no weakness where the kernel does the same."""
    if here.by_fuse:
        return ok("nbdfuse", "/dev/fuse and nbdfuse are here")
    lacking = [name for name, there in (("/dev/fuse", here.has_fuse), ("nbdfuse", here.has_nbdfuse)) if not there]
    found = f"Not here: {' and '.join(lacking)}"
    if here.by_kernel:
        return ok("nbdfuse", f"{found}; the kernel's client is")
    return warn(
        "nbdfuse",
        found,
        _WHY,
        "Install nbdfuse (on Debian 12 in libnbd-bin, later in nbdfuse) and fuse3, or use nbd-client.",
    )


def loop_devices(here: Attachment) -> Finding:
    """Whether a file that nbdfuse shows can be mounted."""
    if here.has_loop:
        return ok("loop devices", "/dev/loop-control is here")
    if here.by_kernel or not here.by_fuse:
        return ok("loop devices", "Not here; only a file that nbdfuse shows would need one to be mounted")
    return warn(
        "loop devices",
        "Not here: /dev/loop-control",
        "nbdfuse shows the array as a file, and a file system in a file is mounted over a loop device.",
        "Run `modprobe loop`, or give the container /dev/loop-control and loop devices.",
    )


def vsock(addresses: Sequence[str], *, has_vsock: bool) -> Finding:
    """Whether disks on a vsock can be reached, if the configuration names any."""
    needed = [address for address in addresses if address.startswith("vsock:")]
    if has_vsock or not needed:
        return ok("vsock", "/dev/vsock is here" if has_vsock else "Not here, and no address of a disk needs it")
    return fail(
        "vsock",
        f"/dev/vsock is not here, and {needed[0]} needs it",
        "An enclave is reached by its parent only, over a vsock.",
        "Run `modprobe vhost_vsock` (a host) or `modprobe vmw_vsock_virtio_transport` (a guest); from another machine "
        "go through `perdure disk relay` on the parent.",
    )
