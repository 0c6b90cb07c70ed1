"""Limits: what is below a floor, what is no limit at all, and that none is read where it is not written."""

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import Misuse
from perdure.evidence.limits import KINDS, TDX_STATUSES, SnpLimits, Tcb, TdxLimits, limits_from_json
from perdure.evidence.roots import Platform

FLOOR = Tcb(bootloader=10, tee=20, snp=30, microcode=40, fmc=50)
SNP = SnpLimits(FLOOR, vmpl_max=1, smt_allowed=False, alias_checked=False, csp_id="CN=cloud")
PARTS = ("bootloader", "tee", "snp", "microcode", "fmc")
NOT_NUMBERS = (True, False, None, 1.0, "1", b"\1", [], {})


def snp_json(**changes):
    return {**SNP.to_json(), **changes}


def tcb_json(**changes):
    return {**asdict(FLOOR), **changes}


# AMD ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS)
def test_each_part_of_a_tcb_must_reach_the_floor_however_new_the_others_are(part):
    newest = Tcb(255, 255, 255, 255, 255)
    floor = getattr(FLOOR, part)
    assert not replace(newest, **{part: floor - 1}).is_at_least(FLOOR)
    assert replace(newest, **{part: floor}).is_at_least(FLOOR)
    assert replace(FLOOR, **{part: floor + 1}).is_at_least(FLOOR)
    assert not FLOOR.is_at_least(replace(FLOOR, **{part: floor + 1}))


def test_a_tcb_reaches_itself_and_the_floor_of_nothing():
    assert FLOOR.is_at_least(FLOOR)
    assert Tcb(0, 0, 0, 0).is_at_least(Tcb(0, 0, 0, 0))
    assert not Tcb(0, 0, 0, 0).is_at_least(FLOOR)


@pytest.mark.parametrize("wrong", [None, 3, (1, 2, 3, 4), asdict(FLOOR)])
def test_a_floor_is_a_tcb(wrong):
    with pytest.raises(Misuse, match="tcb_min is a TCB"):
        SnpLimits(wrong)


def test_tcbs_have_no_order_that_could_be_taken_for_the_floors():
    with pytest.raises(TypeError):
        assert replace(FLOOR, fmc=51) > FLOOR


def test_processors_before_turin_have_an_fmc_of_zero():
    assert Tcb(1, 2, 3, 4) == Tcb(1, 2, 3, 4, 0)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_a_tcb_is_a_number_from_0_to_255(part):
    for number in (0, 255):
        assert getattr(replace(FLOOR, **{part: number}), part) == number
    for wrong in (-1, 256, *NOT_NUMBERS):
        with pytest.raises(Misuse, match=rf"The policy's tcb_min\.{part} is a whole number from 0 to 255\."):
            replace(FLOOR, **{part: wrong})
        with pytest.raises(Misuse, match=rf"The policy's tcb_min\.{part} is a whole number from 0 to 255\."):
            limits_from_json(snp_json(tcb_min=tcb_json(**{part: wrong})), Platform.SEV_SNP)


def test_limits_of_sev_snp_are_the_strictest_but_for_shared_cores_unless_stated():
    least = SnpLimits(FLOOR)
    assert (least.vmpl_max, least.smt_allowed, least.alias_checked, least.csp_id) == (0, True, True, None)


def test_the_privilege_level_is_from_0_to_3():
    for level in range(4):
        assert limits_from_json(snp_json(vmpl_max=level), Platform.SEV_SNP).vmpl_max == level
    for wrong in (-1, 4, *NOT_NUMBERS):
        with pytest.raises(Misuse, match="vmpl_max is a whole number from 0 to 3"):
            SnpLimits(FLOOR, vmpl_max=wrong)
        with pytest.raises(Misuse, match="vmpl_max is a whole number from 0 to 3"):
            limits_from_json(snp_json(vmpl_max=wrong), Platform.SEV_SNP)


@pytest.mark.parametrize("name", ["smt_allowed", "alias_checked"])
def test_whether_cores_are_shared_and_memory_was_checked_is_yes_or_no(name):
    for answer in (True, False):
        others = {"smt_allowed": not answer, "alias_checked": not answer}
        read = limits_from_json(snp_json(**{**others, name: answer}), Platform.SEV_SNP)
        assert {one: getattr(read, one) for one in others} == {**others, name: answer}
    for wrong in (0, 1, None, "true", []):
        with pytest.raises(Misuse, match=f"{name} is true or false"):
            limits_from_json(snp_json(**{name: wrong}), Platform.SEV_SNP)


