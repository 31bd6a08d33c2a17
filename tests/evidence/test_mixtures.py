"""What a very wide layer makes of mixtures is asked without a pass over its weight, and is the same."""

import pytest
import torch
from torch import nn

from unbatch.evidence import mixtures
from unbatch.evidence.mixtures import surplus
from unbatch.evidence.replay import replay
from unbatch.gradients import capture
from unbatch.types import Observation

BEHIND = {
    "relu": [nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 4)],
    "layer norm": [nn.ReLU(), nn.LayerNorm(40), nn.Linear(40, 4)],
    "one layer": [nn.Identity(), nn.Linear(40, 4)],
}


@pytest.mark.parametrize("kind", BEHIND)
def test_columns_of_mixtures_need_no_pass_over_the_weight(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(90, 40), *BEHIND[kind]).double()
    inputs, labels = torch.rand(5, 9, 10).double(), torch.tensor([0, 1, 2, 3, 0])
    seen = Observation(net, capture(net, inputs, labels), (9, 10))
    made = replay(seen, inputs, labels)
    assert made.columns is not None
    asked = []
    whole = mixtures._of_mixtures
    monkeypatch.setattr(mixtures, "_of_mixtures", lambda *given: asked.append(given) or whole(*given))
    expected = surplus(seen, made.columns, inputs, 20, made.uses[0])
    assert len(asked) == 1
    monkeypatch.setattr(mixtures, "LARGE", 1)
    assert surplus(seen, made.columns, inputs, 20, made.uses[0]) == expected
    assert len(asked) == 1
    assert (expected == 0) is (kind == "one layer")
    _, _, mixing, drawn = asked[0]
    found, wanted = mixtures._of_mixed(seen, made.uses[0], mixing, drawn), whole(*asked[0])
    assert found is not None
    assert wanted is not None
    assert float((found - wanted).norm() / wanted.norm()) < 1e-12


def test_a_network_that_reads_its_input_past_the_layer_is_asked_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    class Past(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(20, 30), nn.Linear(30, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.first(x).relu()) * x.square().sum(dim=1, keepdim=True)

    torch.manual_seed(0)
    net, inputs, labels = Past().double(), torch.rand(4, 20).double(), torch.tensor([0, 1, 2, 3])
    seen = Observation(net, capture(net, inputs, labels), (20,))
    made = replay(seen, inputs, labels)
    assert made.columns is not None
    expected = surplus(seen, made.columns, inputs, 8)
    monkeypatch.setattr(mixtures, "LARGE", 1)
    assert surplus(seen, made.columns, inputs, 8, made.uses[0]) == expected > 0
