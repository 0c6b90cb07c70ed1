"""docs/vectors.json and docs/spec.md are true: made again they are the same bytes, and what is central in them is
computed here a second time from the text of the specification, with no code of this project.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib
import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SPEC = (DOCS / "spec.md").read_text()
VECTORS = json.loads((DOCS / "vectors.json").read_text())
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
REASONS = {
    1: "MALFORMED",
    2: "BAD_SIGNATURE",
    3: "WRONG_INSTANCE",
    4: "WRONG_EPOCH",
    5: "WRONG_SEQ",
    6: "OUT_OF_RANGE",
    7: "NO_EVIDENCE",
    8: "NO_LINK",
}


def unhex(text):
    return bytes.fromhex(text)


def tagged(tag, message):
    head = hashlib.sha256(tag).digest()
    return hashlib.sha256(head + head + message).digest()


def mac(key, message):
    return hmac.new(key, message, hashlib.sha256).digest()


def pattern(count):
    return bytes(7 * at & 255 for at in range(count))


def fork(left, right):
    return hashlib.sha512(b"perdure/fork/1" + left + right).digest()


def leaf_of(payload, result):
    instance, epoch, seq = result[:32], result[32:48], result[48:56]
    nonce = payload[60:92]
    digest = tagged(b"perdure/command/1", payload)
    answered = hashlib.sha256(result).digest()
    return hashlib.sha512(b"perdure/leaf/1" + instance + epoch + seq + nonce + digest + answered).digest()


PRIVATE = unhex(VECTORS["key"]["private"])
SECRET = ec.derive_private_key(int.from_bytes(PRIVATE, "big"), ec.SECP256K1())


# The file itself ------------------------------------------------------------------------------------------


def test_the_script_makes_the_same_file_again():
    command = [sys.executable, str(DOCS / "make_vectors.py"), "--check"]
    hashing = {"PYTHONHASHSEED": "7"}
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60, env=hashing)
    assert done.returncode == 0, done.stderr


# The specification's text ---------------------------------------------------------------------------------


LISTINGS = re.findall(r"^```hex (.+?)\n(.*?)^```", SPEC, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("name", "text"), LISTINGS, ids=[name for name, _ in LISTINGS])
def test_a_listing_in_the_specification_is_the_vector_that_it_names(name, text):
    section, _, key = name.partition("/")
    assert "".join(line.partition("#")[0] for line in text.splitlines()).replace(" ", "") == VECTORS[section][key]


def test_the_specification_has_its_listings_and_limits():
    assert len(LISTINGS) == 6
    assert len(LIMITS) > 20


LIMITS = re.findall(r"^\| .+? \| ([\d,]+) \| `(perdure\.[\w.]+)\.(\w+)` \|", SPEC, re.MULTILINE)


@pytest.mark.parametrize(("value", "module", "name"), LIMITS, ids=[name for _, _, name in LIMITS])
def test_a_limit_in_the_specification_is_the_one_in_the_code(value, module, name):
    assert getattr(importlib.import_module(module), name) == int(value.replace(",", ""))


def test_the_sections_that_code_cites_exist():
    sections = set(re.findall(r"^## (\d+)\.", SPEC, re.MULTILINE))
    assert sections == {str(number) for number in range(1, 21)}
    paragraphs = set(re.findall(r"^\*\*(\d+\.\d+)\b", SPEC, re.MULTILINE)) | sections
    cited = set()
    for path in (ROOT / "perdure").rglob("*.py"):
        for text in re.findall(r"(?:spec\.md, sections?|spec) (\d[\d., and]*)", path.read_text()):
            cited.update(re.findall(r"\d+(?:\.\d+)?", text))
    assert cited
    assert cited <= paragraphs


def test_the_refusals_in_the_specification_are_the_ones_on_the_wire():
    table = re.findall(r"^\| (\d) \| ([A-Z_]+) \|", SPEC, re.MULTILINE)
    assert {int(number): name for number, name in table} == REASONS
    wire = importlib.import_module("perdure.disk.wire")
    assert {reason.value: reason.name for reason in wire.Reason} == REASONS


# 2. Commands ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", VECTORS["2 commands"], ids=lambda command: command["name"])
def test_a_command_is_signed_over_the_tagged_hash_of_its_payload(command):
    payload, signature = unhex(command["payload"]), unhex(command["signature"])
    digest = tagged(b"perdure/command/1", payload)
    assert digest.hex() == command["digest"]
    assert unhex(command["frame"]) == struct.pack(">I", 64 + len(payload)) + signature + payload
    prehashed = ec.ECDSA(utils.Prehashed(SHA256()), deterministic_signing=True)
    r, s = utils.decode_dss_signature(SECRET.sign(digest, prehashed))
    assert signature == r.to_bytes(32, "big") + min(s, ORDER - s).to_bytes(32, "big")


def test_the_public_key_is_that_of_the_private_key():
    point = SECRET.public_key().public_numbers()
    assert VECTORS["key"]["public"] == f"{2 + point.y % 2:02x}{point.x:064x}"


def test_the_listed_execute_has_the_fields_of_the_specification():
    frame = unhex(VECTORS["2 exchange"]["execute"])
    fields = struct.unpack(">I64sBBBB32s16sQ32sHBIII64s", frame)
    assert fields[0] == len(frame) - 4
    assert fields[2:6] == (1, 3, 1, 0)
    assert fields[8:10] == (1, b"\x44" * 32)
    assert fields[10:] == (1, 1, 2, 1, 0, pattern(64))


def test_the_listed_reply_commits_to_the_listed_leaf():
    exchange = {name: unhex(text) for name, text in VECTORS["2 exchange"].items()}
    length, kind, result_length = struct.unpack_from(">IBI", exchange["execute_reply"])
    assert (length, kind, result_length) == (len(exchange["execute_reply"]) - 4, 1, 60)
    assert leaf_of(exchange["execute"][68:], exchange["execute_reply"][9:69]) == exchange["execute_leaf"]


def test_good_replies_lead_to_the_root_and_bad_ones_to_their_class():
    payload = unhex(VECTORS["2 exchange"]["hello"])[68:]
    by_name = {case["name"]: case for case in VECTORS["2 replies"]}
    case = by_name["good, leaf 1 of 3"]
    own = leaf_of(payload, unhex(case["reply"])[5:65])
    assert case["commitment"] == fork(fork(bytes(64), own), b"\x01" * 64).hex()
    assert by_name["good, the only leaf"]["commitment"] == own.hex()
    failures = {name: case["fails"] for name, case in by_name.items() if "fails" in case}
    assert failures.pop("refusal WRONG_EPOCH") == "Refused"
    assert set(failures.values()) == {"MalformedEvidence"}
    assert len(failures) == 8


# 3. The disk ----------------------------------------------------------------------------------------------


def test_every_answer_of_the_disk_has_the_leaf_of_the_specification():
    attested = [step for step in VECTORS["3 disk"]["steps"] if step.get("leaf")]
    assert len(attested) == 7
    for step in attested:
        assert leaf_of(unhex(step["frame"])[68:], unhex(step["result"])).hex() == step["leaf"], step["name"]
    plain = [step for step in VECTORS["3 disk"]["steps"] if "result" in step and not step["leaf"]]
    assert all(unhex(step["frame"])[70] in (0, 3) for step in plain)
    assert all(unhex(step["frame"])[70] in (1, 2) for step in attested)


def test_links_hash_to_the_anchor_in_as_many_steps_as_commands_came_after_it():
    shown = {}
    for step in VECTORS["3 disk"]["steps"]:
        frame = unhex(step["frame"]) if isinstance(step["frame"], str) else bytes(200)
        if "result" in step and frame[70] in (2, 3):
            assert len(unhex(step["result"])) == 92
            shown[int.from_bytes(frame[120:128], "big")] = unhex(step["result"])[60:]
    assert list(shown) == [4, 5, 7]
    drawn = bytes(0x80 + at for at in range(32))
    for seq, link in shown.items():
        expected = drawn
        for _ in range(32 - (seq - 4)):
            expected = tagged(b"perdure/link/1", expected)
        assert link == expected


def test_the_disk_refuses_for_every_reason_that_it_can_decide_itself():
    refused = {step["refused"] for step in VECTORS["3 disk"]["steps"] if "refused" in step}
    assert refused == set(REASONS.values()) - {"NO_EVIDENCE"}


def test_the_disks_memory_is_what_the_accepted_operations_leave():
    memory = bytearray(64 * VECTORS["3 disk"]["disk_sectors"])
    for step in VECTORS["3 disk"]["steps"]:
        payload = unhex(step["frame"])[68:] if isinstance(step["frame"], str) else b""
        if "result" not in step or payload[1] != 3:
            continue
        (count,) = struct.unpack_from(">H", payload, 92)
        data = payload[94 + 13 * count :]
        for kind, target, length, source in struct.iter_unpack(">BIII", payload[94 : 94 + 13 * count]):
            start, size = target * 64, length * 64
            if kind == 1:
                memory[start : start + size], data = data[:size], data[size:]
            elif kind == 2:
                memory[start : start + size] = bytes(memory[source * 64 : source * 64 + size])
            else:
                memory[start : start + size] = bytes(size)
        assert data == b""
    assert memory.hex() == VECTORS["3 disk"]["memory_after"]
    assert any(memory)


@pytest.mark.parametrize("tree", VECTORS["3 merkle"], ids=lambda tree: str(tree["leaves"]))
def test_a_merkle_path_leads_from_its_leaf_to_the_root(tree):
    nodes = [struct.pack(">H", at) * 32 for at in range(tree["leaves"])]
    for text, path in tree["paths"].items():
        node, at, count = nodes[int(text)], int(text), tree["leaves"]
        siblings = [unhex(path)[start : start + 64] for start in range(0, len(path) // 2, 64)]
        while count > 1:
            if at ^ 1 < count:
                sibling = siblings.pop(0)
                node = fork(sibling, node) if at % 2 else fork(node, sibling)
            at, count = at // 2, (count + 1) // 2
        assert siblings == []
        assert node.hex() == tree["root"]
    while len(nodes) > 1:
        odd = nodes[len(nodes) & ~1 :]
        nodes = [fork(nodes[at], nodes[at + 1]) for at in range(0, len(nodes) - 1, 2)] + odd
    assert nodes[0].hex() == tree["root"]


# 4 and 5. Layout, sealing, fragments ----------------------------------------------------------------------


@pytest.mark.parametrize("layout", VECTORS["4 layout"], ids=lambda layout: f"{layout['k']}-of-{layout['n']}")
def test_a_layout_follows_the_formulas(layout):
    sectors = layout["size_bytes"] // 4096
    f = -(-4096 // (64 * layout["k"]))
    slot = 25 + 256 * (1 + f)
    tags = 289 + 16 * slot
    fragments = tags + sectors
    assert (layout["current_start"], layout["next_start"], layout["head_start"]) == (32, 160, 288)
    assert (layout["fragment_sectors"], layout["slot_sectors"]) == (f, slot)
    assert (layout["tags_start"], layout["fragments_start"]) == (tags, fragments)
    assert layout["disk_sectors"] == fragments + f * sectors


def test_the_worked_example_is_the_vector():
    layout = next(layout for layout in VECTORS["4 layout"] if layout["k"] == 3)
    example = re.search(r"^\*\*4\.1 Example\.\*\*.*?\n\n", SPEC, re.MULTILINE | re.DOTALL)[0]
    for name in ("slot_sectors", "tags_start", "fragments_start", "disk_sectors"):
        assert f"{layout[name]:,}" in example
    assert f"{layout['disk_sectors'] * 64:,}" in example


def derived_keys():
    extracted = mac(unhex(VECTORS["7 genesis"]["array_id"]), PRIVATE)
    blocks, block = b"", b""
    for number in (1, 2, 3):
        block = mac(extracted, block + b"perdure/sealing/2" + bytes([number]))
        blocks += block
    return blocks[:32], blocks[32:64], blocks[64:]


def test_the_keys_come_by_hkdf_from_private_key_and_array_id():
    hkdf = VECTORS["7 genesis"]["hkdf"]
    assert derived_keys() == (unhex(hkdf["wrap"]), unhex(hkdf["mac"]), unhex(hkdf["journal"]))


def test_a_sealed_sector_has_the_tag_of_the_specification():
    seal = VECTORS["5 seal"]
    wrap_key, mac_key, _ = derived_keys()
    array_id, r = unhex(VECTORS["7 genesis"]["array_id"]), unhex(seal["r"])
    stream = Cipher(algorithms.AES256(r), modes.CTR(bytes(15) + b"\x02")).encryptor()
    ciphertext = stream.update(pattern(4096))
    assert ciphertext[:32].hex() == seal["ciphertext_start"]
    h = hashlib.sha256(ciphertext).digest()
    assert h.hex() == seal["ciphertext_sha256"]
    place = struct.pack(">QQ", seal["index"], seal["generation"])
    pad = mac(wrap_key, array_id + place + h)
    wrap = bytes(a ^ b for a, b in zip(r, pad, strict=True))
    tag = wrap + mac(mac_key, array_id + place + wrap + h)[:24] + struct.pack(">Q", seal["generation"])
    assert tag.hex() == seal["tag"]
    assert set(seal["bad"].values()) == {"Corrupt"}
    assert len(seal["bad"]) == 5


def times(a, b):
    product = 0
    while b:
        product ^= a * (b & 1)
        a, b = (a << 1) ^ (0x11D * (a >> 7)), b >> 1
    return product


INVERSE = {a: next(b for b in range(1, 256) if times(a, b) == 1) for a in range(1, 32)}


@pytest.mark.parametrize("code", VECTORS["5 code"], ids=lambda code: f"{code['k']}-of-{code['n']}")
def test_parity_is_the_cauchy_matrix_of_the_specification(code):
    fragments = [unhex(text) for text in code["fragments"]]
    k = code["k"]
    assert len(fragments) == code["n"]
    assert b"".join(fragments[:k]) == pattern(64 * k)
    for i in range(k, code["n"]):
        for at in range(64):
            expected = 0
            for j in range(k):
                expected ^= times(INVERSE[i ^ j], fragments[j][at])
            assert fragments[i][at] == expected


# 6 and 7. Journal, genesis, rosters -----------------------------------------------------------------------


def test_an_entry_has_the_encoding_of_the_specification():
    entry = VECTORS["6 journal"]
    indices, trims, tags = entry["indices"], entry["trims"], unhex(entry["tags"])
    fixed = b"PENT" + struct.pack(">HHQ", len(indices), len(trims), entry["number"]) + unhex(entry["epoch"])
    records = b"".join(struct.pack(">I", index) for index in indices)
    records += b"".join(struct.pack(">II", *trim) for trim in trims)
    records += bytes(-len(records) % 64)
    assert entry["encoded"] == (fixed + mac(derived_keys()[2], fixed + records + tags) + records + tags).hex()
    assert entry["head_last_5_applied_4"] == (struct.pack(">QQ", 5, 4) + bytes(48)).hex()
    assert set(entry["bad"].values()) == {"Corrupt"}


def test_applying_an_entry_takes_the_operations_of_the_specification():
    entry, f = VECTORS["6 journal"], 22
    tags_home, fragments_home = 94_897, 357_041
    slot = 289 + 17 % 16 * 5_913
    tags_in = slot + 1 + 1
    fragments_in = tags_in + 3
    expected = [
        (3, tags_home + 1000, 16, 0),
        (3, fragments_home + 1000 * f, 16 * f, 0),
        (2, tags_home + 7, 2, tags_in),
        (2, fragments_home + 7 * f, 2 * f, fragments_in),
        (2, tags_home + 300, 1, tags_in + 2),
        (2, fragments_home + 300 * f, f, fragments_in + 2 * f),
        (3, slot, 2 + 3 + 3 * f, 0),
    ]
    assert [struct.unpack(">BIII", unhex(op)) for op in entry["apply_ops"]] == expected
    assert (entry["slot_start"], entry["slot_sectors_filled"]) == (slot, 5 + 3 * f)


def test_the_array_id_is_the_tagged_hash_of_the_genesis_record():
    genesis = VECTORS["7 genesis"]
    record = b"PERDURE1" + struct.pack(">BB6xQ", genesis["k"], genesis["n"], genesis["sectors"])
    record += unhex(genesis["authority"]) + bytes(7) + unhex(genesis["policy_digest"])
    record += b"".join(unhex(instance) for instance in genesis["instances"])
    assert genesis["record"] == record.hex()
    assert genesis["array_id"] == tagged(b"perdure/genesis/1", record).hex()
    shape = {"k not more than half of n": "Misuse"}
    assert genesis["bad"] == {**dict.fromkeys(genesis["bad"], "Corrupt"), **shape}


def test_a_roster_has_the_encoding_of_the_specification():
    roster = VECTORS["7 roster"]
    epoch, counter = roster["version"]
    old_epoch, old_counter = roster["predecessor"]
    encoded = b"PRST" + struct.pack(">BBH", len(roster["seats"]), len(roster["departed"]), 0)
    encoded += unhex(epoch) + struct.pack(">Q", counter) + unhex(old_epoch) + struct.pack(">Q", old_counter)
    encoded += struct.pack(">QQ", roster["last"], roster["applied"])
    encoded += b"".join(unhex(seat) if seat else bytes(32) for seat in roster["seats"])
    for seat, last, instance in roster["departed"]:
        encoded += struct.pack(">B7xQ", seat, last) + unhex(instance)
    assert roster["encoded_without_trailing_zeros"] == encoded.rstrip(b"\0").hex()
    assert roster["encoded_bytes"] == 8192
    assert set(roster["bad"].values()) == {"Corrupt"}


@pytest.mark.parametrize("case", VECTORS["7 roster"]["bases"], ids=lambda case: case["name"])
def test_the_base_is_the_newest_roster_that_is_not_void(case):
    members, predecessor = {0: {0, 1, 2}, 1: {1, 2}}, {1: 0}
    labels = {int(disk): label for disk, label in case["labels"].items()}
    seen = {roster for label in labels.values() for roster in label if roster is not None}
    base = max(seen, default=None)
    while base is not None and any(
        labels[disk][0] is None or labels[disk][0] < base for disk in members[base] & labels.keys()
    ):
        base = predecessor.get(base)
    assert case.get("base") == base
    assert (base is None) == (case.get("fails") == "Unavailable")


# 11 and 12. Image and policy ------------------------------------------------------------------------------


def newc(name, number, mode, links, contents):
    fields = (number, mode, 0, 0, links, 0, len(contents), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + contents + bytes(-len(contents) % 4)


def extended(content):
    return hashlib.sha384(bytes(48) + hashlib.sha384(content).digest()).hexdigest()


def test_the_pcrs_follow_from_the_files_and_the_key():
    image = VECTORS["11 image"]
    trailer = newc("TRAILER!!!", 0, 0, 1, b"")
    second = newc("authority.pub", 1, 0o100644, 1, unhex(VECTORS["key"]["public"])) + trailer
    assert image["authority_ramdisk"] == second.hex()
    main, package = (unhex(image["program"][name]) for name in ("__main__.py", "perdure/__init__.py"))
    first = newc("__main__.py", 1, 0o100644, 1, main) + newc("perdure", 2, 0o040755, 2, b"")
    first += newc("perdure/__init__.py", 3, 0o100644, 1, package) + trailer
    boot = b"perdure simulated TEE, version 1: protects nothing, for tests and trials only\nperdure.simulated=1"
    assert image["pcr0"] == extended(boot + first + second)
    assert image["pcr1"] == extended(boot + first)
    assert image["pcr2"] == extended(second)


def test_a_policy_is_named_by_the_tagged_hash_of_its_canonical_form():
    policy = VECTORS["12 policy"]
    value = json.loads(policy["json"])
    assert json.dumps(value, sort_keys=True, separators=(",", ":")) == policy["json"]
    assert tagged(b"perdure/policy/1", policy["json"].encode()).hex() == policy["digest"]
    assert VECTORS["7 genesis"]["policy_digest"] == policy["digest"]
    assert set(policy["bad"].values()) == {"Misuse"}
    assert len(policy["bad"]) == 5


# 15. History ----------------------------------------------------------------------------------------------


def test_records_of_the_history_are_those_of_the_specification():
    previous = bytes(32)
    for record, body in zip(VECTORS["15 history"]["records"], (b"one", bytes(range(256)) * 34), strict=True):
        assert hashlib.sha256(body).hexdigest() == record["body_sha256"]
        number, parts = record["number"], record["parts"]
        digest = tagged(b"perdure/history/1", struct.pack(">Q", number) + previous + body)
        assert digest.hex() == record["digest"]
        content = (digest + previous + struct.pack(">I", len(body)) + body).ljust(parts * 4080, b"\0")
        sectors = b"".join(
            b"PHIS" + struct.pack(">HHQ", part, parts, number) + content[part * 4080 : (part + 1) * 4080]
            for part in range(parts)
        )
        assert hashlib.sha256(sectors).hexdigest() == record["sectors_sha256"]
        previous = digest


# 17. Derived keys -----------------------------------------------------------------------------------------


def hkdf_of_one_block(secret, info):
    extracted = mac(b"perdure/derive/1", secret)
    return mac(extracted, info + b"\x01")


@pytest.mark.parametrize("case", VECTORS["17 derived keys"]["authorities"], ids=lambda case: case["name"])
def test_an_authority_comes_by_hkdf_from_secret_and_label(case):
    private = hkdf_of_one_block(unhex(case["secret"]), b"authority\0" + case["label"].encode() + b"\0\0")
    assert private.hex() == case["private"]
    point = ec.derive_private_key(int.from_bytes(private, "big"), ec.SECP256K1()).public_key().public_numbers()
    assert case["public"] == f"{2 + point.y % 2:02x}{point.x:064x}"
    assert case["fingerprint"] == hashlib.sha256(unhex(case["public"])).hexdigest()[:16]


def test_the_second_candidate_differs_in_the_counter_alone():
    first = VECTORS["17 derived keys"]["authorities"][0]
    info = b"authority\0" + first["label"].encode() + b"\0\1"
    assert hkdf_of_one_block(unhex(first["secret"]), info).hex() == VECTORS["17 derived keys"]["second_candidate"]


def test_passphrases_come_from_the_authoritys_key_under_a_purpose_of_their_own():
    for case in VECTORS["17 derived keys"]["passphrases"]:
        info = b"luks\0" + case["label"].encode() + b"\0\0"
        assert case["passphrase"] == hkdf_of_one_block(PRIVATE, info).hex()


def test_what_no_key_is_derived_from_is_misuse():
    assert set(VECTORS["17 derived keys"]["bad"].values()) == {"Misuse"}
    assert len(VECTORS["17 derived keys"]["bad"]) == 8


# 20. Key store --------------------------------------------------------------------------------------------


def test_a_slot_has_the_fields_of_the_specification_and_is_what_its_sectors_say_together():
    vector = VECTORS["20 key store"]
    secret = b"\x11" * 32
    point = ec.derive_private_key(int.from_bytes(secret, "big"), ec.SECP256K1()).public_key().public_numbers()
    public = bytes([2 + point.y % 2]) + point.x.to_bytes(32, "big")
    place = struct.pack(">IQ", vector["slot"], vector["store"])
    assert unhex(vector["label_start"]) == b"PKSL" + place + struct.pack(">QQQ", 2, 2, 9) + public
    assert unhex(vector["secret_start"]) == b"PKSS" + place + struct.pack(">Q", 2) + public + secret
    assert list(vector["states"].values()) == ["empty", "held", "erased", "erased", "empty"]
    assert set(vector["bad"].values()) == {"Corrupt"}
    assert len(vector["bad"]) == 4


# 16. Manifests --------------------------------------------------------------------------------------------


def test_a_manifest_is_named_by_the_tagged_hash_of_its_canonical_bytes():
    vector = VECTORS["16 manifest"]
    value = json.loads(vector["json"])
    assert json.dumps(value, sort_keys=True, separators=(",", ":")) == vector["json"]
    assert json.dumps(value["policy"], sort_keys=True, separators=(",", ":")) == VECTORS["12 policy"]["json"]
    assert tagged(b"perdure/manifest/1", vector["json"].encode()).hex() == vector["digest"]
    assert vector["text_to_sign"] == f"perdure manifest {vector['digest']}"
    assert set(vector["bad"].values()) == {"Misuse"}
    assert len(vector["bad"]) == 6


def test_a_wallet_signs_the_text_of_the_digest():
    vector = VECTORS["16 manifest"]
    text = vector["text_to_sign"].encode()
    message = hashlib.sha256(b"\x18Bitcoin Signed Message:\n" + bytes([len(text)]) + text).digest()
    digest = hashlib.sha256(message).digest()
    for developer, file in zip(
        json.loads(vector["developers"])["developers"][1:], vector["signatures"][1:], strict=True
    ):
        numbers = base64.b64decode(json.loads(file)["signature"])
        r, s = int.from_bytes(numbers[1:33], "big"), int.from_bytes(numbers[33:], "big")
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), unhex(developer["key"]))
        key.verify(utils.encode_dss_signature(r, s), digest, ec.ECDSA(utils.Prehashed(SHA256())))


def test_too_few_signatures_are_not_authorised():
    vector = VECTORS["16 manifest"]
    assert vector["one signature"] == vector["one developer twice"] == "NotAuthorised"
