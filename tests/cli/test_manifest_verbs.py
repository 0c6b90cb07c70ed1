"""`manifest ...`: a release from its program to a verified manifest, and each refusal's sentence."""

import json
import subprocess

import pytest

from perdure.cli.main import run
from perdure.manifest.developers import Developers
from perdure.manifest.manifest import Manifest
from tests.manifest.support import ALICE, BOB, CAROL, DAVE, MANIFEST, POLICY, SIGNED, needs_ssh_keygen

CONFIG = """\
[array]
id = "{id}"
key-file = "authority.key"
policy-file = "policy.json"
disks = 5
threshold = 3
size = "16M"
[disks]
addresses = ["unix:0", "unix:1", "unix:2", "unix:3", "unix:4"]
[serve]
listen = "unix:nbd"
control = "control"
attest = "flush"
dead-after-ms = 1000
answer-ms-max = 1000
"""
BY_HAND = ["--array-id", "bb" * 32, "--threshold", 3, "--disks", 5, "--policy", "policy.json"]
COMMAND = ["--", "python3", "{program}/main.py", "{directory}"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy.json").write_bytes(POLICY.to_json())
    (tmp_path / "manifest.json").write_bytes(SIGNED)
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "main.py").write_text("print('hello')\n")
    return tmp_path


