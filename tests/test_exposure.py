"""What ``expose`` says of a model is held against what happens: the attack, the tracer, the algebra, and plain counting."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import Tensor, nn
from torch.nn import functional as F

import unbatch
from unbatch import plugins
from unbatch.attacks.spear import Spear
from unbatch.errors import BadFile, Misuse
from unbatch.exposure import Exposure, LayerExposure, expose
from unbatch.exposure.firing import Firing, measure
from unbatch.exposure.limits import PICTURES, VECTORS, limits, searched
from unbatch.models.lenet5 import LeNet5
from unbatch.models.mlp import Mlp
from unbatch.models.resnet import ResNet
from unbatch.trace import LARGE, linear_layers
from unbatch.types import Observation


@pytest.fixture(autouse=True)
def _same_weights() -> Iterator[None]:
    """Modules draw their weights from the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def by_name(found: Exposure) -> dict[str, LayerExposure]:
    return {layer.name: layer for layer in found.layers}


def answers(found: Exposure) -> dict[str, tuple[str, str]]:
    return {layer.name: (layer.exact, layer.single) for layer in found.layers}


class Vit(nn.Module):
    """One block on 16 patches, with a class token and positions."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.head = nn.Linear(48, 32), nn.Linear(32, 10)
        self.token, self.position = nn.Parameter(torch.zeros(1, 1, 32)), nn.Parameter(torch.randn(1, 17, 32))
        self.before, self.after = nn.LayerNorm(32), nn.LayerNorm(32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

    def forward(self, x: Tensor) -> Tensor:
        x = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(len(x), 16, 48)
        x = torch.cat([self.token.expand(len(x), -1, -1), self.patch(x)], dim=1) + self.position
        y = self.before(x)
        x = x + self.attention(y, y, y)[0]
        return self.head((x + self.mlp(self.after(x)))[:, 0])


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(5, 7, num_layers=2, batch_first=True), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Made(nn.Module):
    """A module from a function and parts."""

    def __init__(self, forward: Callable[[Made, Tensor], Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.made = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.made(self, x)


# the five kinds of the issue


def test_mlp() -> None:
    found = expose(Mlp(200).build((3, 32, 32), 10), (3, 32, 32))
    assert answers(found) == {
        "1": ("samples", "sample"),
        **dict.fromkeys(("3", "5", "7", "9"), ("features", "features")),
        "11": ("none", "features"),
    }
    first = by_name(found)["1"]
    assert (first.sees, first.inputs, first.neurons, first.times, first.activation) == ("raw input", 3072, 200, 1, "relu")
    assert first.limits is not None
    assert first.limits.rank == 199
    assert abs(first.limits.information - 101) <= 3
    assert "layer 1" in found.verdict
    assert str(first.limits.sure) in found.verdict
    assert all(restorer.applies for restorer in found.labels.restorers)
    assert found.labels.bias
    assert found.labels.classes == 10


def test_lenet5() -> None:
    found = expose(LeNet5().build((1, 28, 28), 10), (1, 28, 28))
    assert answers(found) == {
        "0": ("none", "none"),
        "3": ("none", "none"),
        "7": ("features", "features"),
        "9": ("features", "features"),
        "11": ("none", "features"),
    }
    first = by_name(found)["0"]
    assert (first.kind, first.sees, first.times) == ("Conv2d", "raw input", 24 * 24)
    assert "576 patches" in first.why
    assert found.worst is not None
    assert found.worst.name == "7"


def test_resnet18() -> None:
    model = ResNet(width=8).build((3, 32, 32), 10)
    found = expose(model, (3, 32, 32))
    assert len(found.layers) == sum(any(True for _ in m.parameters(recurse=False)) for m in model.modules()) == 41
    assert {layer.exact for layer in found.layers} == {"none"}
    assert [layer.name for layer in found.layers if layer.single != "none"] == ["13"]
    assert {layer.why.split(":")[0] for layer in found.layers if layer.kind == "Conv2d"} == {"convolution"}
    assert all("element by element" in layer.why for layer in found.layers if layer.kind == "BatchNorm2d")
    assert found.measured_on.startswith("nothing")
    assert found.labels.leaks


@pytest.mark.parametrize("train", [False, True])
def test_vit(train: bool) -> None:
    found = expose(Vit().train(train), (3, 16, 16))
    told = {name: layer.why for name, layer in by_name(found).items()}
    assert set(told) == {"token", "position", "patch", "before", "after", "attention", "attention.out_proj", "mlp.0", "mlp.2", "head"}
    assert {answer for name, answer in answers(found).items() if name != "head"} == {("none", "none")}
    assert "applied 16 times a sample: its rank is up to 16 × b" in told["patch"]
    assert by_name(found)["patch"].sees == "raw input, rearranged"
    assert "followed by gelu instead of ReLU" in told["mlp.0"]
    assert "followed by add" in told["mlp.2"]
    assert "attention" in told["attention"]
    assert "holds no input" in told["position"]
    assert {r.name for r in found.labels.restorers if r.applies} == {"anchored", "ilrg", "rlg"}, "features of either sign"


def test_lstm() -> None:
    found = expose(Lstm(), (6, 5))
    assert answers(found) == {"lstm": ("none", "none"), "head": ("none", "features")}
    lstm = by_name(found)["lstm"]
    assert (lstm.sees, lstm.times) == ("raw input", 6)
    assert "6 steps" in lstm.why


# no layer is left out, none is called what it is not


def test_every_parameter_is_in_one_layer() -> None:
    for model, shape in ((Vit(), (3, 16, 16)), (Lstm(), (6, 5)), (Mlp(8).build((4,), 3), (4,))):
        assert sum(layer.parameters for layer in expose(model, shape).layers) == sum(p.numel() for p in model.parameters())


def test_a_layer_that_is_never_used_and_a_frozen_one_are_said_to_be() -> None:
    model = Made(lambda m, x: m.last(m.first(x).relu()), first=nn.Linear(6, 9), last=nn.Linear(9, 3), unused=nn.Linear(2, 2))
    model.first.requires_grad_(False)
    layers = by_name(expose(model, (6,)))
    assert layers["first"].why.startswith("frozen")
    assert not layers["first"].trained
    assert layers["unused"].why.startswith("not used")
    assert all(layers[name].exact == layers[name].single == "none" for name in ("first", "unused"))


def test_a_frozen_bias_or_weight_alone() -> None:
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3))
    model[0].bias.requires_grad_(False)
    model[2].weight.requires_grad_(False)
    layers = by_name(expose(model, (6,)))
    assert (layers["0"].exact, layers["0"].single) == ("untested", "none")
    assert "bias is frozen" in layers["0"].why
    assert layers["2"].single == "none"
    assert "weight is frozen" in layers["2"].why


def test_all_frozen_sends_nothing() -> None:
    found = expose(nn.Linear(4, 3).requires_grad_(False), (4,))
    assert "no gradient" in found.verdict
    assert not found.labels.leaks
    assert found.worst is None


def test_tied_weights_are_seen_where_they_are_used_twice() -> None:
    shared = nn.Linear(6, 6)
    twice = by_name(expose(nn.Sequential(shared, nn.ReLU(), shared), (6,)))["0"]
    assert (twice.exact, twice.single, twice.times) == ("untested", "none", 2)
    encoder, decoder = nn.Linear(6, 9), nn.Linear(9, 6)
    model = Made(lambda m, x: F.linear(m.encoder(x).relu(), m.encoder.weight.t(), m.decoder.bias), encoder=encoder, decoder=decoder)
    layers = by_name(expose(model, (6,)))
    assert layers["encoder"].exact == "untested"
    assert "also enters by linear" in layers["encoder"].why
    assert layers["decoder.weight"].why.startswith("not used")


def test_functional_linear_and_module_lists() -> None:
    def forward(m: Made, x: Tensor) -> Tensor:
        for layer in m.layers:
            x = F.relu(F.linear(x, layer.weight, layer.bias))
        return F.linear(x, m.weights[0], m.weights[1])

    weights = nn.ParameterList([nn.Parameter(torch.randn(3, 8)), nn.Parameter(torch.zeros(3))])
    model = Made(forward, layers=nn.ModuleList([nn.Linear(6, 8), nn.Linear(8, 8)]), weights=weights)
    assert answers(expose(model, (6,))) == {
        "layers.0": ("samples", "sample"),
        "layers.1": ("features", "features"),
        "weights": ("none", "features"),
    }


def test_two_linear_layers_in_one_module_are_two() -> None:
    def forward(m: Made, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, m.a, m.b).relu(), m.c, m.d)

    shapes = {"a": (8, 6), "b": (8,), "c": (3, 8), "d": (3,)}
    found = expose(Made(forward, **{name: nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()}), (6,))
    assert answers(found) == {"a": ("samples", "sample"), "c": ("none", "features")}


@pytest.mark.parametrize(
    ("forward", "exact", "phrase"),
    [
        (lambda m, x: m.last(F.gelu(m.first(x))), "none", "gelu"),
        (lambda m, x: m.last(torch.tanh(m.first(x))), "none", "tanh"),
        (lambda m, x: m.last(F.leaky_relu(m.first(x))), "none", "leaky_relu"),
        (lambda m, x: m.last(m.first(x).clamp(0, 1)), "untested", "clamp"),
        (lambda m, x: m.last(F.hardtanh(m.first(x))), "untested", "flat parts"),
        (lambda m, x: m.last((x.mean(dim=1, keepdim=True) + m.first(x)).relu()), "untested", "add"),
        (lambda m, x: m.last(m.first(x).view(-1, 3, 3).relu().flatten(1)), "untested", "view"),
        (lambda m, x: m.last(m.first(x).clamp(min=0)), "samples", ""),
    ],
)
def test_zeros_are_looked_for_and_not_inferred_from_names(forward: Callable[[Made, Tensor], Tensor], exact: str, phrase: str) -> None:
    layer = by_name(expose(Made(forward, first=nn.Linear(6, 9), last=nn.Linear(9, 3)), (6,)))["first"]
    assert (layer.exact, layer.single) == (exact, "sample")
    assert phrase in layer.why


@pytest.mark.parametrize(
    ("forward", "sees"),
    [
        (lambda m, x: m.last(m.first(x).relu()), "raw input"),
        (lambda m, x: m.last(m.first((x - 0.4) / 0.2).relu()), "raw input, scaled"),
        (lambda m, x: m.last(m.first(x.flip(1)).relu()), "raw input, rearranged"),
        (lambda m, x: m.last(m.first(x.relu()).relu()), "features"),
        (lambda m, x: m.last(m.first(x.cumsum(1)).relu()), "features"),
    ],
)
def test_what_a_layer_sees(forward: Callable[[Made, Tensor], Tensor], sees: str) -> None:
    layer = by_name(expose(Made(forward, first=nn.Linear(6, 9), last=nn.Linear(9, 3)), (6,)))["first"]
    assert layer.sees == sees
    assert (layer.exact, layer.single) == (("features", "features") if sees == "features" else ("samples", "sample"))


@pytest.mark.parametrize("part", [lambda x: x[:, 2:], lambda x: x.unfold(1, 4, 4).flatten(1)])
def test_a_layer_that_sees_a_part_of_the_input(part: Callable[[Tensor], Tensor]) -> None:
    layer = by_name(
        expose(
            Made(lambda m, x: m.last(m.first(part(x)).relu()), first=nn.Linear(part(torch.zeros(1, 7)).shape[1], 9), last=nn.Linear(9, 3)),
            (7,),
        )
    )["first"]
    assert (layer.sees, layer.exact, layer.single) == ("raw input, in part", "features", "features")


def test_a_computed_weight_a_product_and_a_lookup_are_not_called_closed() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 9)), nn.ReLU(), nn.Linear(9, 3))
    layers = by_name(expose(model, (6,)))
    assert {name: layer.exact for name, layer in layers.items()} == {
        "0": "untested",
        "0.parametrizations.weight": "untested",
        "2": "none",
    }
    product = Made(lambda m, x: x @ m.weight, weight=nn.Parameter(torch.randn(6, 3)))
    assert by_name(expose(product, (6,)))["(model)"].exact == "untested"


def test_convolution_at_one_place_and_norms_give_one_sample() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 4), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 3))
    layers = by_name(expose(model, (3, 4, 4)))
    assert (layers["0"].exact, layers["0"].single, layers["0"].sees) == ("untested", "sample", "raw input")
    assert layers["2"].single == "features"
    grouped = nn.Sequential(nn.Conv2d(4, 8, 4, groups=2), nn.Flatten(), nn.Linear(8, 3))
    assert by_name(expose(grouped, (4, 4, 4)))["0"].single == "none"


@pytest.mark.parametrize("cell", [nn.GRU, nn.RNN])
def test_recurrent_layers_of_all_kinds(cell: type[nn.RNNBase]) -> None:
    model = Made(lambda m, x: m.head(m.cell(x)[0][:, -1]), cell=cell(5, 7, batch_first=True), head=nn.Linear(7, 3))
    assert "recurrent: sums over 4 steps" in by_name(expose(model, (4, 5)))["cell"].why


# what it says of single samples and batches is what happens


@pytest.mark.parametrize(
    "model",
    [
        lambda: nn.Sequential(nn.Linear(12, 9), nn.GELU(), nn.Linear(9, 3)),
        lambda: nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 3)),
        lambda: nn.Sequential(nn.Linear(12, 3)),
        lambda: nn.Sequential(nn.BatchNorm1d(12), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 3)).eval(),
        lambda: nn.Sequential(nn.Unflatten(1, (3, 2, 2)), nn.Conv2d(3, 8, 2), nn.Flatten(), nn.Sigmoid(), nn.Linear(8, 3)),
    ],
    ids=["gelu", "relu", "softmax regression", "normalized", "convolution"],
)
def test_one_sample_is_what_the_ratio_gives(model: Callable[[], nn.Sequential]) -> None:
    model = model().double()
    found = expose(model, (12,))
    x = torch.randn((1, 12), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    update = unbatch.capture(model, x, torch.tensor([1]))
    fed, checked = x, 0
    for name, module in model.named_children():
        layer = by_name(found).get(name)
        if layer is not None and layer.single != "none":
            weight, bias = update[f"{name}.weight"], update[f"{name}.bias"]
            row = int(bias.abs().argmax())
            if isinstance(module, nn.BatchNorm1d):
                ratio, expected = weight / bias, F.batch_norm(fed, module.running_mean, module.running_var)[0]
            else:
                ratio, expected = weight[row].flatten() / bias[row], fed.flatten()
            assert torch.allclose(ratio, expected, atol=1e-8)
            known = fed.numel() == x.numel()  # in these networks nothing that has lost information has as many numbers as a sample
            assert layer.single == ("sample" if known else "features")
            checked += 1
        fed = module(fed)
    assert checked == len([layer for layer in found.layers if layer.single != "none"]) >= 1


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (lambda: Mlp(20).build((3, 4, 4), 5), (3, 4, 4)),
        (lambda: Mlp(20, activation="tanh").build((3, 4, 4), 5), (3, 4, 4)),
        (lambda: LeNet5().build((1, 28, 28), 10), (1, 28, 28)),
        (Vit, (3, 16, 16)),
        (Lstm, (6, 5)),
        (lambda: nn.Sequential(nn.Linear(6, 9, bias=False), nn.ReLU(), nn.Linear(9, 3)), (6,)),
    ],
)
def test_samples_are_promised_exactly_where_spear_applies(model: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    model = model()
    update = {name: torch.ones_like(parameter) for name, parameter in model.named_parameters()}
    observation = Observation(model, update, shape)
    found = expose(model, shape)
    applies = Spear().unsupported(observation) is None
    assert applies == any(layer.exact == "samples" for layer in found.layers)
    for layer in found.layers:
        if layer.exact == "features":
            assert Spear(layer=layer.name).unsupported(observation) is None
    assert [call.weight for call in linear_layers(model, shape) if call.activation == "relu" and call.bias and call.input.ndim == 2] == [
        f"{layer.name}.weight" for layer in found.layers if layer.exact in ("samples", "features")
    ]


def test_restorers_are_promised_exactly_where_they_answer() -> None:
    x, labels = torch.randn((2, 6), generator=torch.Generator().manual_seed(1)), torch.tensor([0, 2])
    tails = (nn.ReLU(), nn.Tanh())
    for tail, bias, (loss, last) in itertools.product(tails, (True, False), (("cross_entropy", nn.Identity()), ("nll", nn.LogSoftmax(1)))):
        model = nn.Sequential(nn.Linear(6, 9), tail, nn.Linear(9, 5, bias=bias), last)
        observation = Observation(model, unbatch.capture(model, x, labels, loss), (6,), loss, batch_size=2)
        asked = {restorer.name: restorer.applies for restorer in expose(model, (6,), loss=loss).labels.restorers}
        assert asked == {name: plugins.build("labels", name)(observation).applicable for name in plugins.names("labels")}


def test_a_model_that_draws_or_mixes_is_said_to_be_refused() -> None:
    model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Dropout(0.3), nn.Linear(20, 3))
    state = torch.get_rng_state()
    found = expose(model, (12,))
    assert torch.equal(torch.get_rng_state(), state)
    assert answers(found)["0"] == ("untested", "sample")
    assert "active Dropout" in by_name(found)["0"].why
    assert not found.labels.leaks
    assert answers(expose(model.eval(), (12,)))["0"] == ("samples", "sample")

    mixing = nn.Sequential(nn.Linear(12, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 3))
    assert answers(expose(mixing, (12,)))["0"] == ("none", "none")
    assert answers(expose(mixing.eval(), (12,)))["0"] == ("untested", "sample")
    assert (
        "without running statistics"
        in expose(nn.Sequential(nn.BatchNorm1d(12, track_running_stats=False), nn.Linear(12, 3)).eval(), (12,)).notes[0]
    )


# figures


def test_the_bound_is_the_binomial_tail_for_half_firing_neurons() -> None:
    fires = Firing(torch.rand((4000, 100), generator=torch.Generator().manual_seed(0)) < 0.5)
    for batch in (20, 30, 34, 40):
        told = 1 - (1 - binom.cdf(batch - 2, 100, 0.5)) ** batch
        assert fires.failure(batch) == pytest.approx(told, rel=0.25, abs=1e-6)
    exact = max(batch for batch in range(1, 100) if 1 - (1 - binom.cdf(batch - 2, 100, 0.5)) ** batch < 0.01)
    assert abs(limits(fires, 500).sure - exact) <= 1


def test_the_bound_is_what_counting_gives() -> None:
    """Draw whole batches of unequal, independent neurons and count those in which every sample has b − 1 zeros."""
    generator = torch.Generator().manual_seed(0)
    off = torch.linspace(0.1, 0.9, 60)
    draw = lambda *shape: torch.rand((*shape, 60), generator=generator) > off  # noqa: E731
    fires = Firing(draw(4000))
    for batch in (20, 24, 26):
        zeros = (~draw(4000, batch)).sum(dim=2).amin(dim=1)
        counted = float((zeros < batch - 1).double().mean())
        assert fires.failure(batch) == pytest.approx(counted, rel=0.2, abs=0.01)


def test_neurons_that_fall_silent_together_are_not_taken_for_independent() -> None:
    """Each sample has its own rate: counts spread far more than independent neurons allow."""
    generator = torch.Generator().manual_seed(0)
    rate = torch.rand((3000, 1), generator=generator) * 0.6 + 0.2
    fires = Firing(torch.rand((3000, 100), generator=generator) > rate)
    independent = binom.cdf(28, 100, 0.5)
    seen = float((fires.zeros < 29).mean())
    assert fires.undetermined(30) >= seen > 100 * independent
    assert fires.undetermined(30) == pytest.approx(seen, rel=0.5)


def test_dead_and_always_on_neurons_do_not_count() -> None:
    model = nn.Sequential(nn.Linear(50, 60), nn.ReLU(), nn.Linear(60, 3))
    with torch.no_grad():
        model[0].bias[:10] = -1e4
        model[0].bias[10:25] = 1e4
    layer = by_name(expose(model, (50,)))["0"]
    assert layer.firing is not None
    assert layer.limits is not None
    assert (layer.firing.dead, layer.firing.always_on, layer.firing.switching) == (10, 15, 35)
    assert layer.limits.rank == 49
    alone = by_name(expose(nn.Sequential(nn.Linear(50, 35), nn.ReLU(), nn.Linear(35, 3)), (50,)))["0"]
    assert alone.limits is not None
    assert abs(layer.limits.sure - alone.limits.sure) <= 2, "only the neurons that switch tell samples apart"


def test_a_layer_whose_neurons_are_all_dead() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        model[0].bias.fill_(-1e4)
    found = expose(model, (5,))
    layer = by_name(found)["0"]
    assert layer.firing is not None
    assert layer.limits is not None
    assert (layer.firing.dead, layer.limits.rank, layer.limits.sure) == (8, 0, 0)
    assert Exposure.from_json(found.to_json()) == found


def test_zeros_of_low_rank_lower_the_limit() -> None:
    """Neurons in ten families of equal masks: enough zeros, but never more than the families' rank of patterns when one entry each."""
    generator = torch.Generator().manual_seed(0)
    rare = torch.rand((600, 80), generator=generator) < 0.02  # each neuron fires for one sample in fifty
    fires = Firing(rare)
    assert fires.largest(0.01, 79) > 60, "plenty of zeros"
    assert limits(fires, 500).sure < 60, "but too few rows with something in them"


