"""Span on planted batches, through any activation: the truth is used only to check."""

import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from unbatch import plugins
from unbatch.attacks.span import Span
from unbatch.errors import Inapplicable, Misuse
from unbatch.evidence import judge
from unbatch.gradients import capture
from unbatch.span import search
from unbatch.span.inversion import invert
from unbatch.types import Batch, Candidate, Observation, Reconstruction, Schema, Status

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


def behind_sigmoids(seed: int) -> tuple[Observation, Tensor, Tensor]:
    """Twelve samples alike behind three sigmoids, in float32: rounding leaves of some a little more than is usual."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        x, y = torch.rand(12, 48), torch.randint(10, (12,))
        layers = [nn.Linear(48, 80), nn.Sigmoid(), nn.Linear(80, 80), nn.Sigmoid(), nn.Linear(80, 80), nn.Sigmoid(), nn.Linear(80, 10)]
    model = nn.Sequential(*layers)
    return Observation(model, capture(model, x, y), (48,)), x.double(), y


def test_what_rounding_leaves_in_doubt_is_proposed_and_judged() -> None:
    observation, x, y = behind_sigmoids(4)
    assert_recovers(Span(seconds=20)(observation), x, y, 1e-4)


def test_a_sample_that_is_not_proved_does_not_take_their_proof_from_the_others() -> None:
    observation, x, y = behind_sigmoids(8)
    observation = replace(observation, batch_size=12)  # untold, some of the five might be pairs that float32 does not tell from one
    clear, vague = [0, 4, 8, 9, 11], 2
    alone = judge(observation, Candidate(x[clear], y[clear]))
    beside = judge(observation, Candidate(x[[*clear, vague]], y[[*clear, vague]]))
    assert alone.inputs is not None
    assert beside.inputs is not None
    assert alone.status is beside.status is Status.PARTIAL
    assert len(beside.inputs) >= len(alone.inputs) == len(clear)


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


class Behind(nn.Module):
    """A convolutional trunk with tanh, or the class token of a transformer block; then a head of two layers."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        width = {"lenet": 72, "vit": 40}[kind]
        self.patches = nn.Conv2d(3, 8 if kind == "lenet" else width, 2 if kind == "lenet" else 3, 2 if kind == "lenet" else 3)
        self.block = nn.TransformerEncoderLayer(width, 4, 60, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        self.kind, self.head = kind, nn.Sequential(nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, 6))

    def trunk(self, x: Tensor) -> Tensor:
        maps = torch.tanh(self.patches(x)) if self.kind == "lenet" else self.patches(x)
        return maps.flatten(1) if self.kind == "lenet" else self.block(maps.flatten(2).transpose(1, 2))[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
@pytest.mark.parametrize("kind", ["lenet", "vit"])
def test_features_behind_a_trunk_are_proved_by_the_evidence(kind: str, frozen: bool) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = Behind(kind).double().eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not frozen or name.startswith("head"))
    x, y = batch(12)
    truth = model.trunk(x).detach()
    observation = Observation(model, capture(model, x, y), SHAPE)
    found = Span(layer="head.0")(observation)
    assert found.status is Status.FEATURES, found.reason
    assert found.inputs is None
    assert found.features is not None
    assert len(found.features) == 12
    assert float(errors(found.features, truth).max()) < 1e-9
    assert "sees its raw input: name one with layer=" in Span()(observation).reason


def bare(activation: nn.Module, everywhere: bool) -> nn.Module:
    """The first layer, or all of them, without a bias."""
    model = network(activation, depth=4)
    for layer in [module for module in model if isinstance(module, nn.Linear)][: None if everywhere else 1]:  # type: ignore[attr-defined]
        layer.bias = None
    return model


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("activation", [nn.GELU(), nn.Tanh(), nn.ReLU()], ids=lambda module: type(module).__name__)
def test_without_a_bias_the_model_itself_tells_the_scale(activation: nn.Module, everywhere: bool) -> None:
    observation, x, y = plant(bare(activation, everywhere), 7)
    assert_recovers(Span()(observation), x, y, 1e-8)


def test_a_frozen_bias_is_one_that_is_not_sent() -> None:
    model = network(nn.SiLU())
    model[1].bias.requires_grad_(False)  # type: ignore[operator,union-attr]
    observation, x, y = plant(model, 7)
    assert "1.bias" not in observation.update
    assert_recovers(Span()(observation), x, y)


