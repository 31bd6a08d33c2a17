"""Gradients whose weakest samples come down to the rounding of float64, one by one: no gap tells how many there are."""

import pytest
import torch
from torch import Generator, Tensor, nn

from unbatch.clock import Clock
from unbatch.errors import Inapplicable
from unbatch.gradients import capture
from unbatch.spear.problem import factored
from unbatch.types import Observation

SAMPLES, NUMBERS, WIDTH = 40, 120, 200


def fading(samples: int = SAMPLES, share: float = 0.4, strong: int = SAMPLES, step: float = 1.0) -> Observation:
    """Each sample counts a share of what the one before does, and those after the strong ones a step less; all are dark in half of the
    places, so that many numbers are zero.
    """
    generator = Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(NUMBERS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10)).double()
    inputs = torch.rand((samples, NUMBERS), generator=generator, dtype=torch.float64)
    labels, whole = torch.arange(samples) % 10, {name: torch.zeros_like(each) for name, each in net.named_parameters()}
    with torch.no_grad():
        net[0].bias.fill_(-3.0)  # few samples fire a neuron: its row is zero where these are dark
        net[0].weight.normal_(0, 0.5, generator=generator)
    inputs = inputs * (torch.rand(inputs.shape, generator=generator) < 0.5)
    for index in range(samples):
        one = capture(net, inputs[index : index + 1], labels[index : index + 1])
        weight = share**index * (step if index >= strong else 1.0)
        whole = {name: tensor + weight * one[name] for name, tensor in whole.items()}
    return Observation(net, whole, (NUMBERS,))


def rank_and_zeros(seen: Observation, noise: Tensor | None = None) -> tuple[int, bool]:
    if noise is not None:
        seen = Observation(seen.model, {**seen.update, "0.weight": seen.update["0.weight"] + noise}, (NUMBERS,))
    factors, completion = factored(seen, seen.layers[0], Generator().manual_seed(0), Clock.of(60.0))
    return factors.rank, completion is not None


def test_all_that_is_above_the_rounding_is_of_the_samples_and_nothing_is_taken_for_pruned() -> None:
    rank, pruned = rank_and_zeros(fading())
    assert not pruned
    assert 30 <= rank <= SAMPLES


def test_noise_still_hides_how_many_there_are() -> None:
    noise = 1e-9 * torch.randn((WIDTH, NUMBERS), generator=Generator().manual_seed(1), dtype=torch.float64)
    with pytest.raises(Inapplicable):
        rank_and_zeros(fading(), noise)


def test_weak_samples_behind_a_gap_are_searched_for_with_the_strong_ones() -> None:
    """A network that is sure of a few of them: what these leave is far below the others', and far above the rounding."""
    seen = fading(samples=13, share=0.1, strong=9, step=1e-2)
    factors, _ = factored(seen, seen.layers[0], Generator().manual_seed(0), Clock.of(60.0))
    assert (factors.rank, factors.clear) == (9, True)
    assert 11 <= factors.ranks[0] <= 13
    assert factors.ranks[1] == 9