def test_given_data_decides() -> None:
    model = nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 3))
    data = torch.randn((50, 30), generator=torch.Generator().manual_seed(5))
    layer = by_name(expose(model, (30,), data=data))["0"]
    assert layer.firing is not None
    off = model[0](data).detach() <= 0
    assert (layer.firing.inputs, layer.firing.dead) == (50, int(off.all(dim=0).sum()))
    assert layer.firing.zeros == pytest.approx(float(off[:, ~off.all(dim=0)].sum(dim=1).double().mean()))
    assert "1 input as given" in expose(model, (30,), data=data[:1]).measured_on


def test_chunks_do_not_matter() -> None:
    model, inputs = Mlp(16).build((9,), 3), torch.randn((37, 9), generator=torch.Generator().manual_seed(0))
    whole, pieces = (measure(model, inputs.split(size), ["1.weight"])["1.weight"].on for size in (37, 5))
    assert torch.equal(whole, pieces)


def test_a_layer_that_is_read_in_blocks() -> None:
    wide = nn.Sequential(nn.Flatten(), nn.Linear(150 * 150, 750), nn.ReLU(), nn.Linear(750, 3))
    assert wide[1].weight.numel() >= LARGE
    found = expose(wide, (150, 150))
    layer = by_name(found)["1"]
    assert (layer.exact, layer.single, layer.sees, layer.why) == ("samples", "sample", "raw input", "")
    assert layer.limits is not None
    assert abs(layer.limits.information - 376) < 15


