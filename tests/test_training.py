"""Local training against a real loop of torch's SGD."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unbatch.errors import Misuse, NotDeterministic
from unbatch.gradients import capture
from unbatch.training import LocalTraining, shuffled, train


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).double()


def data(count: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((count, 6), generator=generator, dtype=torch.float64), torch.randint(3, (count,), generator=generator)


@pytest.mark.parametrize("local", [LocalTraining(1, None, 0.1), LocalTraining(3, 4, 0.1), LocalTraining(2, 5, 0.05, momentum=0.9)])
def test_training_is_what_torch_does(local: LocalTraining) -> None:
    x, y = data(11)
    order = shuffled(local.epochs, 11, torch.Generator().manual_seed(2))
    moved = train(network(), x, y, local, order)

    client = network()
    before = {name: p.detach().clone() for name, p in client.named_parameters()}
    optimizer = torch.optim.SGD(client.parameters(), lr=local.learning_rate or 0.0, momentum=local.momentum)
    for epoch in order:
        for chosen in epoch.split(local.batch_size or 11):
            optimizer.zero_grad()
            F.cross_entropy(client(x[chosen]), y[chosen]).backward()
            optimizer.step()
    for name, parameter in client.named_parameters():
        torch.testing.assert_close(moved[name], before[name] - parameter.detach(), rtol=0, atol=1e-14)


def test_model_is_not_touched() -> None:
    model, (x, y) = network(), data(8)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(model, x, y, LocalTraining(2, 4, 0.1), torch.arange(8).expand(2, 8))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_factor_makes_an_average_of_gradients(momentum: float) -> None:
    """At a tiny rate the weights hardly move, and every step's gradient is that at the broadcast weights."""
    model, (x, y) = network(), data(8)
    local = LocalTraining(3, None, 1e-7, momentum)
    moved = train(model, x, y, local, torch.arange(8).expand(3, 8))
    factor = local.factor(8)
    assert factor is not None
    for name, gradient in capture(model, x, y).items():
        torch.testing.assert_close(moved[name] / factor, gradient, rtol=1e-4, atol=1e-7)


def test_facts_about_steps() -> None:
    local = LocalTraining(2, 5, 0.1, 0.5)
    assert [part.stop - part.start for part in local.parts(12)] == [5, 5, 2]
    assert local.steps(12) == 6
    assert not local.whole(12)
    assert local.whole(5)
    assert not local.one_step(5)
    assert LocalTraining(1, 5, 0.1).one_step(4)
    assert [local.weight(step, 5) for step in range(2)] == [1.5, 1.0]  # the first of two steps moves the weights again, by momentum
    assert local.factor(None) is None
    assert LocalTraining(2, 5).factor(12) is None


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"learning_rate": -1.0}, {"momentum": 1.0}])
def test_misuse(bad: dict[str, float]) -> None:
    with pytest.raises(Misuse):
        LocalTraining(**bad)  # type: ignore[arg-type]


def test_training_needs_a_rate_and_a_deterministic_model() -> None:
    x, y = data(4)
    with pytest.raises(Misuse, match="learning rate"):
        train(network(), x, y, LocalTraining(), torch.arange(4)[None])
    with pytest.raises(NotDeterministic):
        train(nn.Sequential(network(), nn.Dropout(0.5)), x, y, LocalTraining(learning_rate=0.1), torch.arange(4)[None])


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.9])
def test_total_is_the_sum_of_the_steps(momentum: float) -> None:
    local = LocalTraining(3, 4, 0.1, momentum)
    assert local.total(10) == pytest.approx(sum(local.weight(step, 10) for step in range(9)))
    assert LocalTraining(1000, 1, 0.1, momentum).steps(10**9) == 10**12  # told at once, however many
