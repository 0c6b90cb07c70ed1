"""The judge of penalties takes one that punishes, and none that differs in a byte which matters."""

import hashlib
import json
import struct
import subprocess

import coincurve
import pytest

ASK = """
import {{ judge }} from '{source}/justice.mjs';
import {{ unhex }} from '{source}/bytes.mjs';
const [commitment, ...penalties] = JSON.parse(process.argv[1]).map(unhex);
const answer = (penalty) => {{ try {{ return judge(commitment, penalty); }} catch {{ return null; }} }};
console.log(JSON.stringify(penalties.map(answer)));
"""
COMMITMENT = (
    "0200000000010133fc85d889889124303a59331c3dda534776855d0cba8a0075d679df043fe7910000000000dae2e38002f0ba040000"
    "0000001600145d3f883936236b4c525a28fd50b545a70b6293d699860a00000000002200201f23aa0f3db6ef6e469e7d4d225b1408c1"
    "630340f02bbbbb2d3afe6c2ca410360400473044022063dd2ace76de98d9b42f6be4c601ee3f45bff1a6832876fcaf562385acf8cb53"
    "02206b9f051227474bd7464daec879c3476a73b8bf4b40cd696dc241e8a5fc53511701483045022100c7a61c07ffdf0a15a6b786483f"
    "af36902edcdb88a2e5241bf0830fc68e466931022018b61be1e15a9befb455f31ccdbf6ad61715264e30a45aafaebd2f3eefd294ae01"
    "475221027dae90284d72956b6c2a3b44644a633ec19bfc7fba79cb6f69a8cc4b506eee3c2102cb319670140e509f0e8411fe0546d193"
    "91b2437df6ffca04912a7b53cd5655a652ae057bbc20"
)
PENALTY = (
    "0200000000010171542ec67a0ec9e483abc0239e427ae4a5f9bcb77bb301a8e4030899943df33e0100000000fdffffff011f860a0000"
    "0000001600146c61e57f1f1f4ce3a5526264a740fdbc76be505103483045022100bee403a693e046263e6765604010addb5cce26cc3d"
    "ccc0994a109a1b6315eba2022041708d608e667d68ef21e46e3316e1d667dad675e6b8478b8e6b677bca1585020101014d63210270ea"
    "6efc40f9b979e9a122287113e6edbd295dc174068c1f432947401c20584767029000b27521039f79647d2fd2549864ee25a26f7d8232"
    "f8953aaaa6e35afa568c0491763ebdcd68ac07000000"
)
"""Made by LDK in a run of the demo."""


@pytest.fixture(scope="module")
def judged(program):
    def ask(*penalties, commitment=COMMITMENT):
        script = ASK.format(source=program.parent.as_uri())
        words = ["node", "--input-type=module", "-e", script, json.dumps([commitment, *penalties])]
        return json.loads(subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout)

    return ask


def flipped(text, place):
    """The transaction with one bit of one byte changed."""
    data = bytearray.fromhex(text)
    data[place] ^= 1
    return data.hex()


def test_a_penalty_of_ldks_is_one(judged):
    (found,) = judged(PENALTY)
    assert (found["takes_satoshis"], found["pays_satoshis"]) == (689_817, 689_695)


def test_no_penalty_with_a_changed_bit_is_one(judged):
    changed = [flipped(PENALTY, place) for place in range(len(PENALTY) // 2)]
    assert judged(*changed) == [None] * len(changed)


def test_a_penalty_for_another_commitment_is_none(judged):
    assert judged(PENALTY, commitment=flipped(COMMITMENT, 0)) == [None]


def sha256d(data):
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def signed_anew(penalty, key, value):
    """The same penalty by a script with another revocation key, and a good signature of that key (BIP 143)."""
    data = bytes.fromhex(penalty)
    outpoint, sequence, output, locktime = data[7:43], data[44:48], data[49:80], data[-4:]
    script = data[-4 - 77 : -4]
    script = script[:2] + key.public_key.format() + script[35:]
    parts = [data[:4], sha256d(outpoint), sha256d(sequence), outpoint, bytes([len(script)]), script]
    parts += [struct.pack("<Q", value), sequence, sha256d(output), locktime, struct.pack("<I", 1)]
    signature = key.sign(sha256d(b"".join(parts)), hasher=None) + b"\x01"
    witness = [signature, b"\x01", script]
    return data[:80].hex() + "03" + "".join(bytes([len(one)]).hex() + one.hex() for one in witness) + locktime.hex()


def test_a_penalty_by_a_script_that_is_not_the_outputs_is_none(judged):
    forged = signed_anew(PENALTY, coincurve.PrivateKey(b"\x01" * 32), 689_817)
    assert judged(forged) == [None]
