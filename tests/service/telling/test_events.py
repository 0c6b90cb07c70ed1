"""Events: numbered, kept in the array with their evidence, told to a webhook; none is lost without a word."""

import asyncio
import contextlib
import json
import os
import random
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from perdure.api import Host
from perdure.array.geometry import HISTORY_SECTORS, Geometry
from perdure.array.history import History
from perdure.array.session import Proof
from perdure.errors import Misuse
from perdure.evidence.verifier import EVIDENCE_BYTES_MAX
from perdure.service.main import settings_of
from perdure.service.telling import events
from perdure.service.telling.events import Attached, Event, EventLog, Kind, Level
from perdure.service.telling.unkept import Unkept
from perdure.service.telling.webhook import Webhook
from tests.service.furnished import SIZE_BYTES, Site, until


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    site.end()


def lives(site, *stories, path=None, goes_on=True):
    """Each story gets the event log of a main program of its own, one after another, on one array.

    With `goes_on` each takes the place of the one before, as after an upgrade.
    """

    async def main():
        array_id = None
        for story in stories:
            host = Host(settings_of(site.found))
            try:
                if array_id is None:
                    array = await host.create(Geometry.for_size(2, 3, SIZE_BYTES, HISTORY_SECTORS))
                    array_id = array.array_id
                else:
                    array = await host.mount(array_id)
                unkept = Unkept(path, array_id.hex())
                log = EventLog(History(array), array.opened.epoch, unkept, None, host.runtime.unix_ms)
                log.goes_on = goes_on
                await story(log, array)
                await log.stop()
                if array.committer.failure is None:
                    await array.close()
            finally:
                await host.close()

    asyncio.run(asyncio.wait_for(main(), 60))


def note(log, message, **given):
    log.note(given.pop("kind", Kind.DISK), given.pop("level", Level.WARNING), message, **given)


def test_events_outlive_the_main_program_with_their_evidence(site):
    proof = Proof(b"question" * 20, b"answer" * 900)

    async def first(log, array):
        note(log, "one", seat=2, instance="ab", state="clone", evidence=[Attached(2, proof)])
        note(log, "two", kind=Kind.COMMAND, level=Level.INFO)
        await log.settle()
        assert [(event.number, event.message) for event in log.since(0)] == [(1, "one"), (2, "two")]

    async def second(log, array):
        note(log, "three")
        await log.settle()
        shown = log.since(0)
        assert [(event.number, event.message) for event in shown] == [(1, "one"), (2, "two"), (3, "three")]
        assert (shown[0].seat, shown[0].state, shown[0].evidence_seats) == (2, "clone", (2,))
        assert log.latest("clone") == shown[0]
        assert [event.number for event in log.since(2)] == [3]
        event, attached = await log.find(1)
        assert (event, attached) == (shown[0], [Attached(2, proof)])
        with pytest.raises(Misuse, match="has no record 4; it has 1 to 3"):
            await log.find(4)

    lives(site, first, second)


def test_numbers_are_told_apart_by_the_epoch_of_their_mount_and_a_mount_that_just_ended_is_said(site):
    told = []

    async def first(log, array):
        note(log, "kept")
        await log.settle()
        log._history.append = lambda body: asyncio.Event().wait()
        note(log, "told and not kept")
        told.extend(log.since(0))

    async def second(log, array):
        note(log, "next")
        await log.settle()
        told.extend(log.since(0))
        assert [event.message for event in log.since(0)] == [
            "kept",
            "the main program before this one ended without a word: what it told after event 1 may not be here, and "
            "the numbers after that are given again",
            "next",
        ]
        note(log, "stops", kind=Kind.ARRAY, state=events.ENDED)
        await log.settle()

    async def third(log, array):
        note(log, "last")
        await log.settle()
        assert [event.message for event in log.since(3)] == ["stops", "last"]
        told.extend(log.since(0))

    async def fourth(log, array):
        log.goes_on = True
        note(log, "upgraded")
        await log.settle()
        assert [event.message for event in log.since(5)] == ["upgraded"]

    lives(site, first, second, third, fourth, goes_on=False)
    known = {(event.epoch, event.number): event.message for event in told}
    assert len(known) == len(set(known.values())) == 6
    epochs = {event.message: event.epoch for event in told}
    assert epochs["told and not kept"] == epochs["kept"] < epochs["next"] == epochs["stops"] < epochs["last"]


