"""Genesis: blank disks become an array, once, by an explicit act. Its id is the hash of what is decided here.

A main program never does this by itself: a host could reset it by showing it blank disks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence

from perdure.array import journal
from perdure.array.genesis import Genesis
from perdure.array.geometry import GENESIS_AREA, HEAD_AREA, ROSTER_AREA, Geometry
from perdure.array.journal import Head
from perdure.array.places import Place
from perdure.array.ports import Channel, results
from perdure.array.roster import Roster, Version
from perdure.array.session import Greeting, Session
from perdure.array.world import Opened, World, new_epoch, persistently
from perdure.disk.wire import DISK_SECTOR_BYTES, NO_EPOCH
from perdure.errors import DiskLost, Misuse, PerdureError, Unavailable


async def create(
    world: World, channels: Sequence[Channel], geometry: Geometry, policy_digest: bytes, *, is_sealed: bool = True
) -> Opened:
    """Make an array of exactly n blank disks; `is_sealed` is false for one in the clear.

    Raises Misuse, Unavailable or BadEvidence; then there is no array.

    Disks that were touched before it failed are no longer blank: restart them to use them again.
    """
    if len(channels) != geometry.n:
        raise Misuse(f"an array of {geometry.n} disks needs {geometry.n} addresses, not {len(channels)}")
    sessions = [world.session(channel) for channel in channels]
    greetings = await world.runtime.gather(*(persistently(world, session.hello) for session in sessions))
    for session, greeting in zip(sessions, greetings, strict=True):
        _require_blank(session.channel.address, greeting, geometry)
    instances = tuple(greeting.instance for greeting in greetings)
    if len(set(instances)) != len(instances):
        raise Misuse("two of the addresses lead to the same disk; nothing was created")
    if world.spread is not None:
        pairs = zip(sessions, greetings, strict=True)
        world.spread.require(geometry, [Place(session.channel.address, one.attested) for session, one in pairs])
    genesis = Genesis(geometry, world.authority.public_key, policy_digest, instances, is_sealed)
    epoch = new_epoch(world.runtime, NO_EPOCH)
    roster = Roster(Version(epoch, 0), Version(NO_EPOCH, 0), 0, 0, instances, (), world.release, world.program)
    await _all(world, [session.open(instance, epoch) for session, instance in zip(sessions, instances, strict=True)])
    await _all(world, [_format(session, genesis, roster) for session in sessions])
    return Opened(genesis, epoch, roster, dict(zip(instances, sessions, strict=True)), 0, ())


def _require_blank(address: str, greeting: Greeting | PerdureError, geometry: Geometry) -> None:
    if isinstance(greeting, DiskLost):
        raise Unavailable(f"disk {address}: {greeting}; nothing was created") from greeting
    if isinstance(greeting, BaseException):
        raise greeting
    if greeting.epoch != NO_EPOCH:
        raise Misuse(
            f"disk {address} already belongs to an array; nothing was created and nothing on it was touched. To give "
            "up what it holds, restart it; to use the array, import it."
        )
    if greeting.size < geometry.disk_sectors:
        raise Misuse(
            f"disk {address} lends {greeting.size * DISK_SECTOR_BYTES} bytes, but each disk of this array needs "
            f"{geometry.disk_bytes}; nothing was created"
        )


async def _format(session: Session, genesis: Genesis, roster: Roster) -> None:
    record = genesis.encode().ljust(GENESIS_AREA * DISK_SECTOR_BYTES, b"\0")
    ops = [
        journal.write(0, GENESIS_AREA),
        journal.write(genesis.geometry.current_start, ROSTER_AREA),
        journal.write(genesis.geometry.head_start, HEAD_AREA),
    ]
    await session.execute(ops, (record, roster.encode(), Head(0, 0).encode()), evidence=True)


async def _all(world: World, work: Iterable[Awaitable[None]]) -> None:
    try:
        results(await world.runtime.gather(*work))
    except PerdureError as error:
        raise Unavailable(f"the array was not created: {error} Restart the disks and create it again.") from error
