"""Rough guesses lead to samples, through what the next layer was fed; guesses of nothing lead nowhere."""

import pytest
import torch
from torch import Generator, Tensor

from planted import Planted, plant
from unbatch.clock import Clock, OutOfTime
from unbatch.spear.descent import descend
from unbatch.spear.layer import deflate


def near(case: Planted, share: float) -> Tensor:
    """The true samples, with a share of another direction, scaled as guesses are."""
    generator = Generator().manual_seed(5)
    other = torch.randn(case.samples.shape, generator=generator, dtype=torch.float64) * case.samples.norm(dim=1, keepdim=True)
    guesses = case.samples + share * other / case.samples.shape[1] ** 0.5
    return guesses / (guesses @ case.layer.sums)[:, None]


def test_rough_guesses_lead_to_the_samples() -> None:
    case = plant(m=160, b=20)
    assert case.following is not None
    found = descend(case.layer, case.following.activations, near(case, 0.3))
    assert len(found) >= 9  # the better half is tried
    assert float(torch.cdist(found, case.samples).amin(dim=1).max()) < 1e-9 * float(case.samples.norm(dim=1).max())


def test_of_guesses_that_lead_to_one_sample_one_is_followed() -> None:
    case = plant(m=160, b=20)
    assert case.following is not None
    twice = torch.cat([near(case, 0.2), near(case, 0.1)])
    found = descend(case.layer, case.following.activations, twice)
    assert len(found) >= 18  # the better half, which are those of the second kind
    nearest = torch.cdist(found, case.samples).argmin(dim=1)
    assert len(nearest.unique()) == len(found)


def test_random_guesses_lead_to_nothing_false() -> None:
    case = plant(m=160, b=40)
    assert case.following is not None
    guesses = torch.randn((40, 40), generator=Generator().manual_seed(1), dtype=torch.float64)
    found = descend(case.layer, case.following.activations, guesses / (guesses @ case.layer.sums)[:, None])
    assert not len(found) or float(torch.cdist(found, case.samples).amin(dim=1).max()) < 1e-9 * float(case.samples.norm(dim=1).max())


def test_what_is_known_is_taken_out_before() -> None:
    case = plant(m=160, b=20)
    assert case.following is not None
    rest, rows, basis = deflate(case.layer, case.samples[:8], case.directions[:8])
    found = descend(rest, case.following.activations[rows], near(case, 0.3)[8:] @ basis)
    assert len(found) >= 5
    assert float(torch.cdist(found, case.samples[8:] @ basis).amin(dim=1).max()) < 1e-8 * float(case.samples.norm(dim=1).max())


def test_the_clock_ends_it() -> None:
    case = plant(m=160, b=20)
    assert case.following is not None
    with pytest.raises(OutOfTime):
        descend(case.layer, case.following.activations, near(case, 0.3), Clock(0.0, 0.0))