def test_probabilities_fall_with_the_batch_and_meet_at_the_limits() -> None:
    told = by_name(expose(Mlp(100).build((64,), 5), (64,)))["1"].limits
    assert told is not None
    every = [point.all_determined for point in told.curve]
    assert every == sorted(every, reverse=True)
    assert every[0] == 1.0
    at = {point.batch: point for point in told.curve}
    assert at[told.sure].all_determined > 0.99
    assert 0.3 < at[told.information].share_determined < 0.7
    assert told.searched <= told.sure <= told.information <= told.rank == 63


def test_what_our_search_reaches_was_measured() -> None:
    """The constants hold no more than the benchmarks show; widths and batches between follow them."""
    folder = Path(__file__).parents[1] / "benchmarks" / "results"
    cases = [case for name in ("frontier", "exposure") for case in json.loads((folder / f"{name}.json").read_text())["cases"].values()]
    for kind, measured in (("cifar10", PICTURES), ("gaussian", VECTORS)):
        for width, batch in measured.items():
            proof = [case for case in cases if (case["set"], case["width"], case.get("size")) == (kind, width, batch)]
            assert proof, (kind, width, batch)
            assert all(case["batches"] >= 10 and case["exact"] >= 0.9 * case["batches"] for case in proof)
            assert searched(width, measured) == (batch, True)
        reach = [searched(width, measured)[0] for width in range(1, 5000)]
        assert reach == sorted(reach)


