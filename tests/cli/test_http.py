"""The page and the probes of a real main program: where they are, what they say when it fails, and when it ends."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from perdure.service.site import artefacts
from tests.cli.rig import Rig
from tests.page import shown


@pytest.fixture
def rig(tmp_path):
    with Rig(tmp_path, disks=3, threshold=2) as rig:
        yield rig


def get(url):
    """Status and body."""
    try:
        with urllib.request.urlopen(url, timeout=20) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def log(rig):
    return (rig.directory / artefacts.MAIN_LOG_FILE).read_text()


def test_a_degraded_array_is_ready_and_one_that_has_stopped_says_why_and_lives(rig):
    url = shown.up(rig)
    assert get(f"{url}healthz") == (200, "the main program turns\n")
    assert get(f"{url}readyz") == (200, "online [UUU]\n")
    rig.wait_for(lambda status: status["events_last"] >= 1)
    (event,) = json.loads(get(f"{url}api/events?since=0")[1])["events"]
    assert event == rig.run("events", "--json").json["events"][0]
    rig.kill_disk(0)
    rig.wait_for(lambda status: status["disks"][0]["state"] == "dead")
    assert get(f"{url}readyz") == (200, "degraded [_UU]\n")
    assert "perdure_array_losses_survived 0\n" in get(f"{url}metrics")[1]
    rig.kill_disk(1)
    status = rig.wait_for(lambda status: status["failure"] is not None)
    code, why = get(f"{url}readyz")
    assert code == 503
    assert status["failure"]["message"] in why
    assert get(f"{url}healthz")[0] == 200, "to restart it would not bring disks back"
    value = json.loads(get(f"{url}api/status")[1])
    assert (value["array_id"], value["state"]) == (status["array_id"], "unusable")
    assert get(url)[0] == 200


def test_it_is_where_the_command_line_says_or_nowhere_and_ends_with_the_main_program(rig):
    url = shown.up(rig)
    assert get(f"{url}healthz")[0] == 200
    rig.down()
    with pytest.raises(urllib.error.URLError, match="refused"):
        get(f"{url}healthz")
    for place in ("9464", "localhost:", "localhost:x", "localhost:70000", ":9464"):
        sentence = rig.run("serve", "--http", place, code=2).sentence
        assert sentence == "--http must be HOST:PORT, as in 127.0.0.1:9464; nothing was started."
    with serving(rig, "--http", "localhost:0"):
        url = shown.url(rig.directory)
        assert url.startswith(("http://127.0.0.1:", "http://[::1]:"))
        assert get(f"{url}healthz")[0] == 200
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        with serving(rig, "--http", place) as line:
            assert json.loads(line)["state"] == "online", "the array does not depend on its page"
            rig.write(0, b"state")
            assert f"The page cannot be served at {place}: Address already in use" in log(rig)


def test_every_command_that_shows_the_array_says_where_its_page_is_or_why_there_is_none(rig):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        done = rig.run("up", "--json", "--size", "4M", *rig.shape, "--http", place)
        why = f"The page cannot be served at {place}: Address already in use"
        assert (done.json["http_url"], why in done.json["http_error"]) == (None, True)
        assert why in done.err, "who reads only what is wrong must see it"
        shown = f"   page: NOT SERVED. {why}"
        assert shown in rig.run("status").out
        assert shown in rig.run("status", "-x").out
        (found,) = [one for one in rig.run("doctor", "--json", code=None).json["findings"] if one["check"] == "page"]
        assert (found["level"], why in found["found"]) == ("warn", True)
    rig.run("upgrade")  # as the finding says to do once the place is free
    url = f"http://{place}/"
    assert get(f"{url}healthz")[0] == 200
    assert f"   page: {url}" in rig.run("status").out
    assert f"   page: {url}" in rig.run("up").out
    assert rig.run("status", "-x").out == "all arrays are healthy\n"
    (found,) = [one for one in rig.run("doctor", "--json", code=None).json["findings"] if one["check"] == "page"]
    assert (found["level"], found["found"]) == ("ok", url)


@contextlib.contextmanager
def serving(rig, *words):
    """`perdure serve` in the foreground until the block ends; the line that it printed when it served."""
    command = [sys.executable, "-m", "perdure.cli.main", "serve", "--json", *words]
    with (
        (rig.directory / artefacts.MAIN_LOG_FILE).open("a") as file,
        subprocess.Popen(command, env=rig.env, stdout=subprocess.PIPE, stderr=file, text=True) as main,
    ):
        try:
            yield main.stdout.readline()
        finally:
            os.kill(main.pid, signal.SIGTERM)
            assert main.wait(30) == 0