@pytest.mark.parametrize(("classes", "size", "bias"), [(10, 3, True), (40, 14, True), (40, 14, False)])
def test_logistic_regression_with_more_classes_than_twice_the_samples(classes: int, size: int, bias: bool) -> None:
    x, _ = batch(size)
    y = torch.arange(size) * 2 % classes
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, classes, bias=bias)).double()
    assert_recovers(Span()(Observation(model, capture(model, x, y), SHAPE)), x, y)


def test_of_logistic_regression_with_few_classes_it_says_what_can_be_had() -> None:
    x, y = batch(20)
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 6)).double()
    found = Span()(Observation(model, capture(model, x, y), SHAPE))
    assert found.status is Status.NOT_APPLICABLE
    assert "has at most 5 dimensions for 6 classes, which prove batches of up to 1" in found.reason
    assert "labels" in found.reason


@pytest.mark.parametrize("spec", ["fedavg:epochs=3,learning_rate=0.01,batch_size=0", "fedavg:epochs=2,learning_rate=0.02,momentum=0.9"])
def test_local_steps_that_take_all_samples_are_followed(spec: str) -> None:
    x, y = batch(5)
    observation = plugins.build("protocols", spec).observe(network(nn.Tanh()), Batch(x, y, Schema.guess(SHAPE)), seed=3)
    assert not observation.one_gradient
    assert_recovers(Span()(observation), x, y)


def test_of_other_local_steps_it_says_why_not() -> None:
    x, y = batch(5)

    def told(spec: str) -> str:
        observation = plugins.build("protocols", spec).observe(network(nn.Tanh()), Batch(x, y, Schema.guess(SHAPE)), seed=3)
        found = Span()(observation)
        assert found.status is Status.NOT_APPLICABLE
        return found.reason

    assert "which sample was in which step is not known" in told("fedavg:epochs=2,batch_size=2")
    assert "without the learning rate their way cannot be followed" in told("fedavg:epochs=2,rate_known=false")


def test_a_sum_over_clients_is_one_batch() -> None:
    x, y = batch(9)
    protocol = plugins.build("protocols", "secure_aggregation:clients=3")
    assert_recovers(Span()(protocol.observe(network(nn.GELU()), Batch(x, y, Schema.guess(SHAPE)), seed=3)), x, y)


def test_an_unknown_factor_does_not_hide_the_samples() -> None:
    observation, x, _ = plant(network(nn.GELU()), 6)
    clipped = {name: 0.037 * tensor for name, tensor in observation.update.items()}
    found = Span()(replace(observation, update=clipped, factor_known=False))
    assert found.status in (Status.RECONSTRUCTED, Status.PARTIAL), found.reason
    assert float(errors(found.inputs, x).max()) < 1e-9


def test_an_update_of_another_model_gives_out_nothing() -> None:
    observation, _, _ = plant(network(nn.GELU()), 6)
    other = network(nn.GELU())
    with torch.no_grad():
        other[1].weight.add_(0.3 * torch.randn(60, 108, generator=torch.Generator().manual_seed(8)))  # type: ignore[operator,union-attr]
    candidate = invert(Observation(other, observation.update, SHAPE), torch.Generator().manual_seed(0), seconds=0.5)
    assert candidate.inputs is None
    assert candidate.exhausted
    assert "0 of 6" in candidate.reason


@pytest.mark.parametrize("size", [1, 2])
def test_where_nothing_is_to_be_found_it_ends_by_itself_and_says_why(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "EACH", 2)  # rounds: the test need not wait for as many as the search does
    observation, _, _ = plant(network(nn.GELU()), size)
    other = network(nn.GELU())
    with torch.no_grad():
        other[1].weight.add_(0.3 * torch.randn(60, 108, generator=torch.Generator().manual_seed(8)))  # type: ignore[operator,union-attr]
    found = Span()(Observation(other, observation.update, SHAPE))
    assert found.status is Status.CONVERGED, found.reason
    assert re.search(r"0 of . samples found; guesses led nowhere again and again.*the weights, the loss or the steps", found.reason)
    assert found.stats["seconds"] < 30


def test_says_what_it_cannot_do() -> None:
    observation, x, y = plant(network(nn.GELU(), width=9), 8)
    assert "too few for a proof" in Span()(observation).reason or "full rank" in Span()(observation).reason
    assert "no Linear layer named 'nine'" in Span(layer="nine")(observation).reason
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
