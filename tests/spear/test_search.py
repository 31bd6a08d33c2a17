"""The whole search on planted layers, without a model."""

import dataclasses

import pytest
import torch

from planted import plant
from unbatch.attacks.spear import Spear
from unbatch.clock import Clock
from unbatch.spear.layer import Layer
from unbatch.spear.next_layer import NextLayer
from unbatch.spear.search import Search

DEFAULTS = {name: getattr(Spear, name) for name in ("subsets", "parallel", "false_rejection")}


def searching(layer: Layer, following: NextLayer | None, precision: torch.dtype = torch.float64, *, only_sampling: bool = False) -> Search:
    """With the attack's own settings, where they stand."""
    return Search(layer, following, torch.Generator().manual_seed(0), only_sampling=only_sampling, precision=precision, **DEFAULTS)


def quiet(message: str, done: float) -> None:
    assert 0 <= done <= 1, message


@pytest.mark.parametrize("certified", [True, False])
@pytest.mark.parametrize("batch", [1, 2, 5, 12, 24])
def test_finds_everything(batch: int, certified: bool) -> None:
    case = plant(m=200, b=batch, seed=batch)
    search = searching(case.layer, case.following if certified else None)
    found = search.run(Clock.of(60.0), quiet)
    assert found.missing == 0
    assert bool((found.agreement == 1).all())
    assert case.worst_error(found.samples) < 1e-8
    assert torch.allclose(found.samples @ found.directions.T, torch.eye(batch, dtype=torch.float64), atol=1e-8)


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_sampling_alone_finds_a_small_batch(precision: torch.dtype) -> None:
    case = plant(b=6)
    search = searching(case.layer, None, precision, only_sampling=True)
    found = search.run(Clock.of(60.0), quiet)
    assert found.missing == 0
    assert case.worst_error(found.samples) < 1e-8
    assert set(search.tools) == {"sampling"}


def test_what_is_found_before_the_budget_ends_is_certified() -> None:
    case = plant(m=100, b=40, seed=3)
    found = searching(case.layer, case.following).run(Clock.of(1e-9), quiet)
    assert found.missing == 40 - len(found.samples)
    if len(found.samples):
        error = (found.samples[:, None] - case.samples).norm(dim=2).amin(dim=1)
        assert float(error.max()) < 1e-6


def test_signs_that_do_not_fit_end_the_search_with_what_was_found() -> None:
    case = plant(b=6)
    foreign = dataclasses.replace(case.layer, seen=case.layer.seen.flip(0))
    found = searching(foreign, None).run(Clock.of(30.0), quiet)
    assert found.missing == 0
    assert float(found.agreement.mean()) < 0.9
    assert case.worst_error(found.samples) < 1e-8
