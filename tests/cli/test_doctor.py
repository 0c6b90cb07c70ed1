"""`doctor` as a process: exit codes, the object for programs, lines for people. See also transcripts/doctor.txt."""

import json

import pytest

from perdure.cli import doctor
from perdure.service.doctor.finding import fail, ok, warn
from tests.cli.rig import Rig, perdure


def test_the_object_for_programs_names_every_check_once(tmp_path):
    done = perdure("doctor", "--json", env={"PERDURE_DIRECTORY": str(tmp_path), "PATH": "/usr/bin:/bin"})
    value = done.json
    assert value["version"] == 1
    assert done.code == value["exit_code"] in (0, 1)
    names = [one["check"] for one in value["findings"]]
    assert {"python", "packages", "swap", "core dumps", "clock", "memory", "configuration"} <= set(names)
    assert len(names) == len(set(names))
    assert sum(value["counts"].values()) == len(names)


def test_a_directory_that_was_named_must_have_an_array(tmp_path):
    done = perdure("doctor", "--json", "--directory", tmp_path)
    assert done.code == 2
    assert [one["check"] for one in done.json["findings"] if one["level"] == "fail"] == ["configuration"]


def test_an_examination_disturbs_no_main_program_and_finds_a_dead_disk(tmp_path):
    with Rig(tmp_path, disks=3, threshold=2) as rig:
        rig.up(size="4M", dead_after_ms=500)
        rig.write(0, b"kept")
        value = rig.run("doctor", "--json", code=None).json
        assert [one for one in value["findings"] if one["level"] == "fail"] == []
        assert rig.run("status", "--json").json["state"] == "online", "who asks is not taken for an owner"
        rig.write(4096, b"goes on")
        rig.kill_disk(1)
        rig.wait_for(lambda status: status["summary"] == "[U_U]")
        done = rig.run("doctor", "--json", code=1)
        levels = {one["check"]: one["level"] for one in done.json["findings"]}
        assert (levels["disk 0"], levels["disk 1"], levels["disks"]) == ("ok", "warn", "warn")
        assert levels["main program"] == "warn"
        assert rig.read(0, 4) == b"kept"


FOUND = [ok("a", "fine"), warn("b", "odd", "Because.", "Do it."), fail("c", "gone", "Because so.", "Do that.")]


def test_lines_for_people_say_what_why_and_what_to_do():
    assert list(doctor._lines(FOUND)) == [
        "OK    a: fine",
        "WARN  b: odd",
        "      why: Because.",
        "      do: Do it.",
        "FAIL  c: gone",
        "      why: Because so.",
        "      do: Do that.",
        "1 ok, 1 warning, 1 failure",
    ]


def test_on_a_terminal_the_same_lines_have_colours():
    text = doctor._coloured(FOUND)
    assert text.plain.splitlines() == list(doctor._lines(FOUND))
    assert [(text.plain[span.start : span.end], str(span.style)) for span in text.spans] == [
        ("OK", "green"),
        ("WARN", "bold yellow"),
        ("FAIL", "bold red"),
    ]


@pytest.mark.parametrize("words", [["--directory", "nowhere"], ["--config", "nowhere.toml"]])
def test_what_is_missing_is_a_finding_and_no_error(tmp_path, words):
    done = perdure("doctor", "--json", *words, cwd=tmp_path)
    assert (done.code, "findings" in json.loads(done.out)) == (2, True)
    assert not (tmp_path / "nowhere").exists(), "nothing was made"
