"""Sparse directions from guesses, and from none."""

import torch
from scipy.optimize import linprog

from planted import plant
from unbatch.spear.dictionary_learning import blind_directions, off_weights, promising, sparse_directions
from unbatch.spear.rounding import round_directions


def test_admm_solves_the_linear_program() -> None:
    generator = torch.Generator().manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn((40, 5), generator=generator, dtype=torch.float64))
    guess = torch.randn((1, 5), generator=generator, dtype=torch.float64)
    weights = torch.rand((1, 40), generator=generator, dtype=torch.float64) + 0.1
    found = sparse_directions(left, guess, weights, steps=3000)
    anchor = guess[0] / guess.norm()
    # min Σ w t with −t ≤ left q ≤ t and anchor · q = 1
    stacked = torch.cat(
        [torch.cat([left, -torch.eye(40, dtype=torch.float64)], 1), torch.cat([-left, -torch.eye(40, dtype=torch.float64)], 1)]
    )
    cost = torch.cat([torch.zeros(5, dtype=torch.float64), weights[0]])
    equal = torch.cat([anchor, torch.zeros(40, dtype=torch.float64)])[None]
    best = linprog(cost, stacked, torch.zeros(80), equal, [1.0], bounds=[(None, None)] * 45)
    assert float((weights * (found @ left.T).abs()).sum()) <= 1.001 * best.fun
    assert float(found @ anchor) == 1 or abs(float(found @ anchor) - 1) < 1e-9


def test_rough_samples_lead_to_their_directions() -> None:
    case = plant(m=200, b=30)
    noise = torch.randn(case.samples.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rough = case.samples + 0.3 * noise * case.samples.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
    rough = rough / (rough @ case.layer.sums)[:, None]
    found = sparse_directions(case.layer.left, rough, off_weights(case.layer, rough))
    _, off = round_directions(case.layer, found)
    assert int((off == case.off).all(dim=1).sum()) >= 20


def test_blind_starts_find_columns_of_an_easy_layer() -> None:
    case = plant(m=200, b=10)
    found = blind_directions(case.layer.left, torch.Generator().manual_seed(0), starts=256)
    assert found.shape == (256, 10)
    exact, off = round_directions(case.layer, found)
    hits = {int(i) for row in off for i in (case.off == row).all(dim=1).nonzero()[:, 0]}
    assert len(hits) >= 5
    assert bool(exact.isfinite().all())


def test_true_directions_are_promising_and_random_ones_are_not() -> None:
    case = plant(m=200, b=30)
    random = torch.randn((50, 30), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert bool(promising(case.layer.left, case.directions).all())
    assert not bool(promising(case.layer.left, random).any())
