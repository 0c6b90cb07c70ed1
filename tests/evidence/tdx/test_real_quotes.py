"""Quotes that Intel's processors made: each must give what its record says, and each change to one must be refused."""

import base64
import contextlib
import functools
import hashlib
import json
import random
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.errors import (
    BadChain,
    BadEvidence,
    BadSignature,
    DebugMode,
    ExpiredEvidence,
    MalformedEvidence,
    MissingCollateral,
    OutdatedTcb,
    UntrustedRoot,
    WrongMeasurement,
)
from perdure.evidence.limits import TDX_STATUSES, TdxLimits
from perdure.evidence.policy import Measurement, Policy, TrustedRoot
from perdure.evidence.roots import Platform
from perdure.evidence.tdx import quote as quotes
from perdure.evidence.tdx import verifier
from tests.evidence.support import VECTORS, expected, needs_vectors
from tests.evidence.tdx.support import DAY_MS
from tests.evidence.tdx.support import POLICY as TEST_POLICY

pytestmark = needs_vectors("tdx")

RECORDS = expected("tdx")
GOOD, DEBUG, BARE = "dcap-qvl-v4", "trustee-v4-debug-td", "go-tdx-guest-v5"
NAMES = {"mrtd": "mr_td", "mrconfigid": "mr_config_id", **{f"rtmr{index}": f"rtmr{index}" for index in range(4)}}
PCK_LIFE_MS = int(datetime.fromisoformat("2026-03-01T00:00:00Z").timestamp() * 1000)


@functools.cache
def read(name):
    return (VECTORS / "tdx" / f"{name}.quote").read_bytes()


@functools.cache
def texts():
    return tuple((VECTORS / "tdx" / f"{name}.collateral.json").read_text() for name in (DEBUG, GOOD))


def registers(name):
    return {ours: bytes.fromhex(RECORDS[name][theirs]) for ours, theirs in NAMES.items()}


@functools.cache
def policy_for(name, *statuses):
    root = TrustedRoot.builtin("intel-sgx", TdxLimits(statuses) if statuses else TdxLimits())
    return Policy((root,), (Measurement.of("intel-sgx", registers(name)),))


def at(name):
    return RECORDS[name]["verify_at"] * 1000


def verify(quote, name=GOOD, *, collateral=None, at_ms=None, policy=None):
    return verifier.verify(
        quote,
        texts() if collateral is None else collateral,
        policy=policy or policy_for(name),
        at_ms=at(name) if at_ms is None else at_ms,
    )


def flipped(data, where, bit=0):
    return data[:where] + bytes([data[where] ^ 1 << bit]) + data[where + 1 :]


def test_the_records_are_those_of_these_quotes():
    assert set(RECORDS) == {GOOD, DEBUG, BARE}
    assert all(hashlib.sha256(read(name)).hexdigest() == record["sha256"] for name, record in RECORDS.items())


@pytest.mark.parametrize("name", [GOOD, DEBUG, BARE])
def test_a_real_quote_is_read_as_its_record_says(name):
    record, parsed = RECORDS[name], quotes.parse(read(name))
    assert {ours: parsed.registers[ours] for ours in NAMES} == registers(name)
    assert parsed.report_data.hex() == record["report_data"]
    assert parsed.td_attributes.to_bytes(8, "little").hex() == record["td_attributes"]
    assert parsed.service_td == bytes(48)
    assert parsed.quoting_enclave.isv_prod_id == 2


def test_a_real_quote_is_accepted_at_its_time():
    verified = verify(read(GOOD))
    assert (verified.platform, verified.root) == (Platform.TDX, "intel-sgx")
    assert verified.report_data.hex() == RECORDS[GOOD]["report_data"]
    assert {name: verified.measurement[name] for name in NAMES} == registers(GOOD)
    assert verified.not_after_ms == int(datetime.fromisoformat("2025-07-19T10:00:35Z").timestamp() * 1000)
    assert verified.module_id.startswith(f"{verified.host}-")
    assert verified.time_ms is None


