"""Networks in which the negative of a sample, with some label, leaves what the sample leaves: neither is proved."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unbatch.evidence import judge
from unbatch.gradients import capture
from unbatch.losses import Loss
from unbatch.training import LocalTraining, train
from unbatch.types import Candidate, Observation, Status


class Square(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z.square()


def plus_or_minus(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.soft_margin_loss(outputs, 2 * F.one_hot(labels, 2).to(outputs) - 1)


def odd(bias: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 60, bias=bias), nn.Tanh(), nn.Linear(60, 2, bias=False)).double()


def even() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 60, bias=False), Square(), nn.Linear(60, 5)).double()


def batch(net: nn.Module) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(4, 20, generator=torch.Generator().manual_seed(1)).double()
    return inputs, torch.tensor([0, 1, 1, 0])


@pytest.mark.parametrize(("net", "loss", "turned"), [(odd(), "bce", True), (odd(), plus_or_minus, True), (even(), "cross_entropy", False)])
def test_a_sample_is_not_told_from_its_negative(net: nn.Module, loss: Loss, turned: bool) -> None:
    inputs, labels = batch(net)
    made, named = inputs.clone(), labels.clone()
    made[1], named[1] = -inputs[1], 1 - labels[1] if turned else labels[1]
    update = capture(net, inputs, labels, loss)
    assert all(torch.allclose(again, update[name]) for name, again in capture(net, made, named, loss).items())
    seen = Observation(net, update, (20,), loss=loss, batch_size=4)
    assert judge(seen, Candidate(made, named)).status is Status.UNPROVEN
    assert judge(seen, Candidate(inputs, labels)).status is Status.UNPROVEN
    assert not judge(seen, Candidate(made[:2], named[:2])).status.disclosed


def test_nor_after_local_steps() -> None:
    net = odd()
    inputs, labels = batch(net)
    local = LocalTraining(epochs=2, learning_rate=0.01)
    ended = train(net, inputs, labels, local, torch.arange(4).expand(2, 4), "bce")
    seen = Observation(net, local.average(ended, dict(net.named_parameters()), 4), (20,), loss="bce", batch_size=4, training=local)
    assert judge(seen, Candidate(-inputs, 1 - labels)).status is Status.UNPROVEN


@pytest.mark.parametrize("net", [odd(bias=True), nn.Sequential(nn.Linear(20, 60, bias=False), nn.GELU(), nn.Linear(60, 2)).double()])
def test_a_bias_or_another_activation_tells_them_apart(net: nn.Module) -> None:
    inputs, labels = batch(net)
    seen = Observation(net, capture(net, inputs, labels, "bce"), (20,), loss="bce", batch_size=4)
    assert judge(seen, Candidate(inputs, labels)).status is Status.RECONSTRUCTED
    assert judge(seen, Candidate(inputs[:2], labels[:2])).status is Status.PARTIAL


def test_nor_where_the_network_is_sure_of_it() -> None:
    net = even()
    inputs, _ = batch(net)
    inputs = inputs[:1]
    with torch.no_grad():
        first, second = net(inputs)[0].topk(2).values
        for parameter in net[2].parameters():
            parameter.mul_(60 / (first - second))
        labels = net(inputs).argmax(dim=1)
    seen = Observation(net, capture(net, inputs, labels), (20,))
    assert judge(seen, Candidate(-inputs, labels)).status is Status.UNPROVEN
