"""The tracer sees calls, wherever they come from, and computes in float64 without touching the model."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from unbatch.errors import Misuse
from unbatch.exposure import expose
from unbatch.gradients import capture, check_deterministic, per_example, sensitivities
from unbatch.trace import linear_layers, run, trial
from unbatch.training import LocalTraining, train
from unbatch.types import Observation


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


class Before(nn.Module):
    """A Linear layer behind something that is done to the input."""

    def __init__(self, change: Callable[[Tensor], Tensor], width: int = 12) -> None:
        super().__init__()
        self.change, self.layer, self.head = change, nn.Linear(width, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.change(x)).relu())


def only_pictures(x: Tensor) -> Tensor:
    if x.min() < 0 or x.max() > 255:
        raise ValueError("pixels from 0 to 255, please")
    return x.flatten(1)


TOUCHED = {
    "clamp to ±5": lambda x: x.clamp(-5, 5),
    "clamp to ±1e3": lambda x: x.clamp(-1e3, 1e3),
    "clamp from below": lambda x: x.clamp(min=-4),
    "tanh": torch.tanh,
    "tanh far out": lambda x: 1e6 * torch.tanh(x / 1e6),
    "rounding": torch.round,
    "rounding of large numbers": lambda x: torch.where(x.abs() > 1000, x.round(), x),
    "a picture's scale": lambda x: x / 255,
    "a scale for bytes": lambda x: x / 255 if x.max() > 1 else x,
    "bytes for a scale": lambda x: x * 255 if 0 < x.abs().max() <= 1 else x,
    "centering": lambda x: x - x.mean(dim=(1, 2), keepdim=True),
    "layer norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "modulo": lambda x: x % 4096,
    "absolute value": torch.abs,
    "half precision": lambda x: x.half().to(x.dtype),
    "tiny numbers dropped": lambda x: torch.where(x.abs() < 1e-8, 0.0, x),
    "huge numbers dropped": lambda x: torch.where(x.abs() > 1e9, 0.0, x),
    "zeros filled": lambda x: torch.where(x == 0, 1e-3, x),
    "a permutation": lambda x: x.flip(1),
    "another order": lambda x: x.transpose(1, 2),
    "in place": lambda x: x.mul_(2),
    "in place, far out": lambda x: x.clamp_(-5, 5),
    "noise": lambda x: x + 1e-6,
    "numbers that are none": lambda x: x.nan_to_num(),
    "a missing value": lambda x: torch.where(x == -999, 0.0, x),
    "a missing value, masked": lambda x: x * (x != -1),
    "a missing value, in place": lambda x: x.masked_fill_(x == -999, 0.0),
    "a missing value, by a view": lambda x: x.view(-1).masked_fill_(x.view(-1) == -999, 0.0).view(x.shape),
}
UNTOUCHED = {
    "nothing": lambda x: x,
    "a copy": lambda x: x.clone(),
    "another shape": lambda x: x.reshape(len(x), 4, 3).unsqueeze(1),
    "a dropout that is off": lambda x: F.dropout(x, 0.5, training=False),
    "an identity": lambda x: nn.Identity()(x + 0),
    "once": lambda x: 1.0 * x,
    "in parts": lambda x: torch.cat([x[:, :1], x[:, 1:]], dim=1),
    "there and back": lambda x: (x.permute(0, 2, 1).contiguous()).permute(0, 2, 1),
    "precision": lambda x: x.double().float(),
}


@pytest.mark.parametrize("name", [*TOUCHED, *UNTOUCHED])
def test_raw_is_what_is_raw_over_the_whole_range(name: str) -> None:
    change = (TOUCHED | UNTOUCHED)[name]
    model = Before(lambda x: change(x).flatten(1))
    state = torch.random.get_rng_state()
    first, last = linear_layers(model, (3, 4))
    assert (first.raw, last.raw) == (name in UNTOUCHED, False)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_model_that_refuses_part_of_the_range_is_asked_about_the_rest() -> None:
    noise = only_pictures  # refuses the noise of the first look already
    with pytest.raises(Misuse, match="ValueError: pixels from 0 to 255"):
        linear_layers(Before(noise), (3, 4))

    def some(x: Tensor) -> Tensor:
        assert x.abs().max() < 1e6, "too large"
        return x.clamp(-1e4, 1e4).flatten(1)

    assert not linear_layers(Before(some), (3, 4))[0].raw
    assert linear_layers(Before(lambda x: (some(x), x.flatten(1))[1]), (3, 4))[0].raw


def test_asking_for_raw_inputs_reads_no_wide_layer() -> None:
    """The passes over the range compute no Linear layer, so that a layer of a million inputs costs ten reads of the inputs."""
    model = Before(lambda x: x, width=1 << 17)
    with FlopCounterMode(display=False) as once:
        linear_layers(model, (1 << 17,))
    with FlopCounterMode(display=False) as alone:
        trial(model, (1 << 17,))
    assert once.get_total_flops() == alone.get_total_flops() > 0


class Failing(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.layer, self.error = nn.Linear(4, 3), error

    def forward(self, x: Tensor) -> Tensor:
        raise self.error


class TheirOwn(Exception):
    """Of a library that we have never heard of."""


ERRORS = [
    (AssertionError(), "AssertionError"),
    (AssertionError("expected RGB"), "AssertionError: expected RGB"),
    (KeyError("head"), "KeyError: 'head'"),
    (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
    (TheirOwn("first line\nsecond line"), "TheirOwn: first line"),
    (StopIteration(), "StopIteration"),
    (AttributeError("'list' object has no attribute 'view'"), "AttributeError: 'list' object"),
]


@pytest.mark.parametrize(("error", "told"), ERRORS, ids=[told for _, told in ERRORS])
@pytest.mark.parametrize(
    "use",
    [
        run,
        lambda m, _: linear_layers(m, (4,)),
        lambda m, _: Observation(m, {"layer.weight": torch.ones(3, 4), "layer.bias": torch.ones(3)}, (4,)),
        check_deterministic,
        lambda m, x: capture(m, x, torch.tensor([0, 1])),
        lambda m, x: per_example(m, x, torch.tensor([0, 1]), check=False),
        lambda m, x: sensitivities(m, x, "layer.weight"),
        lambda m, x: train(m, x, torch.tensor([0, 1]), LocalTraining(learning_rate=0.1), torch.arange(2)[None]),
        lambda m, _: expose(m, (4,)),
    ],
    ids=["run", "layers", "observation", "check", "capture", "per_example", "sensitivities", "train", "expose"],
)
def test_what_a_model_raises_is_one_true_sentence(use: Callable[[nn.Module, Tensor], object], error: Exception, told: str) -> None:
    with pytest.raises(Misuse) as caught:
        use(Failing(error), torch.ones(2, 4))
    sentence = str(caught.value)
    assert "a model that runs on" in sentence
    assert sentence.count("expected") == 1 + told.count("expected")
    assert "\n" not in sentence
    assert told in sentence or told.partition(": ")[2] in sentence  # exposure tells the message alone
    assert type(caught.value.__cause__) is type(error)


def test_a_lack_of_memory_is_not_the_models_fault() -> None:
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes")):
        with pytest.raises(type(error)) as caught:
            run(Failing(error), torch.ones(2, 4))
        assert not isinstance(caught.value, Misuse)


def test_a_model_that_writes_to_its_input_leaves_ours_alone() -> None:
    x, y = torch.ones(3, 4), torch.tensor([0, 1, 2])
    model = Before(lambda x: x.mul_(2), width=4)
    run(model.double(), x)
    update = capture(model.float(), x, y)
    single = per_example(model, x, y)
    assert torch.equal(x, torch.ones(3, 4))
    assert all(torch.allclose(single[name].mean(dim=0), update[name], atol=1e-6) for name in update)


def test_what_a_layer_makes_is_not_computed_where_it_is_known() -> None:
    torch.manual_seed(0)
    net, inputs = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double(), torch.rand(4, 6).double()
    plain = run(net, inputs)
    (slope,) = torch.autograd.grad(plain.outputs.square().sum(), plain.linears[0].output)
    z = plain.linears[0].output.detach()
    given = run(net, torch.zeros_like(inputs), known={"0.weight": z})
    assert torch.equal(given.outputs, plain.outputs)
    assert torch.equal(torch.autograd.grad(given.outputs.square().sum(), given.linears[0].output)[0], slope)
    assert not z.requires_grad


class Shrinks(nn.Module):
    """Writes to its own weight, behind autograd's back."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.layer.weight.mul_(0.5)
        return self.layer(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_trial_leaves_a_model_alone_that_writes_to_its_own_weights(dtype: torch.dtype) -> None:
    model = Shrinks().to(dtype)
    before = model.layer.weight.detach().clone()
    trial(model, (4,))
    seen = Observation(model, {"layer.weight": torch.ones(3, 4), "layer.bias": torch.ones(3)}, (4,))
    assert torch.equal(model.layer.weight, before)
    assert seen.behavior.changes