def test_prediction_and_measurement_agree() -> None:
    """The largest batch of pictures with nine of ten recovered is the one that was predicted; of a trained network, on data."""
    cases = json.loads((Path(__file__).parents[1] / "benchmarks" / "results" / "exposure.json").read_text())["cases"].values()
    summaries = [case for case in cases if "measured" in case and case["set"] == "cifar10"]
    assert {summary["width"] for summary in summaries} >= {60, 100, 200}
    for summary in summaries:
        told = summary["predicted"]["noise"]
        assert abs(summary["measured"] / told["likely"] - 1) < 0.15, summary
        assert summary["measured"] < told["information"]
    (trained,) = (case for case in cases if "measured" in case and case["set"] == "trained")
    assert abs(trained["measured"] / trained["predicted"]["data"]["sure"] - 1) < 0.15
    assert trained["predicted"]["noise"]["sure"] > 2 * trained["measured"], "what the page warns of"


def test_same_seed_same_answer_and_nothing_is_touched() -> None:
    model = Mlp(30).build((20,), 3)
    before, state = {name: tensor.clone() for name, tensor in model.state_dict().items()}, torch.get_rng_state()
    assert expose(model, (20,)) == expose(model, (20,))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_type(dtype: torch.dtype) -> None:
    assert answers(expose(Mlp(30).build((20,), 3).to(dtype), (20,)))["1"] == ("samples", "sample")


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (
            lambda: nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 3)),
            r"^Every sample of a batch of up to \d+ can be .* layer 0 ",
        ),
        (
            lambda: nn.Sequential(nn.Linear(30, 40), nn.Tanh(), nn.Linear(40, 3)),
            r"^One sample .* layer 0; for larger batches no exact route",
        ),
        (
            lambda: nn.Sequential(nn.Linear(30, 40), nn.Tanh(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 3)),
            r"^One sample .* layer 0; of larger batches what layer 2 sees of each .* up to \d+\.$",
        ),
        (
            lambda: nn.Sequential(nn.SiLU(), nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 3)),
            r"^No layer is known .* layer 1 .* up to \d+\.$",
        ),
        (lambda: nn.Sequential(nn.SiLU(), nn.Linear(30, 3)), r"^Of one sample alone, what layer 1 sees"),
        (lambda: nn.Sequential(nn.Linear(30, 40, bias=False), nn.ReLU(), nn.Linear(40, 3, bias=False)), r"^Our search takes none"),
        (lambda: nn.Linear(30, 3, bias=False), r"^No exact route is known"),
    ],
)
def test_verdicts_say_the_worst_that_is_known(model: Callable[[], nn.Module], told: str) -> None:
    assert re.search(told, expose(model(), (30,)).verdict)


