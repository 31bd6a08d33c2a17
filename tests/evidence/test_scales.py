"""Samples that the first layer proves and that count all there is must give the other tensors, too, as large as they are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from unbatch.evidence import judge
from unbatch.evidence.scales import off_scale
from unbatch.gradients import capture
from unbatch.types import Candidate, Observation, Status

THIRD = torch.full((3,), 1 / 3, dtype=torch.float64)


def tiny() -> tuple[Observation, Tensor, Tensor]:
    """Inputs so small that a network without biases does not tell them from longer ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(108, 105), nn.ReLU(), nn.Linear(105, 5))
        inputs, labels = 7e-6 * (torch.rand(1, 108) + 0.09 * torch.rand(3, 108)), torch.tensor([1, 4, 4])
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.mul_(not name.endswith("bias"))
    return Observation(net, capture(net, inputs, labels), (108,)), inputs.double(), labels


@pytest.mark.parametrize("times", [0.9, 1.01, 1.5])
def test_a_first_layer_that_was_scaled_proves_no_longer_samples(times: float) -> None:
    """Trial 361157: samples one percent too long were called proved to 1e-5."""
    seen, inputs, labels = tiny()
    spoiled = replace(seen, update={**seen.update, "0.weight": times * seen.update["0.weight"]})
    assert judge(seen, Candidate(inputs, labels)).status.disclosed
    found = judge(spoiled, Candidate(times * inputs, labels))
    assert found.status is Status.INCONSISTENT
    assert "'2.weight' is" in found.reason


@pytest.mark.parametrize("noise", [0.0, 1e-3, 0.3])
def test_noise_leaves_every_tensor_its_scale(noise: float) -> None:
    seen, inputs, labels = tiny()
    generator = torch.Generator().manual_seed(0)
    update = {
        name: tensor + noise * tensor.square().mean().sqrt() * torch.randn(tensor.shape, generator=generator)
        for name, tensor in seen.update.items()
    }
    assert off_scale(replace(seen, update=update), inputs, labels, THIRD, 1e-5) == ""
    name = "2.weight"
    off = off_scale(replace(seen, update={**update, name: 1.5 * update[name]}), inputs, labels, THIRD, 1e-5)
    assert off.startswith(f"{name!r} is 1.")


def test_nothing_is_said_of_a_part_of_the_batch() -> None:
    seen, inputs, labels = tiny()
    assert off_scale(seen, inputs[:2], labels[:2], THIRD[:2], 1e-5) == ""
    assert off_scale(replace(seen, factor_known=False), 2 * inputs, labels, THIRD, 1e-5) == ""
