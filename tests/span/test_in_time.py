"""No layer behind is factored once the time is up."""

import pytest
import torch
from torch import Generator, nn

from unbatch.clock import UNLIMITED, Clock
from unbatch.gradients import capture
from unbatch.linalg.lowrank import factor
from unbatch.span import problem
from unbatch.span.dependent import some_by_least_squares
from unbatch.span.inversion import invert
from unbatch.types import Observation


def test_of_inputs_that_depend_on_each_other_no_layer_is_factored_once_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = Generator().manual_seed(1240090)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1240090)
        net = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 4)).double()
    x = torch.randn((8, 6), generator=generator, dtype=torch.float64)
    seen = Observation(net, capture(net, x, torch.arange(8) % 4), (6,))
    call, factored = seen.layers[0], []
    factors = factor(seen.update[call.weight], generator)

    def noted(layer: str, *_: object) -> list[problem.Space]:
        factored.append(layer)
        return []

    monkeypatch.setattr(problem, "spaces_of_gradient", noted)
    some_by_least_squares(seen, call, factors, 8, generator, UNLIMITED)
    assert factored == ["2.weight", "4.weight"]
    assert not len(some_by_least_squares(seen, call, factors, 8, generator, Clock.of(1e-9)))
    assert factored == ["2.weight", "4.weight"]


def test_span_ends_where_the_time_is_up_before_the_layers_behind_are_factored(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = Generator().manual_seed(1241047)
    net = nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 4)).double()
    x = torch.randn((8, 20), generator=generator, dtype=torch.float64)
    seen = Observation(net, capture(net, x, torch.arange(8) % 4), (20,))
    monkeypatch.setattr(problem, "spaces_of_gradient", pytest.fail)
    made = invert(seen, generator, seconds=1e-6)
    assert made.exhausted
    assert made.inputs is None