def attached(*lengths):
    """Evidence of each seat that cannot be made shorter."""
    return [Attached(seat, Proof(b"question" * 20, os.urandom(length))) for seat, length in enumerate(lengths)]


def test_evidence_that_does_not_fit_is_left_out_the_longest_first_and_the_event_says_so(site):
    """A host that makes its own evidence long pushes out no other's."""
    many = attached(5000, 30_000, 5000, 30_000, 5000)
    kept = [many[at] for at in (0, 2, 4)]

    async def first(log, array):
        note(log, "loud", evidence=many)
        note(log, "whole", evidence=kept)
        await log.settle()
        sentence = "loud (the evidence of seats 1, 3 did not fit)"
        assert await log.find(1) == (log.since(0)[0], kept)
        assert (log.since(0)[0].message, log.since(0)[0].evidence_seats) == (sentence, (0, 2, 4))
        assert (await log.find(2))[0].message == "whole"

    lives(site, first)


def test_the_longest_evidence_that_is_believed_fits_whatever_the_sentence(site):
    (alone,) = attached(EVIDENCE_BYTES_MAX + 512)  # and what a disk's answer has around it
    sentence = "".join(random.Random(7).choices([chr(at) for at in range(0x10000, 0x20000)], k=5000))

    async def first(log, array):
        note(log, sentence, evidence=[alone])
        await log.settle()
        assert (log.failure, await log.find(1)) == (None, (log.since(0)[0], [alone]))

    lives(site, first)


def test_an_event_of_another_release_is_read_as_far_as_it_can_be_or_refused_in_a_sentence():
    value = Event(7, 0, Kind.DISK, Level.INFO, "x", seat=1, evidence_seats=(1,)).to_json()
    assert Event.from_json({**value, "weather": "fine"}) == Event.from_json(value), "a field that came later"
    assert (
        Event.from_json({name: value[name] for name in ("number", "unix_ms", "kind", "level", "message")}).seat is None
    )
    for other in ({**value, "kind": "weather"}, {**value, "level": "loud"}, {**value, "number": "7"}, {"number": 7}):
        with pytest.raises(Misuse, match=r"of another release than this command\. Run `perdure upgrade`"):
            Event.from_json(other)


def test_events_of_an_array_that_has_stopped_are_shown_and_said_not_to_be_kept(site, caplog):
    async def first(log, array):
        note(log, "before")
        await log.settle()
        array.committer.fail(Misuse("it has stopped"))
        note(log, "after", level=Level.CRITICAL)
        await log.settle()
        assert [event.message for event in log.since(0)] == ["before", "after"]
        assert "it has stopped" in log.failure
        assert "events are not kept in the array any more" in caplog.text

    async def second(log, array):
        await until(lambda: log.last)
        assert [event.message for event in log.since(0)] == ["before"]

    lives(site, first, second)


def test_events_of_an_array_that_has_stopped_are_kept_with_their_evidence_by_the_next_main_program(site, tmp_path):
    path, proof = tmp_path / "unkept", Proof(b"question", b"answer")

    async def first(log, array):
        note(log, "before")
        await log.settle()
        array.committer.fail(Misuse("it has stopped"))
        note(log, "fork", level=Level.CRITICAL, seat=2, instance="ab", state="rollback", evidence=[Attached(2, proof)])
        note(log, "stopped", kind=Kind.ARRAY, level=Level.CRITICAL, state="forked")
        await log.settle()
        assert (await log.find(2))[1] == [Attached(2, proof)]
        assert path.exists()

    async def second(log, array):
        note(log, "mine")
        await log.settle()
        assert [event.message for event in log.since(0)] == [
            "before",
            "the main program before this one ended without a word: what it told after event 1 may not be here, and "
            "the numbers after that are given again",
            "the 2 events that follow are of the main program before this one, which could not keep them in the array; "
            "they have new numbers",
            "fork",
            "stopped",
            "mine",
        ]
        event, attached = await log.find(4)
        assert (event.instance, event.state, attached) == ("ab", "rollback", [Attached(2, proof)])
        assert not path.exists()

    async def third(log, array):
        await until(lambda: log.last)
        assert [event.number for event in log.since(0)] == [1, 2, 3, 4, 5, 6, 7]

    lives(site, first, second, third, path=path, goes_on=False)


