import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import Misuse
from perdure.manifest.manifest import (
    MANIFEST_BYTES_MAX,
    OVERRIDES,
    VERSION_MAX,
    Manifest,
    Overrides,
    Program,
    ProgramKind,
    digest_of,
)
from perdure.service.site.config import Acknowledgements, Attest, WhenTooFew

from .support import MANIFEST, POLICY, SIGNED, tagged


def changed(path="", value=...):
    """The manifest with one value, by its dotted path, replaced or (...) removed."""
    document = json.loads(SIGNED)
    *parents, last = path.split(".")
    at = document
    for key in parents:
        at = at[key]
    at[last] = value
    if value is ...:
        del at[last]
    return json.dumps(document).encode()


def test_the_canonical_form_survives_a_round_trip_and_white_space():
    assert Manifest.from_json(SIGNED) == MANIFEST
    assert Manifest.from_json(SIGNED).to_json() == SIGNED
    edited = json.dumps(dict(reversed(json.loads(SIGNED).items())), indent=3).encode() + b"\n"
    assert Manifest.from_json(edited).to_json() == SIGNED


def test_the_canonical_bytes_are_these():
    policy = POLICY.to_json().decode()
    command = '["python3","{program}/main.py","--config={directory}/perdure.toml",""]'
    assert SIGNED.decode() == (
        f'{{"array":{{"disks":5,"id":"{"bb" * 32}","threshold":3}},"command":{command},"format":1,"name":"node",'
        f'"overrides":{{"attest":"flush"}},"policy":{policy},"program":{{"kind":"tree","sha256":"{"aa" * 32}"}},'
        '"version":7}'
    )


def test_the_digest_is_the_tagged_hash_of_the_canonical_bytes():
    assert MANIFEST.digest() == digest_of(SIGNED) == tagged(b"perdure/manifest/1", SIGNED)


@pytest.mark.parametrize("path", ["array", "array.id", "command", "format", "name", "overrides", "policy", "program",
                                  "program.kind", "version", "policy.roots"])  # fmt: skip
def test_a_missing_key_is_named(path):
    with pytest.raises(Misuse, match=f"'{path.rpartition('.')[2]}'"):
        Manifest.from_json(changed(path))


@pytest.mark.parametrize("path", ["more", "array.more", "program.more", "overrides.dead-after-ms", "policy.more"])
def test_an_unknown_key_is_named(path):
    with pytest.raises(Misuse, match=f"unknown key '{path.rpartition('.')[2]}'"):
        Manifest.from_json(changed(path, 1))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("format", 2, "format is 2; this release reads format 1"),
        ("format", True, "format is True"),
        ("name", "Node", "name is 1 to 64"),
        ("version", 0, "version is not a whole number from 1"),
        ("version", VERSION_MAX + 1, "version is not a whole number from 1"),
        ("version", "7", "version is not a whole number"),
        ("version", 7.0, "version is not a whole number"),
        ("array.id", "BB" * 32, "array.id is not 32 bytes"),
        ("array.disks", 17, "array.disks is not a whole number from 2 to 16"),
        ("array.disks", 1, "array.disks is not a whole number from 2 to 16"),
        ("array.threshold", 2, "array.threshold is not a whole number from 3 to 5"),
        ("array.threshold", 6, "array.threshold is not a whole number from 3 to 5"),
        ("program.kind", "zip", "program.kind is one of tree, tarball, image"),
        ("program.sha256", "aa", "program.sha256 is not 32 bytes"),
        ("command", [], "1 to 64 words"),
        ("command", ["x"] * 65, "command is not a list of at most 64"),
        ("command", "run", "command is not a list"),
        ("command", ["run", 1], "command, in one of its words, is not text"),
        ("command", ["", "x"], "cannot be empty"),
        ("command", ["run\n"], "printable ASCII"),
        ("command", ["r\u0443n"], "printable ASCII"),
        ("command", ["x" * 1025], "printable ASCII"),
        ("command", ["{programme}"], "braces are for {program} and {directory} only"),
        ("command", ["{program"], "braces are for"),
        ("command", ["{pro{program}gram}"], "braces are for"),
        ("overrides", [], "overrides is not a JSON object"),
        ("overrides.attest", "never", "overrides.attest is one of flush, every-read"),
        ("overrides.attest", None, "overrides.attest is not text"),
        ("overrides.acknowledgements", "chains", "which its policy does not allow"),
        ("policy", [], "not an object"),
        ("policy.version", 2, "policy's version"),
    ],
)
def test_a_wrong_value_is_named(path, value, said):
    with pytest.raises(Misuse, match=said.replace(".", "[.]").replace("{", "[{]")):
        Manifest.from_json(changed(path, value))


