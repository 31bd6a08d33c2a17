"""Combinations of columns that signs do not tell apart."""

import torch

from planted import plant
from unbatch.spear.combinations import untangled
from unbatch.spear.layer import unit


def test_combinations_of_two_are_taken_apart() -> None:
    case = plant(m=80, b=7)
    true = unit(case.directions)
    mixed = true.clone()
    mixed[0] = unit(true[:1] + 0.2 * true[1:2])[0]
    mixed[4] = unit(true[4:5] - 0.05 * true[6:7])[0]
    found = untangled(case.layer, mixed)
    assert bool(((found * true).sum(dim=1).abs() > 1 - 1e-9).all())


def test_true_columns_are_left_alone() -> None:
    case = plant(m=80, b=7)
    true = unit(case.directions)
    assert torch.equal(untangled(case.layer, true), true)
