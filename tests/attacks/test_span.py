"""Span on planted batches, through any activation: the truth is used only to check."""

import pytest
import torch
from torch import Tensor, nn

from unbatch.attacks.span import Span
from unbatch.errors import Inapplicable, Misuse
from unbatch.gradients import capture
from unbatch.span.inversion import invert, polish
from unbatch.types import Observation, Reconstruction, Status

SHAPE = (3, 6, 6)


def network(activation: nn.Module, width: int = 60, depth: int = 3, inputs: int = 108) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in, fan_out in zip([inputs] + [width] * (depth - 1), [width] * (depth - 1) + [6], strict=True):
            layers += [nn.Linear(fan_in, fan_out), activation]
        return nn.Sequential(*layers[:-1]).double()


def batch(size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((size, *SHAPE), generator=generator, dtype=torch.float64), torch.randint(6, (size,), generator=generator)


def plant(model: nn.Module, size: int, dtype: torch.dtype = torch.float64) -> tuple[Observation, Tensor, Tensor]:
    x, y = batch(size)
    model = model.to(dtype)
    return Observation(model, capture(model, x.to(dtype), y), SHAPE), x, y


def errors(found: Tensor | None, truth: Tensor) -> Tensor:
    """The relative error of every true sample's nearest."""
    assert found is not None
    distance = (truth.flatten(1)[:, None] - found.double().flatten(1)).norm(dim=2).amin(dim=1)
    return distance / truth.flatten(1).norm(dim=1)


def assert_recovers(found: Reconstruction, x: Tensor, y: Tensor, error: float = 1e-9) -> None:
    assert found.status is Status.RECONSTRUCTED, found.reason
    assert float(errors(found.inputs, x).max()) < error
    assert found.inputs is not None
    assert found.labels is not None
    partner = (x.flatten(1)[:, None] - found.inputs.double().flatten(1)).norm(dim=2).argmin(dim=1)
    assert torch.equal(found.labels[partner], y)


ACTIVATIONS = [nn.GELU(), nn.SiLU(), nn.Sigmoid(), nn.Tanh(), nn.ELU(), nn.Softplus(), nn.LeakyReLU(0.1), nn.PReLU(), nn.ReLU()]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda module: type(module).__name__)
def test_recovers_gaussian_batches_through_any_activation(activation: nn.Module) -> None:
    observation, x, y = plant(network(activation), 7)
    assert_recovers(Span(seconds=60.0)(observation), x, y, 1e-8)


@pytest.mark.parametrize("size", [1, 2, 3, 12])
def test_recovers_batches_of_any_size(size: int) -> None:
    observation, x, y = plant(network(nn.GELU()), size)
    assert_recovers(Span()(observation), x, y)


def test_recovers_float32_updates_to_their_precision() -> None:
    observation, x, y = plant(network(nn.SiLU()), 6, torch.float32)
    assert_recovers(Span()(observation), x, y, 1e-3)


def test_takes_any_differentiable_loss() -> None:
    def distance(outputs: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs, nn.functional.one_hot(labels, outputs.shape[1]).to(outputs))

    x, y = batch(6)
    model = network(nn.Tanh())
    assert_recovers(Span()(Observation(model, capture(model, x, y, distance), SHAPE, distance)), x, y)


def test_a_repeated_sample_is_given_out_as_often_as_it_was_there() -> None:
    x, y = batch(5)
    x, y = torch.cat([x, x[:2], x[:1]]), torch.cat([y, y[:2], y[:1]])
    model = network(nn.GELU())
    found = Span()(Observation(model, capture(model, x, y), SHAPE, batch_size=8))
    assert_recovers(found, x, y)
    assert "5 different samples" in found.reason


def test_features_of_an_inner_layer() -> None:
    x, y = batch(6)
    model = network(nn.Tanh(), depth=4)
    truth = torch.tanh(model[1](x.flatten(1))).detach()  # type: ignore[operator]
    observation = Observation(model, capture(model, x, y), SHAPE)
    found = invert(observation, torch.Generator().manual_seed(0), layer="3")
    assert float(errors(found.features, truth).max()) < 1e-8
    assert found.inputs is None


def test_polish_makes_a_rough_guess_exact() -> None:
    observation, x, _ = plant(network(nn.GELU()), 8)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    found = polish(observation, x[:3] + 0.5 * noise[:3])
    assert float(errors(found.inputs, x).max()) < 1e-9
    with pytest.raises(Misuse, match="guesses of shape"):
        polish(observation, torch.zeros(2, 5))


def test_an_update_of_another_model_gives_out_nothing() -> None:
    observation, _, _ = plant(network(nn.GELU()), 6)
    other = network(nn.GELU())
    with torch.no_grad():
        other[1].weight.add_(0.3 * torch.randn(60, 108, generator=torch.Generator().manual_seed(8)))  # type: ignore[operator,union-attr]
    candidate = invert(Observation(other, observation.update, SHAPE), torch.Generator().manual_seed(0), seconds=2.0)
    assert candidate.inputs is None
    assert candidate.exhausted
    assert "0 of 6" in candidate.reason


def test_says_what_it_cannot_do() -> None:
    observation, x, y = plant(network(nn.GELU(), width=9), 8)
    assert "too few for a proof" in Span()(observation).reason or "full rank" in Span()(observation).reason
    assert "no Linear layer named 'nine'" in Span(layer="nine")(observation).reason
    bare = nn.Sequential(nn.Flatten(), nn.Linear(108, 30, bias=False), nn.GELU(), nn.Linear(30, 6)).double()
    assert "has no bias" in Span()(Observation(bare, capture(bare, x, y), SHAPE)).reason
    tokens = nn.Sequential(nn.Flatten(2), nn.Linear(36, 30), nn.GELU(), nn.Flatten(), nn.Linear(90, 6)).double()
    assert "3 times a sample" in Span()(Observation(tokens, capture(tokens, x, y), SHAPE)).reason
    with pytest.raises(Misuse, match="a positive budget"):
        Span(seconds=0)


def test_a_path_past_an_inner_layer_is_seen() -> None:
    class Past(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.inner, self.last = nn.Linear(108, 40), nn.Linear(40, 40), nn.Linear(40, 6)

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.tanh(self.first(x.flatten(1)))
            return self.last(hidden + torch.tanh(self.inner(hidden)))

    x, y = batch(5)
    model = Past().double()
    with pytest.raises(Inapplicable, match="a path goes past it"):
        invert(Observation(model, capture(model, x, y), SHAPE), torch.Generator().manual_seed(0), layer="inner")
