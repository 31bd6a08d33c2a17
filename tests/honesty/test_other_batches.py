"""Other batches of one linear region that leave the same update, solved for: nothing of them is called disclosed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares
from torch import Tensor, nn
from torch.nn import functional as F

from unbatch.evidence import judge
from unbatch.gradients import capture
from unbatch.types import Candidate, Observation
from verdicts import falsehoods, truth_of

FEATURES, WIDTH = 20, 40
STARTS, HITS = 8, 2
"""Solutions are looked for from so many starts, and so many of a setting are tried."""

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Setting:
    """q members that share every neuron's side, beside others that do not; some classes get no probability at all.

    Attributes:
        net: ``bias`` says whether it has biases.
        inputs: (q, 20) of one region.
        labels: (q,).
        beside: samples and labels elsewhere.
        free: whether what samples count is solved for, too.
    """

    net: nn.Sequential
    bias: bool
    inputs: Tensor
    labels: Tensor
    beside: tuple[Tensor, Tensor]
    free: bool


def setting(seed: int, draw: np.random.Generator) -> Setting:
    torch.manual_seed(seed)
    bias, count, live = bool(draw.integers(2)), int(draw.integers(2, 5)), int(draw.integers(2, 5))
    classes = live if draw.integers(2) else 10
    first, second, head = nn.Linear(FEATURES, WIDTH, bias=bias), nn.Linear(WIDTH, WIDTH, bias=bias), nn.Linear(WIDTH, classes, bias=bias)
    net = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), head).double()
    with torch.no_grad():
        for layer in (first, second):  # on for all positive inputs, or off for all
            layer.weight.copy_(layer.weight.abs() * torch.sign(torch.randn(WIDTH, 1).double()))
            if bias:
                layer.bias.copy_(layer.bias.abs() * torch.sign(layer.weight.sum(dim=1)))
        head.weight[:live] *= 10 ** draw.uniform(-1, 1.5)
        head.weight[live:] = -3000 * head.weight[live:].abs() - 500
    labels = torch.from_numpy(draw.integers(0, classes, count))
    others = int(draw.integers(0, 4))
    beside = torch.randn(others, FEATURES).double(), torch.from_numpy(draw.integers(0, classes, others))
    return Setting(net, bias, torch.rand(count, FEATURES).double() + 0.1, labels, beside, bool(draw.integers(2)))


def other_batch(given: Setting, named: Tensor, draw: np.random.Generator) -> Tensor | None:
    """X' = M X, and what each counts where that is free, with Σ w' d' [x', 1] = Σ w d [x, 1]; None where none was found but X itself."""
    q, classes = len(given.inputs), given.net[4].out_features
    slope = torch.autograd.functional.jacobian(lambda row: given.net(row[None])[0], given.inputs[0])
    shift = (given.net(given.inputs[:1])[0].detach() - slope @ given.inputs[0]).numpy()[:, None]
    scores = (slope @ given.inputs.T).numpy()

    def wrong(scores: Array, labels: Tensor) -> Array:
        made: Array = torch.softmax(torch.from_numpy(scores), dim=0).numpy() - F.one_hot(labels, classes).T.numpy()
        return made

    target = wrong(scores + shift, given.labels)

    def off(flat: Array) -> Array:
        mixing, counted = flat[: q * q].reshape(q, q), np.exp(flat[q * q :]) if given.free else np.ones(q)
        columns = wrong(scores @ mixing.T + shift, named) * counted
        sums = [columns.sum(axis=1) - target.sum(axis=1)] if given.bias else []
        return np.concatenate([(columns @ mixing - target).ravel(), *sums])

    start = np.eye(q)[draw.permutation(q)] + draw.normal(size=(q, q)) * 10 ** draw.uniform(-1.5, 0.7)
    with np.errstate(all="ignore"):
        found = least_squares(off, np.concatenate([start.ravel(), 0.3 * draw.normal(size=q if given.free else 0)]), **TIGHT)
    made = torch.from_numpy(found.x[: q * q].reshape(q, q)) @ given.inputs
    apart = float((torch.cdist(made, given.inputs) / given.inputs.norm(dim=1)).amin(dim=1).max())
    return made if float(np.abs(found.fun).max()) < ROUNDING and apart > APART else None


TIGHT = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15, "max_nfev": 300}
ROUNDING, APART = 1e-14, 1e-3


@pytest.mark.parametrize("seeds", [range(6), pytest.param(range(6, 206), marks=pytest.mark.long)])
def test_no_other_batch_of_a_region_that_leaves_the_same_update_is_proved(seeds: range) -> None:
    """Found in this way: classes that a sure network gives nothing were counted as equations; samples that were proved from each other."""
    tried = 0
    for seed in seeds:
        draw = np.random.default_rng(seed)
        given = setting(seed, draw)
        inputs, labels = torch.cat([given.inputs, given.beside[0]]), torch.cat([given.labels, given.beside[1]])
        update, hits = capture(given.net, inputs, labels), 0
        for _ in range(STARTS):
            named = given.labels if draw.integers(2) else torch.from_numpy(draw.integers(0, given.net[4].out_features, len(given.labels)))
            made = other_batch(given, named, draw)
            some = torch.from_numpy(draw.permutation(len(named))[: int(draw.integers(1, len(named) + 1))])
            if made is None:
                continue
            for size, factor_known in ((None, True), (None, False), (len(inputs), True), (len(inputs), False)):
                seen = Observation(given.net, update, (FEATURES,), batch_size=size, factor_known=factor_known)
                truth = truth_of(given.net, inputs, labels, size_told=size is not None, scale_told=True)
                for part in (torch.arange(len(named)), some):
                    proposed = Candidate(torch.cat([made[part], given.beside[0]]), torch.cat([named[part], given.beside[1]]))
                    wrong = falsehoods(judge(seen, proposed), truth)
                    assert not wrong, (seed, size, factor_known, wrong)
                    tried += 1
            if (hits := hits + 1) == HITS:
                break
    assert tried >= 4 * len(seeds)