def test_a_real_quote_is_refused_when_its_collateral_has_ended_or_not_begun():
    end = verify(read(GOOD)).not_after_ms
    assert verify(read(GOOD), at_ms=end - 1)
    for at_ms in (end, at(GOOD) + 31 * DAY_MS, at(GOOD) - DAY_MS, 0, -1, 1 << 62):
        with pytest.raises(ExpiredEvidence):
            verify(read(GOOD), at_ms=at_ms)


def test_a_real_debug_guest_is_refused_with_and_without_collateral():
    for collateral in (texts(), ()):
        with pytest.raises(DebugMode):
            verify(read(DEBUG), DEBUG, collateral=collateral, policy=policy_for(DEBUG, *TDX_STATUSES))


def test_a_real_quote_without_collateral_for_its_processor_is_not_judged():
    for collateral in (texts(), ()):
        with pytest.raises(MissingCollateral):
            verify(read(BARE), BARE, collateral=collateral, at_ms=PCK_LIFE_MS)
    with pytest.raises(MissingCollateral):
        verify(read(GOOD), collateral=texts()[:1])


def test_a_real_quote_is_refused_under_any_other_root_and_for_any_other_program_and_status():
    with pytest.raises(UntrustedRoot):
        verify(read(GOOD), policy=TEST_POLICY)
    with pytest.raises(WrongMeasurement):
        verify(read(GOOD), policy=policy_for(BARE))
    with pytest.raises(OutdatedTcb):
        verify(read(GOOD), policy=policy_for(GOOD, "OutOfDate"))


@pytest.mark.parametrize(
    ("where", "error"),
    [
        (0x00, MalformedEvidence),  # version
        (0x02, MalformedEvidence),  # key type
        (0x04, MalformedEvidence),  # TEE type
        (0x08, BadSignature),  # versions of the quoting enclave
        (0x0C, MalformedEvidence),  # its vendor
        (0x1C, BadSignature),  # user data
        (0x30, BadSignature),  # TCB of the module
        (0xA8, BadSignature),  # attributes: a debug bit is believed only if it is signed
        (0xB8, BadSignature),  # MRTD
        (0x178, BadSignature),  # RTMR0
        (0x238, BadSignature),  # report data
        (0x278, MalformedEvidence),  # length
        (0x27C, BadSignature),  # signature
        (0x2BC, BadSignature),  # attestation key
        (0x2FC, MalformedEvidence),  # certification type
        (0x2FE, MalformedEvidence),  # its length
        (0x302, BadSignature),  # the quoting enclave's report
        (0x482, BadSignature),  # its signature
        (0x4C2, MalformedEvidence),  # length of the authentication data
        (0x4C4, BadSignature),  # authentication data
        (0x4E4, MalformedEvidence),  # certification type
        (0x4E6, MalformedEvidence),  # its length
        (0x4EA, MalformedEvidence),  # PEM
        (-1, MalformedEvidence),  # padding
    ],
)
def test_one_flipped_bit_is_refused_for_what_it_is(where, error):
    where %= len(read(GOOD))
    with pytest.raises(error):
        verify(flipped(read(GOOD), where))


