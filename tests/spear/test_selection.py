"""Choosing, scaling and scoring directions of a planted layer."""

import torch

from planted import plant
from unbatch.spear.layer import unit
from unbatch.spear.selection import agreement, best_matching, independent, one_a_pattern, scaled


def test_scale_follows_from_the_bias_gradient() -> None:
    case = plant()
    directions, samples = scaled(case.layer, -3.0 * case.directions)
    assert torch.allclose(directions, case.directions, atol=1e-9)
    assert samples is not None
    assert torch.allclose(samples @ directions.T, torch.eye(len(samples), dtype=samples.dtype), atol=1e-9)
    assert scaled(case.layer, case.directions[[0] * len(directions)])[1] is None


def test_score_is_one_for_the_truth_and_half_for_noise() -> None:
    case = plant()
    assert bool((agreement(case.layer, case.samples, case.directions) == 1).all())
    assert 0.3 < float(agreement(case.layer, case.samples.roll(1, 0), case.directions).mean()) < 0.7


def test_combinations_give_way_to_true_columns() -> None:
    case = plant()
    mixed = torch.cat([case.directions[:4] + 0.7 * case.directions[4:], case.directions[:4] - case.directions[1:5]])
    pool = torch.cat([mixed, case.directions])
    assert sorted(independent(pool, case.layer.off(pool)).tolist()) == list(range(8, 16))


def test_repetitions_share_a_pattern() -> None:
    case = plant()
    twice = torch.cat([case.directions, -case.directions])
    directions, off = one_a_pattern(twice, case.layer.off(twice))
    assert len(directions) == 8
    assert torch.equal(case.layer.off(directions), off)


def test_the_score_decides_between_candidates_where_zeros_mislead() -> None:
    case = plant()
    off = case.layer.off(case.directions)
    mixed = unit(case.directions[:2] + 0.7 * case.directions[2:4])
    pool = torch.cat([mixed, case.directions])
    claimed = torch.cat([torch.ones_like(off[:2]), off])
    assert {0, 1} <= set(independent(pool, claimed).tolist())
    assert sorted(best_matching(case.layer, pool, claimed).tolist()) == list(range(2, 10))
    assert len(best_matching(case.layer, pool[:5], claimed[:5])) < 8
