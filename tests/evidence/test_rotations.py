"""Members of one region and one label, turned about their mean: behind slopes that are linear they leave what they left before."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from unbatch.evidence import judge
from unbatch.gradients import capture
from unbatch.training import LocalTraining, train
from unbatch.types import Candidate, Observation, Status
from victims import Product


def turned(inputs: Tensor, seed: int = 0) -> Tensor:
    """X Q, Q orthogonal with Q 1 = 1."""
    count = len(inputs)
    noise = torch.randn((count, count), generator=torch.Generator().manual_seed(seed)).double()
    basis, _ = torch.linalg.qr(torch.cat([torch.ones(count, 1).double(), noise[:, 1:]], dim=1))
    turn = torch.eye(count).double()
    turn[1:, 1:], _ = torch.linalg.qr(noise[1:, 1:])
    return basis @ turn @ basis.T @ inputs


def client(scale: float, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(20, 60), nn.ReLU(), nn.Linear(60, 10)).to(dtype)
    return net, (scale * torch.randn(3, 20).double()).to(dtype), torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("loss", "scale", "dtype"),
    [
        ("mse", 1e-3, torch.float64),
        ("mse", 1e-3, torch.float32),
        ("cross_entropy", 1e-4, torch.float64),
        ("bce", 1e-5, torch.float64),
    ],
)
def test_what_can_be_turned_is_not_proved(loss: str, scale: float, dtype: torch.dtype) -> None:
    net, inputs, labels = client(scale, dtype)
    other = turned(inputs.double())
    update = capture(net, inputs, labels, loss)
    assert all(torch.allclose(again, update[name], rtol=1e-4) for name, again in capture(net, other.to(dtype), labels, loss).items())
    assert float((other - inputs).norm() / inputs.double().norm()) > 0.3
    seen = Observation(net, update, (20,), loss=loss, batch_size=3)
    assert judge(seen, Candidate(other, labels)).status is Status.UNPROVEN
    assert not judge(seen, Candidate(other[:2], labels[:2])).status.disclosed


@pytest.mark.parametrize(("loss", "scale"), [("mse", 1.0), ("cross_entropy", 1.0), ("cross_entropy", 1e-4)])
def test_what_cannot_is(loss: str, scale: float) -> None:
    net, inputs, labels = client(scale)
    seen = Observation(net, capture(net, inputs, labels, loss), (20,), loss=loss, batch_size=3)
    found = judge(seen, Candidate(inputs, labels))
    assert found.status is Status.RECONSTRUCTED
    assert float(found.accuracy.max()) < 1e-5
    assert not judge(seen, Candidate(turned(inputs), labels)).status.disclosed


def test_it_is_no_better_after_local_steps() -> None:
    net, inputs, labels = client(1e-3)
    local = LocalTraining(epochs=2, learning_rate=0.01)
    order = torch.arange(3).expand(2, 3)
    ended = train(net, inputs, labels, local, order, "mse")
    update = local.average(ended, dict(net.named_parameters()), 3)
    seen = Observation(net, update, (20,), loss="mse", batch_size=3, training=local)
    assert judge(seen, Candidate(turned(inputs), labels)).status is Status.UNPROVEN


def test_others_beside_them_keep_their_proof() -> None:
    net, inputs, labels = client(1e-3)
    inputs, labels = torch.cat([inputs, torch.randn(4, 20).double()]), torch.tensor([0, 0, 0, 1, 2, 3, 3])
    seen = Observation(net, capture(net, inputs, labels, "mse"), (20,), loss="mse", batch_size=7)
    made = inputs.clone()
    made[:3] = turned(inputs[:3])
    found = judge(seen, Candidate(made, labels))
    assert found.status is Status.PARTIAL
    assert float(torch.cdist(found.inputs, inputs).min(dim=1).values.max()) < 1e-6
    assert len(found.inputs) == 4


def linear(net: nn.Sequential) -> nn.Sequential:
    """With all neurons on, whatever comes."""
    with torch.no_grad():
        net[0].bias += 12
    return net


def test_two_of_one_label_are_turned_with_two_of_another_however_many_lie_between() -> None:
    torch.manual_seed(0)
    net = linear(nn.Sequential(nn.Linear(30, 80), nn.ReLU(), nn.Linear(80, 20)).double())
    inputs, labels = torch.randn(14, 30).double(), torch.tensor([0, 0, *range(1, 11), 19, 19])
    made = inputs.clone()
    one, other = (inputs[0] - inputs[1]) / 2, (inputs[12] - inputs[13]) / 2
    made[:2] += torch.stack([0.6 * one + 0.8 * other - one, one - 0.6 * one - 0.8 * other])
    made[12:] += torch.stack([0.6 * other - 0.8 * one - other, other - 0.6 * other + 0.8 * one])
    update = capture(net, inputs, labels, "mse")
    assert all(torch.allclose(again, update[name]) for name, again in capture(net, made, labels, "mse").items())
    seen = Observation(net, update, (30,), loss="mse", batch_size=14)
    found = judge(seen, Candidate(made, labels))
    assert found.status is Status.PARTIAL
    assert torch.equal(found.inputs, inputs[2:12])


class Normed(nn.Module):
    """Batch statistics beside a path around them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.norm, self.outer, self.head = (
            nn.Linear(20, 40),
            nn.Linear(40, 30),
            nn.BatchNorm1d(30),
            nn.Linear(30, 40),
            nn.Linear(40, 8),
        )
        with torch.no_grad():
            self.first.bias += 12

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x).relu()
        scores: Tensor = self.head(z + self.outer(self.norm(self.inner(z))))
        return scores


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_a_turn_leaves_the_statistics_of_a_batch_as_they_are(loss: str) -> None:
    torch.manual_seed(0)
    net, inputs, labels = Normed().double().train(), torch.randn(5, 20).double(), torch.tensor([0, 0, 0, 1, 2])
    made = inputs.clone()
    made[:3] = turned(inputs[:3])
    seen = Observation(net, capture(net, inputs, labels, loss), (20,), loss=loss, batch_size=5)
    assert judge(seen, Candidate(inputs, labels)).status is (Status.UNPROVEN if loss == "mse" else Status.RECONSTRUCTED)
    assert judge(seen, Candidate(made, labels)).status is (Status.UNPROVEN if loss == "mse" else Status.APPROXIMATE)


@pytest.mark.parametrize("told", [None, 2])
def test_two_far_apart_are_turned_with_what_they_count_where_columns_are_straight_lines(told: int | None) -> None:
    """The gradient is of Σ w [x; 1][x; 1]ᵀ alone, whatever lies between the members (trial 907699)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, x = Product(40, 4).double(), torch.rand(2, 40, dtype=torch.float64)
    with torch.no_grad():
        net.last.weight.mul_(1e-12)
    labels, turn = torch.tensor([3, 3]), torch.tensor(1e-3, dtype=torch.float64)
    spin = torch.stack([torch.stack([turn.cos(), turn.sin()]), torch.stack([-turn.sin(), turn.cos()])])
    moved = spin @ torch.cat([x, torch.ones(2, 1, dtype=torch.float64)], dim=1)
    made = moved[:, :-1] / moved[:, -1:]
    found = judge(Observation(net, capture(net, x, labels), (40,), batch_size=told), Candidate(made, labels))
    assert not found.status.disclosed
    true = judge(Observation(net, capture(net, x, labels), (40,), batch_size=2), Candidate(x, labels))
    assert true.status is Status.RECONSTRUCTED
