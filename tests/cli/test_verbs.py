"""Every verb: its help, its --json, its one sentence when something is wrong."""

import json
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from perdure.array.commands import Authority
from perdure.cli.main import cli, run
from perdure.cli.options import Verb
from perdure.image import eif
from perdure.image.build import build_simulated
from perdure.simtee.pki import SimulatedRoot
from tests.cli.rig import perdure


def verbs(group=cli, path=()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from verbs(command, (*path, name))
        else:
            yield (*path, name), command


VERBS = dict(verbs())


@pytest.fixture
def invoke(capsys):
    """Run a verb in this process through the same entry as the program's; exit code, output, errors."""

    def invoke(*words):
        code = run([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return invoke


def test_the_verbs_are_these():
    assert {" ".join(path) for path in VERBS} == {
        "up",
        "down",
        "create",
        "import",
        "export",
        "serve",
        "run",
        "upgrade",
        "status",
        "replace",
        "rejoin",
        "scrub",
        "erase",
        "offline",
        "online",
        "clear",
        "verify",
        "events",
        "history",
        "iostat",
        "top",
        "disk lose",
        "list",
        "doctor",
        "simulate",
        "vss serve",
        "cln plugin",
        "cln take",
        "cln restore",
        "completion",
        "disk run",
        "disk relay",
        "image build",
        "image fetch",
        "image measure",
        "key new",
        "key derive",
        "key show",
        "key passphrase",
        "evidence verify",
        "evidence verify-receipt",
        "evidence ask",
        "evidence merge-policies",
        "manifest new",
        "manifest show",
        "manifest diff",
        "manifest developers",
        "manifest sign",
        "manifest verify",
        "loader image",
        "loader start",
        "loader load",
        "loader status",
        "loader stop",
        "provision",
        "update",
    }


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_help_has_an_example_that_parses(path):
    command = VERBS[path]
    assert isinstance(command, Verb)
    shown = CliRunner().invoke(cli, [*path, "--help"]).output
    assert "Example:" in shown
    assert "--json" in shown
    for line in command.example.replace("\\\n", " ").splitlines():
        assert " ".join(line.split()) in " ".join(shown.replace("\\\n", " ").split())
        words = shlex.split(line)
        assert tuple(words[: len(path) + 1]) == ("perdure", *path)
        command.make_context("perdure", words[len(path) + 1 :])


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_options_are_kebab_case(path):
    options = [option for parameter in VERBS[path].params for option in parameter.opts if option.startswith("--")]
    assert options
    assert all(option == option.lower() and "_" not in option for option in options)


@pytest.mark.parametrize(
    "words",
    [
        ["up", "--json", "--size", "5000", "--directory", "D"],
        ["down", "--json", "--directory", "D"],
        ["create", "--json", "--config", "F"],
        ["import", "--json", "--config", "F"],
        ["export", "--json", "--config", "F"],
        ["serve", "--json", "--config", "F"],
        ["run", "--json", "--config", "F", "--", "true"],
        ["status", "--json", "--config", "F"],
        ["replace", "1", "--json", "--config", "F"],
        ["replace", "one", "--json"],
        ["rejoin", "1", "--json", "--config", "F"],
        ["rejoin", "--json"],
        ["scrub", "--json", "--config", "F"],
        ["scrub", "--json", "--limit", "fast"],
        ["erase", "--json", "--config", "F", "--offset", "0", "--length", "4K", "-o", "F"],
        ["disk", "run", "--json", "--image", "F", "--listen", "unix:s", "--size", "4096", "--root-directory", "D"],
        ["image", "build", "--json", "--platform", "simulated", "--public-key", "zz", "-o", "F"],
        ["image", "build", "--json", "--platform", "nitro", "--public-key", "02" + "79" * 32, "-o", "F"],
        ["image", "fetch", "--json"],
        ["image", "measure", "--json", "F"],
        ["key", "new", "--json", "-o", "missing/F"],
        ["key", "derive", "--json", "--from", "F", "--label", "a", "-o", "G"],
        ["key", "show", "--json", "F"],
        ["key", "passphrase", "--json", "--from", "F", "--label", "a"],
        ["evidence", "verify", "--json", "--platform", "nitro", "--at", "2026-05-01T12:00:00Z", "F"],
        ["evidence", "verify-receipt", "--json", "--policy", "F", "F"],
        ["evidence", "ask", "--json", "unix:s", "--authority-key-file", "F"],
        ["evidence", "merge-policies", "--json", "F", "-o", "F"],
        ["manifest", "new", "--json", "--name", "n", "--version", "1", "--program", "P", "-o", "F", "run"],
        ["manifest", "show", "--json", "F"],
        ["manifest", "diff", "--json", "F", "F"],
        ["manifest", "developers", "--json", "--threshold", "1", "-o", "F", "alice=missing.pub"],
        ["manifest", "sign", "--json", "--bitcoin", "F"],
        ["manifest", "verify", "--json", "--developers", "F", "F"],
        ["simulate", "--json", "--runs", "0"],
        ["completion", "--json", "csh"],
        ["nonsense", "--json"],
        ["up", "--json", "--nonsense"],
    ],
    ids=lambda words: " ".join(word for word in words[:2]),
)
def test_an_error_is_one_sentence_and_an_object(invoke, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = invoke(*words)
    assert code == 2
    assert json.loads(out)["error"] == {
        "class": "Misuse",
        "message": err.removeprefix("perdure: ").strip(),
        "exit_code": 2,
    }
    assert err.startswith("perdure: ")
    assert err.count("\n") == 1
    assert err.rstrip().endswith(".")


def test_a_defect_is_one_sentence_with_a_file(invoke, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr("perdure.service.site.artefacts.read_bounded", broken)
    code, out, err = invoke("image", "measure", "x")
    assert (code, out) == (2, "")
    assert "This is a defect in Perdure (ZeroDivisionError('on purpose'))" in err
    path = err.rstrip().rstrip(".").rpartition(" ")[2]
    text = Path(path).read_text()
    Path(path).unlink()
    assert "Traceback" in text


def test_the_installed_command_runs():
    assert perdure("--version").out.startswith("perdure, version ")


# Keys and images ------------------------------------------------------------------------------------------


def test_a_new_key_is_for_its_owner_and_never_overwrites(invoke, tmp_path):
    path = tmp_path / "authority.key"
    code, out, _ = invoke("key", "new", "--json", "-o", path)
    assert code == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = path.read_text()
    assert key.strip() not in out
    assert Authority(bytes.fromhex(key)).public_key.hex() == json.loads(out)["public_key"]
    code, _, err = invoke("key", "new", "-o", path)
    assert code == 2
    assert "left as it is" in err
    assert path.read_text() == key


def test_the_image_of_a_key_file_is_that_of_its_public_key(invoke, tmp_path):
    public_key = json.loads(invoke("key", "new", "--json", "-o", tmp_path / "key")[1])["public_key"]
    build = ["image", "build", "--json", "--platform", "simulated"]
    by_file = json.loads(invoke(*build, "--authority-key-file", tmp_path / "key", "-o", tmp_path / "a.eif")[1])
    by_hex = json.loads(invoke(*build, "--public-key", public_key, "-o", tmp_path / "b.eif")[1])
    assert (tmp_path / "a.eif").read_bytes() == (tmp_path / "b.eif").read_bytes()
    assert (tmp_path / "a.eif").read_bytes() == build_simulated(bytes.fromhex(public_key))
    pcrs = eif.measure(eif.parse((tmp_path / "a.eif").read_bytes()))
    assert [by_file[name] for name in ("pcr0", "pcr1", "pcr2")] == [
        pcr.hex() for pcr in (pcrs.pcr0, pcrs.pcr1, pcrs.pcr2)
    ]
    assert (
        by_file["pcr0"]
        == by_hex["pcr0"]
        == json.loads(invoke("image", "measure", "--json", tmp_path / "b.eif")[1])["pcr0"]
    )


def test_a_policy_for_the_image_names_its_root_and_measurement(invoke, tmp_path):
    invoke("key", "new", "-o", tmp_path / "key")
    words = ["--authority-key-file", tmp_path / "key", "-o", tmp_path / "a.eif", "--policy", tmp_path / "policy.json"]
    build = ["image", "build", "--json", "--platform", "simulated", *words]
    assert "go together" in invoke(*build)[2]
    code, out, _ = invoke(*build, "--root-directory", tmp_path / "root")
    assert code == 0
    policy = json.loads((tmp_path / "policy.json").read_text())
    assert policy["measurements"] == [
        {"root": "simulated", **{name: json.loads(out)[name] for name in ("pcr0", "pcr1", "pcr2")}}
    ]
    assert policy["roots"][0]["certificate"] == SimulatedRoot.load_or_create(tmp_path / "root").der.hex()


def test_a_verb_that_needs_no_array_does_not_load_the_arrays_code():
    """A second of everybody's day: NumPy and the engine take longer to load than most verbs to do their work."""
    program = "import sys, perdure.cli.main; print('numpy' in sys.modules, 'perdure.array.engine' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False False\n"
