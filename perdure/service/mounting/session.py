"""One run from end to end: serve, attach, check, mount, the command, and all of it taken away in reverse.

What an earlier run has left is taken away by the very same steps (`take_away`), so a kill -9 at any moment needs no
others. Each step looks at what is there; one whose work is done already does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from perdure.errors import Misuse, PerdureError, Unavailable
from perdure.service.mounting import attach, command, file_system, mounts, record, serving, tools
from perdure.service.mounting.attach import Way
from perdure.service.mounting.command import Kept, Order, User
from perdure.service.mounting.file_system import Kind
from perdure.service.mounting.record import Record
from perdure.service.mounting.serving import Served
from perdure.service.site import background, processes
from perdure.service.site.config import Config, Sealing
from perdure.service.site.processes import Process

Say = Callable[[str], None]
BUSY = (
    "A `perdure run` is at work on this array already; nothing was started. Wait until it has ended, or end it with "
    "SIGTERM."
)


@dataclass(frozen=True, slots=True)
class Wish:
    """Where and how to mount. `make`: which file system to make first, on a blank array; None to use what is there."""

    mount_point: Path
    way: Way | None = None
    make: Kind | None = None
    options: tuple[str, ...] = ()
    owner: User | None = None
    """Whose a new file system's root directory shall be; None for ours."""


def run(found: Config, wish: Wish, order: Order, say: Say) -> int:
    """Run the command with the array mounted; its exit code, once all that it wrote is home and nothing is left.

    Raises PerdureError where the array could not be mounted, or where something written may not be on the disks.
    """
    lock = processes.locked(found.directory, name=record.LOCK_FILE, wait_s=0, busy=BUSY)
    with command.signals_kept() as kept, lock:
        try:
            return _run(found, wish, order, kept, say)
        finally:
            (found.directory / record.LOCK_FILE).unlink(missing_ok=True)  # ours as long as we hold it


def _run(found: Config, wish: Wish, order: Order, kept: Kept, say: Say) -> int:
    way = _possible_way(wish)
    earlier = _after_earlier(found, say)
    has_to_be_made = _require_empty(wish.mount_point)
    served = serving.serve(found, None if earlier is None else earlier.main)
    main = served.main if served.is_ours else None
    this = Record(found.directory, wish.mount_point, has_to_be_made, way, Process.this(), main=main).write()
    watch = Watch(served, say)
    if found.array.sealing is Sealing.NONE:
        say("The array is in the clear: hosts read every file that is written to it.")
    try:
        mount(this, wish, served.uri, say)
        code = command.run(order, kept, watch.look, say)
    except BaseException:
        for error in _ended(watch):
            say(str(error))
        raise
    wrong = list(_ended(watch))
    for error in wrong[1:]:
        say(str(error))
    if wrong:
        raise wrong[0]
    return code


def _possible_way(wish: Wish) -> Way:
    """The way in, with all looked at that can be before anything is started. Raises Misuse."""
    way = attach.choose(attach.look(), wish.way)
    if wish.make is not None:
        file_system.require_fit(wish.make, way)
        tools.require(f"mkfs.{wish.make}")
    return way


def _require_empty(mount_point: Path) -> bool:
    """Whether the mount point has yet to be made. Raises Misuse where mounting would hide something."""
    if mounts.find(mount_point) is not None:
        raise Misuse(f"Something is mounted at {mount_point} already; nothing was changed. Choose another --at.")
    try:
        if any(mount_point.iterdir()):
            raise Misuse(f"{mount_point} is not empty, and mounting would hide what is in it; choose another --at.")
    except FileNotFoundError:
        return True
    return False


def _after_earlier(found: Config, say: Say) -> Record | None:
    """Take away what an earlier run has left. Raises StillHeld where somebody still works there."""
    left = record.read(found.directory)
    if left is not None:
        say("An earlier run did not end by itself; taking away what it left.")
        lost = take_away(left, is_served=background.running(found) is not None, say=say)
        if lost is not None:
            say(f"What that run had not synced may be lost ({lost}); what it had is safe.")
    return left


# Mounting -------------------------------------------------------------------------------------------------