# remedies


def test_every_opening_has_a_remedy_and_nothing_else() -> None:
    for model, shape in ((Vit(), (3, 16, 16)), (Lstm(), (6, 5)), (Mlp(80).build((90,), 3), (90,)), (Mlp(8).build((4,), 3), (4,))):
        found = expose(model, shape)
        for layer in found.layers:
            assert (layer.remedy is not None) == ((layer.exact, layer.single) != ("none", "none"))
        assert (found.labels.remedy is not None) == found.labels.leaks
    small, large = (by_name(expose(Mlp(width).build((90,), 3), (90,)))["1"].remedy for width in (8, 80))
    assert small is not None
    assert large is not None
    assert "8 samples" in small.title
    assert "smooth" in large.title


def test_the_remedies_close_what_they_say() -> None:
    relu, smooth = (nn.Sequential(nn.Linear(90, 80), activation, nn.Linear(80, 3)) for activation in (nn.ReLU(), nn.GELU()))
    assert answers(expose(relu, (90,)))["0"][0] == "samples"
    assert answers(expose(smooth, (90,)))["0"][0] == "none"
    relu[0].requires_grad_(False)
    assert answers(expose(relu, (90,)))["0"] == ("none", "none")
    relu[2].requires_grad_(False)
    assert not expose(nn.Sequential(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3).requires_grad_(False)), (9,)).labels.leaks


