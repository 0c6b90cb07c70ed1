"""`create`, `import`, `serve`, `status`, `export` by a configuration file, on disks that other commands started."""

import json
import shutil
import signal
import subprocess
import sys

import pytest

from perdure.service.control import ask
from perdure.service.site import processes
from tests.cli.rig import perdure

CONFIG = """\
[array]
key-file = "authority.key"
policy-file = "policy.json"
disks = 3
threshold = 2
size = "8M"

[disks]
addresses = {addresses}

[serve]
listen = "unix:nbd.sock"
control = "control.sock"
attest = "{attest}"
dead-after-ms = 500
answer-ms-max = 5000
"""


class Site:
    """A directory with key, image, policy and configuration; disks run elsewhere and are shared by its copies."""

    def __init__(self, directory):
        self.directory = directory
        self.config = directory / "perdure.toml"

    def run(self, verb, *words, code=0):
        done = perdure(verb, "--config", self.config, *words)
        assert done.code == code, f"exit code {done.code}\n{done.out}\n{done.err}"
        return done

    def status(self):
        return ask(self.directory / "control.sock", "status")

    def copy(self, name):
        """The same array's configuration on another machine, so to say."""
        names = shutil.ignore_patterns("*.sock", "*.pid", "*.log", "*lock")
        return Site(shutil.copytree(self.directory, self.directory.with_name(name), ignore=names))

    def edit(self, old, new):
        text = self.config.read_text()
        assert old in text
        self.config.write_text(text.replace(old, new))

    def end(self):
        main = processes.find(self.directory / "main.pid")
        if main is not None:
            main.end(grace_s=10)


@pytest.fixture(scope="module")
def disks(tmp_path_factory):
    """Three running disks' addresses, and the directory with the key, image and policy that go with them."""
    path = tmp_path_factory.mktemp("site")
    assert perdure("key", "new", "-o", path / "authority.key").code == 0
    build = ["image", "build", "--platform", "simulated", "--authority-key-file", path / "authority.key"]
    build += ["-o", path / "disk.eif", "--policy", path / "policy.json", "--root-directory", path / "root"]
    assert perdure(*build).code == 0
    run = [sys.executable, "-m", "perdure.cli.main", "disk", "run", "--image", path / "disk.eif", "--size", "24M"]
    run += ["--listen", "tcp:127.0.0.1:0", "--root-directory", path / "root"]
    running = [subprocess.Popen(list(map(str, run)), stdout=subprocess.PIPE, text=True) for _ in range(3)]
    try:
        yield path, [process.stdout.readline().split()[1] for process in running]
    finally:
        for process in running:
            process.terminate()
        assert [process.wait(10) for process in running] == [0, 0, 0]


@pytest.fixture(scope="module")
def site(disks):
    path, addresses = disks
    site = Site(path)
    site.config.write_text(CONFIG.format(addresses=json.dumps(addresses), attest="flush"))
    site.made = site.run("create", "--json").json
    try:
        yield site
    finally:
        site.end()


@pytest.fixture
def other(site, request, tmp_path):
    """A copy of the site, to be spoilt."""
    copy = site.copy(f"{site.directory.name}-{tmp_path.name[-20:]}")
    try:
        yield copy
    finally:
        copy.end()


def test_create_prints_the_id_and_writes_it_into_record_and_configuration(site):
    record = json.loads((site.directory / "array.json").read_text())
    assert record["array_id"] == site.made["array_id"]
    assert f'id = "{record["array_id"]}"' in site.config.read_text()
    assert (record["k"], record["n"], record["size_bytes"], record["version"]) == (2, 3, 8 << 20, 1)
    assert len(set(record["instances"])) == 3
    assert record["policy_file"] == "policy.json"


def test_create_again_is_refused(site):
    assert "already has an array; it was not touched" in site.run("create", code=2).sentence


def test_import_status_export(site):
    imported = site.run("import", "--json").json
    assert (imported["array_id"], imported["state"]) == (site.made["array_id"], "online")
    assert [disk["instance"] for disk in imported["disks"]] == json.loads((site.directory / "array.json").read_text())[
        "instances"
    ]
    assert "The main program runs here already." in site.run("import").err
    status = site.run("status", "--json").json
    assert {disk["platform"] for disk in status["disks"]} == {"simulated"}
    assert all(disk["module_id"].startswith("i-") and disk["evidence_age_ms"] >= 0 for disk in status["disks"])
    assert site.run("export", "--json").json == {"stopped": True}
    assert "nothing to stop" in site.run("export", code=2).sentence
    assert "The main program does not run" in site.run("status", code=2).sentence


