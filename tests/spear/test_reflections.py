"""Walks come near samples from random starts, and keep a good guess; they are told by the signs they share with a sample."""

import pytest
import torch
from torch import Generator, Tensor

from planted import Planted, plant
from unbatch.clock import Clock, OutOfTime
from unbatch.spear.behind import Link
from unbatch.spear.descent import descend
from unbatch.spear.reflections import reflected


def starts(case: Planted, count: int) -> Tensor:
    return torch.randn((count, case.samples.shape[1]), generator=Generator().manual_seed(3), dtype=torch.float64)


def signs_shared(case: Planted, guesses: Tensor) -> Tensor:
    """(k,) of the neurons, the share whose sign a guess has as the sample nearest to it has it."""
    guesses = guesses / (guesses @ case.layer.sums)[:, None]
    guessed, true = case.layer.pre_activations(guesses) > 0, case.layer.pre_activations(case.samples) > 0
    return (guessed[:, None] == true[None]).double().mean(dim=2).amax(dim=1)


def test_random_starts_come_near_samples_and_lead_there() -> None:
    case = plant(m=160, b=30)
    assert case.following is not None
    before = starts(case, 60)
    after = reflected(case.layer, [Link(case.following.activations)], before, steps=200)
    assert int((signs_shared(case, before) > 0.85).sum()) == 0
    assert int((signs_shared(case, after) > 0.85).sum()) >= 10
    found = descend(case.layer, case.following.activations, after / (after @ case.layer.sums)[:, None])
    assert len(found) >= 5
    distances = (found[:, None] - case.samples[None]).norm(dim=2)  # cdist's squares would round them to 1e-9
    assert float(distances.amin(dim=1).max()) < 1e-9 * float(case.samples.norm(dim=1).max())


def test_good_guesses_stay_good_whatever_their_length() -> None:
    case = plant(m=160, b=30)
    assert case.following is not None
    after = reflected(case.layer, [Link(case.following.activations)], 7 * case.samples, steps=20)
    assert float(signs_shared(case, after).min()) > 0.85


def test_the_clock_ends_it() -> None:
    case = plant(m=160, b=20)
    assert case.following is not None
    with pytest.raises(OutOfTime):
        reflected(case.layer, [Link(case.following.activations)], starts(case, 5), Clock(0.0, 0.0))
