"""`erase` wipes a range, keeps a receipt, and says when one would be worth little."""

import json

import pytest

from perdure.array.receipt import Receipt
from tests.cli.rig import Rig

SECTOR = 4096


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    with Rig(tmp_path_factory.mktemp("erase"), disks=3, threshold=2) as rig:
        rig.up(size="4M", dead_after_ms=500)
        rig.write(0, b"secret" * 4096)
        yield rig


def erase(rig, file, *words, offset=0, length=SECTOR, code=0):
    return rig.run("erase", "--offset", offset, "--length", length, "-o", file, *words, code=code)


@pytest.mark.parametrize(
    ("offset", "length", "sentence"),
    [
        (1, SECTOR, "4096 bytes from 1 are not whole sectors"),
        (0, 1, "1 bytes from 0 are not whole sectors"),
        ("4M", SECTOR, "are not whole sectors of 4096 bytes within the array's 4194304"),
        (0, "all", "'all' is not a size"),
    ],
)
def test_what_cannot_be_erased_is_refused(rig, tmp_path, offset, length, sentence):
    assert sentence in erase(rig, tmp_path / "receipt", offset=offset, length=length, code=2).sentence
    assert rig.read(0, 6) == b"secret"
    assert not (tmp_path / "receipt").exists()


def test_a_receipt_is_never_written_over_another(rig, tmp_path):
    (tmp_path / "receipt").write_text("precious")
    for file in (tmp_path / "receipt", tmp_path / "nowhere" / "receipt"):
        assert "it must be a new file; nothing was erased" in erase(rig, file, code=2).sentence
    assert rig.read(0, 6) == b"secret"
    assert (tmp_path / "receipt").read_text() == "precious"


def test_what_is_erased_reads_as_zeros_and_the_receipt_says_which_disks_proved_it(rig, tmp_path):
    value = erase(rig, tmp_path / "receipt", "--json", offset="4K", length="8K").json
    assert (
        rig.read(0, 4 * SECTOR)
        == (b"secret" * 4096)[:SECTOR] + bytes(2 * SECTOR) + (b"secret" * 4096)[3 * SECTOR : 4 * SECTOR]
    )
    assert [witness["seat"] for witness in value["witnesses"]] == [0, 1, 2]
    assert (value["offset"], value["length"]) == (SECTOR, 2 * SECTOR)
    assert (value["exposed_seats"], value["is_beyond_recall"]) == ([], True)
    words = ["--policy", rig.directory / "policy.json", "--array-id", value["array_id"], tmp_path / "receipt"]
    rig.run("evidence", "verify-receipt", *words)
    text = (tmp_path / "receipt").read_text()
    receipt = Receipt.from_json(json.loads(text))
    assert receipt.to_json() == json.loads(text)
    assert receipt.array_id.hex() == rig.status()["array_id"]
    assert (receipt.offset, receipt.length, len(receipt.proofs)) == (SECTOR, 2 * SECTOR, 3)


def test_of_a_disk_that_left_it_is_said_what_it_may_hold(rig, tmp_path):
    rig.write(0, b"secret" * 4096)
    rig.kill_disk(1)
    done = erase(rig, tmp_path / "receipt", code=1)
    assert done.out.startswith("Erased 4 KiB from byte 0. The disks in seats 0, 2 proved that they hold nothing of it;")
    assert "may still hold fragments of it, of seats 1: too few to bring it back." in done.out
