"""A payload that is like an earlier one gets the fields that parsing it would give, or the same refusal."""

from dataclasses import replace

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import BadSignature, MalformedEvidence
from perdure.evidence.nitro import document, verifier
from perdure.evidence.nitro.forms import Forms, _form_of
from tests.evidence.support import NOW_MS, POLICY, fields, leaf
from tests.evidence.support import document as signed_document


def payload(**changes):
    values = fields(leaf()) | changes
    return cbor2.dumps({key: value for key, value in values.items() if value is not ...})


def outcome(parse, data):
    try:
        return parse(data)
    except MalformedEvidence as error:
        return str(error)


def warmed(*, data=None):
    forms, data = Forms(), data or payload()
    forms.learn(data, forms.parse(data))
    return forms


def test_time_and_user_data_are_the_payloads_own(monkeypatch):
    forms = warmed()
    other = payload(timestamp=fields(leaf())["timestamp"] + 77, user_data=b"\xa5" * 64)
    want = document.parse(other)
    monkeypatch.setattr(document, "parse", None)  # so that the form alone can have answered
    assert forms.parse(other) == want
    assert want.user_data == b"\xa5" * 64


@given(st.data())
def test_whatever_is_changed_the_outcome_is_that_of_parsing(data):
    good = payload()
    forms = warmed()
    kind = data.draw(st.sampled_from(["flip", "cut", "add", "move", "time"]))
    at = data.draw(st.integers(0, len(good) - 1))
    if kind == "flip":
        bad = good[:at] + bytes([good[at] ^ 1 << data.draw(st.integers(0, 7))]) + good[at + 1 :]
    elif kind == "cut":
        bad = good[:at]
    elif kind == "add":
        bad = good[:at] + data.draw(st.binary(min_size=1, max_size=80)) + good[at:]
    elif kind == "move":
        bad = good[at:] + good[:at]
    else:
        start = good.index(b"timestamp\x1b") + 10
        bad = good[:start] + data.draw(st.integers(0, 2**64 - 1)).to_bytes(8, "big") + good[start + 8 :]
    assert outcome(forms.parse, bad) == outcome(document.parse, bad)
    assert outcome(forms.parse, bad) == outcome(document.parse, bad), "and once more, when it has been seen"


def test_user_data_that_is_cut_at_the_end_of_a_payload_is_not_taken_for_shorter_data():
    values = fields(leaf())
    last = values.pop("user_data")
    good = cbor2.dumps({**values, "user_data": last})
    assert good.endswith(last)
    forms = warmed(data=good)
    for cut in range(1, 64):
        assert outcome(forms.parse, good[:-cut]) == outcome(document.parse, good[:-cut])


@pytest.mark.parametrize(
    "changes",
    [{"user_data": None}, {"user_data": b"short"}, {"timestamp": 5}, {"user_data": ...}],
    ids=["null", "short", "a short number", "absent"],
)
def test_what_has_another_form_is_parsed_each_time(changes):
    data = payload(**changes)
    forms = warmed(data=data)
    assert len(forms) == 0
    assert forms.parse(data) == document.parse(data)


def test_bytes_of_a_certificate_that_look_like_the_fields_are_not_taken_for_them():
    lure = b"\x69timestamp\x1b" + bytes(8) + b"\x69user_data\x58\x40" + bytes(64)
    values = fields(leaf())
    text = (b"\x69timestamp\x1b" + b"x" * 8 + b"\x69user_data\x58\x40" + b"x" * 64).decode()
    for first in ({"module_id": values["module_id"], "certificate": lure}, {"unknown": text}):
        data = cbor2.dumps(first | {key: value for key, value in values.items() if key not in first})
        assert data.index(b"\x69timestamp") < data.index(b"\x66digest")
        assert _form_of(data, document.parse(data)) is None
        assert warmed(data=data).parse(data) == document.parse(data)


def test_a_number_that_is_no_time_is_refused_as_ever():
    good = payload()
    start = good.index(b"timestamp\x1b") + 10
    forms = warmed()
    for time_ms in (0, document.TIME_MS_MAX + 1, 2**64 - 1):
        with pytest.raises(MalformedEvidence, match="timestamp"):
            forms.parse(good[:start] + time_ms.to_bytes(8, "big") + good[start + 8 :])


def test_the_forms_least_recently_used_are_forgotten():
    forms = Forms()
    names = [f"i-{number:017x}-enc{number:012x}" for number in range(Forms.SIZE_MAX + 1)]
    for name in names:
        forms.learn(payload(module_id=name), document.parse(payload(module_id=name)))
    assert len(forms) == Forms.SIZE_MAX
    first, second = payload(module_id=names[0]), payload(module_id=names[1])
    assert forms.parse(first) == document.parse(first)
    assert replace(forms.parse(second), module_id="") == replace(document.parse(first), module_id="")


def test_the_last_moment_of_a_time_that_may_be_stated_has_no_other_form():
    """Its neighbour is no time, so that nothing is proved, and it is parsed each time."""
    data = payload(timestamp=1 << 32)
    assert warmed(data=data).parse(data) == document.parse(data)


def test_a_decoy_with_the_opposite_of_the_user_data_is_not_taken_for_it():
    """Turned over, it would become what the real field holds."""
    values = fields(leaf())
    real = bytes(byte & 0x7F | 0x40 for byte in range(64))
    decoy = bytes(byte ^ 0xFF for byte in real)
    lure = b"\x69user_data\x58\x40" + decoy
    order = {"module_id": values["module_id"], "digest": "SHA384", "timestamp": values["timestamp"], "unknown": lure}
    data = cbor2.dumps(order | {key: value for key, value in values.items() if key not in order} | {"user_data": real})
    assert document.parse(data).user_data == real
    assert warmed(data=data).parse(data).user_data == real


def test_only_what_was_signed_is_kept():
    forms = Forms()
    good = signed_document()
    with pytest.raises(BadSignature):
        verifier.verify(good[:-1] + bytes([good[-1] ^ 1]), policy=POLICY, at_ms=NOW_MS, forms=forms)
    assert len(forms) == 0
    verifier.verify(good, policy=POLICY, at_ms=NOW_MS, forms=forms)
    assert len(forms) == 1


def test_text_that_holds_both_values_is_not_taken_for_the_fields():
    """Other bytes there are no text any more."""
    time_ms, user_data = 0x0000_0102_0304_0506, b"x" * 64
    text = b"\x69timestamp\x1b" + time_ms.to_bytes(8, "big") + b"\x69user_data\x58\x40" + user_data
    values = fields(leaf()) | {"timestamp": time_ms, "user_data": user_data}
    data = cbor2.dumps({"unknown": text.decode()} | values)
    assert _form_of(data, document.parse(data)) is None
    assert warmed(data=data).parse(data) == document.parse(data)


def test_any_changed_byte_beside_the_fields_is_seen():
    good = payload()
    forms = warmed()
    end = good.index(b"user_data\x58\x40") + 11 + 64
    for at in (*range(0, end - 64, 37), *range(end - 80, end - 64), *range(end, len(good))):
        bad = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        assert outcome(forms.parse, bad) == outcome(document.parse, bad)
