"""Random, stateful and coupling models are found by running them, whatever they are made of; others are left alone, and so is all state."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unbatch.determinism import behavior, check_deterministic
from unbatch.errors import Misuse, NotDeterministic
from unbatch.gradients import capture, per_example
from unbatch.trace import probe


class Strange(nn.Module):
    """A layer, and a line of ``forward`` that is given."""

    def __init__(self, line: Callable[[Strange, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.line, self.calls = nn.Linear(6, 5), line, 0
        self.norm, self.drop = nn.BatchNorm1d(5), nn.Dropout(0.5)
        self.generator = torch.Generator().manual_seed(1)
        self.register_buffer("counter", torch.zeros(()))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.line(self, x)


def in_place(m: Strange, x: Tensor) -> Tensor:
    m.counter += 1
    return m.layer(x) * (1 + m.counter)


def replaced(m: Strange, x: Tensor) -> Tensor:
    m.counter = m.counter + 1
    return m.layer(x) * (1 + m.counter)


def attribute(m: Strange, x: Tensor) -> Tensor:
    m.calls += 1
    return m.layer(x) * m.calls


def counted(m: Strange, x: Tensor) -> Tensor:
    m.calls += 1
    m.counter += 1
    return m.layer(x)


def drawn(m: Strange, x: Tensor) -> Tensor:
    return m.layer(x) + 0 * torch.randn(5)


RANDOM = {
    "dropout in code": lambda m, x: m.layer(F.dropout(x, 0.5)),
    "a rare dropout": lambda m, x: m.layer(x) * (torch.rand(len(x), 1) > 0.03),
    "noise": lambda m, x: m.layer(x) + 0.001 * torch.randn(5),
    "noise of its own generator": lambda m, x: m.layer(x) + torch.randn(5, generator=m.generator),
    "Python's": lambda m, x: m.layer(x) * random.random(),  # noqa: S311
    "NumPy's": lambda m, x: m.layer(x) * float(np.random.rand()),  # noqa: NPY002
    "NumPy's new": lambda m, x: m.layer(x) * float(np.random.default_rng().random()),
    "a sampled mask": lambda m, x: m.layer(x) * torch.bernoulli(torch.full((5,), 0.5)),
    "Gumbel": lambda m, x: F.gumbel_softmax(m.layer(x)),
    "a shuffled batch": lambda m, x: m.layer(x[torch.randperm(len(x))]),
}
STATEFUL = {"a buffer written to": in_place, "a buffer replaced": replaced, "an attribute": attribute}
COUPLED = {
    "centering": lambda m, x: m.layer(x - x.mean(0)),
    "hardly": lambda m, x: m.layer(x) + 1e-3 * x.mean(),
    "a sum along the batch": lambda m, x: m.layer(x.cumsum(0)),
    "a softmax of the wrong axis": lambda m, x: m.layer(x).softmax(0),
    "the batch's maximum": lambda m, x: m.layer(x / 255 if x.max() > 1 else x),
    "its size": lambda m, x: m.layer(x) / len(x),
    "neighbors": lambda m, x: m.layer(x + 0.1 * x.roll(1, 0)),
    "attention between samples": lambda m, x: torch.softmax(m.layer(x) @ m.layer(x).T, 1) @ m.layer(x),
    "batch norm in code": lambda m, x: F.batch_norm(m.layer(x), None, None, training=True),
}
HONEST = {
    "plain": lambda m, x: m.layer(x),
    "a counter that counts": counted,
    "a draw that changes nothing": drawn,
    "layer norm": lambda m, x: F.layer_norm(m.layer(x), (5,)),
    "batch norm that is off": lambda m, x: m.norm(m.layer(x)),
    "dropout that is off": lambda m, x: m.drop(m.layer(x)),
    "a step": lambda m, x: (m.layer(x) > 0).to(x.dtype) * x.sum(1, keepdim=True),
    "a scale by sample": lambda m, x: m.layer(x / x.abs().amax(1, keepdim=True)),
    "NaN": lambda m, x: m.layer(x) / 0 * 0,
    "several tensors": lambda m, x: {"scores": m.layer(x), "loss": (x.sum(), [x.mean(1)])},
    "infinities": lambda m, x: m.layer(x) * torch.inf,
}


def states() -> tuple[bytes, object, bytes]:
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), np.random.get_state()[1].tobytes()  # noqa: NPY002


@pytest.mark.parametrize("name", [*RANDOM, *STATEFUL])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_two_runs_that_differ_are_found(name: str, dtype: torch.dtype) -> None:
    model = Strange((RANDOM | STATEFUL)[name]).to(dtype)
    with pytest.raises(NotDeterministic, match="outputs that change from one run"):
        check_deterministic(model, probe(model, (6,)), alone=False)


@pytest.mark.parametrize("name", COUPLED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_that_change_each_other_are_found(name: str, dtype: torch.dtype) -> None:
    model = Strange(COUPLED[name]).to(dtype)
    inputs = probe(model, (6,))
    check_deterministic(model, inputs, alone=False)
    assert behavior(model, inputs).couples
    with pytest.raises(NotDeterministic, match="depend on the samples beside it"):
        check_deterministic(model, inputs)
    real = torch.rand((3, 6), generator=torch.Generator().manual_seed(3)).to(dtype) * 2
    with pytest.raises(NotDeterministic):
        per_example(model, real, torch.arange(3))
    assert capture(model, real, torch.arange(3))


@pytest.mark.parametrize("name", HONEST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_honest_models_are_left_alone(name: str, dtype: torch.dtype) -> None:
    model = Strange(HONEST[name]).to(dtype)
    check_deterministic(model, probe(model, (6,)))


@pytest.mark.parametrize("name", [*RANDOM, *STATEFUL, *COUPLED, *HONEST])
def test_nothing_is_touched(name: str) -> None:
    model = Strange((RANDOM | STATEFUL | COUPLED | HONEST)[name])
    inputs = probe(model, (6,))
    before = states(), model.generator.get_state().tolist(), inputs.clone()
    for question in (lambda: check_deterministic(model, inputs), lambda: behavior(model, inputs)):
        with contextlib.suppress(NotDeterministic):
            question()
    assert states() == before[0]
    assert model.generator.get_state().tolist() == before[1]
    assert torch.equal(inputs, before[2])
    assert (model.calls, float(model.counter)) == (0, 0.0)
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_that_cannot_be_copied_is_measured_all_the_same() -> None:
    for name, refused in {"plain": False, "dropout in code": True, "centering": True}.items():
        model = Strange((RANDOM | COUPLED | HONEST)[name])
        model.lock = threading.Lock()  # type: ignore[assignment]
        if refused:
            with pytest.raises(NotDeterministic):
                check_deterministic(model, probe(model, (6,)))
        else:
            check_deterministic(model, probe(model, (6,)))


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        (nn.Dropout(0.25), "an active Dropout layer ('1', p=0.25)"),
        (nn.AlphaDropout(0.5), "an active AlphaDropout layer ('1', p=0.5)"),
        (nn.BatchNorm1d(5), "BatchNorm1d in train mode ('1')"),
        (nn.BatchNorm1d(5, track_running_stats=False), "BatchNorm1d without running statistics ('1')"),
    ],
)
def test_a_cause_that_explains_it_is_named(layer: nn.Module, told: str) -> None:
    model = nn.Sequential(nn.Linear(6, 5), layer)
    with pytest.raises(NotDeterministic) as caught:
        check_deterministic(model, probe(model, (6,)))
    assert caught.value.came == told


def test_what_is_not_the_cause_is_not_named() -> None:
    """A dropout layer that no line uses, beside noise that is drawn in the code."""
    idle = Strange(lambda m, x: m.layer(x)).train()
    check_deterministic(idle, probe(idle, (6,)))
    noisy = Strange(RANDOM["noise"]).train()
    with pytest.raises(NotDeterministic, match="outputs that change from one run"):
        check_deterministic(noisy, probe(noisy, (6,)))
    centered = Strange(COUPLED["centering"]).train()
    with pytest.raises(NotDeterministic, match="depend on the samples beside it"):
        check_deterministic(centered, probe(centered, (6,)))


def test_batch_statistics_that_only_count_are_allowed_for_the_whole() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)).train()
    check_deterministic(model, probe(model, (6,)), alone=False)
    assert behavior(model, probe(model, (6,))).couples
    assert not behavior(model.eval(), probe(model, (6,))).couples
    assert int(model[1].num_batches_tracked) == 0


def test_a_batch_of_one_has_nobody_beside_it() -> None:
    model = Strange(COUPLED["centering"])
    assert not behavior(model, torch.ones(1, 6)).couples
    check_deterministic(model, torch.ones(1, 6))


def test_a_model_for_whole_batches_only_does_not_run() -> None:
    model = Strange(lambda m, x: m.layer(x.reshape(9, 6)))
    with pytest.raises(Misuse, match="RuntimeError: shape"):
        check_deterministic(model, probe(model, (6,)))


def test_rounding_alone_is_no_coupling() -> None:
    """Forty layers that amplify: in float32 a sample alone and in company differ by rounding, which double precision shows to be that."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(40):
        layer = nn.Linear(64, 64)
        nn.init.orthogonal_(layer.weight, gain=3.0)
        layers += [layer, nn.LayerNorm(64), nn.Tanh()]
    model = nn.Sequential(*layers)
    x = probe(model, (64,))
    with torch.no_grad():
        off = float((model(x)[:1] - model(x[:1])).abs().max())
    check_deterministic(model, x)
    assert off < 1.0  # whatever it is on this machine


def test_it_is_cheap() -> None:
    """Two runs of four samples and two of one for an honest model, none of them a copy of a parameter."""
    runs: list[int] = []
    model = Strange(lambda m, x: (runs.append(len(x)), m.layer(x))[1])
    check_deterministic(model, probe(model, (6,)))
    assert sorted(runs) == [1, 4, 4, 4] or sum(runs) <= 14
    where: set[int] = set()
    shared = Strange(lambda m, x: (where.add(m.layer.weight.data_ptr()), m.layer(x))[1])
    check_deterministic(shared, probe(shared, (6,)))
    assert where == {shared.layer.weight.data_ptr()}
