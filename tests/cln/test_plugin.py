"""The conversation, cut anywhere, and against the program itself over pipes on a real array.

lightningd wrote none of the messages here: they are written by hand after the documentation of plugins and of the hook
`db_write` (`doc/developers-guide/plugin-development` of ElementsProject/lightning). No lightningd was run.
"""

from __future__ import annotations

import signal
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.api import open_array
from perdure.cln.plugin import Plugin
from perdure.errors import Misuse, Unavailable
from perdure.service.main import require_id, settings_of
from perdure.service.site import config
from tests.cln.node import Node, dump, request
from tests.cln.rig import Running, answers, perdure
from tests.vss.served import array_place

# By hand, after the documentation: what lightningd is said to ask of a plugin at its start.
MANIFEST = (
    b'{"jsonrpc":"2.0","id":"cln:getmanifest#1","method":"getmanifest","params":{"allow-deprecated-apis":false}}\n\n'
)
WRITE = (
    b'{"jsonrpc":"2.0","id":"cln:db_write#2","method":"db_write","params":{"data_version":42,'
    b"\"writes\":[\"UPDATE vars SET val='a\\n\\nb' WHERE name='x'\"]}}\n\n"
)
INIT = (
    b'{"jsonrpc":"2.0","id":"cln:init#3","method":"init","params":{"options":{},"configuration":'
    b'{"lightning-dir":"/l","rpc-file":"lightning-rpc","startup":true,"network":"regtest"}}}\n\n'
)


@given(st.lists(st.integers(0, len(MANIFEST + WRITE + INIT)), max_size=8))
def test_cut_anywhere_the_conversation_is_the_same(places: list[int]) -> None:
    stream, seen = MANIFEST + WRITE + INIT, []
    plugin = Plugin(lambda version, writes: seen.append((version, list(writes))))
    bounds = [0, *sorted(places), len(stream)]
    raw = b"".join(plugin.receive(stream[at:end]) for at, end in pairwise(bounds))
    manifest, written, started = answers(raw)
    assert manifest["id"] == "cln:getmanifest#1"
    assert manifest["result"]["hooks"] == [{"name": "db_write"}]
    assert manifest["result"]["dynamic"] is False
    assert written == {"jsonrpc": "2.0", "id": "cln:db_write#2", "result": {"result": "continue"}}
    assert started["result"] == {}
    assert seen == [(42, ["UPDATE vars SET val='a\n\nb' WHERE name='x'"])]


def test_what_is_not_kept_is_never_answered_with_continue() -> None:
    def fail(version: int, writes: object) -> None:
        raise Unavailable("too few disks")

    for one in (
        request(1, 2, ["x"]),
        request(1, "2", ["x"]),
        request(1, True, ["x"]),
        request(1, 2, "x"),
        request(1, 2, [1]),
    ):
        reply = answers(Plugin(fail).receive(one))[0]
        assert "result" not in reply
        assert reply["error"]["message"]
    unknown = b'{"jsonrpc":"2.0","id":7,"method":"htlc_accepted","params":[]}\n\n'
    assert answers(Plugin(fail).receive(unknown))[0]["error"]["code"] == -32601
    assert Plugin(fail).receive(b'{"jsonrpc":"2.0","method":"shutdown"}\n\n') == b""


@given(st.one_of(st.binary(max_size=80), st.text(max_size=80).map(str.encode)))
def test_what_is_not_the_protocol_is_one_sentence(raw: bytes) -> None:
    plugin = Plugin(lambda version, writes: pytest.fail("nothing was to be written"))
    try:
        assert plugin.receive(raw + b"\n\n") == b""
    except Misuse as error:
        assert "nothing of it was kept" in str(error)  # noqa: PT017


# The program ----------------------------------------------------------------------------------------------


@pytest.mark.timeout(400)
def test_a_node_lives_dies_and_comes_back_from_an_array(tmp_path: Path) -> None:
    with array_place(tmp_path / "a") as place:
        node = Node(tmp_path / "node.sqlite3")
        with Running(*place.words) as plugin:
            assert plugin.ask(MANIFEST)["result"]["hooks"] == [{"name": "db_write"}]
            plugin.live(node, 25)
            assert plugin.ask(INIT)["result"] == {}
            plugin.live(node, 5)
            plugin.process.send_signal(signal.SIGKILL)
        old = tmp_path / "old.sqlite3"
        old.write_bytes(node.file.read_bytes())
        assert "version 30" in perdure("cln", "restore", *place.words, "-o", tmp_path / "one")
        assert dump(tmp_path / "one") == dump(node.file)
        with Running(*place.words) as plugin:
            plugin.live(node, 5)
            assert plugin.end() == 0
        lagging = Node(old)  # the host puts the node's file back
        with Running(*place.words) as plugin:
            reply = plugin.ask(request("x", lagging.version + 1, lagging.next()))
            assert "older copy" in reply["error"]["message"]
        assert "version 35" in perdure("cln", "restore", *place.words, "-o", tmp_path / "two")
        assert dump(tmp_path / "two") == dump(node.file)
        assert "Name a new file" in perdure("cln", "restore", *place.words, "-o", tmp_path / "two", code=2)
        lagging.close()
        node.close()


@pytest.mark.timeout(400)
def test_a_fenced_plugin_stops_its_node(tmp_path: Path) -> None:
    with array_place(tmp_path / "a") as place, Running(*place.words) as plugin:
        node = Node(tmp_path / "node.sqlite3")
        plugin.live(node, 3)
        taken = config.load(Path(place.words[1]))
        with open_array(settings_of(taken), require_id(taken)):
            reply = plugin.ask(request("x", node.version + 1, node.next()))
        assert "result" not in reply
        node.close()
