import math
import time

import pytest

from unbatch.clock import UNLIMITED, Clock, OutOfTime
from unbatch.errors import Misuse


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf])
def test_a_budget_is_a_positive_finite_number(seconds: float) -> None:
    with pytest.raises(Misuse):
        Clock.of(seconds)


def test_what_is_spent_raises() -> None:
    clock = Clock.of(0.01)
    clock.check()
    time.sleep(0.02)
    assert clock.over
    assert clock.left < 0 < clock.taken
    with pytest.raises(OutOfTime):
        clock.check()


def test_a_part_ends_before_the_whole_and_counts_from_its_start() -> None:
    clock = Clock.of(10.0)
    part = clock.part(0.5)
    assert part.start == clock.start
    assert 4.9 < part.left <= 5.0
    assert not UNLIMITED.part(0.1).over
