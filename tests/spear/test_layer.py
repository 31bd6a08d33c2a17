"""The coordinates of a layer: what the docstrings say of p, q, sums and seen."""

import torch

from planted import plant
from unbatch.linalg.complement import complement
from unbatch.spear.layer import deflate


def test_true_samples_and_directions_fit_the_coordinates() -> None:
    case = plant()
    identity = torch.eye(8, dtype=torch.float64)
    assert torch.allclose(case.layer.left.T @ case.layer.left, identity, atol=1e-12)
    assert torch.allclose(case.samples @ case.directions.T, identity, atol=1e-9)
    assert torch.allclose(case.samples @ case.layer.sums, torch.ones(8, dtype=torch.float64), atol=1e-9)
    assert torch.equal(case.layer.pre_activations(case.samples) <= 0, case.off)
    assert torch.equal(case.layer.off(case.directions), case.off)


def test_complement_is_orthogonal() -> None:
    vectors = torch.randn((3, 7), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis = complement(vectors)
    assert basis.shape == (7, 4)
    assert torch.allclose(vectors @ basis, torch.zeros(3, 4, dtype=torch.float64), atol=1e-12)
    assert complement(vectors[:0]).shape == (7, 7)


def test_what_is_left_after_deflation_is_a_layer_of_the_others() -> None:
    case = plant()
    rest, rows, basis = deflate(case.layer, case.samples[:3], case.directions[:3])
    assert rest.batch == 5
    others = torch.linalg.lstsq(basis, case.directions[3:].T).solution.T
    assert torch.equal(rest.off(others), case.off[3:][:, rows])
    assert torch.allclose(others @ basis.T, case.directions[3:], atol=1e-9)
    samples = case.samples[3:] @ basis
    assert torch.allclose(samples @ rest.sums, torch.ones(5, dtype=torch.float64), atol=1e-9)
    expected = case.layer.pre_activations(case.samples[3:])[:, rows]
    assert torch.allclose(rest.pre_activations(samples), expected, atol=1e-8)
