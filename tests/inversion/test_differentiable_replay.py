"""The differentiable replay against the client's own code, restart by restart, and its derivative against differences."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unbatch.gradients import capture
from unbatch.inversion.replay import DifferentiableReplay, not_twice_differentiable
from unbatch.training import LocalTraining, train
from unbatch.types import Observation

SHAPE = (3, 6, 6)


def convolutional(normalize: bool = False) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        middle = [nn.BatchNorm2d(5)] if normalize else []
        return nn.Sequential(nn.Conv2d(3, 5, 3), *middle, nn.Sigmoid(), nn.Flatten(), nn.Linear(80, 4)).double()


class Branching(nn.Module):
    """Looks at its data, which vmap cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.body = convolutional()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x) if float(x.sum()) < 1e9 else self.body(-x)


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(1, 2)
        return self.head(F.scaled_dot_product_attention(tokens, tokens, tokens).mean(dim=1))


def some(count: int = 4, restarts: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn((restarts, count, *SHAPE), generator=generator, dtype=torch.float64)
    return inputs, torch.randint(4, (restarts, count), generator=generator)


def seen(model: nn.Module) -> Observation:
    inputs, labels = some()
    return Observation(model, capture(model, inputs[0], labels[0]), SHAPE, batch_size=4)


@pytest.mark.parametrize(
    "model",
    [convolutional(), convolutional(True).eval(), convolutional(True), Branching(), Attentive().double()],
    ids=["convolutional", "running statistics", "batch statistics", "branching", "attention"],
)
def test_every_restart_is_what_the_client_computes(model: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inputs, labels = some()
    replay = DifferentiableReplay(seen(model), torch.float64)
    update = replay(inputs, labels).update
    alone = replay(inputs[1:2], labels[1:2]).update
    for i in range(len(inputs)):
        for name, truth in capture(model, inputs[i], labels[i]).items():
            assert torch.allclose(update[name][i], truth, rtol=1e-10, atol=1e-12)
    assert all(torch.allclose(alone[name][0], update[name][1], rtol=1e-10, atol=1e-12) for name in update)
    assert replay.side_by_side is not isinstance(model, Branching)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("local", [LocalTraining(3, 3, 0.1), LocalTraining(2, 2, 0.3, momentum=0.9), LocalTraining(4, None, 0.2)])
def test_unrolled_training_is_what_the_client_sends(local: LocalTraining) -> None:
    model = convolutional()
    observation = replace(seen(model), training=local)
    inputs, labels = some()
    update = DifferentiableReplay(observation, torch.float64)(inputs, labels).update
    for i in range(len(inputs)):
        moved = train(model, inputs[i], labels[i], local, torch.arange(4).expand(local.epochs, 4))
        for name, tensor in moved.items():
            assert torch.allclose(update[name][i], tensor / local.factor(4), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("local", [None, LocalTraining(2, 2, 0.3, momentum=0.5)])
@pytest.mark.parametrize("normalize", [False, True])
def test_its_derivative_is_that_of_differences(normalize: bool, local: LocalTraining | None) -> None:
    replay = DifferentiableReplay(replace(seen(convolutional(normalize)), training=local), torch.float64)
    inputs, labels = some(restarts=2)

    def weighed(x: torch.Tensor) -> torch.Tensor:
        update = replay(x, labels).update
        return sum(
            (tensor * torch.linspace(-1, 1, tensor[0].numel(), dtype=x.dtype).view_as(tensor[0])).flatten(1).sum(1)
            for tensor in update.values()
        )

    assert torch.autograd.gradcheck(weighed, inputs.requires_grad_(), eps=1e-5, atol=1e-6, fast_mode=True)


def test_certain_probabilities_are_labels() -> None:
    inputs, labels = some()
    replay = DifferentiableReplay(seen(convolutional()), torch.float64)
    hard, soft = replay(inputs, labels).update, replay(inputs, F.one_hot(labels, 4).double()).update
    assert all(torch.allclose(hard[name], soft[name]) for name in hard)


def test_statistics_are_those_of_the_candidate() -> None:
    model, (inputs, labels) = convolutional(True).eval(), some()
    replay = DifferentiableReplay(seen(model), torch.float64)
    mean, variance = replay(inputs, labels).statistics["1"]
    fed = model[0](inputs[2])
    assert torch.allclose(mean[2], fed.mean(dim=(0, 2, 3)))
    assert torch.allclose(variance[2], fed.var(dim=(0, 2, 3), correction=0))
    assert torch.equal(replay.running["1"][1], model[1].running_var)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]  # noqa: ARG004
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]  # noqa: ARG004
        return gradient * 2


class Wrapped(nn.Module):
    def __init__(self, how) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.body, self.how = convolutional(), how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(self.how(x))


def test_a_model_without_second_derivatives_is_told_in_a_sentence() -> None:
    assert not_twice_differentiable(seen(convolutional())) is None
    assert not_twice_differentiable(seen(nn.Sequential(nn.Flatten(), nn.Linear(108, 9), nn.ReLU(), nn.Linear(9, 4)).double())) is None
    assert "does not change with its input" in str(not_twice_differentiable(seen(Wrapped(torch.sign))))
    once = nn.Sequential(*convolutional()[:1], Layer(), *convolutional()[1:])
    assert "once_differentiable" in str(not_twice_differentiable(seen(once)))


class Layer(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Once.apply(x)
