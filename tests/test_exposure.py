"""What ``expose`` says of each layer is right, and no layer is left out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exposed import Lstm, Made, Vit, answers, by_name, same_weights  # noqa: F401 -- a fixture for every test
from unbatch.exposure import expose
from unbatch.models.lenet5 import LeNet5
from unbatch.models.mlp import Mlp
from unbatch.models.resnet import ResNet

# the five kinds of the issue


def test_mlp() -> None:
    found = expose(Mlp(200).build((3, 32, 32), 10), (3, 32, 32))
    assert answers(found) == {
        "1": ("samples", "sample"),
        **dict.fromkeys(("3", "5", "7", "9", "11"), ("features", "features")),
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
        "11": ("features", "features"),
    }
    last = by_name(found)["11"]
    assert last.limits is None
    assert last.reach is not None
    assert (last.reach.counted, last.largest) == (3, 3), "ten classes determine three samples"
    first = by_name(found)["0"]
    assert (first.kind, first.sees, first.times) == ("Conv2d", "raw input", 24 * 24)
    assert "576 patches" in first.why
    assert found.worst is not None
    assert found.worst.name == "7"


def test_resnet18() -> None:
    model = ResNet(width=8).build((3, 32, 32), 10)
    found = expose(model, (3, 32, 32))
    assert len(found.layers) == sum(any(True for _ in m.parameters(recurse=False)) for m in model.modules()) == 41
    assert [(layer.name, layer.exact, layer.largest) for layer in found.layers if layer.exact != "none"] == [("13", "features", 3)]
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
    assert (layers["0"].exact, layers["0"].single) == ("untested", "none"), "the frozen weight behind it gives no equations"
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
        (lambda m, x: m.last(F.gelu(m.first(x))), "samples", "gelu"),
        (lambda m, x: m.last(torch.tanh(m.first(x))), "samples", "tanh"),
        (lambda m, x: m.last(F.leaky_relu(m.first(x))), "samples", "leaky_relu"),
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
