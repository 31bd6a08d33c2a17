"""Samples of very uneven strength, refined together: against planted ones, and where it must leave a proposal as it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from unbatch.gradients import capture, per_example
from unbatch.spear.refinement import UNEVEN, misfit, refined
from unbatch.types import Candidate, Observation


def planted(seed: int, sharpness: float, count: int = 20) -> tuple[Observation, Tensor, Tensor]:
    """The update of a network that is as sure as ``sharpness`` makes it, with labels that it mostly finds right."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(40, 150), nn.ReLU(), nn.Linear(150, 60), nn.ReLU(), nn.Linear(60, 5)).double()
    with torch.no_grad():
        net[4].weight *= sharpness
    inputs = torch.randn((count, 40), generator=generator, dtype=torch.float64)
    labels = net(inputs).argmax(dim=1)
    labels[0] = (labels[0] + 1) % 5
    return Observation(net, capture(net, inputs, labels), (40,)), inputs, labels


def strengths(seen: Observation, inputs: Tensor, labels: Tensor) -> Tensor:
    return per_example(seen.model, inputs, labels)["0.bias"].norm(dim=1)


def off(found: Tensor, inputs: Tensor) -> Tensor:
    return (found - inputs).norm(dim=1) / inputs.norm(dim=1)


@pytest.mark.parametrize("seed", [0, 1, 3, 4, 5])
def test_what_the_strong_leave_in_the_faint_is_taken_out(seed: int) -> None:
    seen, inputs, labels = planted(seed, 200.0)
    strong = strengths(seen, inputs, labels)
    visible = strong > 1e-9 * strong.max()
    inputs, labels = inputs[visible], labels[visible]
    seen = replace(seen, update=capture(seen.model, inputs, labels))
    strong = strengths(seen, inputs, labels)
    assert float(strong.min() / strong.max()) < UNEVEN
    noise = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    # What a search leaves: each sample is off by a share of the strongest.
    given = inputs + 1e-13 * (strong.max() / strong * inputs.norm(dim=1) / noise.norm(dim=1))[:, None] * noise
    made = refined(seen, seen.layers[0], Candidate(given, labels))
    assert made.inputs is not None
    before, after = off(given, inputs), off(made.inputs, inputs)
    assert float((after / before).log().mean()) < -1, (before, after)


def test_an_even_batch_is_left_alone() -> None:
    seen, inputs, labels = planted(0, 1.0)
    given = Candidate(inputs * (1 + 1e-9), labels)
    assert refined(seen, seen.layers[0], given) is given


def test_what_is_missing_is_not_made_up_for() -> None:
    seen, inputs, labels = planted(1, 200.0)
    strong = strengths(seen, inputs, labels)
    without = strong.argsort(descending=True) != 1  # all but the second strongest
    given = Candidate(inputs[strong.argsort(descending=True)][without], labels[strong.argsort(descending=True)][without])
    assert refined(seen, seen.layers[0], given) is given


def test_a_factor_that_was_told_as_known_and_is_not_breaks_nothing() -> None:
    seen, inputs, labels = planted(1, 200.0)
    for factor in (50.0, -1.0, 1e-9):
        off_by = replace(seen, update={name: factor * tensor for name, tensor in seen.update.items()})
        assert refined(off_by, seen.layers[0], Candidate(inputs * (1 + 1e-9), labels)).inputs is not None


def test_the_misfit_is_what_a_proposal_leaves_of_the_gradient() -> None:
    seen, inputs, labels = planted(0, 1.0)
    call, parts = seen.layers[0], capture(seen.model, inputs[:19], labels[:19])["0.weight"]
    left = float((seen.update["0.weight"] - 19 / 20 * parts).norm() / seen.update["0.weight"].norm())
    assert misfit(seen, call, Candidate(inputs, labels)) < 1e-12
    assert misfit(seen, call, Candidate(inputs[:19], labels[:19])) == pytest.approx(left, rel=0.5)
    assert misfit(seen, call, Candidate(inputs)) == float("inf")