@pytest.fixture
def invoke(here, capsys):
    """Run a verb in this process; exit code, output, errors."""

    def invoke(*words):
        code = run(["manifest", *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return invoke


@pytest.fixture
def refused(invoke):
    """The one sentence of a verb that must be refused."""

    def refused(*words):
        code, out, err = invoke(*words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        return err

    return refused


def new(*words, name="made.json"):
    return ["new", "--name", "node", "--version", 7, "--program", "program", "-o", name, *words, *COMMAND]


# new, show, diff ------------------------------------------------------------------------------------------


def test_a_manifest_is_made_by_hand_or_from_the_configuration_alike(here, invoke):
    (here / "perdure.toml").write_text(CONFIG.format(id="bb" * 32))
    code, out, _ = invoke(*new("--json", *BY_HAND))
    assert code == 0
    data = (here / "made.json").read_bytes()
    made = Manifest.from_json(data)
    assert made.to_json() == data
    assert (made.name, made.version, made.command) == ("node", 7, tuple(COMMAND[1:]))
    assert (made.array_id, made.threshold, made.disks, made.policy) == (b"\xbb" * 32, 3, 5, POLICY)
    assert json.loads(out)["digest"] == made.digest().hex()
    assert json.loads(out)["text_to_sign"] == f"perdure manifest {made.digest().hex()}"
    assert invoke(*new("--array-from", "perdure.toml", name="other.json"))[0] == 0
    assert (here / "other.json").read_bytes() == data


def test_the_program_is_a_tree_a_tarball_or_an_image(here, invoke, refused):
    subprocess.run(["tar", "--format=ustar", "-C", "program", "-cf", "program.tar", "."], check=True)
    kinds = {}
    for path, kind in (("program", "tree"), ("program.tar", "tarball"), ("program.tar", "image")):
        words = new("--kind", kind, "--program", path, *BY_HAND, name=f"{kind}.json")
        assert invoke(*words)[0] == 0
        kinds[kind] = Manifest.from_json((here / f"{kind}.json").read_bytes()).program
    assert kinds["tree"].sha256 == kinds["tarball"].sha256 != kinds["image"].sha256
    assert [one.kind for one in kinds.values()] == [*kinds]
    assert "say with --kind" in refused(*new("--program", "program.tar", *BY_HAND))
    assert "cannot be read" in refused(*new("--program", "program.tar", "--kind", "tree", *BY_HAND))


def test_settings_are_fixed_by_options(here, invoke):
    assert invoke(*new("--attest", "every-read", "--when-too-few-disks", "freeze", *BY_HAND))[0] == 0
    overrides = Manifest.from_json((here / "made.json").read_bytes()).overrides
    assert overrides.to_json() == {"attest": "every-read", "when-too-few-disks": "freeze"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--array-from alone, or by all of"),
        (BY_HAND[:6], "--array-from alone, or by all of"),
        (["--array-from", "perdure.toml", *BY_HAND], "--array-from alone, or by all of"),
        (["--array-from", "new.toml"], "has no array.id yet"),
        (["--array-id", "zz", *BY_HAND[2:]], "--array-id is 64 hexadecimal digits"),
        (["--array-id", "bb", *BY_HAND[2:]], "32 bytes"),
        ([*BY_HAND, "--threshold", 2], "threshold is not a whole number from 3 to 5"),
        ([*BY_HAND, "--acknowledgements", "chains"], "which its policy does not allow"),
        ([*BY_HAND, "--program", "missing"], "missing is no directory"),
        ([*BY_HAND, "--program", "missing", "--kind", "image"], "cannot be read"),
        ([*BY_HAND, "--program", "manifest.json", "--kind", "tarball"], "tar --format=ustar"),
        ([*BY_HAND, "-o", "missing/made.json"], "cannot be written"),
    ],
)
def test_what_cannot_be_a_manifest_is_refused_and_nothing_is_written(here, refused, words, said):
    (here / "perdure.toml").write_text(CONFIG.format(id="bb" * 32))
    (here / "new.toml").write_text(CONFIG.replace('id = "{id}"\n', ""))
    assert said in refused(*new(*words))
    assert not (here / "made.json").exists()


def test_a_manifest_that_exists_is_left_as_it_is(here, refused):
    assert "was left as it is" in refused(*new(*BY_HAND, name="manifest.json"))
    assert (here / "manifest.json").read_bytes() == SIGNED


def test_show_says_all_that_is_signed(here, invoke):
    code, out, _ = invoke("show", "manifest.json")
    assert code == 0
    for text in (
        "version: 7",
        MANIFEST.digest().hex(),
        f"tree, SHA-256 {'aa' * 32}",
        'python3 {program}/main.py --config={directory}/perdure.toml ""',
        "bb" * 32,
        "any 3 of 5 disks hold it",
        POLICY.digest().hex(),
        "aws-nitro-g1 (nitro): disk programs 1",
        "attest is flush",
    ):
        assert text in out
    assert json.loads(invoke("show", "--json", "manifest.json")[1])["manifest"] == json.loads(SIGNED)


def test_a_file_that_is_no_manifest_is_refused_with_its_name(here, refused):
    (here / "bad.json").write_bytes(SIGNED.replace(b'"version":7', b'"version":0'))
    assert refused("show", "bad.json").startswith("perdure: In bad.json: The manifest's version is not a whole number")


def test_diff_marks_what_is_more_than_a_release(here, invoke):
    invoke(*new("--version", 8, *BY_HAND))
    code, out, _ = invoke("diff", "manifest.json", "made.json")
    assert code == 0
    assert [line[:16] for line in out.splitlines()] == [
        "! The command is",
        "! The setting at",
        "  The version ri",
        "  The program is",
    ]
    changes = json.loads(invoke("diff", "--json", "manifest.json", "made.json")[1])["changes"]
    assert [change["matters"] for change in changes] == [True, True, False, False]
    assert invoke("diff", "manifest.json", "manifest.json")[1] == "  They are the same manifest.\n"


# developers -----------------------------------------------------------------------------------------------


@pytest.fixture
def listed(here, invoke):
    (here / "alice.pub").write_text(ALICE.line() + "\n")
    (here / "bob.pub").write_text(BOB.line() + "\n")
    keys = [
        "alice=alice.pub",
        "bob=bob.pub",
        f"carol=bip340:{CAROL.point[1:].hex()}",
        f"dave=bitcoin:{DAVE.point.hex()}",
    ]
    code, out, _ = invoke("developers", "--threshold", 2, *keys, "-o", "developers.json")
    assert (code, out) == (0, "2 of 4 must sign: alice, bob, carol, dave\nThe list is in developers.json.\n")
    return here


def test_the_list_of_developers_is_canonical(listed):
    data = (listed / "developers.json").read_bytes()
    assert Developers.from_json(data).to_json() == data


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["alice.pub"], "is not NAME=KEY"),
        (["alice=missing.pub"], "cannot be read"),
        (["alice=policy.json"], "not a line of an OpenSSH public key file"),
        (["alice=alice.pub", "eve=alice.pub"], "have the same key"),
        (["alice=bip340:zz"], "not 32 bytes"),
        (["alice=alice.pub", "--threshold", 2], "threshold is not a whole number from 1 to 1"),
        (["alice=alice.pub", "-o", "manifest.json"], "was left as it is"),
    ],
)
def test_a_list_that_cannot_be_is_refused(here, refused, words, said):
    (here / "alice.pub").write_text(ALICE.line())
    assert said in refused("developers", "--threshold", 1, "-o", "made.json", *words)
    assert not (here / "made.json").exists()


# sign and verify ------------------------------------------------------------------------------------------


