"""Columns told by the patterns of samples that are known roughly, and what is missing found among random points."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from unbatch.clock import Clock
from unbatch.gradients import capture, jacobians, per_example
from unbatch.linalg.lowrank import factor
from unbatch.spear.patterns import _Patterns, whole_by_patterns
from unbatch.spear.problem import Problem, pose
from unbatch.types import Candidate, Observation


def seen(seed: int, count: int = 12) -> tuple[Observation, Tensor, Tensor, Problem]:
    """An update, its samples and labels, and the layer in the coordinates of its factors."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(40, 80), nn.ReLU(), nn.Linear(80, 30), nn.ReLU(), nn.Linear(30, 5)).double()
        inputs, labels = torch.randn((count, 40), dtype=torch.float64), torch.randint(5, (count,))
    observed = Observation(net, capture(net, inputs, labels), (40,))
    generator = torch.Generator().manual_seed(0)
    found = factor(observed.update["0.weight"], generator)
    return observed, inputs, labels, pose(observed, observed.layers[0], None, found, None, generator, Clock.of(10))[0]


def solved(observed: Observation, problem: Problem, known: Tensor) -> Tensor | None:
    """The inputs of all samples, if all come out."""
    whole = whole_by_patterns(observed, problem, Candidate(known), torch.Generator().manual_seed(0), Clock.of(10))
    return None if whole is None else problem.inputs(whole.solution.samples)


@pytest.mark.parametrize("missing", [0, 1, 2, 3])
def test_rough_samples_become_exact_and_missing_ones_are_found(missing: int) -> None:
    observed, inputs, _, problem = seen(0)
    noise = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    made = solved(observed, problem, (inputs * (1 + 1e-6 * noise))[missing:])
    assert made is not None
    assert float((torch.cdist(inputs, made) / inputs.norm(dim=1)[:, None]).amin(dim=1).max()) < 1e-9


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_samples_that_are_off_by_three_percent_become_exact(seed: int) -> None:
    """Most of their patterns are wrong: right ones lie near them."""
    observed, inputs, _, problem = seen(seed)
    noise = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    made = solved(observed, problem, inputs * (1 + 0.03 * noise))
    assert made is not None
    assert float((torch.cdist(inputs, made) / inputs.norm(dim=1)[:, None]).amin(dim=1).max()) < 1e-9


def test_one_that_is_missing_is_told_by_all_others() -> None:
    """Its column is the one that its pattern comes nearest to, met or not."""
    observed, inputs, _, problem = seen(0)
    patterns = _Patterns(observed, problem)
    columns = patterns.directions(inputs, Clock.of(10))[0]
    assert len(columns) == len(inputs)
    completed = patterns.with_the_last(columns[1:], Clock.of(10))
    assert len(completed) == len(inputs)
    assert abs(float(completed[-1] @ columns[0])) > 1 - 1e-9
    assert len(patterns.with_the_last(columns[2:], Clock.of(10))) == len(inputs) - 2


def test_samples_of_another_batch_tell_nothing() -> None:
    observed, _, _, problem = seen(0)
    assert solved(observed, problem, seen(1)[1]) is None


def test_what_samples_leave_is_a_sum_of_what_moves_the_outputs() -> None:
    observed, inputs, labels, _ = seen(2)
    moves = jacobians(observed.model, inputs, "0.weight")
    slopes = observed.model(inputs).softmax(dim=1) - nn.functional.one_hot(labels, 5)
    torch.testing.assert_close(torch.einsum("cbm,bc->bm", moves, slopes), per_example(observed.model, inputs, labels)["0.bias"])


def test_what_is_no_number_tells_nothing() -> None:
    observed, inputs, _, problem = seen(0)
    assert solved(observed, problem, torch.full_like(inputs, torch.inf)) is None
    made = solved(observed, problem, torch.cat([torch.full_like(inputs[:1], torch.nan), inputs]))
    assert made is not None
    assert bool(made.isfinite().all())