def test_the_cloud_is_text_or_not_stated():
    for csp_id in ("CN=cloud", None):
        assert limits_from_json(snp_json(csp_id=csp_id), Platform.SEV_SNP).csp_id == csp_id
    for wrong in ("", 0, 1, False, b"CN=cloud", []):
        with pytest.raises(Misuse, match="csp_id is text, or null"):
            limits_from_json(snp_json(csp_id=wrong), Platform.SEV_SNP)


# Intel ----------------------------------------------------------------------------------------------------


def test_the_statuses_are_a_set_of_intels_words_and_the_best_alone_unless_stated():
    assert TdxLimits().statuses == ("UpToDate",)
    assert TdxLimits(("UpToDate", "OutOfDate", "UpToDate")) == TdxLimits(("OutOfDate", "UpToDate"))
    assert TdxLimits(TDX_STATUSES[::-1]) == TdxLimits(TDX_STATUSES)


@pytest.mark.parametrize(
    "wrong", [(), ("Revoked",), ("UpToDate", "Revoked"), ("uptodate",), ("UpToDate ",), ("",), (None,), "UpToDate"]
)
def test_other_statuses_and_none_are_refused(wrong):
    with pytest.raises(Misuse, match="The policy's statuses are one or more of UpToDate, "):
        TdxLimits(wrong)


@pytest.mark.parametrize("wrong", [None, "UpToDate", {"UpToDate": 1}, [1], [None], ["UpToDate", []], 1])
def test_statuses_in_json_are_a_list_of_texts(wrong):
    with pytest.raises(Misuse, match=r"limits\.statuses is not a list of texts"):
        limits_from_json({"statuses": wrong}, Platform.TDX)


@pytest.mark.parametrize("wrong", [[], ["Revoked"], ["UpToDate", "UpToDate", "x"]])
def test_statuses_in_json_are_intels(wrong):
    with pytest.raises(Misuse, match="The policy's statuses are one or more of"):
        limits_from_json({"statuses": wrong}, Platform.TDX)


# JSON -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "platform"),
    [
        (SNP, Platform.SEV_SNP),
        (SnpLimits(Tcb(0, 0, 0, 0)), Platform.SEV_SNP),
        (TdxLimits(), Platform.TDX),
        (TdxLimits(TDX_STATUSES), Platform.TDX),
    ],
)
def test_limits_survive_a_round_trip(limits, platform):
    assert limits_from_json(json.loads(json.dumps(limits.to_json())), platform) == limits
    assert isinstance(limits, KINDS[platform])


def test_the_json_of_limits_has_every_field():
    assert SNP.to_json() == {
        "tcb_min": {"bootloader": 10, "tee": 20, "snp": 30, "microcode": 40, "fmc": 50},
        "vmpl_max": 1,
        "smt_allowed": False,
        "alias_checked": False,
        "csp_id": "CN=cloud",
    }
    assert TdxLimits(("UpToDate", "OutOfDate")).to_json() == {"statuses": ["OutOfDate", "UpToDate"]}


@pytest.mark.parametrize(
    ("good", "platform", "where"),
    [
        (snp_json(), Platform.SEV_SNP, "limits"),
        (TdxLimits().to_json(), Platform.TDX, "limits"),
        (tcb_json(), None, "tcb_min"),
    ],
)
def test_limits_in_json_have_all_keys_and_no_other(good, platform, where):
    less = [{key: value for key, value in good.items() if key != missing} for missing in good]
    for wrong in (*less, {**good, "more": 1}, {}, None, [], "limits", 1, list(good)):
        value = wrong if platform else snp_json(tcb_min=wrong)
        with pytest.raises(Misuse, match=f"The policy's {where} must be an object with exactly the keys") as caught:
            limits_from_json(value, platform or Platform.SEV_SNP)
        assert str(caught.value).endswith(f"the keys {', '.join(sorted(good))}.")


def test_the_platforms_that_have_limits_are_two():
    assert {Platform.SEV_SNP: SnpLimits, Platform.TDX: TdxLimits} == KINDS


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 300)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(TDX_STATUSES),
    lambda inner: st.lists(inner, max_size=3) | st.fixed_dictionaries({}, optional=dict.fromkeys((*PARTS, "x"), inner)),
)


@given(
    st.fixed_dictionaries({"statuses": values})
    | st.fixed_dictionaries(dict.fromkeys(SNP.to_json(), values))
    | st.fixed_dictionaries({"tcb_min": st.fixed_dictionaries(dict.fromkeys(PARTS, values))}).map(
        lambda x: snp_json(**x)
    ),
    st.sampled_from(sorted(KINDS)),
)
def test_any_json_is_limits_or_misuse(value, platform):
    try:
        limits = limits_from_json(value, platform)
    except Misuse:
        return
    assert limits_from_json(limits.to_json(), platform) == limits