@pytest.mark.parametrize(("index", "error"), [(0, BadChain), (1, BadChain), (2, UntrustedRoot)])
def test_a_flipped_bit_in_a_certificate_is_refused(index, error):
    certificates = list(quotes.parse(read(GOOD)).certificates)
    for where in (60, len(certificates[index]) // 2, len(certificates[index]) - 1):
        changed = [*certificates[:index], flipped(certificates[index], where), *certificates[index + 1 :]]
        pem, old = quotes.to_pem(changed), quotes.to_pem(certificates)
        assert len(pem) == len(old)
        with pytest.raises(error):
            verify(read(GOOD).replace(old, pem))


def test_every_changed_byte_of_a_real_quote_is_refused():
    """Without exception: what is not signed or hashed has one legal value, up to the last byte of the padding."""
    quote, bits = read(GOOD), random.Random(1)
    for where in range(len(quote)):
        with pytest.raises(BadEvidence):
            verify(flipped(quote, where, bits.randrange(8)))


def test_a_real_quote_is_refused_wherever_it_is_cut_but_for_its_padding():
    quote = read(GOOD)
    end = len(quotes.parse(quote).to_bytes()) + 1  # and the zero after the PEM text
    for length in range(end):
        with pytest.raises(MalformedEvidence):
            quotes.parse(quote[:length])
    for length in (end, end + 1, len(quote), len(quote) + 1):
        assert verify(quote[:length].ljust(length, b"\0")) == verify(quote)
    with pytest.raises(MalformedEvidence):
        verify(quote + b"\1")


FIELDS = {
    "root_ca_crl": (BadSignature, MissingCollateral),
    "pck_crl": (BadSignature, MissingCollateral),
    "tcb_info_issuer_chain": (BadChain, UntrustedRoot, MissingCollateral),
    "tcb_info": (BadSignature, MissingCollateral, ExpiredEvidence),
    "tcb_info_signature": (BadSignature, MissingCollateral),
    "qe_identity_issuer_chain": (BadChain, UntrustedRoot, MissingCollateral),
    "qe_identity": (BadSignature, MissingCollateral, ExpiredEvidence),
    "qe_identity_signature": (BadSignature, MissingCollateral),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_changed_character_of_real_collateral_is_refused(name):
    """Left out: capitals for small letters in hexadecimal, which say the same; `pck_crl_issuer_chain`, never read."""
    good, draw = json.loads(texts()[1]), random.Random(name)
    text = good[name]
    kinds = set()
    for where in sorted(draw.sample(range(len(text)), 60)):
        other = chr(ord(text[where]) ^ 1 << draw.randrange(5))
        changed = json.dumps(good | {name: text[:where] + other + text[where + 1 :]})
        with pytest.raises(FIELDS[name]) as caught:
            verify(read(GOOD), collateral=[changed])
        kinds.add(caught.type)
    assert kinds - {MissingCollateral}, "no change got as far as the signature"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_real_quote_with_pieces_of_noise_is_refused(data):
    quote = bytearray(read(GOOD))
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.integers(0, len(quote) - 1))
        noise = data.draw(st.binary(min_size=1, max_size=64))
        quote[where : where + data.draw(st.integers(0, 64))] = noise
    with contextlib.suppress(BadEvidence):
        assert verify(bytes(quote)) == verify(read(GOOD))
        assert quotes.parse(bytes(quote)) == quotes.parse(read(GOOD))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_real_collateral_with_pieces_of_noise_is_refused_or_says_the_same(data):
    text = texts()[1]
    where = data.draw(st.integers(0, len(text) - 1))
    noise = data.draw(st.text(max_size=32))
    changed = text[:where] + noise + text[where + data.draw(st.integers(0, 32)) :]
    with contextlib.suppress(BadEvidence):
        assert verify(read(GOOD), collateral=[changed]) == verify(read(GOOD))


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=900))
def test_noise_in_the_place_of_a_certificate_is_refused(noise):
    certificates = quotes.parse(read(GOOD)).certificates
    start = read(GOOD)[:0x278]
    for changed in ((noise, *certificates[1:]), (certificates[0], noise, certificates[2]), (*certificates[:2], noise)):
        parsed = quotes.parse(read(GOOD))
        fields = {name: getattr(parsed, name) for name in parsed.__slots__}
        quote = quotes.Quote(**(fields | {"certificates": changed})).to_bytes()
        assert quote.startswith(start)
        assert base64.b64encode(noise)[:40] in quote
        with pytest.raises((BadChain, UntrustedRoot)):
            verify(quote)
