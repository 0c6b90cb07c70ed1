"""A server that is killed in the middle, one that is fenced, and a host that puts yesterday's back."""

from __future__ import annotations

import http.client
import shutil
import socket
import threading
from pathlib import Path

import pytest

from perdure.api import open_array
from perdure.service.main import require_id, settings_of
from perdure.service.owning import owned
from perdure.service.site import config
from tests.cli.rig import perdure
from tests.vss import wire
from tests.vss.client import Client, Refused
from tests.vss.served import Place, array_place, file_place, serving

WRITERS = 4
pytestmark = pytest.mark.timeout(400)
"""Each starts many processes."""
PAIR = ("left", "right")


class Writer(threading.Thread):
    """Writes pairs of keys in one transaction each, until the server is gone; counts what it was told is kept."""

    def __init__(self, client: Client, enough: threading.Semaphore) -> None:
        super().__init__()
        self.client = client
        self.enough = enough
        self.acknowledged = 0
        self.why: Exception | None = None

    def run(self) -> None:
        try:
            while True:
                value = b"%d" % (self.acknowledged + 1)
                self.client.put(
                    [(key, value * 300, self.acknowledged) for key in PAIR], global_version=self.acknowledged
                )
                self.acknowledged += 1
                self.enough.release()
        except (OSError, http.client.HTTPException, Refused) as error:
            self.why = error


def writers(served, count: int = WRITERS) -> tuple[list[Writer], threading.Semaphore]:
    enough = threading.Semaphore(0)
    found = [Writer(served.client(f"store-{at}"), enough) for at in range(count)]
    for writer in found:
        writer.start()
    return found, enough


def test_what_was_answered_is_there_after_kill_9_and_no_half_of_a_transaction(place: Place) -> None:
    before = [0] * WRITERS
    for _ in range(2):
        with serving(place) as served:
            for at in range(WRITERS):
                client = served.client(f"store-{at}")
                if before[at]:
                    client.delete("left", -1)
                    client.put([], [("right", -1), ("global_version", -1)])
            found, enough = writers(served)
            for _ in range(WRITERS * 6):
                assert enough.acquire(timeout=60)
            served.kill()
            for writer in found:
                writer.join(60)
                assert not isinstance(writer.why, Refused)
        with serving(place) as served:
            for at, writer in enumerate(found):
                left, right = (served.client(f"store-{at}").get(key) for key in PAIR)
                assert left == right, "a transaction is whole"
                version = left[1]
                assert left[0] == b"%d" % version * 300
                assert writer.acknowledged <= version <= writer.acknowledged + 1
                assert served.client(f"store-{at}").get("global_version")[1] == version
                before[at] = version


def test_a_fenced_server_acknowledges_nothing_and_reads_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with array_place(tmp_path / "a") as place, serving(place, log=log) as served:
        client = served.client("s")
        client.put([("k", b"old", 0)])
        found, enough = writers(served, 2)
        for _ in range(6):
            assert enough.acquire(timeout=60)
        taken = config.load(Path(place.words[1]))
        with open_array(settings_of(taken), require_id(taken)):  # as another machine would, which knows of no lock here
            for writer in found:
                writer.join(60)
                assert isinstance(writer.why, Refused)
                assert writer.why.code == "INTERNAL_SERVER"
            for act in (lambda: client.get("k"), client.list, lambda: client.put([("k", b"new", 1)])):
                with pytest.raises(Refused, match="INTERNAL_SERVER"):
                    act()
        assert served.stop() == 3
        assert "this one has lost it" in log.read_text()
        with serving(place) as again:
            assert again.client("s").get("k") == (b"old", 1)
            for at, writer in enumerate(found):
                version = again.client(f"store-{at}").get("left")[1]
                assert writer.acknowledged <= version <= writer.acknowledged + 1


def test_a_fenced_server_that_nobody_wrote_to_since_does_not_answer_a_read(tmp_path: Path) -> None:
    """The attack: the host keeps yesterday's server running and sends the node there."""
    with array_place(tmp_path / "a") as place, serving(place) as served:
        old = served.client("s")
        old.put([("k", b"old", 0)])
        taken = config.load(Path(place.words[1]))
        with open_array(settings_of(taken), require_id(taken)), pytest.raises(Refused, match="INTERNAL_SERVER"):
            old.get("k")
        assert served.stop() == 3


def test_one_machine_has_one_owner_of_an_array(tmp_path: Path) -> None:
    with array_place(tmp_path / "a") as place, serving(place) as served:
        done = perdure("vss", "serve", "--no-auth", *place.words)
        assert done.code == 2
        assert "one owner" in done.sentence
        served.client().put([("k", b"still served", 0)])
        taken = config.load(Path(place.words[1]))
        with pytest.raises(Exception, match="one owner"), owned(taken):
            pass


def test_yesterdays_file_is_served_as_if_it_were_todays(tmp_path: Path) -> None:
    """What the ordinary database cannot notice: the version is that of a revoked state, and nothing says so."""
    place, file = file_place(tmp_path), tmp_path / "vss.db"
    with serving(place) as served:
        served.client("s").put([("channel", b"revoked", 0)], global_version=0)
        assert served.stop() == 0
    shutil.copy(file, tmp_path / "yesterday")
    with serving(place) as served:
        served.client("s").put([("channel", b"current", 1)], global_version=1)
        assert served.stop() == 0
    shutil.copy(tmp_path / "yesterday", file)
    with serving(place) as served:
        assert served.client("s").get("channel") == (b"revoked", 1)


def test_yesterdays_directory_does_not_bring_back_yesterdays_array(tmp_path: Path) -> None:
    """The same attack with all that the host keeps of an array: what is in the directory decides nothing."""
    with array_place(tmp_path / "a") as place:
        directory = Path(place.words[1]).parent
        with serving(place) as served:
            served.client("s").put([("channel", b"revoked", 0)], global_version=0)
            assert served.stop() == 0
        yesterday = {path: path.read_bytes() for path in directory.iterdir() if path.is_file()}
        with serving(place) as served:
            served.client("s").put([("channel", b"current", 1)], global_version=1)
            assert served.stop() == 0
        for path, content in yesterday.items():
            path.write_bytes(content)
        with serving(place) as served:
            assert served.client("s").get("channel") == (b"current", 2)


@pytest.mark.parametrize(("version", "kept"), [(-1, (b"revoked", 1)), (0, (b"current", 2))])
def test_a_host_that_holds_back_a_connection_undoes_newer_writes_unless_they_have_versions(
    version: int, kept: tuple[bytes, int], tmp_path: Path
) -> None:
    """The client gives up on the first connection and repeats its request over another; TLS would not change it.

    A limit of the protocol, not of the server: that is why a client that writes without versions belongs beside it.
    """
    with serving(file_place(tmp_path)) as served:
        client = served.client("s")
        body = wire.data(1, "s") + wire.data(3, wire.key_value("channel", version, b"revoked"))
        head = f"POST /vss/putObjects HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection((client.place.hostname, client.place.port), timeout=60) as held:
            client.put([("channel", b"revoked", version)])
            client.put([("channel", b"current", -1 if version < 0 else 1)])
            held.sendall(head.encode() + body)
            with held.makefile("rb") as reply:
                assert reply.readline().split()[1] == (b"200" if version < 0 else b"409")
        assert client.get("channel") == kept
