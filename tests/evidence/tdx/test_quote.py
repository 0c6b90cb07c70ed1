"""The format of quotes: exact in, exact out, and nothing else."""

import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.errors import MalformedEvidence
from perdure.evidence.tdx import quote as quotes
from tests.evidence.tdx.support import (
    LEAF,
    PLATFORM,
    REGISTERS,
    REPORT_DATA,
    ROOT,
    SEPT_VE_DISABLE,
    V4,
    V5_TD10,
    V5_TD15,
)

PEM = b"".join(one.pem for one in (LEAF, PLATFORM, ROOT))


def refuse(quote, match):
    with pytest.raises(MalformedEvidence, match=match):
        quotes.parse(quote)


@pytest.mark.parametrize("machine", [V4, V5_TD10, V5_TD15])
def test_every_field_is_found_where_it_was_written(machine):
    service_td = b"\x07" * 48 if machine.body_type == 3 else bytes(48)
    parsed = quotes.parse(replace(machine, service_td=service_td).quote())
    assert parsed.registers == REGISTERS
    assert parsed.report_data == REPORT_DATA
    assert parsed.td_attributes == SEPT_VE_DISABLE
    assert parsed.service_td == service_td
    assert parsed.certificates == (LEAF.der, PLATFORM.der, ROOT.der)
    enclave = parsed.quoting_enclave
    assert (enclave.mrsigner, enclave.isv_prod_id, enclave.misc_select) == (machine.qe_mrsigner, 2, 0)
    assert enclave.attributes == machine.qe_attributes


@pytest.mark.parametrize("machine", [V4, V5_TD10, V5_TD15])
def test_a_quote_is_written_again_as_it_was_but_for_its_freedoms(machine):
    plain = replace(machine, pem=PEM)
    assert quotes.parse(plain.quote()).to_bytes() == plain.quote()
    for free in (PEM + b"\0", PEM.replace(b"\n", b"\r\n"), PEM[:-1], PEM + b"\n"):
        for tail in (b"", bytes(70)):
            assert quotes.parse(replace(machine, pem=free, tail=tail).quote()).to_bytes() == plain.quote()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"version": 3}, "version 3"),
        ({"version": 6}, "version 6"),
        ({"tee_type": 0}, "TEE type 0x0"),
        ({"key_type": 3}, "type 3"),
        ({"vendor": bytes(16)}, "Intel's quoting enclave"),
        ({"outer_type": 5}, "type 5 where 6"),
        ({"inner_type": 4}, "type 4 where 5"),
        ({"auth_data": b""}, "0 bytes, not 32"),
        ({"auth_data": bytes(33)}, "33 bytes, not 32"),
        ({"chain": (LEAF, PLATFORM)}, "2 certificates"),
        ({"chain": (LEAF, PLATFORM, ROOT, ROOT)}, "4 certificates"),
        ({"pem": b""}, "plain form"),
        ({"pem": PEM + b"x"}, "plain form"),
        ({"pem": PEM + b"\0\0"}, "plain form"),
        ({"pem": b"\n" + PEM}, "plain form"),
        ({"pem": PEM.replace(b"\n", b"\r")}, "plain form"),
        ({"pem": PEM.replace(b"A", b"=", 30)}, "base64|plain form"),
        ({"pem": b"-----BEGIN CERTIFICATE-----\nQUJDR\n-----END CERTIFICATE-----\n"}, "not base64"),
        ({"pem": PEM + b"\n" * (1 << 14)}, "are the most"),
        ({"tail": b"\0\0\1"}, "not zero"),
        ({"tail": bytes(1 << 15)}, "are the most"),
    ],
)
def test_a_quote_of_another_form_is_refused(changes, match):
    refuse(replace(V4, **changes).quote(), match)


@pytest.mark.parametrize("body_type", [0, 1, 4])
def test_a_body_of_another_type_is_refused(body_type):
    quote = bytearray(V5_TD10.quote())
    struct.pack_into("<H", quote, 48, body_type)
    refuse(bytes(quote), "is not known")


@pytest.mark.parametrize("length", [0, 583, 585, 648, 1 << 31])
def test_a_body_of_another_length_than_its_types_is_refused(length):
    refuse(replace(V5_TD10, body_length=length).quote(), "is not known")


@pytest.mark.parametrize("at", [632, 766, 1254])
@pytest.mark.parametrize("change", [-1, 1, 1 << 20])
def test_lengths_that_do_not_fit_into_each_other_are_refused(at, change):
    quote = bytearray(replace(V4, tail=bytes(8)).quote())
    struct.pack_into("<I", quote, at, struct.unpack_from("<I", quote, at)[0] + change)
    refuse(bytes(quote), "cut short|fit into each other")


@pytest.mark.parametrize("machine", [V4, V5_TD15])
def test_a_quote_is_refused_wherever_it_is_cut(machine):
    quote = replace(machine, pem=PEM).quote()
    for length in range(len(quote)):
        with pytest.raises(MalformedEvidence):
            quotes.parse(quote[:length])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=3000))
def test_random_bytes_are_refused(data):
    with pytest.raises(MalformedEvidence):
        quotes.parse(data)
    for start in (V4.quote()[:48], V4.quote()[:636], V5_TD15.quote()[:54]):
        with pytest.raises(MalformedEvidence):
            quotes.parse(start + data)
