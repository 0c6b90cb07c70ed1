"""The module's interface from both sides: what it answers, and how the disk reads and refuses answers."""

import os
import socket
import threading

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.disk.nsm import NsmSocket, document_of
from perdure.evidence.nitro import chain, cose
from perdure.evidence.nitro.document import parse
from perdure.simtee.nsm import SimulatedNsm, new_module_id, pcr4
from perdure.simtee.pki import SimulatedRoot

NOW_MS = 1_700_000_000_000
MODULE_ID = new_module_id("i-0123456789abcdef0", NOW_MS, lambda length: b"\xab" * length)
PCRS = {0: b"\x01" * 48, 1: b"\x02" * 48, 2: b"\x03" * 48, 8: b"\x08" * 48}
ROOT = SimulatedRoot.create()
NSM = SimulatedNsm(ROOT, PCRS, MODULE_ID, lambda: NOW_MS)


def ask(request, nsm=NSM):
    return cbor2.loads(nsm.respond(request if isinstance(request, bytes) else cbor2.dumps(request)))


def attestation(**fields):
    return {"Attestation": {"user_data": None, "nonce": None, "public_key": None, **fields}}


def test_the_module_id_holds_instance_launch_time_and_random_bits():
    assert MODULE_ID == "i-0123456789abcdef0-enc018bcfe56800abab"


def test_attestation_gives_a_document_with_the_fields_asked_for():
    reply = ask(attestation(user_data=b"u" * 64, nonce=b"", public_key=b"k"))
    payload = cbor2.loads(cose.split(reply["Attestation"]["document"]).payload)
    order = "module_id digest timestamp pcrs certificate cabundle public_key user_data nonce"
    assert list(payload) == order.split()
    assert (payload["user_data"], payload["nonce"], payload["public_key"]) == (b"u" * 64, b"", b"k")
    assert (payload["module_id"], payload["timestamp"]) == (MODULE_ID, NOW_MS)
    assert payload["pcrs"] == {**dict.fromkeys(range(16), bytes(48)), 4: pcr4(MODULE_ID), **PCRS}


def test_fields_not_asked_for_are_null():
    payload = cbor2.loads(cose.split(ask({"Attestation": {}})["Attestation"]["document"]).payload)
    assert (payload["user_data"], payload["nonce"], payload["public_key"]) == (None, None, None)


def test_every_document_has_the_time_at_which_it_was_asked_for():
    times = iter((NOW_MS, NOW_MS + 7))
    nsm = SimulatedNsm(ROOT, PCRS, MODULE_ID, lambda: next(times))
    stamps = [cbor2.loads(cose.split(nsm.attest(b"")).payload)["timestamp"] for _ in range(2)]
    assert stamps == [NOW_MS, NOW_MS + 7]


def test_the_same_draws_and_times_give_the_same_document():
    def fixed():
        return SimulatedNsm(ROOT, PCRS, MODULE_ID, lambda: NOW_MS, draw=lambda length: b"\x07" * length)

    assert fixed().attest(b"u") == fixed().attest(b"u")


def test_descriptions_and_randomness():
    assert ask({"DescribePCR": {"index": 1}}) == {"DescribePCR": {"lock": True, "data": PCRS[1]}}
    description = ask("DescribeNSM")["DescribeNSM"]
    assert description["module_id"] == MODULE_ID
    assert (description["max_pcrs"], description["locked_pcrs"]) == (32, list(range(16)))
    assert description["digest"] == "SHA384"
    one, other = (ask("GetRandom")["GetRandom"]["random"] for _ in range(2))
    assert len(one) == 256
    assert one != other


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (attestation(user_data=bytes(1025)), "InputTooLarge"),
        (bytes(4097), "InputTooLarge"),
        (attestation(user_data="text"), "InvalidArgument"),
        (attestation(other=None), "InvalidArgument"),
        ({"DescribePCR": {"index": 16}}, "InvalidIndex"),
        ({"DescribePCR": {"index": -1}}, "InvalidIndex"),
        ({"DescribePCR": {}}, "InvalidOperation"),
        ({"ExtendPCR": {"index": 16, "data": b""}}, "InvalidOperation"),
        ({"LockPCR": {"index": 16}}, "InvalidOperation"),
        ({"Attestation": {}, "DescribePCR": {"index": 0}}, "InvalidOperation"),
        ({"Attestation": None}, "InvalidOperation"),
        ({}, "InvalidOperation"),
        ("Attestation", "InvalidOperation"),
        (b"", "InvalidOperation"),
        (b"\xa1", "InvalidOperation"),
    ],
)
def test_refuses(request_, error):
    assert ask(request_) == {"Error": error}


