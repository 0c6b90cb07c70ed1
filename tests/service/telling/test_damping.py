"""What comes and goes is told so often and no more; what lasts is told."""

from perdure.service.telling.damping import FLAPS_MAX, REFILL_S, STANDS_S, Damper


def used_up(now, **given):
    """A damper whose subject has just come back after as many changes as are told."""
    damper = Damper(lambda: now[0])
    for _ in range(FLAPS_MAX // 2):
        assert damper.lets_through("x", "silent", **given)
        assert damper.lets_through("x", "back", **given)
    return damper


def test_subjects_do_not_use_up_each_others_changes():
    damper = used_up([0.0])
    assert not damper.lets_through("x", "silent")
    assert damper.lets_through("y", "silent")


def test_what_was_held_back_is_told_once_when_it_has_stood_and_not_if_it_is_what_was_told_last():
    now = [0.0]
    damper = used_up(now)
    assert not damper.is_due("x")
    assert not damper.is_due("never heard of")
    assert not damper.lets_through("x", "silent")
    now[0] += STANDS_S
    assert [damper.is_due("x"), damper.is_due("x")] == [True, False]
    now[0] = REFILL_S / 2
    assert not damper.lets_through("x", "back")
    assert not damper.lets_through("x", "silent")
    now[0] += REFILL_S / 4
    assert not damper.is_due("x")


def test_a_host_that_lets_each_state_stand_cannot_fill_the_history_with_it():
    now, told, day = [0.0], 0, 86_400.0
    damper = used_up(now)
    while now[0] < day:
        for state in ("silent", "back"):
            told += damper.lets_through("x", state)
            now[0] += STANDS_S
            told += damper.is_due("x")
    assert told <= 24 * 4


def test_what_is_urgent_is_told_a_minute_later_at_the_latest_however_often_it_came():
    now = [0.0]
    damper = used_up(now, is_urgent=True)
    for state in ("silent", "back") * 20:
        now[0] += 1
        is_told = damper.lets_through("x", state, is_urgent=True)
        now[0] += STANDS_S - 2
        is_told = is_told or damper.is_due("x")
        now[0] += 1
        assert is_told or damper.is_due("x") or damper.lets_through("x", state, is_urgent=True)


def test_what_is_told_in_any_case_ends_what_was_held_back():
    now = [0.0]
    damper = used_up(now)
    assert not damper.lets_through("x", "silent")
    damper.tell("x", "dead")
    now[0] += REFILL_S / 2
    assert not damper.is_due("x")
    assert damper.left_out("x") == " (after 1 changes that were too many to note)"
    assert damper.left_out("x") == ""
