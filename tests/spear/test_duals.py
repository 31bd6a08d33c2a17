"""Directions with few zeros, near the inverse of all guesses."""

import pytest
import torch
from torch import Generator, Tensor

from planted import Planted, plant
from unbatch.clock import UNLIMITED
from unbatch.spear import duals
from unbatch.spear.dictionary_learning import off_weights, sparse_directions
from unbatch.spear.duals import DRAWN, SPARE, near_duals
from unbatch.spear.rounding import SHARES_IN_STEPS, round_directions
from unbatch.spear.sampling import null_directions


def hits(case: Planted, rough: Tensor) -> set[int]:
    """Which columns the directions lead to."""
    _, off = round_directions(case.layer, rough, SHARES_IN_STEPS)
    return {int(i) for row in off for i in (case.off == row).all(dim=1).nonzero()[:, 0]}


def guessed(case: Planted, error: float) -> Tensor:
    noise = torch.randn(case.samples.shape, generator=Generator().manual_seed(1), dtype=torch.float64)
    return case.samples + error * noise * case.samples.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)


def test_a_quarter_of_zeros_is_found_where_single_guesses_lead_nowhere() -> None:
    case = plant(m=200, b=20, steps=0.8)
    assert float(case.off.double().mean()) < 0.25
    whole = guessed(case, 0.05)
    alone = whole / (whole @ case.layer.sums)[:, None]
    by_one = hits(case, sparse_directions(case.layer.left, alone, off_weights(case.layer, alone)))
    rough, weights, *_ = near_duals(case.layer, whole, case.layer.left[:0], 0.1, Generator().manual_seed(0), UNLIMITED)
    assert len(rough) == len(weights)
    together = hits(case, rough)
    assert len(by_one) <= 5
    assert len(together) >= 18


def test_subsets_of_the_smallest_entries_give_directions_exactly() -> None:
    case = plant(m=200, b=20, steps=1.2)
    assert float(case.off.double().mean()) < 0.14  # of 23 zeros each a quarter of the neurons that are off now
    near = near_duals(case.layer, guessed(case, 0.02), case.layer.left[:0], 0.1, Generator().manual_seed(0), UNLIMITED)
    found = {int(i) for row in near.off for i in (case.off == row).all(dim=1).nonzero()[:, 0]}
    assert len(found) >= 6
    assert hits(case, near.rough) < found
    assert torch.equal(case.layer.off(near.exact), near.off)


def test_directions_that_are_known_leave_the_others() -> None:
    case = plant(m=200, b=20, steps=0.8)
    known = case.directions[:17]
    rough, *_ = near_duals(case.layer, guessed(case, 0.3), known, 0.1, Generator().manual_seed(0), UNLIMITED)
    assert hits(case, rough) == {17, 18, 19}


def test_guesses_that_depend_on_each_other_lead_nowhere() -> None:
    case = plant(m=200, b=20)
    whole = guessed(case, 0.05)
    whole[1] = whole[0]
    rough, weights, *_ = near_duals(case.layer, whole, case.layer.left[:0], 0.1, Generator().manual_seed(0), UNLIMITED)
    assert rough.shape[1] == 20
    assert len(rough) == len(weights)


@pytest.mark.parametrize(("b", "most"), [(10, DRAWN), (40, 515), (80, 64)])
def test_of_many_samples_fewer_subsets_are_drawn(b: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """398826 took 4 s of 3: 4096 subsets of 79 rows, four times."""
    drawn: list[int] = []

    def counted(left: Tensor, rows: Tensor) -> Tensor:
        drawn.append(len(rows))
        return null_directions(left, rows)

    monkeypatch.setattr(duals, "null_directions", counted)
    case = plant(m=200, b=b, steps=0.8)
    near_duals(case.layer, guessed(case, 0.05), case.layer.left[:0], 0.1, Generator().manual_seed(0), UNLIMITED)
    assert sum(drawn) <= 2 * len(SPARE) * most  # from two kinds of guesses
    assert (sum(drawn) > 0) == (b < most)  # each sample has a share, or none
