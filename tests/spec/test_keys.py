"""docs/keys.md is true: its figures are those of the vectors, its commands and its program print what it says."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "keys.md").read_text()
VECTORS = json.loads((ROOT / "docs" / "vectors.json").read_text())
DERIVED = VECTORS["17 derived keys"]


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()


def openssl_hkdf(secret, info):
    options = ("digest:SHA256", "salt:perdure/derive/1", f"hexinfo:{info.hex()}", f"hexkey:{secret}")
    words = [word for option in options for word in ("-kdfopt", option)]
    return run("openssl", "kdf", "-keylen", "32", *words, "HKDF").replace(":", "").lower()


def has_openssl_kdf():
    tool = shutil.which("openssl")
    return tool is not None and subprocess.run([tool, "kdf", "-help"], check=False, capture_output=True).returncode == 0


needs_openssl = pytest.mark.skipif(not has_openssl_kdf(), reason="there is no openssl with the command kdf")


def test_the_table_is_that_of_the_vectors():
    table = re.findall(r"^\| `(\w+)` \| `(\S+)` \| `(\w{64})` \| `(\w{66})` \|$", DOCUMENT, re.MULTILINE)
    columns = ("secret", "label", "private", "public")
    assert table == [tuple(case[column] for column in columns) for case in DERIVED["authorities"]]


@needs_openssl
@pytest.mark.parametrize("case", DERIVED["authorities"], ids=lambda case: case["name"])
def test_openssl_derives_the_same_authority(case):
    info = b"authority\0" + case["label"].encode() + b"\0\0"
    assert openssl_hkdf(case["secret"], info) == case["private"]


@needs_openssl
@pytest.mark.parametrize("case", DERIVED["passphrases"], ids=lambda case: case["label"])
def test_openssl_derives_the_same_passphrase(case):
    assert openssl_hkdf("01" * 32, b"luks\0" + case["label"].encode() + b"\0\0") == case["passphrase"]


@needs_openssl
def test_the_lines_to_type_print_what_the_document_says():
    (block,) = re.findall(r"^```console\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    *typed, printed = block.splitlines()
    assert all(line.startswith("$ ") for line in typed)
    assert run("bash", "-euc", "\n".join(line[2:] for line in typed)) == printed
    assert printed.replace(":", "").lower() == DERIVED["authorities"][0]["private"]


def test_the_program_computes_the_pcr2_of_an_image_from_33_bytes():
    (program,) = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    pcr2 = VECTORS["11 image"]["pcr2"]
    assert run(sys.executable, "-I", "-c", program, VECTORS["key"]["public"]) == pcr2
    assert VECTORS["key"]["public"] in DOCUMENT
    assert f"\n    {pcr2}\n" in DOCUMENT


def test_the_passphrase_in_the_document_is_the_vector():
    assert f"\n    {DERIVED['passphrases'][0]['passphrase']}\n" in DOCUMENT
    assert DERIVED["passphrases"][0]["label"] == "data"


def test_the_authority_signs_nowhere_but_where_the_document_says_and_the_tags_are_those_of_the_code():
    """Section 1 rests on it: a signature over anything else would have to be looked at before it is made."""
    core = {path.name: path.read_text() for path in (ROOT / "perdure" / "array").glob("*.py")}
    assert {name for name, text in core.items() if re.search(r"\.sign\(", text)} == {"commands.py", "receipt.py"}
    tags = set(re.findall(r'b"(perdure/\w+/\d)"', core["receipt.py"]))
    wire = (ROOT / "perdure" / "disk" / "wire.py").read_text()
    tags |= set(re.findall(r'_COMMAND_TAG = .*b"(perdure/\w+/\d)"', wire))
    assert tags == {"perdure/command/1", "perdure/receipt/1"}
    others = {"perdure/sealing/2", "perdure/genesis/1", "perdure/derive/1"}
    assert set(re.findall(r"perdure/[a-z]+/\d", DOCUMENT)) == tags | others


def test_every_section_that_the_document_cites_exists():
    spec = (ROOT / "docs" / "spec.md").read_text()
    known = set(re.findall(r"^\*\*(\d+\.\d+)", spec, flags=re.MULTILINE))
    cited = set(re.findall(r"\(spec (\d+\.\d+)\)", DOCUMENT))
    assert cited
    assert cited <= known