# misuse, and what has no labels


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(50, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.words(x).mean(dim=1))


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (Words, (7,), "embedding 'words'"),
        (lambda: nn.Sequential(nn.Flatten(), nn.ReLU()), (7,), "a model with parameters"),
        (lambda: nn.Linear(4, 3), (7,), "runs on float inputs of shape"),
        (lambda: nn.Linear(4, 3), (), "input shape"),
        (lambda: nn.Linear(4, 3), (4.0,), "input shape"),
        (lambda: nn.Linear(4, 3), (0,), "input shape"),
        (lambda: nn.Linear(4, 3, device="meta"), (4,), "floating-point"),
        (lambda: Made(torch.mul, head=nn.Parameter(torch.ones(4, dtype=torch.complex64))), (4,), "floating-point"),
        (lambda: "net", (4,), "torch.nn.Module"),
        (lambda: Made(lambda m, x: {"scores": m.head(x)}["logits"], head=nn.Linear(4, 3)), (4,), "runs on float inputs"),
    ],
)
def test_misuse_is_one_sentence(model: Callable[[], nn.Module], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(Misuse, match=message) as raised:
        expose(model(), shape)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("data", [torch.zeros(3, 5), torch.zeros(0, 4), torch.zeros((3, 4), dtype=torch.int64)])
def test_data_of_another_kind_is_refused(data: Tensor) -> None:
    with pytest.raises(Misuse, match=r"floats of shape \(s, 4\)"):
        expose(nn.Linear(4, 3), (4,), data=data)


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(Misuse, match="a loss among"):
        expose(nn.Linear(4, 3), (4,), loss="hinge")


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.head(x)[..., None],
        lambda m, x: {"logits": m.head(x)},
        lambda m, x: (m.head(x), x),
        lambda m, x: m.head(x).sum(),
        lambda m, x: x.flatten(len(m.head.bias) - 2),
    ],
)
def test_outputs_that_are_no_scores_have_no_labels(forward: Callable[[Made, Tensor], Tensor]) -> None:
    found = expose(Made(forward, head=nn.Linear(4, 3)), (4,))
    assert not found.labels.leaks
    assert all(restorer.reason for restorer in found.labels.restorers)


def test_a_model_that_takes_one_precision_only() -> None:
    found = expose(Made(lambda m, x: m.head((x > 0).float()), head=nn.Linear(4, 3)), (4,))
    assert answers(found) == {"head": ("none", "features")}
    assert not found.labels.leaks
    assert "float64" in found.labels.restorers[0].reason


def test_positions_looked_up_inside_are_no_integer_inputs() -> None:
    def forward(m: Made, x: Tensor) -> Tensor:
        return m.head((x + m.places(torch.arange(x.shape[1]))).mean(dim=1))

    found = expose(Made(forward, places=nn.Embedding(6, 8), head=nn.Linear(8, 3)), (6, 8))
    assert "holds no input" in by_name(found)["places"].why


# JSON


def test_json_says_the_same() -> None:
    found = expose(LeNet5().build((1, 28, 28), 10), (1, 28, 28))
    text = found.to_json()
    assert Exposure.from_json(text) == found
    assert json.loads(text)["format"] == 1
    assert not any(
        math.isnan(value)
        for value in np.array(
            [point["all_determined"] for layer in json.loads(text)["layers"] if layer["limits"] for point in layer["limits"]["curve"]]
        )
    )


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": 2}', "[" * 100_000])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(BadFile):
        Exposure.from_json(text)