def test_the_largest_command_and_array():
    large = replace(MANIFEST, command=("x" * 1024,) * 64, disks=16, threshold=16)
    assert Manifest.from_json(large.to_json()) == large
    with pytest.raises(Misuse, match="1 to 64 words"):
        replace(MANIFEST, command=("x",) * 65)


def test_the_highest_version_fits_63_bits():
    assert Manifest.from_json(changed("version", 2**63 - 1)).version == 2**63 - 1
    with pytest.raises(Misuse, match="version is not"):
        Manifest.from_json(changed("version", 2**63))


@pytest.mark.parametrize("kind", ["tree", "tarball", "image"])
def test_a_program_is_of_three_kinds(kind):
    assert Manifest.from_json(changed("program.kind", kind)).program.kind == kind


def test_a_key_that_is_there_twice_is_refused_wherever_it_is():
    with pytest.raises(Misuse, match="'version' is there twice"):
        Manifest.from_json(SIGNED.replace(b'"version":7}', b'"version":7,"version":8}'))
    with pytest.raises(Misuse, match="'disks' is there twice"):
        Manifest.from_json(SIGNED.replace(b'"disks":5', b'"disks":5,"disks":5'))


def test_a_large_file_is_no_manifest():
    assert Manifest.from_json(SIGNED.ljust(MANIFEST_BYTES_MAX)) == MANIFEST
    with pytest.raises(Misuse, match="more than"):
        Manifest.from_json(SIGNED.ljust(MANIFEST_BYTES_MAX + 1))


def test_a_policy_that_is_nested_without_end_is_misuse(monkeypatch):
    """The parser's bound on depth and the writer's are not the same in every release of Python."""

    def too_deep(_):
        raise RecursionError

    data = changed("policy", [[]])
    monkeypatch.setattr("perdure.manifest.manifest.json.dumps", too_deep)
    with pytest.raises(Misuse, match="nested too deeply"):
        Manifest.from_json(data)


def test_lengths_that_the_encoding_would_not_show_are_refused():
    with pytest.raises(Misuse, match="32 bytes"):
        Program(ProgramKind.IMAGE, b"\xaa" * 31)
    with pytest.raises(Misuse, match="32 bytes"):
        replace(MANIFEST, array_id=b"\xbb" * 33)


def test_the_command_is_filled_in_once():
    made = replace(MANIFEST, command=("{program}{directory}", "--at={directory}"))
    assert made.arguments("/p/{directory}", "/d") == ("/p/{directory}/d", "--at=/d")


def test_the_settings_that_may_be_fixed_have_the_values_of_the_configuration():
    values = {"acknowledgements": Acknowledgements, "attest": Attest, "when-too-few-disks": WhenTooFew}
    assert dict(OVERRIDES) == {key: tuple(kind) for key, kind in values.items()}


def test_chains_may_be_fixed_where_the_policy_allows_them():
    overrides = Overrides("chains", "every-read", "freeze")
    made = replace(MANIFEST, policy=replace(POLICY, acknowledgement_chains=True), overrides=overrides)
    assert Manifest.from_json(made.to_json()).overrides == overrides


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
NESTED = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(st.binary(max_size=200) | NESTED.map(lambda value: json.dumps(value).encode()))
def test_whatever_bytes_come_only_misuse_is_raised(data):
    with pytest.raises(Misuse):
        Manifest.from_json(data)


@given(
    st.sampled_from([*json.loads(SIGNED), "array.id", "program.kind", "policy.roots", "overrides.attest"]),
    PLAIN | st.lists(st.text()) | st.just({}),
)
def test_whatever_value_stands_anywhere_it_is_read_as_it_is_or_misuse(path, value):
    try:
        read = Manifest.from_json(changed(path, value))
    except Misuse:
        return
    assert Manifest.from_json(read.to_json()) == read