@given(st.binary(max_size=100))
def test_any_request_gets_a_response(request_):
    assert ask(request_)


# The disk's side ------------------------------------------------------------------------------------------


def attest_over_a_socket(respond, report_data=bytes(64)):
    """What `attest` makes of a module that answers with `respond(request)`, or leaves if that is None."""
    ours, theirs = socket.socketpair()
    seen = []

    def serve():
        length = int.from_bytes(ours.recv(4, socket.MSG_WAITALL), "big")
        seen.append(ours.recv(length, socket.MSG_WAITALL))
        if (reply := respond(seen[0])) is not None:
            ours.sendall(reply)
        ours.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        return NsmSocket(theirs.fileno()).attest(report_data), seen[0]
    finally:
        thread.join()
        theirs.close()


def framed(data):
    return len(data).to_bytes(4, "big") + data


def test_the_disk_asks_as_an_independent_encoder_would_and_gets_its_document():
    document, request = attest_over_a_socket(lambda request: framed(NSM.respond(request)), bytes(range(64)))
    assert request == cbor2.dumps(attestation(user_data=bytes(range(64))))
    assert cbor2.loads(cose.split(document).payload)["user_data"] == bytes(range(64))


def test_one_socket_serves_one_request_after_another():
    ours, theirs = socket.socketpair()
    door = NsmSocket(theirs.fileno())
    with ours, theirs:
        for number in range(3):
            ours.sendall(framed(cbor2.dumps({"Attestation": {"document": bytes(300 + number)}})))
            assert door.attest(bytes(64)) == bytes(300 + number)
        os.fstat(theirs.fileno())  # still open


@pytest.mark.parametrize("length", [0, 63, 65])
def test_report_data_has_64_bytes(length):
    with pytest.raises(ValueError, match="64"):
        NsmSocket(0).attest(bytes(length))


@pytest.mark.parametrize(
    ("reply", "error", "what"),
    [
        (None, OSError, "gone"),
        (b"\0\0", OSError, "gone"),
        (framed(bytes(100))[:-1], OSError, "gone"),
        (framed(cbor2.dumps({"Error": "InternalError"})), OSError, "refuses: InternalError"),
        ((12_289).to_bytes(4, "big"), ValueError, "too long"),
        (framed(b""), ValueError, "malformed"),
        (framed(cbor2.dumps("LockPCR")), ValueError, "malformed"),
    ],
)
def test_a_module_that_refuses_leaves_or_misspeaks_gives_an_error(reply, error, what):
    with pytest.raises(error, match=what):
        attest_over_a_socket(lambda _: reply)


@pytest.mark.parametrize("length", [24, 255, 256, 4500, 12_000])
@pytest.mark.parametrize("is_indefinite", [False, True])
def test_a_document_is_found_in_either_form_of_map(length, is_indefinite):
    document = os.urandom(length)
    reply = cbor2.dumps({"Attestation": {"document": document}}, indefinite_containers=is_indefinite)
    assert document_of(reply) == document
    mixed = b"\xbf" + cbor2.dumps("Attestation") + cbor2.dumps({"document": document}) + b"\xff"
    assert document_of(mixed) == document
    for bad in (reply[:-1], reply + b"\0", reply + b"\xff"):
        with pytest.raises(ValueError, match="evidence module"):
            document_of(bad)


@pytest.mark.parametrize("is_indefinite", [False, True])
def test_a_refusal_is_read_in_either_form_of_map(is_indefinite):
    with pytest.raises(OSError, match="InvalidOperation"):
        document_of(cbor2.dumps({"Error": "InvalidOperation"}, indefinite_containers=is_indefinite))


@given(st.binary(max_size=80))
def test_other_replies_are_errors(reply):
    with pytest.raises((OSError, ValueError)):
        document_of(reply)


@pytest.mark.parametrize("is_repeatable", [True, False])
def test_signatures_hold_whether_they_can_be_repeated_or_not(is_repeatable):
    nsm = SimulatedNsm(ROOT, PCRS, MODULE_ID, lambda: NOW_MS, is_repeatable=is_repeatable)
    documents = [nsm.attest(b"\x01" * 64) for _ in range(3)]
    for document in documents:
        message = cose.split(document)
        path = chain.verify_path((*parse(message.payload).cabundle, parse(message.payload).certificate))
        message.verify(path.key)
    assert (len(set(documents)) == 1) is is_repeatable
