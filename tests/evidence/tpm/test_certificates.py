"""Which paths from an attestation key to a root hold, and what a path that does not hold is refused for."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from perdure.errors import BadChain, ExpiredEvidence, MalformedEvidence, MissingCollateral, UntrustedRoot
from perdure.evidence.measurement import Measurement
from perdure.evidence.policy import Policy, TrustedRoot
from perdure.evidence.roots import Platform
from perdure.evidence.tpm import certificates
from tests.evidence.support import NOW_MS
from tests.evidence.tpm.support import (
    AK,
    AK_EXTENSIONS,
    CA_EXTENSIONS,
    DAY,
    HINTS,
    ISSUER,
    NOW,
    PCRS,
    ROOT,
    Authority,
    ec_key,
    judge,
    policy_for,
    quote,
    rsa_key,
    self_signed,
    usage,
)

DAY_MS = 24 * 3600 * 1000
NOW_S_MS = NOW_MS // 1000 * 1000
NOT_CA = x509.BasicConstraints(ca=False, path_length=None)
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.1.21"), b"\x05\x00")
EK_USE = x509.ExtendedKeyUsage([x509.ObjectIdentifier("2.23.133.8.1")])
MAKER = x509.SubjectAlternativeName(
    [x509.DirectoryName(x509.Name([x509.NameAttribute(x509.ObjectIdentifier("2.23.133.2.1"), "id:474F4F47")]))]
)


def ak_under(issuer, extensions=AK_EXTENSIONS, subject="AK", **validity):
    return issuer.authority(subject, AK.key, extensions=extensions, **validity).der


def issuer_with(extensions, above=ROOT):
    return above.authority("odd issuer", extensions=extensions)


# Good paths -----------------------------------------------------------------------------------------------


def test_hints_may_come_in_any_order_with_rubbish_between():
    stranger = self_signed("stranger")
    rubbish = (b"", b"\x30\x00", bytes(70_000), HINTS[0][:-1], stranger.der, ISSUER.authority("sibling").der)
    for hints in (HINTS, HINTS[::-1], (*rubbish, *HINTS), (*HINTS, *rubbish, *HINTS), (*HINTS, ROOT.der), HINTS * 50):
        assert judge(hints=hints).root == "root0"


@pytest.mark.parametrize("count", [0, 1, 4])
def test_up_to_four_issuers_may_stand_between(count):
    issuers = [ROOT]
    for level in range(count):
        issuers.append(issuers[-1].authority(f"level {level}"))
    hints = (ak_under(issuers[-1]), *(issuer.der for issuer in issuers[1:]))
    assert judge(hints=hints).root == "root0"
    for left_out in hints[1:]:
        with pytest.raises(UntrustedRoot, match="missing"):
            judge(hints=tuple(hint for hint in hints if hint != left_out))


def test_a_fifth_issuer_between_is_refused():
    issuers = [ROOT]
    for level in range(5):
        issuers.append(issuers[-1].authority(f"level {level}"))
    with pytest.raises(BadChain, match="max depth"):
        judge(hints=(ak_under(issuers[-1]), *(issuer.der for issuer in issuers[1:])))


@pytest.mark.parametrize(
    "extensions",
    [
        (),
        ((NOT_CA, False),),
        ((usage(digital_signature=True), False),),
        ((usage(digital_signature=True, content_commitment=True, key_encipherment=True), True),),
        (*AK_EXTENSIONS, (EK_USE, False)),
        (*AK_EXTENSIONS, (EK_USE, True)),
        (*AK_EXTENSIONS, (x509.ExtendedKeyUsage([x509.ObjectIdentifier("2.23.133.8.3")]), True)),
        (*AK_EXTENSIONS, (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)),
        (*AK_EXTENSIONS, (UNKNOWN, False)),
        (*AK_EXTENSIONS, (MAKER, False)),
    ],
)
def test_the_clouds_ways_of_writing_an_attestation_keys_certificate_are_tolerated(extensions):
    assert judge(hints=(ak_under(ISSUER, extensions), ISSUER.der)).root == "root0"


def test_an_attestation_key_without_a_subject_has_a_critical_alternative_name():
    assert judge(hints=(ak_under(ISSUER, (*AK_EXTENSIONS, (MAKER, True)), subject=""), ISSUER.der)).root == "root0"


def test_an_issuers_extensions_need_not_be_critical_and_may_limit_its_use_to_endorsement_keys():
    issuer = issuer_with((*CA_EXTENSIONS(critical=False), (EK_USE, False)))
    assert judge(hints=(ak_under(issuer), issuer.der)).root == "root0"


@pytest.mark.parametrize("key", [ec_key("x", ec.SECP384R1()), ec_key("x", ec.SECP521R1()), rsa_key()])
def test_an_issuer_may_have_a_key_of_another_kind(key):
    root = self_signed("another root", key)
    issuer = root.authority("another issuer", rsa_key())
    assert judge(hints=(ak_under(issuer), issuer.der), policy=policy_for(root.der)).root == "root0"


def test_of_two_certificates_of_an_issuer_the_one_that_is_valid_counts():
    old = ROOT.authority("TPM issuer", ISSUER.key, start=NOW - 5 * DAY, end=NOW - DAY)
    for issuers in ((old.der, ISSUER.der), (ISSUER.der, old.der)):
        assert judge(hints=(AK.der, *issuers)).root == "root0"


def test_the_root_that_the_path_ends_at_is_the_one_that_counts():
    other = self_signed("TPM root", ec_key("other root"))
    both = (TrustedRoot("other", Platform.TPM, other.der), TrustedRoot("ours", Platform.TPM, ROOT.der))
    registers = {f"pcr{index}": PCRS[index] for index in (0, 2, 4, 9)}
    assert judge(policy=Policy(both, (Measurement.of("ours", registers),))).root == "ours"
    assert judge(hints=(ak_under(other),), policy=Policy(both, (Measurement.of("other", registers),))).root == "other"


def test_an_issuer_may_be_the_root_and_of_two_roots_on_a_path_the_nearer_counts():
    assert judge(hints=(AK.der,), policy=policy_for(ISSUER.der)).root == "root0"
    for roots in ((ISSUER.der, ROOT.der), (ROOT.der, ISSUER.der)):
        assert judge(policy=policy_for(*roots)).root == f"root{roots.index(ISSUER.der)}"


# A pinned key ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pinned",
    [
        AK.der,
        ISSUER.authority("AK", AK.key, extensions=((UNKNOWN, True),)).der,
        ISSUER.authority("AK", AK.key, extensions=CA_EXTENSIONS()).der,
    ],
)
def test_of_a_pinned_key_only_the_bytes_count(pinned):
    assert judge(hints=(pinned,), policy=policy_for(pinned)).not_after_ms == NOW_S_MS + DAY_MS
    with pytest.raises(UntrustedRoot):
        judge(
            hints=(ISSUER.authority("AK", AK.key, extensions=AK_EXTENSIONS, end=NOW + 2 * DAY).der,),
            policy=policy_for(pinned),
        )


def test_a_pinned_key_lives_as_long_as_its_certificate():
    policy = policy_for(AK.der)
    for at_ms in (NOW_S_MS - DAY_MS, NOW_S_MS + DAY_MS):
        assert judge(hints=(AK.der,), policy=policy, at_ms=at_ms)
    with pytest.raises(ExpiredEvidence, match="valid only 1 ms from now"):
        judge(hints=(AK.der,), policy=policy, at_ms=NOW_S_MS - DAY_MS - 1)
    with pytest.raises(ExpiredEvidence, match="ended 1 ms ago"):
        judge(hints=(AK.der,), policy=policy, at_ms=NOW_S_MS + DAY_MS + 1)


def test_a_pinned_key_vouches_for_no_other():
    other = Authority(AK.key, AK.certificate).authority("another AK", ec_key("another AK"), extensions=AK_EXTENSIONS)
    with pytest.raises(BadChain, match="cA must be asserted"):
        judge(quote(other.key), hints=(other.der, AK.der), policy=policy_for(AK.der))


# Roots ----------------------------------------------------------------------------------------------------


def test_a_root_that_the_policy_does_not_name_is_refused():
    stranger = self_signed("stranger")
    for hints in ((ak_under(stranger), stranger.der), (ak_under(stranger),), (self_signed("AK", AK.key).der,)):
        with pytest.raises(UntrustedRoot, match="names for TPMs"):
            judge(hints=hints)
    with pytest.raises(UntrustedRoot):
        judge(policy=policy_for(stranger.der))
    with pytest.raises(UntrustedRoot):
        judge(policy=Policy((), ()))


def test_a_root_whose_key_cannot_be_read_vouches_for_nothing():
    oid = bytes.fromhex("2a8648ce3d0201")  # id-ecPublicKey
    unreadable = ROOT.der.replace(oid, oid[:-1] + b"\x7f")
    with pytest.raises(UntrustedRoot):
        judge(policy=policy_for(unreadable))
    assert judge(policy=policy_for(unreadable, ROOT.der)).root == "root1"


def test_a_root_of_another_platform_is_refused():
    simulated = (TrustedRoot("simulated", Platform.SIMULATED, ROOT.der), TrustedRoot("ak", Platform.SIMULATED, AK.der))
    with pytest.raises(UntrustedRoot):
        judge(policy=Policy(simulated, ()))


def test_a_root_of_the_same_name_and_another_key_does_not_verify():
    impostor = self_signed("TPM root", ec_key("impostor"))
    for hints in ((ak_under(impostor),), (ak_under(impostor), impostor.der), (ak_under(impostor), ROOT.der)):
        with pytest.raises(BadChain, match="does not verify"):
            judge(hints=hints)


def test_an_issuer_of_the_same_name_and_another_key_does_not_verify():
    impostor = self_signed("TPM issuer", ec_key("impostor"))
    for hints in ((ak_under(impostor), ISSUER.der), (ak_under(impostor), impostor.der, ISSUER.der)):
        with pytest.raises(BadChain, match="does not verify"):
            judge(hints=hints)


# Constraints ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extensions", "reason"),
    [
        (CA_EXTENSIONS(), "authority's"),
        ((CA_EXTENSIONS()[0],), "authority's"),
        ((CA_EXTENSIONS()[1],), "signing data alone"),
        ((AK_EXTENSIONS[0], (usage(digital_signature=True, key_cert_sign=True), True)), "signing data alone"),
        ((AK_EXTENSIONS[0], (usage(key_encipherment=True), True)), "signing data alone"),
        ((*AK_EXTENSIONS, (UNKNOWN, True)), "unaccounted-for critical"),
    ],
)
def test_an_attestation_key_for_something_else_is_refused(extensions, reason):
    with pytest.raises(BadChain, match=reason):
        judge(hints=(ak_under(ISSUER, extensions), ISSUER.der))


@pytest.mark.parametrize(
    ("extensions", "reason"),
    [
        ((), "no basicConstraints"),
        ((CA_EXTENSIONS()[0],), "missing required extension"),
        ((CA_EXTENSIONS()[1],), "no basicConstraints"),
        (CA_EXTENSIONS(ca=False), "cA must be asserted"),
        (CA_EXTENSIONS(digital_signature=True, crl_sign=True), "not for signing certificates"),
        ((*CA_EXTENSIONS(), (UNKNOWN, True)), "unaccounted-for critical"),
    ],
)
def test_an_issuer_that_may_not_issue_is_refused(extensions, reason):
    issuer = issuer_with(extensions)
    with pytest.raises(BadChain, match=reason):
        judge(hints=(ak_under(issuer), issuer.der))
    root = self_signed("odd root", extensions=extensions)
    with pytest.raises(BadChain, match=reason):
        judge(hints=(ak_under(root),), policy=policy_for(root.der))


def test_an_attestation_key_can_certify_no_other():
    child = AK.authority("child", extensions=AK_EXTENSIONS)
    with pytest.raises(BadChain, match="cA must be asserted"):
        judge(quote(child.key), hints=(child.der, *HINTS))


def test_path_lengths_are_respected():
    assert ISSUER.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    below = ISSUER.authority("below")
    with pytest.raises(BadChain, match="path length"):
        judge(hints=(ak_under(below), below.der, ISSUER.der))


def test_name_constraints_are_respected():
    permitted = x509.NameConstraints([x509.DNSName("example.org")], None)
    issuer = issuer_with((*CA_EXTENSIONS(), (permitted, True)))
    named = x509.SubjectAlternativeName([x509.DNSName("example.com")])
    with pytest.raises(BadChain):
        judge(hints=(ak_under(issuer, (*AK_EXTENSIONS, (named, False))), issuer.der))


# Time -----------------------------------------------------------------------------------------------------


def test_every_certificate_must_be_valid_at_the_time_asked_about():
    spans = {"root": (9, 9), "issuer": (5, 5), "ak": (1, 1)}
    for shortest in spans:
        days = {**spans, shortest: (0.5, 0.25)}
        since, until = (
            {who: NOW + sign * span[at] * DAY for who, span in days.items()} for at, sign in ((0, -1), (1, 1))
        )
        root = self_signed("TPM root", start=since["root"], end=until["root"])
        issuer = root.authority("TPM issuer", start=since["issuer"], end=until["issuer"])
        hints, policy = (ak_under(issuer, start=since["ak"], end=until["ak"]), issuer.der), policy_for(root.der)
        start_ms, end_ms = NOW_S_MS - DAY_MS // 2, NOW_S_MS + DAY_MS // 4
        for at_ms in (start_ms, end_ms):
            assert judge(hints=hints, policy=policy, at_ms=at_ms).not_after_ms == end_ms
        for at_ms, message in (
            (start_ms - 1, "valid only 1 ms from now"),
            (-(10**30), "from now"),
            (end_ms + 1, "ended 1 ms ago"),
            (end_ms + 1000, "ended 1000 ms ago"),
            (10**30, "ago"),
        ):
            with pytest.raises(ExpiredEvidence, match=message):
                judge(hints=hints, policy=policy, at_ms=at_ms)


def test_certificates_that_were_never_valid_at_once_are_no_path():
    issuer = ROOT.authority("past issuer", start=NOW - 5 * DAY, end=NOW - 2 * DAY)
    with pytest.raises(BadChain):
        judge(hints=(ak_under(issuer), issuer.der))


# Hostile hints --------------------------------------------------------------------------------------------


def test_no_certificate_at_all_is_missing_collateral():
    for hints in ((), (b"",), (b"rubbish", ROOT.der[:-1])):
        with pytest.raises(MissingCollateral, match="at hand"):
            judge(hints=hints)


def test_certificates_of_keys_that_cannot_have_signed_are_missing_collateral():
    key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
    others = (ISSUER.issue("ed", key.public_key(), AK_EXTENSIONS), ISSUER.issue("rsa", rsa_key().public_key()))
    with pytest.raises(MissingCollateral):
        judge(hints=tuple(one.public_bytes(Encoding.DER) for one in others))


def test_there_may_be_many_hints_but_not_any_number():
    assert judge(hints=(*[b"rubbish"] * (certificates.HINT_COUNT_MAX - 2), *HINTS))
    with pytest.raises(MalformedEvidence, match="at most 256"):
        judge(hints=(*[b"rubbish"] * (certificates.HINT_COUNT_MAX - 1), *HINTS))


def test_a_hint_may_be_long_but_not_of_any_length():
    room = certificates.HINT_BYTES_MAX - len(AK.der) - 200
    padded = ak_under(ISSUER, (*AK_EXTENSIONS, (x509.UnrecognizedExtension(UNKNOWN.oid, bytes(room)), False)))
    assert judge(hints=(padded, ISSUER.der))
    padded = ak_under(ISSUER, (*AK_EXTENSIONS, (x509.UnrecognizedExtension(UNKNOWN.oid, bytes(room + 400)), False)))
    with pytest.raises(MissingCollateral):
        judge(hints=(padded,))


def test_a_maze_of_issuers_that_sign_each_other_is_left_soon():
    key = ec_key("maze")
    maze = [self_signed("TPM root", key, start=NOW - day * DAY, end=NOW + DAY).der for day in range(1, 16)]
    ak = ak_under(Authority(key, self_signed("TPM root", key).certificate))
    with pytest.raises(BadChain, match="signature check limit"):
        judge(hints=(ak, *maze))
    more = self_signed("TPM root", key, start=NOW - 16 * DAY, end=NOW + DAY).der
    with pytest.raises(BadChain, match="More than 16"):
        judge(hints=(ak, *maze, more))


def test_names_in_a_certificate_do_not_reach_the_terminal():
    hostile = ISSUER.authority("\x1b[2J\n" * 9, AK.key, extensions=(), start=NOW + 20 * DAY, end=NOW + 21 * DAY)
    with pytest.raises(BadChain) as caught:
        judge(hints=(hostile.der, ISSUER.der))
    assert str(caught.value).isprintable()
    assert "2J" not in str(caught.value)


def test_whatever_the_path_verifier_stumbles_over_is_a_bad_chain_in_one_printable_line(monkeypatch):
    class Stumbling:
        def __getattr__(self, _name):
            return lambda *_, **__: self

        def verify(self, *_):
            raise UnicodeError("\x1b[2J\n" * 99)

    monkeypatch.setattr(certificates, "PolicyBuilder", Stumbling)
    with pytest.raises(BadChain) as caught:
        judge()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 900
