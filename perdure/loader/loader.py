"""The loader's states, and what it does when asked. Who asks is not trusted; see `perdure.loader.talk`.

    empty -> loaded -> accepting -> running -> handing -> ended
                ^          |           ^          |
                '----------'           '- waiting-+-> superseded -> handing

*Loaded*: a manifest that enough developers signed, and its program, stand in memory. *Accepting*: the key is here, by
ceremony (an operator sealed it) or by succession (the loader before this one did), and the array is asked whether this
version may run. *Running*: the main program has said that it serves. *Handing*: the main program has brought everything
home and ended, and the key is sealed to a successor; until that one says that it serves, this loader is ready to go
on. *Waiting*: it goes on as soon as the array can be mounted. *Superseded*: it wanted to go on, and the array had
accepted a higher version: no main program runs here any more, but the key is kept for the next successor.

Order makes two owners impossible: the key is sealed after the old main program has ended, and the array, whichever way
messages are lost, obeys the one that mounted last (docs/spec.md, 8.2).
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from perdure.array.roster import NO_PROGRAM
from perdure.disk.serve import Platform
from perdure.errors import Corrupt, Fork, Misuse, OldProgram, PerdureError, error_to_json
from perdure.evidence.verifier import Verifier
from perdure.loader import memory
from perdure.loader.acceptance import accept, program_of
from perdure.loader.child import PROGRAM, STOP_S_MAX, Child, Hints, configuration
from perdure.loader.loading import Loaded, authorised, load
from perdure.loader.offer import NO_KEY, NONCE_BYTES, Offer, Purpose
from perdure.loader.sealed import Recipient, Secret, seal
from perdure.loader.talk import PAYLOAD_BYTES_MAX, Talk, connected, packed, text, texts, unpacked, unpacked_all
from perdure.manifest.developers import Developers

SUCCESSOR_S_MAX: Final = 120.0
"""How long a successor may take from having the key until its main program serves."""
IDLE_S_MAX: Final = 60.0
"""How long a connection may say nothing, or take for one message."""
RETRY_S: Final = 1.0
logger = logging.getLogger("perdure.loader")


class State(StrEnum):
    """Where a loader is; see above."""

    EMPTY = "empty"
    LOADED = "loaded"
    ACCEPTING = "accepting"
    RUNNING = "running"
    HANDING = "handing"
    WAITING = "waiting"
    SUPERSEDED = "superseded"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Offered:
    """An offer, the key that was made for it, and the very program that it speaks of."""

    recipient: Recipient
    offer: Offer
    loaded: Loaded

    def shown(self, evidence: bytes) -> Mapping[str, Any]:
        """What whoever asked is to judge."""
        return {
            "public_key": packed(self.offer.public_key),
            "manifest": packed(self.loaded.manifest.to_json()),
            "evidence": packed(evidence),
        }


@dataclass(slots=True)
class Asker:
    """One connection, with what was drawn for it and is good for one use."""

    conversation: Talk
    challenge: bytes = b""
    offered: Offered | None = None


class Loader:
    """One loader, from its start until `ended` has the exit status. `place` is a directory in memory."""

    def __init__(self, door: Platform, developers: Developers, place: Path) -> None:
        self._door = door
        self._developers = developers
        self._place = place
        self._state = State.EMPTY
        self._loaded: Loaded | None = None
        self._hints = Hints((), "", 0)
        self._secret: Secret | None = None
        self._child: Child | None = None
        self._watching: asyncio.Task[None] | None = None
        self._busy = asyncio.Lock()
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    # Requests ---------------------------------------------------------------------------------------------

    async def serve(self, conversation: Talk) -> None:
        """Answer until the other side ends."""
        asker = Asker(conversation)
        while True:
            may_load = self._state in (State.EMPTY, State.LOADED)
            try:
                async with asyncio.timeout(IDLE_S_MAX):
                    received = await conversation.receive(payload_max=PAYLOAD_BYTES_MAX if may_load else 0)
            except TimeoutError:
                return  # there are few places, and others may have something to say
            except Misuse as error:
                await conversation.send({"error": error_to_json(error)})
                return  # there is no telling where the next message starts
            if received is None:
                return
            answer = await self._answered(*received, asker)
            if answer is not None:
                await conversation.send(answer)

    async def _answered(self, request: Mapping[str, Any], payload: bytes, asker: Asker) -> Mapping[str, Any] | None:
        try:
            return await self._answer(request, payload, asker)
        except PerdureError as error:
            logger.warning("%.40r: refused: %s", request.get("do"), error)
            return {"error": error_to_json(error)}

    async def _answer(self, request: Mapping[str, Any], payload: bytes, asker: Asker) -> Mapping[str, Any] | None:
        match request.get("do"):
            case "health":
                return self._health()
            case "identity":
                return self._identity(Purpose.IDENTITY, unpacked(request, "nonce"))
            case "running":
                self._require(State.RUNNING)
                return self._identity(Purpose.RUNNING, unpacked(request, "nonce"))
            case "load":
                return self._load(request, payload)
            case "offer":
                asker.offered, evidence = self._offer(Purpose.CEREMONY, unpacked(request, "nonce"))
                return asker.offered.shown(evidence)
            case "challenge":
                asker.challenge = os.urandom(NONCE_BYTES)
                return {"nonce": packed(asker.challenge)}
        async with self._busy:
            match request.get("do"):
                case "provide":
                    return await self._provide(unpacked(request, "sealed"), asker)
                case "follow":
                    return await self._follow(text(request, "address"))
                case "succeed":
                    await self._succeed(request, asker)
                    return None
                case "stop":
                    return await self._stop()
        raise Misuse(f"A loader knows nothing of {request.get('do')!r:.80}; nothing was done.")

    def _health(self) -> Mapping[str, Any]:
        found = self._loaded
        return {
            "state": self._state,
            "manifest": None if found is None else packed(found.manifest.to_json()),
            "signers": [] if found is None else list(found.signers),
            "pid": None if self._child is None else self._child.pid,
            "says": "" if self._child is None else self._child.says,
        }

    def _identity(self, purpose: Purpose, nonce: bytes) -> Mapping[str, Any]:
        program = NO_PROGRAM if self._loaded is None else program_of(self._loaded.manifest)
        offer = Offer(purpose, nonce, NO_KEY, program)
        return {**self._health(), "evidence": packed(self._attest(offer))}

    def _require(self, *states: State) -> None:
        if self._state not in states:
            raise Misuse(f"This loader is {self._state}, and that can be asked only of one that is {states[0]}.")

    # Loading ----------------------------------------------------------------------------------------------

    def _load(self, request: Mapping[str, Any], payload: bytes) -> Mapping[str, Any]:
        self._require(State.EMPTY, State.LOADED)
        given = unpacked_all(request, "signatures")
        hints = Hints(texts(request, "addresses"), text(request, "serve"), _uid(request))
        place = self._place / PROGRAM
        memory.wipe(place)
        place.mkdir()
        place.chmod(0o755)  # whatever the umask: the program's user must come in
        self._loaded, self._state = None, State.EMPTY
        self._loaded = load(self._developers, unpacked(request, "manifest"), given, payload, place)
        self._hints, self._state = hints, State.LOADED
        found = self._loaded.manifest
        logger.info("loaded %s version %d, signed by %s", found.name, found.version, ", ".join(self._loaded.signers))
        return self._health()

    # The key ----------------------------------------------------------------------------------------------

    def _attest(self, offer: Offer) -> bytes:
        try:
            return self._door.attest(offer.commitment())
        except (OSError, ValueError) as error:
            raise Misuse(f"The platform gives no evidence ({error}); nothing was shown.") from None

    def _offer(self, purpose: Purpose, nonce: bytes) -> tuple[Offered, bytes]:
        """A new ephemeral key, and evidence that it is this loader's, with this manifest."""
        self._require(State.LOADED)
        assert self._loaded is not None
        recipient = Recipient()
        offer = Offer(purpose, nonce, recipient.public_key, program_of(self._loaded.manifest))
        return Offered(recipient, offer, self._loaded), self._attest(offer)

    async def _provide(self, sealed: bytes, asker: Asker) -> Mapping[str, Any]:
        """Ceremony: the operator has judged the offer, and sends the key."""
        self._require(State.LOADED)
        if asker.offered is None:
            raise Misuse("Nothing was offered on this connection to which a key could be sealed; ask for an offer.")
        offered, asker.offered = asker.offered, None
        await self._begin(offered, sealed)
        return self._health()

    async def _begin(self, offered: Offered, sealed: bytes) -> None:
        """Have the array accept the manifest, and start the main program; without success, everything is as before.

        Whoever sealed the key has judged one manifest. If a host has loaded another since, that one gets nothing; from
        here on, with no wait in between, nothing can be loaded.
        """
        self._require(State.LOADED)
        secret = offered.recipient.open(sealed, offered.offer)
        if self._loaded is not offered.loaded:
            raise Corrupt("Another program was loaded since the offer was judged; the key was dropped. Begin again.")
        self._state, self._secret = State.ACCEPTING, secret
        try:
            await self._start()
        except BaseException:
            self._state, self._secret = State.LOADED, None
            raise

    async def _start(self) -> None:
        assert self._loaded is not None
        assert self._secret is not None
        found = self._loaded
        began = time.monotonic()
        shape = await accept(self._secret, found.manifest, self._hints.addresses)
        logger.info("the array accepts version %d", found.manifest.version)
        files = configuration(self._secret, found.manifest, shape, self._hints)
        command = found.manifest.arguments(str(found.program), str(Child.directory(self._place)))
        child = await Child.start(command, self._place, files, self._hints.uid)
        try:
            await child.serving()
        except BaseException:
            await child.stop()
            raise
        self._child, self._state = child, State.RUNNING
        self._watching = asyncio.ensure_future(self._watch(child))
        logger.info("the main program serves as process %d; that took %.2f s", child.pid, time.monotonic() - began)

    # Succession: the new side -----------------------------------------------------------------------------

    async def _follow(self, address: str) -> Mapping[str, Any]:
        """Ask the loader at `address`, which runs, for the key, and tell it when the main program serves."""
        self._require(State.LOADED)
        assert self._loaded is not None
        async with connected(address) as before:
            challenge = unpacked(await before.ask("challenge"), "nonce")
            offered, evidence = self._offer(Purpose.SUCCESSION, challenge)
            fields = {**offered.shown(evidence), "signatures": [packed(one) for one in offered.loaded.signatures]}
            answer = await before.ask("succeed", timeout_s=STOP_S_MAX * 2, **fields)
            logger.info("the loader at %s has handed over", address)
            await self._begin(offered, unpacked(answer, "sealed"))
            confirmed = await self._tell_that_it_serves(before)
        return {**self._health(), "before_has_ended": confirmed}

    async def _tell_that_it_serves(self, before: Talk) -> bool:
        """Whether the loader before this one has said that it ends; if not, it may go on, and fence this one."""
        try:
            return (await before.ask("", running=True)).get("ended") is True
        except PerdureError as error:
            logger.warning("the loader before this one may go on: %s", error)
            return False

    # Succession: the old side -----------------------------------------------------------------------------

    async def _succeed(self, request: Mapping[str, Any], asker: Asker) -> None:
        """Judge who wants to follow; have the main program end; seal the key; go on unless the other serves."""
        self._require(State.RUNNING, State.WAITING, State.SUPERSEDED)
        challenge, asker.challenge = asker.challenge, b""
        offer = self._judged(request, challenge)
        assert self._secret is not None
        logger.info("version %d follows: the main program is asked to bring everything home", offer.program.version)
        self._state = State.HANDING
        await self._stop_child()
        try:
            await asker.conversation.send({"sealed": packed(seal(self._secret, offer))})
            async with asyncio.timeout(SUCCESSOR_S_MAX):
                said = await asker.conversation.receive()
        except (ConnectionError, TimeoutError, Misuse):
            said = None
        if said is not None and said[0].get("running") is True:
            with suppress(ConnectionError):
                await asker.conversation.send({"ended": True})
            self._end(0, "the successor serves; nothing of the key is left here")
        else:
            logger.warning("the successor does not say that it serves: this loader goes on")
            self._state = State.WAITING
            self._watching = asyncio.ensure_future(self._go_on())

    def _judged(self, request: Mapping[str, Any], challenge: bytes) -> Offer:
        """The offer of a loader that may have the key. Raises PerdureError; then nothing has been stopped."""
        assert self._loaded is not None
        assert self._secret is not None
        given = unpacked_all(request, "signatures")
        manifest, _ = authorised(self._developers, unpacked(request, "manifest"), given)
        own, theirs = program_of(self._loaded.manifest), program_of(manifest)
        if manifest.array_id != self._secret.array_id:
            raise Misuse("The successor's manifest is for another array; this main program goes on.")
        if theirs.version < own.version or (theirs.version == own.version and theirs != own):
            raise OldProgram(
                f"Version {own.version} runs here, and the successor has a manifest of version {theirs.version}: what "
                "follows has a higher version, or the very same manifest. This one goes on."
            )
        if not challenge:
            raise Misuse("The successor did not ask for a challenge first; this main program goes on.")
        offer = Offer(Purpose.SUCCESSION, challenge, unpacked(request, "public_key"), theirs)
        verifier = Verifier(self._secret.loaders)
        verifier.verify(unpacked(request, "evidence"), offer.commitment(), time.time_ns() // 1_000_000)
        return offer

    async def _go_on(self) -> None:
        """Run the main program again, as soon as the array can be mounted; unless the array has moved on."""
        while True:
            try:
                await self._start()
                return
            except OldProgram as error:
                self._state = State.SUPERSEDED
                logger.error("superseded: %s The key is kept for the next successor.", error)  # noqa: TRY400
                return
            except PerdureError as error:
                logger.error("not yet: %s", error)  # noqa: TRY400
                await asyncio.sleep(RETRY_S)

    # The end ----------------------------------------------------------------------------------------------

    async def _watch(self, child: Child) -> None:
        """When a main program ends by itself: run it again, unless it meant to, or evidence says that it must not."""
        status = await child.wait()
        if self._child is not child:
            return  # it was stopped by us
        self._child = None
        if status in (0, Fork.exit_code):
            self._end(status, f"the main program ended with {status}")
            return
        logger.error("the main program ended with %d; it is run again", status)
        self._state = State.WAITING
        await asyncio.sleep(RETRY_S)
        await self._go_on()

    async def _stop_child(self) -> int | None:
        """The main program's exit status; None when none ran."""
        child, self._child = self._child, None
        watching, self._watching = self._watching, None
        status = None
        if child is not None:
            status = await child.stop()
            logger.info("the main program ended with %d", status)
        if watching is not None:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        return status

    async def _stop(self) -> Mapping[str, Any]:
        status = await self._stop_child()
        self._end(0 if status is None else status, "told to stop")
        return {**self._health(), "status": status}

    def signal(self, number: int) -> None:
        """A signal to the loader is one to the main program; without one it ends the loader."""
        if self._child is not None:
            self._child.send(number)
        else:
            self._end(0, "told to stop")

    def _end(self, status: int, why: str) -> None:
        self._state, self._secret = State.ENDED, None
        if not self.ended.done():
            logger.info("%s", why)
            self.ended.set_result(status)


def _uid(request: Mapping[str, Any]) -> int:
    uid = request.get("uid")
    if type(uid) is not int or not 0 < uid < 1 << 31:
        raise Misuse("A message to a loader needs 'uid', the user as whom the main program runs, which is not root's.")
    return uid