def mount(this: Record, wish: Wish, uri: str, say: Say) -> None:
    """Attach the array at `uri`, make a file system if that is wished, check it, mount it.

    Raises PerdureError; `take_away` of the record in the file undoes whatever was done by then.
    """
    this = _attached(this, uri)
    assert this.device is not None
    if wish.make is not None:
        say(f"Looking whether the array is blank, and making {wish.make}.")
        file_system.make(this.device, wish.make)
    kind = file_system.require_kind(this.device, this.way)
    mended = file_system.check(this.device, kind)
    if mended is not None:
        say(f"The file system was mended: {mended}.")
    with suppress(FileExistsError):
        this.mount_point.mkdir(mode=0o700)
    server = file_system.mount(this.device, this.mount_point, kind, this.way, wish.options, this.log)
    replace(this, fuse2fs=server).write()
    if wish.make is not None:
        uid, gid = (os.geteuid(), os.getegid()) if wish.owner is None else (wish.owner.uid, wish.owner.gid)
        os.chown(this.mount_point, uid, gid)
    say(f"{kind} is mounted at {this.mount_point}, by {this.way}.")


def _attached(this: Record, uri: str) -> Record:
    if this.way is Way.NBD:
        return replace(this, device=attach.connect(uri)).write()
    return replace(this, device=this.file, nbdfuse=attach.start_nbdfuse(uri, this.folder, this.log)).write()


# The end --------------------------------------------------------------------------------------------------


class Watch:
    """Looks after the array while the command runs, says once what is wrong, and keeps it."""

    def __init__(self, served: Served, say: Say) -> None:
        self.served = served
        self.say = say
        self.trouble: str | None = None

    def look(self) -> None:
        """Say it when the array has failed: the command sees errors, and may not say why."""
        if self.trouble is None:
            self.trouble = self.served.trouble()
            if self.trouble is not None:
                self.say(f"The array fails under the command: {self.trouble}")


def _ended(watch: Watch) -> Iterator[PerdureError]:
    """Take everything away and stop the main program if it is ours; what went wrong, the worst first.

    Where somebody still holds the file system, the main program goes on for them.
    """
    served = watch.served
    watch.trouble = watch.trouble or served.trouble()
    if watch.trouble is not None:
        yield Unavailable(f"Not all that was written is on the disks; what was synced is. {watch.trouble}")
    left = record.read(served.found.directory)
    try:
        lost = None if left is None else take_away(left, is_served=served.is_alive, say=watch.say)
    except PerdureError as error:
        yield error
        return
    if lost is not None:
        yield Unavailable(f"Not all that was written is on the disks; what the command itself had synced is. {lost}.")
    try:
        served.stop()
    except PerdureError as error:
        yield error
    if left is not None:
        left.remove()


def take_away(left: Record, *, is_served: bool, say: Say) -> str | None:
    """Flush, unmount, detach and remove what the record names and is still there.

    Returns why something may not have come home, None if all has. Raises StillHeld or Unavailable where something
    cannot be taken away; the same call later goes on from there.
    """
    if left.nbdfuse is not None and not is_served:
        left.nbdfuse.end(grace_s=0)  # what still asks it must fail now, and not wait for a server that has gone
    device, lost = left.device or left.file, None
    here = mounts.find(left.mount_point)
    if here is not None and here.is_of(device):
        lost = _synced(left.mount_point) if is_served else None
        mounts.unmount(left.mount_point, say)
    if left.fuse2fs is not None:
        attach.stop_server(left.fuse2fs)
    detached = _let_go_of_nbd(left) if left.way is Way.NBD else _let_go_of_file(left, is_served=is_served, say=say)
    if left.has_made_mount_point:
        with suppress(OSError):  # not made yet, or somebody has put something there
            left.mount_point.rmdir()
    return lost or detached


def _synced(mount_point: Path) -> str | None:
    done = tools.call("sync", "--file-system", mount_point)
    return None if done.code == 0 else done.last_line


def _let_go_of_nbd(left: Record) -> str | None:
    device = left.device
    if device is None or not left.run.is_of_this_boot or not attach.is_connected(device.name):
        return None
    lost = attach.bring_home(device)
    attach.disconnect(device)
    return lost


def _let_go_of_file(left: Record, *, is_served: bool, say: Say) -> str | None:
    attach.release_loops(left.file)
    lost = None
    if mounts.find(left.folder) is not None:
        lost = attach.bring_home(left.file) if is_served else None
        mounts.unmount(left.folder, say)
    if left.nbdfuse is not None:
        attach.stop_server(left.nbdfuse)
    with suppress(FileNotFoundError):
        left.folder.rmdir()
    return lost
