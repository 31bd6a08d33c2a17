"""Records that were there are not absent where the number of samples that was told, or read off a record, is not that of the batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import unbatch
from unbatch.training import LocalTraining, train
from unbatch.types import Observation, Verdict
from victims import Product


def deep(seed: int, numbers: int = 80, classes: int = 5) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(numbers, 40), nn.GELU(), nn.Linear(40, 40), nn.GELU(), nn.Linear(40, classes)).double()


def of(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("secret", [1.0, 30.0])
@pytest.mark.parametrize("scale", [255.0, 2550.0])
def test_what_weights_carry_is_no_sample(scale: float, secret: float) -> None:
    """The first of two steps leaves nothing behind a head of zeros: the second direction is rounding, of the bias where inputs are large,
    or more of it than the factor lets expect (trial 908219).
    """
    x, net, local = scale * of(0, 20, 80), deep(0), LocalTraining(1, 1, 4e-5)
    nn.init.zeros_(net[-1].weight)
    moved = train(net, x[:2], torch.tensor([0, 1]), local, torch.tensor([[0, 1]]))
    update = {name: secret * tensor / local.factor(2) for name, tensor in moved.items()}
    found = unbatch.members(Observation(net, update, (80,), batch_size=2, training=local, factor_known=secret == 1), x)
    assert Verdict.ABSENT not in [answer.verdict for answer in found.answers[:2]]


def test_of_two_that_are_alike_none_is_absent_where_one_sample_too_few_was_told() -> None:
    """They leave one direction between them, so that the rank is the number that was told (trials 900512, 900602)."""
    x = of(1, 30, 80)
    x[1] = x[0] + 3e-8 * of(2, 80)
    update = unbatch.capture(net := deep(1), x[:8], torch.tensor([0, 0, 1, 2, 3, 4, 0, 1]), check=False)
    found = unbatch.members(Observation(net, update, (80,), batch_size=7, factor_known=False), x)
    assert found.rank == 7
    assert Verdict.ABSENT not in [answer.verdict for answer in found.answers[:8]]
    assert {answer.verdict for answer in found.answers[8:]} == {Verdict.ABSENT}


def test_the_number_is_not_read_off_what_may_be_the_mean_of_several() -> None:
    """A softmax regression that starts from zeros moves by the mean of a class, however far apart its members are (as trial 901500)."""
    x, net = of(3, 30, 40), nn.Linear(40, 3).double()
    nn.init.zeros_(net.weight)
    nn.init.zeros_(net.bias)
    update = unbatch.capture(net, x[:2], torch.tensor([1, 1]), check=False)
    found = unbatch.members(Observation(net, update, (40,)), torch.cat([x, x[:2].mean(dim=0, keepdim=True)]))
    assert found.batch_size is None
    assert Verdict.ABSENT not in [answer.verdict for answer in found.answers]


@pytest.mark.parametrize("told", [None, 4])
def test_a_blend_is_no_member_where_the_bias_gradient_was_pruned(told: int | None) -> None:
    """Columns of blends are blends of columns, which moves show that keep the number of the bias, and no others (trial 920246)."""
    x = of(4, 30, 80)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Product(80, 2).double()
    update = unbatch.capture(net, x[:4], torch.tensor([0, 0, 0, 0]), check=False)
    for name in ("first.bias", "gate.bias"):
        update[name] = update[name].where(update[name].abs() > update[name].abs().quantile(0.3), 0.0)
    found = unbatch.members(Observation(net, update, (80,), batch_size=told, factor_known=False), torch.cat([x[4:], (x[:1] + x[1:2]) / 2]))
    assert Verdict.PRESENT not in [answer.verdict for answer in found.answers]


@pytest.mark.parametrize("bias", [True, False])
def test_nobody_is_absent_by_a_layer_right_before_batch_statistics(bias: bool) -> None:
    """Columns that add up to nothing leave one direction less than samples: told one sample too few, all of them were absent."""
    x, y = of(4, 30, 60), torch.arange(12) % 3
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(60, 64, bias=bias), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 3)).double()
    found = unbatch.members(Observation(net, unbatch.capture(net, x[:12], y), (60,), batch_size=11), x)
    assert found.rank == 11
    assert Verdict.ABSENT not in [answer.verdict for answer in found.answers[:12]]


def test_nobody_is_absent_where_the_loss_leaves_some_out_of_as_many_as_were_told() -> None:
    """Of twelve it drops the four with the largest loss; told eight, these were absent."""

    def trimmed(outputs: Tensor, labels: Tensor) -> Tensor:
        each = nn.functional.cross_entropy(outputs, labels, reduction="none")
        return each.topk(2 * len(each) // 3, largest=False).values.mean()

    x, y, net = of(5, 30, 80), torch.arange(12) % 5, deep(2)
    update = unbatch.capture(net, x[:12], y, trimmed)
    found = unbatch.members(Observation(net, update, (80,), trimmed, batch_size=8), x)
    assert found.rank == 8
    assert Verdict.ABSENT not in [answer.verdict for answer in found.answers[:12]]