def test_serve_ends_cleanly_on_a_signal_and_only_one_runs(site):
    command = [sys.executable, "-m", "perdure.cli.main", "serve", "--json", "--config", str(site.config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as main:
        assert json.loads(main.stdout.readline())["state"] == "online"
        assert "A main program runs in" in site.run("serve", code=2).sentence
        main.send_signal(signal.SIGINT)
        _, log = main.communicate(timeout=30)
    assert main.returncode == 0
    assert "stopped; everything written is on the disks" in log
    assert (site.directory / "authority.key").read_text().strip() not in log


def test_evidence_with_every_read_can_be_asked_for(site, other):
    other.edit('attest = "flush"', 'attest = "every-read"')
    assert other.run("import", "--json").json["state"] == "online"


def test_an_import_elsewhere_fences_the_first_with_exit_code_3(site, other):
    site.run("import")
    other.run("import")
    status = perdure("status", "--json", "--config", site.config)
    for _ in range(100):  # the first finds out at its next heartbeat
        if status.code == 3:
            break
        status = perdure("status", "--json", "--config", site.config)
    assert (status.code, status.json["state"], status.json["failure"]["class"]) == (3, "fenced", "Fenced")
    assert other.status()["state"] == "online"
    assert "another main program has mounted the array" in site.run("export", code=3).sentence


# Mistakes -------------------------------------------------------------------------------------------------


def test_import_without_an_id(other):
    other.config.write_text(
        "".join(line for line in other.config.read_text().splitlines(True) if not line.startswith("id"))
    )
    assert "`array.id` is missing" in other.run("import", code=2).sentence


def test_an_id_that_is_not_the_record_s(other):
    other.edit(json.loads((other.directory / "array.json").read_text())["array_id"], "ab" * 32)
    sentence = other.run("import", code=2).sentence
    assert f"names array {'ab' * 32}, but array.json beside it is about" in sentence


def test_an_id_that_is_not_the_array_s(other):
    made = json.loads((other.directory / "array.json").read_text())["array_id"]
    other.edit(made, "ab" * 32)
    (other.directory / "array.json").unlink()
    sentence = other.run("import", code=2).sentence
    assert "None of the disks that were named can be used" in sentence
    assert f"it belongs to array {made}, not to {'ab' * 32}; left alone" in sentence


def test_disks_built_for_another_authority(other):
    (other.directory / "authority.key").unlink()
    assert perdure("key", "new", "-o", other.directory / "authority.key").code == 0
    sentence = other.run("import", code=2).sentence
    assert "it obeys another authority" in sentence


def test_a_policy_that_does_not_know_the_disks_program(other):
    path = other.directory / "policy.json"
    policy = json.loads(path.read_text())
    policy["measurements"][0] |= dict.fromkeys(("pcr0", "pcr1", "pcr2"), "00" * 47 + "01")
    path.write_text(json.dumps(policy))
    assert "a program that the policy does not allow" in other.run("import", code=2).sentence


def test_another_policy_that_accepts_the_disks_is_still_not_the_array_s(other):
    path = other.directory / "policy.json"
    policy = json.loads(path.read_text())
    policy["skew_ms_max"] -= 1
    path.write_text(json.dumps(policy))
    assert "not the one that this array was created with; left alone" in other.run("import", code=2).sentence


def test_a_size_that_is_not_the_array_s(other):
    other.edit('size = "8M"', 'size = "9M"')
    sentence = other.run("import", code=2).sentence
    assert "9437184 bytes, but the array was created with 2 of 3 and 8388608" in sentence
    assert "unharmed" in sentence


def test_a_key_file_that_others_can_read(other):
    (other.directory / "authority.key").chmod(0o644)
    sentence = other.run("import", code=2).sentence
    assert "can be read by others than its owner (mode 0644)" in sentence
    assert "chmod 600" in sentence


def test_a_control_socket_in_use(site, other):
    site.run("import")
    try:
        other.edit('control = "control.sock"', f'control = "{site.directory}/control.sock"')
        assert "Another program answers at the control socket" in other.run("serve", code=2).sentence
        assert site.status()["state"] == "online"
    finally:
        site.run("export")


def test_disks_that_are_not_blank_are_not_taken_for_a_new_array(other):
    other.config.write_text(
        "".join(line for line in other.config.read_text().splitlines(True) if not line.startswith("id"))
    )
    (other.directory / "array.json").unlink()
    assert "already belongs to an array; nothing was created" in other.run("create", code=2).sentence
    assert not (other.directory / "array.json").exists()


def test_too_few_disks_answer(other):
    addresses = next(line for line in other.config.read_text().splitlines() if line.startswith("addresses"))
    other.edit(addresses, 'addresses = ["tcp:127.0.0.1:1", "tcp:127.0.0.1:2", "tcp:127.0.0.1:3"]')
    sentence = other.run("import", code=2).sentence
    assert "[tcp:127.0.0.1:2]" in sentence
    assert "does not answer" in sentence


def test_up_leaves_a_directory_alone_that_is_not_its_own(other):
    (other.directory / "disk.eif").unlink()
    assert "disks that `perdure up` did not start" in perdure("up", "--directory", other.directory).sentence
    assert "did not start; nothing was changed" in perdure("down", "--destroy", "--directory", other.directory).sentence
    assert (other.directory / "authority.key").exists()
