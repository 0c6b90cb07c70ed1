"""The control socket: bounded lines, a closed list of requests, errors that keep their class."""

import asyncio
import json
import os
import stat
from dataclasses import asdict

import pytest

from perdure.errors import Clone, Fenced, Misuse, PerdureError, Refused, Unavailable, error_from_json, error_to_json
from perdure.service import control
from perdure.service.control import ControlServer, Request, ask


async def answer(request):
    match request:
        case Request("status"):
            return {"state": "online"}
        case Request("stop"):
            raise Fenced("another has it")
    return asdict(request)


def with_server(path, use):
    """Run `use`, a coroutine function or a blocking one in a thread, against a server at `path`."""

    async def main():
        server = ControlServer(path)
        await server.listen(answer)
        try:
            work = use() if asyncio.iscoroutinefunction(use) else asyncio.to_thread(use)
            return await asyncio.wait_for(work, 20)
        finally:
            await server.close()

    return asyncio.run(main())


def exchange(path, data):
    async def use():
        reader, writer = await asyncio.open_unix_connection(path, limit=1 << 20)
        writer.write(data)
        writer.write_eof()
        everything = await reader.read()
        writer.close()
        return [json.loads(line) for line in everything.splitlines()]

    return with_server(path, use)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "control.sock"


def test_a_request_is_answered(path):
    assert with_server(path, lambda: ask(path, "status")) == {"state": "online"}
    assert not path.exists()


def test_an_error_comes_back_as_it_was(path):
    with pytest.raises(Fenced, match="another has it") as raised:
        with_server(path, lambda: ask(path, "stop"))
    assert raised.value.exit_code == 3


def test_only_the_owner_can_connect(path):
    assert with_server(path, lambda: stat.S_IMODE(os.stat(path).st_mode)) == 0o600


def test_many_requests_on_one_connection(path):
    assert exchange(path, b'{"do": "status"}\n' * 3) == [{"state": "online"}] * 3


@pytest.mark.parametrize(
    "line",
    [b"", b"x", b"[]", b"{}", b'{"do": 1}', b'{"do": "status", "more": 1}', b"\xff", b"[" * 4000, b'{"do": "nothing"}'],
)
def test_what_is_no_request_is_refused_and_the_next_is_answered(path, line):
    first, second = exchange(path, line + b'\n{"do": "status"}\n')
    assert first["error"]["class"] == "Misuse"
    assert second == {"state": "online"}


KNOWN = (
    "'status', 'stop', 'upgrade', 'replace', 'rejoin', 'scrub', 'offline', 'clear', 'verify', 'events', 'event', "
    "'erase'"
)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"do": "mend"}, f"The main program knows {KNOWN}, not 'mend'."),
        ({"do": "status", "seat": 1}, "The request 'status' has no 'seat'; nothing was done."),
        ({"do": "scrub", "seat": 1}, "The request 'scrub' has no 'seat'; nothing was done."),
        ({"do": "rejoin", "seat": 1, "address": "a"}, "The request 'rejoin' has no 'address'; nothing was done."),
        ({"do": "replace"}, "The request 'replace' needs 'seat'; nothing was done."),
        ({"do": "replace", "seat": True}, "In the request 'replace' 'seat' must be a whole number; nothing was done."),
        ({"do": "replace", "seat": 1.0}, "In the request 'replace' 'seat' must be a whole number; nothing was done."),
        ({"do": "replace", "seat": None}, "In the request 'replace' 'seat' must be a whole number; nothing was done."),
        (
            {"do": "replace", "seat": 1, "address": 5},
            "In the request 'replace' 'address' must be text; nothing was done.",
        ),
        ({"do": "erase", "offset": 0, "receipt": "/x"}, "The request 'erase' needs 'length'; nothing was done."),
        ({"do": "scrub", "x" * 200: 1}, f"The request 'scrub' has no '{'x' * 79}; nothing was done."),
    ],
)
def test_arguments_are_a_closed_list_and_each_fault_has_its_sentence(path, given, sentence):
    (reply,) = exchange(path, json.dumps(given).encode() + b"\n")
    assert reply["error"] == {"class": "Misuse", "message": sentence, "exit_code": 2}


def test_arguments_arrive_and_what_is_none_is_not_sent(path):
    asked = with_server(path, lambda: ask(path, "replace", seat=0, address=None, bytes_per_s_max=1 << 40))
    assert {name: value for name, value in asked.items() if value is not None} == {
        "do": "replace",
        "seat": 0,
        "bytes_per_s_max": 1 << 40,
    }


def test_a_line_that_is_too_long_ends_the_connection(path):
    replies = exchange(path, b"x" * (control.REQUEST_BYTES_MAX + 1) + b'\n{"do": "status"}\n')
    assert [reply["error"]["message"] for reply in replies] == ["The control request is too long."]


def test_half_a_line_is_no_request(path):
    assert exchange(path, b'{"do": "status"}') == []


def test_nobody_there(path):
    with pytest.raises(Unavailable, match="The main program does not run"):
        ask(path, "status")


def test_a_socket_left_behind_is_replaced_and_a_live_one_is_not(path):
    ControlServer(path)._socket.close()  # as a kill leaves it
    assert path.is_socket()

    def second():
        with pytest.raises(Misuse, match="Another program answers"):
            ControlServer(path)
        return ask(path, "status")

    assert with_server(path, second) == {"state": "online"}


def test_a_file_in_the_way_is_left_alone(path):
    path.write_text("mine")
    with pytest.raises(Misuse, match="cannot be made"):
        ControlServer(path)
    assert path.read_text() == "mine"


def test_a_server_that_says_nothing(path):
    async def use():
        async def silent(reader, writer):
            await reader.read()
            writer.close()

        server = await asyncio.start_unix_server(silent, path)
        async with server:
            with pytest.raises(Unavailable, match=r"does not answer .* within 0 s"):
                await asyncio.to_thread(lambda: ask(path, "status", timeout_s=0.05))

    asyncio.run(use())


@pytest.mark.parametrize("error", [Misuse("m"), Clone("c"), Unavailable("u")])
def test_errors_keep_class_sentence_and_code(error):
    again = error_from_json(error_to_json(error))
    assert (type(again), str(again), again.exit_code) == (type(error), str(error), error.exit_code)


@pytest.mark.parametrize(
    "value", [{}, {"class": "annotations"}, {"class": "Later", "exit_code": 3}, error_to_json(Refused("r", 1))]
)
def test_an_error_of_an_unknown_class_is_still_one(value):
    again = error_from_json(value)
    assert type(again) is PerdureError
    assert again.exit_code == value.get("exit_code", 2)