@needs_ssh_keygen
def test_a_release_from_its_program_to_a_verified_manifest(here, invoke, refused):
    """Three developers, one of each kind; two must sign."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "alice"], check=True)
    (here / "carol.key").write_text(CAROL.key.to_hex())
    (here / "carol.key").chmod(0o600)
    keys = ["alice=alice.pub", f"carol=bip340:{CAROL.point[1:].hex()}", f"dave=bitcoin:{DAVE.point.hex()}"]
    assert invoke("developers", "--threshold", 2, *keys, "-o", "developers.json")[0] == 0
    assert invoke(*new(*BY_HAND, name="release.json"))[0] == 0
    assert "signed by the SSH key alice" in invoke("sign", "--ssh-key", "alice", "release.json", "-o", "a.sig")[1]
    code, out, _ = invoke("sign", "--bip340-key-file", "carol.key", "release.json", "-o", "c.sig")
    assert (code, f"signed by bip340:{CAROL.point[1:].hex()}" in out) == (0, True)
    text = invoke("sign", "--bitcoin", "release.json")[1].strip()
    code, out, _ = invoke("sign", "--bitcoin", "--signature", DAVE.compact(text), "release.json", "-o", "d.sig")
    assert (code, f"signed by bitcoin:{DAVE.point.hex()}" in out) == (0, True)
    verify = ["verify", "--developers", "developers.json", "release.json"]
    for given, names in ((("a.sig", "c.sig"), "alice, carol"), (("d.sig", "a.sig"), "alice, dave")):
        code, out, _ = invoke(*verify, *given, "--program", "program")
        assert (code, f"signed by {names} (2 are needed); the program is the one it names" in out) == (0, True)
    assert "1 of the 2 developers that are needed signed this manifest (dave); 1 more must" in refused(*verify, "d.sig")
    assert "another one by alice" in refused(*verify, "a.sig", "a.sig")
    (here / "program" / "main.py").write_text("print('hullo')\n")
    assert "program is another program than it names" in refused(*verify, "a.sig", "c.sig", "--program", "program")


def test_white_space_in_the_file_makes_no_difference_to_what_is_signed(listed, invoke):
    (listed / "edited.json").write_text(json.dumps(json.loads(SIGNED), indent=2))
    (listed / "a.sig").write_bytes(ALICE.sign())
    (listed / "d.sig").write_bytes(DAVE.bitcoin())
    code, out, _ = invoke("verify", "--json", "--developers", "developers.json", "edited.json", "a.sig", "d.sig")
    assert (code, json.loads(out)) == (
        0,
        {
            "name": "node",
            "version": 7,
            "digest": MANIFEST.digest().hex(),
            "signed_by": ["alice", "dave"],
            "threshold": 2,
            "program_checked": False,
        },
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Say one of --ssh-key, --bip340-key-file and --bitcoin"),
        (["--bitcoin", "--ssh-key", "x"], "Say one of"),
        (["--ssh-key", "x", "--signature", "y"], "--signature belongs to the last"),
        (["--bip340-key-file", "carol.key"], "Say with -o where the signature goes"),
        (["--bip340-key-file", "missing", "-o", "x.sig"], "cannot be read"),
        (["--bip340-key-file", "open.key", "-o", "x.sig"], "can be read by others"),
        (["--bip340-key-file", "carol.key", "-o", "manifest.json"], "was left as it is"),
        (["--bitcoin", "--signature", "AAAA", "-o", "x.sig"], "is not the base64 of a Bitcoin wallet's 65 bytes"),
    ],
)
def test_what_cannot_be_signed_is_refused_and_nothing_is_written(here, refused, words, said):
    for name, mode in (("carol.key", 0o600), ("open.key", 0o644)):
        (here / name).write_text(CAROL.key.to_hex())
        (here / name).chmod(mode)
    assert said in refused("sign", *words, "manifest.json")
    assert not (here / "x.sig").exists()
    assert (here / "manifest.json").read_bytes() == SIGNED


@needs_ssh_keygen
def test_a_key_that_no_loader_would_accept_signs_nothing(here, capfd):
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", "old"], check=True)
    for key, said in (("old", "not b'ssh-rsa'. Nothing was written."), ("missing", "did not sign with missing")):
        assert run(["manifest", "sign", "--ssh-key", key, "manifest.json", "-o", "x.sig"]) == 2
        assert said in capfd.readouterr().err
        assert not (here / "x.sig").exists()


def test_a_machine_without_ssh_keygen_says_which_package_has_it(refused, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "openssh-client" in refused("sign", "--ssh-key", "x", "manifest.json", "-o", "x.sig")


def test_a_bad_list_of_developers_is_named(listed, refused):
    (listed / "developers.json").write_text("{}")
    assert "In developers.json: The developers' list lacks the key" in refused(
        "verify", "--developers", "developers.json", "manifest.json"
    )