def test_a_main_program_that_ends_while_it_takes_them_over_loses_none(site, tmp_path):
    path = tmp_path / "unkept"

    async def first(log, array):
        await until(lambda: log.is_loaded)
        array.committer.fail(Misuse("it has stopped"))
        for number in range(3):
            note(log, str(number), evidence=[Attached(0, Proof(b"", bytes([number])))])
        await log.settle()

    async def second(log, array):
        append = log._history.append

        async def fails(body):
            if len(log._history.numbers) == 2:
                array.committer.fail(Misuse("it has stopped again"))
            return await append(body)

        log._history.append = fails
        note(log, "mine")
        await log.settle()
        assert [event.number for event in log.since(0)] == [1, 2, 3, 4, 5]
        for number, at in ((3, 1), (4, 2)):
            assert (await log.find(number))[0].message == str(at)

    async def third(log, array):
        await until(lambda: log.last == 6)
        await log.settle()
        shown = [event.message for event in log.since(0)]
        assert [message for message in shown if len(message) < 5] == ["0", "1", "2", "mine"]
        assert not path.exists()

    lives(site, first, second, third, path=path)


def test_a_record_that_cannot_be_read_is_shown_as_one_and_keeping_goes_on(site):
    async def first(log, array):
        note(log, "mine")
        await log.settle()

    async def second(log, array):
        await log.stop()
        history = History(array)
        await history.load()
        await history.append(b"not zlib")

    async def third(log, array):
        note(log, "goes on")
        await log.settle()
        assert log.failure is None
        shown = [event.message for event in log.since(0)]
        assert (shown[0], shown[2]) == ("mine", "goes on")
        assert "written by another release" in shown[1]

    async def fourth(log, array):
        await until(lambda: log.last)
        assert log.since(0)[-1].message == "goes on"

    lives(site, first, second, third, fourth)


def test_evidence_that_is_small_only_when_compressed_is_bounded_too(site):
    large = [Attached(seat, Proof(b"", bytes(66_000))) for seat in range(16)]

    async def first(log, array):
        note(log, "loud", evidence=large)
        note(log, "x" * 100_000)
        await log.settle()
        assert log.failure is None
        assert (await log.find(1))[1] == large[:7]
        assert len((await log.find(2))[0].message) == events.MESSAGE_CHARS_MAX

    lives(site, first)


def test_while_the_array_takes_none_events_are_posted_and_those_that_wait_are_bounded(site, monkeypatch):
    monkeypatch.setattr(events, "WAITING_MAX", 5)

    class Posted:
        def __init__(self):
            self.values = []

        def post(self, value):
            self.values.append(value["message"])

        async def settle(self):
            pass

    async def first(log, array):
        await until(lambda: log.is_loaded)
        log._webhook = Posted()
        gate, append = asyncio.Event(), log._history.append

        async def slowly(body):
            await gate.wait()
            return await append(body)

        log._history.append = slowly
        for number in range(20):
            note(log, str(number))
        note(log, "suspended", level=Level.CRITICAL)
        assert log._webhook.values == ["0", "1", "2", "3", "4", "suspended"]
        gate.set()
        await until(lambda: log.last == 7)
        await log.settle()
        shown = [(event.number, event.message) for event in log.since(0)]
        assert shown[4:] == [
            (5, "4"),
            (6, "suspended"),
            (7, "15 events found no room to wait in; they are in the log only"),
        ]
        assert (await log.find(7))[0].message == shown[6][1]

    lives(site, first)


# The webhook ----------------------------------------------------------------------------------------------


