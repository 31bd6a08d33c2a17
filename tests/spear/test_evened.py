"""Rows of one length: weak samples of a sure network against planted ones, of neurons that few samples fire."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from unbatch.attacks.spear import Spear
from unbatch.clock import Clock
from unbatch.gradients import capture, per_example
from unbatch.spear.evened import evened_problems, surely_off
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


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_weak_samples_are_found_beside_strong_ones(seed: int) -> None:
    seen, inputs, strengths = planted(seed, 600.0)
    made = Spear(seconds=20).reconstruct(seen, torch.Generator().manual_seed(seed), silent)
    assert made.inputs is not None
    off = (torch.cdist(inputs, made.inputs) / inputs.norm(dim=1)[:, None]).amin(dim=1)
    print(seed, [f"{s:.0e}: {o:.0e}" for s, o in zip(strengths, off)], made.stats.get("found by"))
    assert bool((off[strengths > 1e-13] < 1e-5).all())
    assert float(strengths[strengths > 1e-13].min()) < 1e-9


def test_rows_that_are_about_as_long_are_left_as_they_are() -> None:
    seen, _, _ = planted(0, 1.0)
    assert not list(evened_problems(seen, seen.layers[0], torch.Generator().manual_seed(0), Clock.of(10)))


def test_neurons_near_zero_are_not_called_off() -> None:
    seen, inputs, _ = planted(0, 600.0)
    problem = next(evened_problems(seen, seen.layers[0], torch.Generator().manual_seed(0), Clock.of(10)))
    parameters = dict(seen.model.named_parameters())
    z = (inputs @ parameters["0.weight"].T + parameters["0.bias"])[:, problem.alive]
    off = surely_off(seen, problem, inputs)
    assert not bool((off & (z > 0)).any())
    assert 0.9 < float(off.sum() / (z <= 0).sum()) <= 1
