"""Envelopes: each comes apart into the parts that went in, and anything else is MalformedEvidence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import MalformedEvidence
from perdure.evidence import envelope
from perdure.evidence.envelope import PART_BYTES_MAX, TPM, TSM, Envelope, is_envelope, open_envelope, seal

from .support import COMMITMENT, nsm

COUNTS = {TSM: 3, TPM: 4}
names = pytest.mark.parametrize("name", COUNTS)
CUT = "A part of the evidence is cut short or too long"
UNKNOWN = "of no platform that is known, or has bytes after its end"


def parts_of(name):
    return tuple(bytes([number]) * (number + 3) for number in range(COUNTS[name]))


def at_length(name, position, length):
    """An envelope whose part at `position` has this length, and whose others are small."""
    parts = list(parts_of(name))
    parts[position] = bytes(length)
    return seal(name, *parts), tuple(parts)


def test_the_layout_is_the_name_and_each_part_after_its_length():
    assert seal(TSM, b"sev_guest", b"", b"ab") == b"PTSM\0\0\0\x09sev_guest\0\0\0\0\0\0\0\x02ab"
    assert seal(TPM, b"", b"", b"", b"x" * 258)[-262:] == b"\0\0\x01\x02" + b"x" * 258
    assert (TSM, TPM) == (b"PTSM", b"PTPM")


@names
def test_what_is_sealed_comes_out(name):
    assert open_envelope(seal(name, *parts_of(name))) == Envelope(name, parts_of(name))
    assert open_envelope(seal(name, *[b""] * COUNTS[name])) == Envelope(name, (b"",) * COUNTS[name])


@names
def test_a_part_has_up_to_65536_bytes(name):
    assert PART_BYTES_MAX == 65_536
    for position in range(COUNTS[name]):
        evidence, parts = at_length(name, position, PART_BYTES_MAX)
        assert open_envelope(evidence).parts == parts
        with pytest.raises(MalformedEvidence, match=CUT):
            open_envelope(at_length(name, position, PART_BYTES_MAX + 1)[0])


@names
def test_every_truncation_and_extension_is_refused(name):
    evidence = seal(name, *parts_of(name))
    for length in range(4, len(evidence)):
        with pytest.raises(MalformedEvidence, match=CUT):
            open_envelope(evidence[:length])
    for length in range(4):
        with pytest.raises(MalformedEvidence, match=UNKNOWN):
            open_envelope(evidence[:length])
    for more in (b"\0", b"\0\0\0\0", b"\0\0\0\1x", evidence):
        with pytest.raises(MalformedEvidence, match=UNKNOWN):
            open_envelope(evidence + more)


@names
def test_a_part_too_few_or_too_many_is_refused(name):
    with pytest.raises(MalformedEvidence, match=CUT):
        open_envelope(seal(name, *parts_of(name)[1:]))
    with pytest.raises(MalformedEvidence, match=UNKNOWN):
        open_envelope(seal(name, *parts_of(name), b""))


@names
@pytest.mark.parametrize("stated", [6, 7, 1 << 16, (1 << 16) + 1, 1 << 31, (1 << 32) - 1])
def test_a_length_that_is_not_the_parts_is_refused(name, stated):
    head, last = seal(name, *parts_of(name)[:-1]), bytes(5)
    assert open_envelope(head + b"\0\0\0\x05" + last)
    with pytest.raises(MalformedEvidence, match=CUT):
        open_envelope(head + stated.to_bytes(4, "big") + last)


@pytest.mark.parametrize(
    "name", [b"PTSN", b"ptsm", b"MSTP", b"PTP", b"\0\0\0\0", b"\x84\x44\xa1\x01", b"", b"PTPM"[:3] + b"\0"]
)
def test_another_name_is_no_envelope(name):
    evidence = seal(name, b"a", b"b", b"c", b"d")
    for wrong in (evidence, evidence[:4], name):
        assert not is_envelope(wrong)
        with pytest.raises(MalformedEvidence, match=UNKNOWN):
            open_envelope(wrong)


def test_a_nitro_document_is_no_envelope():
    for is_indefinite in (False, True):
        evidence = nsm(is_indefinite=is_indefinite).attest(COMMITMENT)
        for document in (evidence, b"\xd2" + evidence):
            assert not is_envelope(document)
            with pytest.raises(MalformedEvidence, match=UNKNOWN):
                open_envelope(document)


@names
def test_what_begins_with_a_name_is_an_envelope_even_if_it_does_not_open(name):
    assert is_envelope(name)
    with pytest.raises(MalformedEvidence, match=CUT):
        open_envelope(name)


headed = st.sampled_from([TSM, TPM])
small_parts = st.lists(st.binary(max_size=40), max_size=5)


@given(st.binary(max_size=80) | st.builds(lambda name, rest: name + rest, headed, st.binary(max_size=80)))
def test_any_bytes_are_opened_or_malformed(evidence):
    try:
        opened = open_envelope(evidence)
    except MalformedEvidence:
        return
    assert seal(opened.name, *opened.parts) == evidence


@given(headed, small_parts)
def test_parts_come_out_as_they_went_in_or_not_at_all(name, parts):
    evidence = seal(name, *parts)
    assert is_envelope(evidence)
    if len(parts) == COUNTS[name]:
        assert open_envelope(evidence) == Envelope(name, tuple(parts))
    else:
        with pytest.raises(MalformedEvidence):
            open_envelope(evidence)


@given(
    headed.flatmap(lambda name: st.tuples(*[st.binary(max_size=9)] * COUNTS[name]).map(lambda x: seal(name, *x))),
    st.data(),
)
def test_a_changed_byte_is_another_envelope_or_none(evidence, data):
    at = data.draw(st.integers(0, len(evidence) - 1))
    changed = evidence[:at] + bytes([evidence[at] ^ data.draw(st.integers(1, 255))]) + evidence[at + 1 :]
    try:
        assert envelope.open_envelope(changed) != open_envelope(evidence)
    except MalformedEvidence:
        return
