"""The time that is left, from measured times."""

from __future__ import annotations

import pytest

from studio.store import Store
from studio.worker.progress import (
    MOST_KINDS,
    MOST_SHARE,
    MOST_TIMES,
    Pace,
    Step,
    left_s,
    share_done,
)


def test_what_is_left_is_that_of_all_steps_that_remain():
    steps = [Step(10, 10, 2.0), Step(1, 4, 10.0), Step(0, 5, 1.0)]
    assert left_s(steps) == 35.0
    assert share_done(steps) == pytest.approx(30 / 65)


def test_a_step_that_was_never_measured_is_not_guessed():
    assert left_s([Step(0, 1, 2.0), Step(0, 1, None)]) is None
    assert left_s([Step(0, 1, 2.0), Step(1, 1, None)]) == 2.0
    assert share_done([Step(0, 1, None)]) == 0.0


def test_measured_times_are_averaged_and_kept_for_the_next_worker(store: Store):
    pace = Pace(store)
    assert pace.of("picture") is None
    pace.note("picture", 3.0)
    assert pace.of("picture") == 3.0
    pace.note("picture", 6.0)
    version = store.version()
    assert Pace(store).of("picture") == pytest.approx(4.0)
    for number in range(MOST_KINDS):
        pace.note(f"kind {number}", 1.0)
    assert Pace(store).of("picture") is None  # not measured for long
    assert store.version() == version  # the pages need not look


def test_what_fails_is_no_measurement(store: Store):
    pace = Pace(store)
    with pytest.raises(ValueError, match="it failed"), pace.measured("picture"):
        raise ValueError("it failed")
    assert pace.of("picture") is None
    with pace.measured("picture", 2):
        pass
    assert pace.of("picture") >= 0


@pytest.mark.parametrize(
    "steps",
    [
        [Step(6, 6, 2.0), Step(0, 12, None)],  # nothing of this size was ever drawn
        [Step(6, 6, 2.0), Step(12, 12, 1.0)],  # it is being judged
        [Step(999, 1000, 1.0)],
    ],
)
def test_what_goes_on_is_never_all_done(steps):
    assert share_done(steps) == MOST_SHARE < 0.995  # as it is rounded to a per cent


def test_a_machine_that_was_asleep_is_not_slow(store: Store):
    pace = Pace(store)
    pace.note("picture", 10.0)
    pace.note("picture", 8 * 3600.0)
    assert pace.of("picture") <= MOST_TIMES * 10.0
    for _ in range(5):
        pace.note("picture", 10.0)
    assert pace.of("picture") < 15.0
    for _ in range(20):  # and one that is slow now is
        pace.note("picture", 1000.0)
    assert pace.of("picture") == pytest.approx(1000.0, rel=0.05)
