"""The tracer sees calls, wherever they come from, and computes in float64 without touching the model."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unbatch.trace import linear_layers, run


class Odd(nn.Module):
    """ReLU in many spellings, an in-place one, a layer used by name only."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(12, 6), nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.first(x.flatten(1)))
        x = self.second(x).clamp(min=0)
        x = F.gelu(F.linear(x, self.third.weight))
        return self.last(x)


@pytest.mark.parametrize("large", [1, 1 << 24])
def test_finds_layers_and_what_follows_them(large: int) -> None:
    calls = run(Odd(), torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)), large=large).linears
    assert [(c.weight, c.bias, c.activation, c.raw) for c in calls] == [
        ("first.weight", "first.bias", "relu", True),
        ("second.weight", "second.bias", "relu", False),
        ("third.weight", None, "gelu", False),
        ("last.weight", "last.bias", None, False),
    ]


def test_reading_in_blocks_gives_the_same_outputs_and_gradients() -> None:
    model, x = Odd(), torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    whole, blocked = run(model, x), run(model, x, large=1)
    assert torch.allclose(whole.outputs, blocked.outputs, atol=1e-14)
    for one, other in zip(whole.linears, blocked.linears, strict=True):
        (left,) = torch.autograd.grad(whole.outputs.sum(), one.output, retain_graph=True)
        (right,) = torch.autograd.grad(blocked.outputs.sum(), other.output, retain_graph=True)
        assert torch.allclose(left, right, atol=1e-14)


def test_computes_in_double_precision_and_leaves_the_model_alone() -> None:
    model, x = Odd(), torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    outputs = run(model, x).outputs
    assert outputs.dtype == torch.float64
    assert torch.allclose(outputs.float(), model(x), atol=1e-6)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.dtype == torch.float32 and p.grad is None for p in model.parameters())


def test_batch_statistics_of_the_model_survive() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    before = model[1].running_mean.clone()
    run(model, torch.randn(5, 4, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(model[1].running_mean, before)


def test_a_clamp_that_is_not_a_relu_is_not_taken_for_one() -> None:
    class Clipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).clamp(0, 6)

    assert linear_layers(Clipped(), (4,))[0].activation == "clamp"


def test_shared_weights_are_seen_twice_under_one_name() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    assert [call.weight for call in linear_layers(model, (4,))] == ["0.weight", "0.weight"]


def test_an_inactive_dropout_between_layer_and_activation_is_looked_through() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.Identity(), nn.ReLU()).eval()
    assert linear_layers(model, (4,))[0].activation == "relu"


class Residual(nn.Module):
    """A layer whose output is the second argument of what comes next, after its length was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.layer(x)
        assert len(z) == len(x)
        return self.head((x + z).relu())


class Counted(Residual):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.layer(x)
        assert len(z) == len(x)
        return self.head(z.relu())


def test_what_comes_next_is_seen_wherever_the_output_is_put() -> None:
    assert linear_layers(Residual(), (6,))[0].activation == "add"
    assert linear_layers(Counted(), (6,))[0].activation == "relu"
