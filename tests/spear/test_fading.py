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


def fading() -> Observation:
    """Each sample counts 0.4 of what the one before does; all are dark in half of the places, so that many numbers are zero."""
    generator = Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(NUMBERS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10)).double()
    inputs = torch.rand((SAMPLES, NUMBERS), generator=generator, dtype=torch.float64)
    labels, whole = torch.arange(SAMPLES) % 10, {name: torch.zeros_like(each) for name, each in net.named_parameters()}
    with torch.no_grad():
        net[0].bias.fill_(-3.0)  # few samples fire a neuron: its row is zero where these are dark
        net[0].weight.normal_(0, 0.5, generator=generator)
    inputs = inputs * (torch.rand(inputs.shape, generator=generator) < 0.5)
    for index in range(SAMPLES):
        one = capture(net, inputs[index : index + 1], labels[index : index + 1])
        whole = {name: tensor + 0.4**index * one[name] for name, tensor in whole.items()}
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