class Server:
    """A real HTTP server that takes events, after it has refused some."""

    def __init__(self, refusals=0):
        self.got, self.left = [], refusals
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.left -= 1
                if outer.left < 0:
                    outer.got.append(json.loads(body))
                self.send_response(503 if outer.left >= 0 else 204)
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr("perdure.service.telling.webhook.FIRST_WAIT_S", 0.01)


@pytest.mark.parametrize("refusals", [0, 2])
def test_events_are_posted_in_order_also_to_a_server_that_first_refuses(fast, refusals):
    server = Server(refusals)

    async def main():
        hook = Webhook(server.url)
        for number in range(3):
            hook.post({"number": number})
        await hook.settle()
        return hook.dropped

    try:
        assert asyncio.run(main()) == 0
        assert server.got == [{"number": 0}, {"number": 1}, {"number": 2}]
    finally:
        server.close()


def test_a_server_that_is_gone_costs_events_and_they_are_counted(fast, caplog):
    server = Server()
    server.close()

    async def main():
        hook = Webhook(server.url)
        hook.post({"number": 1})
        hook.post({"number": 2})
        await hook.settle()
        return hook.dropped

    assert asyncio.run(main()) == 2
    assert "did not take an event: 4 tries have failed; 2 given up so far" in caplog.text


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 503 \x1b[2JFAKE\r\n\r\n", "HTTP status 503"),
        (b"FAKE\x1b[2J 1.1 503\r\n\r\n", "BadStatusLine"),
        (b"HTTP/1.1 200 OK\r\nFAKE\x1b[2J" + b"x" * 70_000, "LineTooLong"),
        (b"", "RemoteDisconnected"),
    ],
)
def test_what_a_server_says_does_not_come_into_the_log(fast, caplog, answer, said):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = listener.accept()
                    with peer, contextlib.suppress(OSError):
                        peer.recv(65536)
                        peer.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()

        async def main():
            hook = Webhook(f"http://127.0.0.1:{listener.getsockname()[1]}/secret")
            hook.post({"number": 1})
            await hook.settle()

        with caplog.at_level("INFO", "perdure"):
            asyncio.run(main())
    assert f"the webhook did not take an event: {said}" in caplog.text
    for word in ("FAKE", "\x1b", "secret"):
        assert word not in caplog.text


def test_what_waits_for_a_slow_server_is_bounded(fast, monkeypatch):
    monkeypatch.setattr("perdure.service.telling.webhook.WAITING_MAX", 3)

    async def main():
        hook = Webhook("http://127.0.0.1:1/")
        for number in range(5):
            hook.post({"number": number})
        return hook.dropped, len(hook._waiting)

    assert asyncio.run(main()) == (2, 3)


def test_a_server_that_drips_holds_up_neither_the_next_post_nor_the_end(fast, monkeypatch):
    """It sends a byte now and then, so no operation on the socket ever takes too long."""
    monkeypatch.setattr("perdure.service.telling.webhook.TIMEOUT_S", 0.3)
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip():
            peer, _ = listener.accept()
            with peer, contextlib.suppress(OSError):
                peer.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                while not ended.wait(0.05):
                    peer.sendall(b"y")

        threading.Thread(target=drip, daemon=True).start()

        async def main():
            hook = Webhook(f"http://127.0.0.1:{listener.getsockname()[1]}/")
            hook.post({"number": 1})
            hook.post({"number": 2})
            await hook.settle()
            return hook.dropped

        begun = time.monotonic()
        dropped = asyncio.run(main())  # joins the loop's own threads
        assert time.monotonic() - begun < 10
        assert dropped == 2
        ended.set()


def test_a_redirect_is_refused(fast):
    server = Server()
    target = server.url

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(302)
            self.send_header("Location", target)
            self.end_headers()

        def do_GET(self):
            raise AssertionError("the post became a question")

        def log_message(self, *_):
            pass

    redirecting = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=redirecting.serve_forever, daemon=True).start()

    async def main():
        hook = Webhook(f"http://127.0.0.1:{redirecting.server_port}/")
        hook.post({"number": 1})
        await hook.settle()
        return hook.dropped

    try:
        assert asyncio.run(main()) == 1
        assert server.got == []
    finally:
        redirecting.shutdown()
        redirecting.server_close()
        server.close()
