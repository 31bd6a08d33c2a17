"""Losses that are no plain mean, and batches that statistics couple: no sentence that is not so, and no traceback."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unbatch.evidence import judge
from unbatch.gradients import capture
from unbatch.types import Candidate, Observation, Status


def client(classes: int = 5, count: int = 8) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(30, 60), nn.GELU(), nn.Linear(60, 60), nn.GELU(), nn.Linear(60, classes)).double(), torch.randn(
        count, 30
    ).double()


def balanced(outputs: Tensor, labels: Tensor) -> Tensor:
    """The mean of the classes' means."""
    each = F.cross_entropy(outputs, labels, reduction="none")
    many = (labels[:, None] == labels).to(outputs).sum(dim=1)
    return (each / many).sum() / (1 / many).sum()


def test_how_many_are_missing_is_not_read_off_a_mean_of_means() -> None:
    """Two of class 4, which are all of it, count 1/10 each where five classes are there: that is no batch of 10."""
    net, inputs = client()
    labels = torch.tensor([4, 4, 0, 0, 1, 2, 3, 3])
    seen = Observation(net, capture(net, inputs, labels, balanced), (30,), loss=balanced)
    found = judge(seen, Candidate(inputs[:2], labels[:2]))
    assert found.status is Status.PARTIAL
    assert found.missing is None


def test_a_plain_mean_of_the_clients_own_says_it() -> None:
    def squares(outputs: Tensor, labels: Tensor) -> Tensor:
        return (outputs - F.one_hot(labels, 5).to(outputs)).square().sum(dim=1).mean()

    net, inputs = client()
    labels = torch.arange(8) % 5
    seen = Observation(net, capture(net, inputs, labels, squares), (30,), loss=squares)
    found = judge(seen, Candidate(inputs[:3], labels[:3]))
    assert found.status is Status.PARTIAL
    assert found.missing == 5


def test_samples_of_classes_that_count_nothing_are_no_breakdown() -> None:
    loss = nn.CrossEntropyLoss(weight=torch.tensor([0.0, 1, 1, 1, 1]))
    net, inputs = client()
    labels = torch.arange(8) % 5
    seen = Observation(net, capture(net, inputs, labels, loss), (30,), loss=loss)
    assert not judge(seen, Candidate(inputs[:1], labels[:1])).status.disclosed


def test_one_that_was_there_twice_is_seen_beside_class_weights() -> None:
    loss = "cross_entropy:weight=1|2|0.5|3|1"
    net, inputs = client()
    labels = torch.tensor([0, 1, 2, 3, 4, 0, 1, 1])
    inputs[7] = inputs[6]
    seen = Observation(net, capture(net, inputs, labels, loss), (30,), loss=loss)
    assert judge(seen, Candidate(inputs[:7], labels[:7])).status is Status.PARTIAL
    once = Observation(net, capture(net, inputs[:7], labels[:7], loss), (30,), loss=loss)
    assert judge(once, Candidate(inputs[:7], labels[:7])).status is Status.RECONSTRUCTED


class Centered(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        scores = super().forward(x)
        return scores - scores.mean(dim=0)


def test_copies_in_a_batch_that_statistics_couple_are_no_breakdown() -> None:
    def hardest(outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs, labels, reduction="none").sort().values[-2:].mean()

    plain, inputs = client(count=3)
    net = Centered(*plain)
    labels = torch.tensor([1, 1, 1])
    inputs[1] = inputs[0]
    seen = Observation(net, capture(net, inputs, labels, hardest), (30,), loss=hardest, batch_size=3)
    assert seen.coupled
    found = judge(seen, Candidate(inputs, labels))
    assert found.status is Status.PARTIAL
    assert torch.equal(found.inputs, inputs[1:])


TARGETS = {"mse": torch.tensor([[0.7, -1.2, 0.1]]), "bce": torch.tensor([[1.0, 1.0, 0.0]])}


@pytest.mark.parametrize("loss", ["mse", "bce"])
@pytest.mark.parametrize("bias", [True, False])
def test_one_sample_of_several_scores_is_proved_whatever_its_targets(loss: str, bias: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 3, bias=bias)).double()
    x = torch.randn(1, 30).double()
    measure = F.mse_loss if loss == "mse" else F.binary_cross_entropy_with_logits

    def sent(inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        net.zero_grad()
        measure(net(inputs), targets.double()).backward()  # type: ignore[no-untyped-call]
        return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}

    one, label = sent(x, TARGETS[loss]), torch.tensor([0])
    found = judge(Observation(net, one, (30,), loss=loss, batch_size=1), Candidate(x, label))
    assert found.status is Status.PARTIAL
    assert found.labels is None
    assert found.explained
    assert float(found.accuracy[0]) < 1e-12
    # Several may leave what their mean does; and a sample that is another, or a batch that held more, is not proved.
    assert judge(Observation(net, one, (30,), loss=loss), Candidate(x, label)).status is Status.UNPROVEN
    assert not judge(Observation(net, one, (30,), loss=loss, batch_size=2), Candidate(x, label)).status.disclosed
    for wrong in (1.001 * x, x + 1e-3 * torch.randn(1, 30)):
        assert not judge(Observation(net, one, (30,), loss=loss, batch_size=1), Candidate(wrong, label)).status.disclosed
    two = sent(torch.cat([x, -x]), torch.cat([TARGETS[loss], TARGETS[loss].roll(1, 1)]))
    mean = (two["0.weight"] * two["0.bias"][:, None]).sum(dim=0, keepdim=True) / two["0.bias"].square().sum()
    for made in (x, mean):
        assert not judge(Observation(net, two, (30,), loss=loss, batch_size=1), Candidate(made, label)).status.disclosed
