"""`evidence verify-receipt`: a file, a policy and an id are all it takes, and anything that is wrong is refused."""

import json

import pytest

from tests.cli.rig import Rig, perdure

SECTOR = 4096


@pytest.fixture(scope="module")
def receipt(tmp_path_factory):
    """A receipt, with the policy and the id that its reader knows; the array itself is gone."""
    directory = tmp_path_factory.mktemp("receipt")
    with Rig(directory, disks=3, threshold=2) as rig:
        rig.up(size="4M", dead_after_ms=500)
        rig.write(0, b"secret" * 4096)
        rig.kill_disk(1)
        rig.run("erase", "--offset", 0, "--length", 8 * SECTOR, "-o", directory / "receipt.json", code=1)
        array_id = rig.status()["array_id"]
        policy = directory / "policy.json"
        policy.write_bytes((rig.directory / "policy.json").read_bytes())
    return directory / "receipt.json", policy, array_id


def verify(receipt, *words, file=None, code=0):
    found, policy, array_id = receipt
    done = perdure("evidence", "verify-receipt", "--policy", policy, "--array-id", array_id, *words, file or found)
    assert done.code == code, done.err
    return done


def test_it_says_who_proved_what_and_when_and_who_may_still_hold_it(receipt):
    value = json.loads(verify(receipt, "--json").out)
    assert (value["array_id"], value["offset"], value["length"]) == (receipt[2], 0, 8 * SECTOR)
    assert [witness["seat"] for witness in value["witnesses"]] == [0, 2]
    assert all(witness["platform"] == "simulated" and witness["time"].endswith("Z") for witness in value["witnesses"])
    assert [(gone["seat"], gone["may_hold"]) for gone in value["departed"]] == [(1, True)]
    assert (value["seats_exposed"], value["seats_needed"], value["beyond_recall"]) == (1, 2, True)
    text = verify(receipt).out
    assert text.startswith(f"Erased: 32768 bytes from 0 of array {receipt[2]}.")
    assert "Dead disks of 1 seats may hold fragments of it; it takes 2 to bring it back." in text


def test_who_names_no_array_is_told_to_compare_it(receipt):
    file, policy, array_id = receipt
    done = perdure("evidence", "verify-receipt", "--policy", policy, file)
    assert (done.code, "--array-id" in done.out, array_id in done.out) == (0, True, True)
    assert "--array-id" not in verify(receipt).out


def test_another_array_or_policy_is_refused(receipt, tmp_path):
    assert "is about array" in verify((receipt[0], receipt[1], "00" * 32), code=3).sentence
    policy = json.loads(receipt[1].read_text())
    policy["skew_ms_max"] += 1
    (tmp_path / "policy.json").write_text(json.dumps(policy))
    done = verify((receipt[0], tmp_path / "policy.json", receipt[2]), code=2)
    assert "not the one that the receipt's array was created with" in done.sentence


def test_a_receipt_of_which_anything_was_changed_is_refused(receipt, tmp_path):
    value = json.loads(receipt[0].read_text())
    for key in ("offset", "entry", "oldest"):
        changed = tmp_path / key
        changed.write_text(json.dumps({**value, key: value[key] + 4096}))
        assert "did not sign the receipt" in verify(receipt, file=changed, code=2).sentence
    changed = tmp_path / "proofs"
    changed.write_text(json.dumps({**value, "proofs": value["proofs"][:1]}))
    assert "did not sign the receipt" in verify(receipt, file=changed, code=2).sentence


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("{}", "not an erase receipt"),
        ("null", "not an erase receipt"),
    ],
)
def test_what_is_no_receipt_is_refused_with_one_sentence(receipt, tmp_path, content, sentence):
    (tmp_path / "file").write_text(content)
    assert sentence in verify(receipt, file=tmp_path / "file", code=2).sentence
    assert "cannot be read" in verify(receipt, file=tmp_path / "none", code=2).sentence
