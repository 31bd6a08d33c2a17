"""Rows of one length: weak samples of a sure network against planted ones, of neurons that few samples fire."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from unbatch.attacks.spear import Spear
from unbatch.clock import Clock
from unbatch.gradients import capture, per_example
from unbatch.spear.evened import evened_problems, known_directions
from unbatch.types import Observation


def planted(seed: int, sharpness: float, count: int = 12) -> tuple[Observation, Tensor, Tensor]:
    """The update of a network whose neurons fire for a seventh of the samples, and what each sample leaves beside the strongest."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(40, 250), nn.ReLU(), nn.Linear(250, 60), nn.ReLU(), nn.Linear(60, 5)).double()
    inputs = torch.randn((count, 40), generator=generator, dtype=torch.float64)
    with torch.no_grad():
        net[0].bias -= 0.6
        net[4].weight *= sharpness
        labels = net(inputs).argmax(dim=1)
    labels[0] = (labels[0] + 1) % 5
    strengths = per_example(net, inputs, labels)["0.bias"].norm(dim=1)
    return Observation(net, capture(net, inputs, labels), (40,)), inputs, strengths / strengths.max()


def silent(_told: str, _share: float) -> None:
    """Nobody watches."""


@pytest.mark.parametrize("seed", [1, 2, 3, 5])
def test_weak_samples_are_found_beside_strong_ones(seed: int) -> None:
    seen, inputs, strengths = planted(seed, 600.0)
    made = Spear(seconds=20).reconstruct(seen, torch.Generator().manual_seed(seed), silent)
    assert made.inputs is not None
    off = (torch.cdist(inputs, made.inputs) / inputs.norm(dim=1)[:, None]).amin(dim=1)
    assert float(off.max()) < 1e-5
    assert float(strengths.min()) < 1e-12


def test_rows_that_are_about_as_long_are_left_as_they_are() -> None:
    seen, _, _ = planted(0, 1.0)
    assert not list(evened_problems(seen, seen.layers[0], torch.Generator().manual_seed(0), Clock.of(10)))


def test_directions_of_samples_that_are_known_roughly() -> None:
    seen, inputs, _ = planted(1, 600.0)
    problem = next(evened_problems(seen, seen.layers[0], torch.Generator().manual_seed(0), Clock.of(10)))
    noise = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    directions, zeros = known_directions(seen, problem, inputs * (1 + 1e-6 * noise))
    assert len(directions) == len(inputs)
    parameters = dict(seen.model.named_parameters())
    on = (inputs @ parameters["0.weight"].T + parameters["0.bias"] > 0)[:, problem.alive]
    assert not bool((zeros & on & ((directions @ problem.layer.left.T).abs() > 1e-9)).any())
    assert float((zeros & ~on).sum() / (~on).sum()) > 0.99
