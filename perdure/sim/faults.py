"""What hosts do in one story: every kind of trouble of the threat model, drawn by the seed, biased to the worst.

Each seed allows itself some kinds only, so that each kind is seen in many companies, and also alone.
"""

from __future__ import annotations

from collections.abc import Callable

from perdure.array.ports import Lane
from perdure.disk import wire
from perdure.sim.disks import SimChannel, SimDisk
from perdure.sim.world import Main, Simulation

Intercept = Callable[[Lane, bytes], bytes | None]
Tamper = Callable[[Lane, bytes, bytes], bytes | None]


class Trouble:
    """The hosts of one simulation."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self.rng = sim.rng
        kinds: list[Callable[[], None]] = [
            self.crash,
            self.take_over,
            self.pause,
            self.silence,
            self.silence,
            self.break_connection,
            self.kill_disk,
            self.restart_blank,
            self.alter_replies,
            self.lose_replies,
            self.repeat_replies,
            self.forge_refusals,
            self.forge_plain_answers,
            self.forge_plain_answers,
            self.replay,
            self.join,
            self.join,
            self.clone,
            self.withhold,
            self.slow_down,
        ]
        self.kinds = [kind for kind in kinds if self.rng.random() < 0.5] or [self.crash]
        self.between = self.rng.random() < 0.5
        self.hides = self.rng.random() < 0.5
        self.gap_ms = self.rng.choice((1.0, 10.0, 60.0))

    async def story(self) -> None:
        """Trouble from the start to the end of the interesting part."""
        if self.rng.random() < 0.95:
            await self.sim.loop.sleep(100)  # else the creation is troubled too, and often there is no array
        for _ in range(self.rng.randint(5, 30)):
            await self.sim.loop.sleep(self.rng.expovariate(1 / self.gap_ms))
            if self.sim.array_id and not any(self._is_busy(main) for main in self.sim.mains):
                self.mount()
            else:
                self.rng.choice(self.kinds)()

    def _later(self, ms: float, call: Callable[[], None]) -> None:
        """Unless all hosts behave by then."""
        self.sim.loop.call_later(ms, lambda: None if self.sim.is_healed else call())

    def _is_busy(self, main: Main) -> bool:
        return main.is_serving or (not main.is_dead and main.array is None and not all(t.done for t in main.tasks))

    def mount(self) -> None:
        """A new main program; before it, what hosts can do to disks that nobody watches; then, whom they show it."""
        if self.between and self.rng.random() < 0.5:
            self.rng.choice((self.rewind_all, self.clone_all, self.unshelve))()
        main = self.sim.new_main()
        if self.hides and self.rng.random() < 0.6:
            self._hide(main)
        self.sim.note(f"main {main.number}: mounts")
        self.sim.mount(main)

    def _hide(self, main: Main) -> None:
        """Show about k disks, those above all that were hidden before."""
        n, k = self.sim.geometry.n, self.sim.geometry.k
        order = sorted(range(n), key=lambda seat: (seat not in self.sim.was_hidden, self.rng.random()))
        if self.rng.random() < 0.3:
            self.rng.shuffle(order)
        hidden = order[self.rng.randint(k, n) :]
        if hidden:
            self.sim.did("hide at mount", str(hidden))
        for seat in hidden:
            self._for_a_while(main.channels[seat], 400)

    def _for_a_while(self, channel: SimChannel, ms: float) -> None:
        channel.is_silent = True
        self._later(ms, lambda: setattr(channel, "is_silent", False))

    def _main(self) -> Main:
        alive = [main for main in self.sim.mains if not main.is_dead]
        return self.rng.choice([*alive[-1:], *alive, self.sim.mains[-1]])

    def _channel(self) -> tuple[int, SimChannel]:
        main = self._main()
        at = self.rng.randrange(len(main.channels))
        return int(main.channels[at].address.split("-")[1]), main.channels[at]

    # Main programs ----------------------------------------------------------------------------------------

    def crash(self) -> None:
        """A main program dies between two effects; sometimes all of them."""
        self.sim.did("crash")
        for main in self.sim.mains if self.rng.random() < 0.2 else [self._main()]:
            self.sim.kill_main(main)

    def take_over(self) -> None:
        """Another main program mounts while one serves; sometimes two at once."""
        if self.sim.array_id:
            self.sim.did("two mains")
            for _ in range(self.rng.choice((1, 1, 2))):
                self.mount()

    def pause(self) -> None:
        """One stands still for a while; often somebody mounts meanwhile."""
        main = self._main()
        self.sim.did("pause", f"main {main.number}")
        self.sim.loop.pause(main)
        self._later(self.rng.uniform(1, 600), lambda: self.sim.loop.resume(main))
        if self.rng.random() < 0.5:
            self.take_over()

    def join(self) -> None:
        """An empty seat of a serving main program gets a fresh disk, or the one that was voted off."""
        main = self._main()
        if not main.is_serving or main.array is None:
            return
        empty = [at for at, instance in enumerate(main.array.members.roster.seats) if instance is None]
        if empty:
            seat = self.rng.choice(empty)
            stands = self.sim.standing[seat]
            if stands is None or not stands.is_alive or self.rng.random() < 0.5:
                if stands is not None:
                    self.sim.shelf.append((seat, stands))
                self.sim.standing[seat] = self.sim.new_disk()
            self.sim.start(main, self.sim.join(main, seat))

    # Networks ---------------------------------------------------------------------------------------------

    def silence(self) -> None:
        """One or more disks cannot be reached, long enough to be voted off or not."""
        main = self._main()
        for _ in range(self.rng.choice((1, 1, 1, 2, self.sim.geometry.n))):
            channel = self.rng.choice(main.channels)
            self.sim.did("silence", f"main {main.number} {channel.address}")
            self.sim.was_hidden.add(int(channel.address.split("-")[1]))
            self._for_a_while(channel, self.rng.choice((5, 60, 400, 2000)))

    def break_connection(self) -> None:
        """What was sent may have landed or not."""
        seat, channel = self._channel()
        self.sim.did("broken connection", f"disk {seat}")
        channel.close()

    def slow_down(self) -> None:
        """One disk answers late from now on."""
        seat, channel = self._channel()
        self.sim.did("slow disk", f"disk {seat}")
        channel.latency_ms = self.rng.choice(((0.05, 0.1), (0.1, 15.0), (5.0, 10.0)))

    def _tamper(self, kind: str, tamper: Tamper, chance: float) -> None:
        seat, channel = self._channel()
        self.sim.did(kind, f"disk {seat}")
        rng = self.rng
        channel.tamper = lambda lane, command, reply: tamper(lane, command, reply) if rng.random() < chance else reply
        self._later(rng.uniform(1, 200), lambda: setattr(channel, "tamper", None))

    def alter_replies(self) -> None:
        """Some bit of some replies is flipped."""

        def alter(_lane: Lane, _command: bytes, reply: bytes) -> bytes:
            at = self.rng.randrange(len(reply))
            return reply[:at] + bytes([reply[at] ^ 1 << self.rng.randrange(8)]) + reply[at + 1 :]

        self._tamper("altered replies", alter, self.rng.choice((0.05, 1.0)))

    def lose_replies(self) -> None:
        """Carried out, and not answered."""
        self._tamper("lost replies", lambda _lane, _command, _reply: None, 0.3)

    def repeat_replies(self) -> None:
        """An earlier reply of the same disk in the place of this one."""
        kept: list[bytes] = []

        def repeat(_lane: Lane, _command: bytes, reply: bytes) -> bytes:
            kept.append(reply)
            return self.rng.choice(kept)

        self._tamper("repeated replies", repeat, 1.0)

    def _intercept(self, kind: str, forge: Callable[[SimDisk, bytes], bytes | None]) -> None:
        main = self._main()
        for seat in self.rng.sample(range(self.sim.geometry.n), self.rng.randint(1, self.sim.geometry.n)):
            self.sim.did(kind, f"disk {seat}")
            self._answer_for(main.channels[seat], seat, forge)
        if self.rng.random() < 0.3:
            self._later(self.rng.uniform(0, 20), lambda: self.sim.kill_main(main))

    def _answer_for(self, channel: SimChannel, seat: int, forge: Callable[[SimDisk, bytes], bytes | None]) -> None:
        def intercept(_lane: Lane, command: bytes) -> bytes | None:
            disk = self.sim.standing[seat]
            return None if disk is None else forge(disk, command)

        channel.intercept = intercept
        self._later(self.rng.uniform(1, 100), lambda: setattr(channel, "intercept", None))

    def forge_refusals(self) -> None:
        """Refusals are unsigned."""
        self._intercept("forged refusals", lambda _disk, _command: self._refusal())

    def _refusal(self) -> bytes | None:
        reason = self.rng.choice(list(wire.Reason))
        return wire.REPLY_HEADER.pack(wire.REFUSAL, reason) if self.rng.random() < 0.3 else None

    def forge_plain_answers(self) -> None:
        """A3: commands that ask for no evidence are dropped and answered."""
        self._intercept("forged plain answers", _plain_answer)

    # Disks ------------------------------------------------------------------------------------------------

    def _may_die(self) -> list[int]:
        """Seats of members, if one more may be lost; as a rule no array loses more than it can bear."""
        members = self.sim.members()
        here = [at for at, disk in enumerate(self.sim.standing) if disk and disk.is_alive and disk.instance in members]
        return here if len(here) > self.sim.geometry.k or self.rng.random() < 0.03 else []

    def kill_disk(self) -> None:
        """One disk is gone for good."""
        members = self._may_die()
        if members:
            seat = self.rng.choice(members)
            disk = self.sim.standing[seat]
            assert disk is not None
            self.sim.did("dead disk", f"disk {seat}")
            disk.is_alive = False

    def restart_blank(self) -> None:
        """One disk is gone, and another launch stands at its address (A20)."""
        members = self._may_die()
        if members:
            seat = self.rng.choice(members)
            disk = self.sim.standing[seat]
            assert disk is not None
            self.sim.did("blank restart", f"disk {seat}")
            disk.is_alive = False
            self.sim.standing[seat] = self.sim.new_disk()

    def replay(self) -> None:
        """A1: commands from the record, to the disk that they were for."""
        standing = [disk for disk in self.sim.standing if disk]
        if not standing:
            return
        disk = self.rng.choice(standing)
        if disk.commands and disk.is_alive:
            self.sim.did("replayed commands")
            start = self.rng.randrange(len(disk.commands))
            for command in disk.commands[start : start + self.rng.randint(1, 20)]:
                disk.core_reply(command)

    def clone(self) -> None:
        """A2: another launch is fed the record up to some point, and stands at the address."""
        self._clone(self.rng.randrange(self.sim.geometry.n), self.rng.randint(0, 8))

    def _clone(self, seat: int, less: int) -> None:
        disk = self.sim.standing[seat]
        if disk is None or not disk.is_alive:
            return
        self.sim.did("clone", f"disk {seat}, without the last {less} commands")
        clone = self.sim.new_disk()
        for command in disk.commands[: max(0, len(disk.commands) - less)]:
            clone.reply(command)
        self.sim.shelf.append((seat, disk))
        self.sim.standing[seat] = clone
        if self.rng.random() < 0.8:  # the genuine one is shown again
            self._later(self.rng.uniform(1, 500), self.unshelve)

    def clone_all(self) -> None:
        """The same to all at once, at the same point."""
        less = self.rng.randint(0, 6)
        for seat in range(self.sim.geometry.n):
            self._clone(seat, less)

    def withhold(self) -> None:
        """A genuine disk disappears, and may be shown again long after (A4, A21)."""
        seat = self.rng.randrange(self.sim.geometry.n)
        disk = self.sim.standing[seat]
        if disk is not None and disk.is_alive:
            self.sim.did("withheld disk", f"disk {seat}")
            self.sim.shelf.append((seat, disk))
            self.sim.standing[seat] = None
            self.sim.was_hidden.add(seat)
            self._later(self.rng.choice((20, 300, 1500)), self.unshelve)

    def unshelve(self) -> None:
        """Withheld disks are shown again; those that stand in their places are withheld instead."""
        for at, (seat, disk) in enumerate(self.sim.shelf):
            if self.rng.random() < 0.7:
                stands, self.sim.standing[seat] = self.sim.standing[seat], disk
                self.sim.note(f"host: disk {seat} is another again")
                if stands is not None:
                    self.sim.shelf[at] = seat, stands

    def rewind_all(self) -> None:
        """A1 with OPEN: every disk is given again, from its last OPEN on, all but the last few commands."""
        less = self.rng.randint(1, 6)
        self.sim.did("rewind by replay", f"without the last {less} commands")
        for disk in self.sim.standing:
            if disk is not None and disk.is_alive:
                log = [command for command in disk.commands if command[65] != wire.Opcode.READ]
                opens = [at for at, command in enumerate(log) if command[65] == wire.Opcode.OPEN]
                for command in log[opens[-1] : len(log) - less] if opens else []:
                    disk.core_reply(command)


def _plain_answer(disk: SimDisk, command: bytes) -> bytes | None:
    _, opcode, wanted, _, epoch, seq, _ = wire.COMMAND_HEADER.unpack_from(command, 64)
    if opcode != wire.Opcode.EXECUTE or wanted:
        return None
    result = wire.RESULT.pack(disk.instance, epoch, seq, disk.core.size)
    return wire.REPLY_HEADER.pack(wire.ANSWER, len(result)) + result
