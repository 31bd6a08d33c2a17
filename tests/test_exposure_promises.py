"""What ``expose`` says is held against what happens: the ratio, the attack, the restorers; verdicts, remedies, misuse, JSON."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unbatch
from exposed import Lstm, Made, Vit, answers, by_name, same_weights, undetermined  # noqa: F401 -- a fixture for every test
from unbatch import plugins
from unbatch.attacks.span import Span
from unbatch.attacks.spear import Spear
from unbatch.errors import BadFile, Misuse
from unbatch.exposure import Exposure, expose
from unbatch.models.lenet5 import LeNet5
from unbatch.models.mlp import Mlp
from unbatch.trace import linear_layers, run
from unbatch.types import Observation, Status

# what it says of single samples and batches is what happens


def _relus(*sizes: int) -> nn.Sequential:
    pairs = itertools.pairwise(sizes)
    return nn.Sequential(*[part for pair in pairs for part in (nn.Linear(*pair), nn.ReLU())][:-1])


def _changed(model: nn.Sequential, change: Callable[[nn.Sequential], object]) -> nn.Sequential:
    with torch.no_grad():
        change(model)
    return model


def _twins(sign: float, *, columns: bool) -> Callable[[nn.Sequential], None]:
    """The last ten neurons of the first layer are the first ten, or their opposites; and so are what the next layer makes of them."""

    def change(model: nn.Sequential) -> None:
        model[0].weight[-10:], model[0].bias[-10:] = sign * model[0].weight[:10], sign * model[0].bias[:10]
        if columns:
            model[2].weight[:, -10:] = sign * model[2].weight[:, :10]

    return change


def _levels() -> Tensor:
    """Rows of a table, one-hot in five columns."""
    generator = torch.Generator().manual_seed(9)
    return torch.cat([F.one_hot(torch.randint(k, (1200,), generator=generator), k) for k in (2, 3, 4, 5, 8)], dim=1).float()


PLACES: dict[str, tuple[Callable[[], nn.Sequential], Tensor | None]] = {
    "plain": (lambda: _relus(20, 40, 30, 5), None),
    "limits of 2 and 3": (lambda: _relus(20, 12, 14, 5), None),
    "two neurons behind": (lambda: _relus(20, 40, 2, 5), None),
    "four neurons behind": (lambda: _relus(20, 60, 4, 10), None),
    "four neurons before": (lambda: _relus(20, 4, 40, 5), None),
    "behind two neurons": (lambda: _relus(20, 24, 2, 24, 5), None),
    "twins": (lambda: _changed(_relus(20, 24, 30, 5), _twins(1, columns=False)), None),
    "opposites": (lambda: _changed(_relus(20, 24, 30, 5), _twins(-1, columns=False)), None),
    "twins in all": (lambda: _changed(_relus(20, 24, 5), _twins(1, columns=True)), None),
    "deep": (lambda: _relus(20, 40, 40, 40, 40, 5), None),
    "rarely on": (lambda: _changed(_relus(20, 40, 5), lambda model: model[0].bias.sub_(1.0)), None),
    "pruned": (lambda: _changed(_relus(20, 40, 40, 5), lambda model: model[2].weight.mul_(torch.rand(40, 40) < 0.1)), None),
    "sure of its answers": (lambda: _changed(_relus(20, 40, 5), lambda model: model[2].weight.mul_(300)), None),
    "one-hot": (lambda: _relus(22, 40, 2), _levels()),
    "fractions": (lambda: _relus(12, 40, 5), torch.rand((1200, 12), generator=torch.Generator().manual_seed(8))),
}


@pytest.mark.parametrize("name", PLACES)
def test_batches_of_the_promised_size_are_determined(name: str) -> None:
    """Of 100 batches, four or more fail in one of 55 places where exactly one in a hundred does."""
    make, pool = PLACES[name]
    model, generator = make().double(), torch.Generator().manual_seed(11)
    found = expose(model, (model[0].in_features,), data=None if pool is None else pool[:600])
    for layer in found.layers:
        if layer.limits is None or layer.limits.sure == 0:
            continue
        size, failed = layer.limits.sure, 0
        for number in range(100):
            drawn = torch.randn((size, model[0].in_features), generator=generator) if pool is None else pool[600:]
            x = drawn[torch.randperm(len(drawn), generator=generator)[:size]].unique(dim=0).double()
            ran = run(model, x)
            call = next(call for call in ran.linears if call.weight == f"{layer.name}.weight")
            answers_given = ran.outputs.argmax(dim=1)
            drawn_at_random = torch.randint(ran.outputs.shape[1], (len(x),), generator=generator)
            labels = answers_given if number % 2 else drawn_at_random
            (slopes,) = torch.autograd.grad(F.cross_entropy(ran.outputs, labels, reduction="sum"), call.output)
            failed += bool(undetermined(slopes.T, call.input.detach()))
        assert failed <= 3, (layer.name, size, failed)


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
def test_samples_are_promised_exactly_where_an_exact_attack_applies(model: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    model = model()
    update = {name: torch.ones_like(parameter) for name, parameter in model.named_parameters()}
    observation = Observation(model, update, shape)
    found = expose(model, shape)
    applies = any(attack.obstacle(observation) is None for attack in (Spear(), Span()))
    assert applies == any(layer.exact == "samples" for layer in found.layers)
    for layer in found.layers:
        if layer.exact == "features":
            assert Span(layer=layer.name).obstacle(observation) is None
        if layer.limits is not None:
            assert Spear(layer=None if layer.exact == "samples" else layer.name).obstacle(observation) is None
    assert [call.weight for call in linear_layers(model, shape) if call.activation == "relu" and call.bias and call.input.ndim == 2] == [
        f"{layer.name}.weight" for layer in found.layers if layer.limits is not None
    ]


@pytest.mark.parametrize("activation", [nn.GELU(), nn.Tanh(), nn.LeakyReLU()], ids=lambda module: type(module).__name__)
@pytest.mark.parametrize("bias", [True, False])
def test_what_is_promised_of_any_activation_is_what_span_reaches(activation: nn.Module, bias: bool) -> None:
    model = nn.Sequential(nn.Linear(30, 50, bias=bias), activation, nn.Linear(50, 40), activation, nn.Linear(40, 6)).double()
    first = by_name(expose(model, (30,)))["0"]
    assert first.reach is not None
    assert first.reach.extrapolated
    assert first.limits is None
    assert 2 <= first.largest <= first.reach.counted < 30
    generator = torch.Generator().manual_seed(3)
    x = torch.randn((first.largest, 30), generator=generator, dtype=torch.float64)
    y = torch.randint(6, (len(x),), generator=generator)
    found = Span()(Observation(model, unbatch.capture(model, x, y), (30,)))
    assert found.status is Status.RECONSTRUCTED, found.reason


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


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (
            lambda: nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 3)),
            r"^Every sample of a batch of up to \d+ can be .* layer 0 ",
        ),
        (
            lambda: nn.Sequential(nn.Linear(30, 40), nn.Tanh(), nn.Linear(40, 3)),
            r"^Every sample of a batch of up to \d+ .* layer 0, whatever activation follows it: as far as our search is expected to reach",
        ),
        (
            lambda: nn.Sequential(nn.Linear(30, 40), nn.Tanh(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 3)),
            r"^Every sample of a batch of up to \d+ .* layer 0, whatever activation",
        ),
        (
            lambda: nn.Sequential(nn.SiLU(), nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 3)),
            r"^No layer is known .* layer 1 .* up to \d+\.$",
        ),
        (lambda: nn.Sequential(nn.SiLU(), nn.Linear(30, 3)), r"^Of one sample alone, what layer 1 sees"),
        (lambda: nn.Sequential(nn.Linear(30, 40, bias=False), nn.ReLU(), nn.Linear(40, 3, bias=False)), r"^Every sample .* layer 0"),
        (lambda: nn.Sequential(nn.Linear(30, 40, bias=False), nn.Hardtanh(), nn.Linear(40, 3, bias=False)), r"^Our search takes none"),
        (lambda: nn.Linear(30, 3, bias=False), r"^No exact route is known"),
    ],
)
def test_verdicts_say_the_worst_that_is_known(model: Callable[[], nn.Module], told: str) -> None:
    assert re.search(told, expose(model(), (30,)).verdict)


# remedies


def test_every_opening_has_a_remedy_and_nothing_else() -> None:
    for model, shape in ((Vit(), (3, 16, 16)), (Lstm(), (6, 5)), (Mlp(80, 3).build((90,), 3), (90,)), (Mlp(8).build((4,), 3), (4,))):
        found = expose(model, shape)
        for layer in found.layers:
            assert (layer.remedy is not None) == ((layer.exact, layer.single) != ("none", "none"))
        assert (found.labels.remedy is not None) == found.labels.leaks
    small, large = (by_name(expose(Mlp(width, 3).build((90,), 3), (90,)))["1"].remedy for width in (8, 80))
    assert small is not None
    assert large is not None
    assert "8 samples" in small.title
    assert "Freeze" in large.title
    assert "Another activation is no way out" in large.costs


def test_the_remedies_close_what_they_say() -> None:
    relu, smooth = (nn.Sequential(nn.Linear(90, 80), activation, nn.Linear(80, 3)) for activation in (nn.ReLU(), nn.GELU()))
    assert answers(expose(relu, (90,)))["0"][0] == "samples"
    assert answers(expose(smooth, (90,)))["0"][0] == "samples", "another activation closes nothing"
    smooth[0].requires_grad_(False)
    assert answers(expose(smooth, (90,)))["0"] == ("none", "none")
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


def test_a_model_that_looks_words_up_is_run_on_words() -> None:
    found = expose(Words(), (7,), data=torch.randint(50, (4, 7)))
    assert {layer.name: layer.exact for layer in found.layers}["words"] == "tokens"
    assert found.verdict.startswith("The tokens of a batch of any size can be read off the gradient of words.")
    assert any("7 × b of 50" in note for note in found.notes)
    for wrong, message in ((torch.rand(4, 7), r"tokens of shape \(s, 7\)"), (torch.full((4, 7), 50), "tokens below 50")):
        with pytest.raises(Misuse, match=message):
            expose(Words(), (7,), data=wrong)


class Largest(Words):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(2000, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.words(x).amax(dim=1))


def test_how_many_tokens_are_named_is_what_batches_name() -> None:
    """A maximum over places hands a gradient to the winner of each number alone."""
    model, generator = Largest(), torch.Generator().manual_seed(3)
    found = expose(model, (12,))
    told = re.search(r"^About (\d+)% of the tokens of a batch", found.verdict)
    assert told
    assert f"{told[1]}% of random ones had a gradient" in by_name(found)["words"].why
    named = used = 0
    for _ in range(50):
        x = torch.randint(2000, (4, 12), generator=generator)
        rows = unbatch.capture(model, x, torch.randint(3, (4,), generator=generator))["words.weight"].any(dim=1)
        assert not bool(rows[torch.isin(torch.arange(2000), x, invert=True)].any())
        named, used = named + int(rows.sum()), used + len(x.unique())
    assert abs(named / used - int(told[1]) / 100) < 0.1


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
        lambda m, x: {"features": m.head(x)},
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
    assert json.loads(text)["format"] == 2
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
