"""Keys that are derived: files that are taken and refused, what is printed, and what never is."""

import json
import os
import pty
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from perdure.image import eif
from perdure.image.build import build_simulated
from tests.cli.rig import perdure

VECTORS = json.loads((Path(__file__).parents[2] / "docs" / "vectors.json").read_text())
CASE = VECTORS["17 derived keys"]["authorities"][0]
KEY = VECTORS["key"]


def secret_file(path, content, mode=0o600):
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.fixture
def seed(tmp_path):
    return secret_file(tmp_path / "seed", f"{CASE['secret']}\n".encode())


@pytest.fixture
def key(tmp_path):
    return secret_file(tmp_path / "authority.key", f"{KEY['private']}\n".encode())


def derive(seed, output, label=CASE["label"]):
    return perdure("key", "derive", "--json", "--from", seed, "--label", label, "-o", output)


@pytest.mark.parametrize(
    "content",
    [
        CASE["secret"].encode(),
        CASE["secret"].upper().encode() + b"\r\n",
    ],
    ids=["digits", "digits in upper case and a line's end"],
)
def test_a_derived_key_is_that_of_the_vectors_and_for_its_owner(tmp_path, content):
    path = tmp_path / "authority.key"
    done = derive(secret_file(tmp_path / "seed", content), path)
    assert done.code == 0, done.err
    assert json.loads(done.out) == {"file": str(path), "public_key": CASE["public"]}
    assert path.read_text() == CASE["private"] + "\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert CASE["private"] not in done.out + done.err
    assert CASE["secret"] not in done.out + done.err


def test_bytes_that_are_no_text_are_the_secret_itself(tmp_path):
    digits = secret_file(tmp_path / "digits", b"80" * 32)
    raw = secret_file(tmp_path / "raw", b"\x80" * 32)
    keys = [json.loads(derive(seed, tmp_path / f"{seed.name}.key").out)["public_key"] for seed in (digits, raw)]
    assert keys[0] == keys[1] != CASE["public"]


def test_a_derived_key_never_overwrites_another(tmp_path, seed, key):
    done = derive(seed, key)
    assert done.code == 2
    assert "exists and was left as it is" in done.err
    assert key.read_text() == KEY["private"] + "\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (CASE["secret"][1:].encode(), "not an even number of hexadecimal digits"),
        (b"0x" + CASE["secret"].encode(), "hexadecimal digits"),
        (b"abandon " * 11 + b"about", "not its words"),
        (b"\xef\xbb\xbf" + b"00" * 16, "hexadecimal digits"),
        ("00".encode("utf-16-le") * 16, "hexadecimal digits"),
        (bytes(range(32)), "as digits if it came as bytes"),
        (b"", "hexadecimal digits"),
        (CASE["secret"].encode() + b"\n" + CASE["secret"].encode(), "hexadecimal digits"),
        (b"00" * 15, "16 to 64 bytes, not 15"),
        (b"00" * 65, "16 to 64 bytes, not 65"),
        (b"\x80" * 15, "16 to 64 bytes, not 15"),
        (b"\x80" * 5000, "16 to 64 bytes"),
    ],
)
def test_what_may_be_a_mistake_leads_to_no_key(tmp_path, content, said):
    done = derive(secret_file(tmp_path / "seed", content), tmp_path / "authority.key")
    assert done.code == 2
    assert said in done.err
    assert "nothing was derived" in done.err
    assert len(content) < 10 or content[:10].decode("latin-1") not in done.err.replace(str(tmp_path), "")
    assert not (tmp_path / "authority.key").exists()


def test_a_secret_that_others_can_read_is_refused(tmp_path):
    done = derive(secret_file(tmp_path / "seed", CASE["secret"].encode(), 0o644), tmp_path / "authority.key")
    assert done.code == 2
    assert "mode 0644" in done.err
    assert not (tmp_path / "authority.key").exists()


def test_a_pipe_may_bring_the_secret(tmp_path):
    words = ["key", "derive", "--from", "/dev/stdin", "--label", CASE["label"], "-o", str(tmp_path / "authority.key")]
    command = [sys.executable, "-m", "perdure.cli.main", *words]
    subprocess.run(command, input=CASE["secret"].encode(), capture_output=True, check=True, timeout=60)
    assert (tmp_path / "authority.key").read_text() == CASE["private"] + "\n"


def test_show_tells_the_public_half_and_the_pcr2_of_its_images(key):
    done = perdure("key", "show", "--json", key)
    image = build_simulated(bytes.fromhex(KEY["public"]))
    pcr2 = eif.measure(eif.parse(image)).pcr2.hex()
    assert json.loads(done.out) == {"public_key": KEY["public"], "fingerprint": "f1d12012406b87af", "pcr2": pcr2}
    text = perdure("key", "show", key).out
    assert all(part in text for part in (KEY["public"], "f1d12012406b87af", pcr2))
    assert KEY["private"] not in done.out + text


# Passphrases ----------------------------------------------------------------------------------------------


PASSPHRASE = VECTORS["17 derived keys"]["passphrases"][0]


def test_a_passphrase_in_a_pipe_has_no_line_feed(key):
    done = perdure("key", "passphrase", "--from", key, "--label", PASSPHRASE["label"])
    assert (done.code, done.out) == (0, PASSPHRASE["passphrase"])
    as_json = perdure("key", "passphrase", "--json", "--from", key, "--label", PASSPHRASE["label"])
    assert json.loads(as_json.out) == {"passphrase": PASSPHRASE["passphrase"]}


def test_a_passphrase_in_a_file_is_for_its_owner_and_is_not_printed(tmp_path, key):
    path = tmp_path / "luks.key"
    words = ("key", "passphrase", "--from", key, "--label", PASSPHRASE["label"], "-o", path)
    done = perdure(*words)
    assert done.code == 0
    assert path.read_text() == PASSPHRASE["passphrase"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert PASSPHRASE["passphrase"] not in done.out + done.err
    again = perdure(*words)
    assert again.code == 2
    assert "exists and was left as it is" in again.err


def on_a_terminal(*words):
    """Exit code and everything that a terminal shows of a command."""
    ours, theirs = pty.openpty()
    try:
        command = [sys.executable, "-m", "perdure.cli.main", *map(str, words)]
        done = subprocess.run(command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, check=False, timeout=60)
        os.set_blocking(ours, False)
        try:
            shown = os.read(ours, 4096)
        except BlockingIOError:
            shown = b""
    finally:
        os.close(ours)
        os.close(theirs)
    return done.returncode, shown.decode() + done.stderr.decode()


def test_a_terminal_gets_a_passphrase_only_by_force(key):
    words = ("key", "passphrase", "--from", key, "--label", PASSPHRASE["label"])
    code, shown = on_a_terminal(*words)
    assert code == 2
    assert "not printed on a terminal" in shown
    assert PASSPHRASE["passphrase"] not in shown
    assert on_a_terminal(*words, "--json")[0] == 2
    assert on_a_terminal(*words, "--force") == (0, PASSPHRASE["passphrase"])
