"""What every metric must keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import get_args

import torch
from torch import Tensor

from unbatch.contracts import Metric
from unbatch.errors import Misuse
from unbatch.schema import Kind
from unbatch.testing.promises import ContractBroken, Promises, require, untouched
from unbatch.testing.scenes import TABLE
from unbatch.types import Schema

__all__ = ["PAIRS", "SCHEMAS", "check_metric", "pictures", "rows", "texts"]

SCHEMAS: Mapping[Kind, Schema] = {
    "image": Schema("image"),
    "vector": Schema("vector"),
    "table": TABLE,
    "tokens": Schema("tokens", vocabulary=1000),
}
"""How to read the pairs of each kind."""


ROUNDING = 1e-12
"""By how much of rounding a guess may seem better than the truth."""


def pictures(seed: int, count: int, channels: int = 3) -> tuple[Tensor, Tensor]:
    """Pictures, and the same under noise that grows from one to the next."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand((count, channels, 8, 9), generator=generator, dtype=torch.float64)
    truth = truth.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    strengths = torch.logspace(-2.5, -0.5, count, dtype=torch.float64).view(-1, 1, 1, 1)
    return truth, truth + strengths * torch.randn(truth.shape, generator=generator, dtype=torch.float64)


def rows(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Row i has i wrong cells, and its numbers are off by more than those before; the first is exact."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.stack([torch.randint(high, (count,), generator=generator) for high in (90, 3, 1000, 2)], dim=1).double()
    guess = truth.clone()
    for i in range(count):
        guess[i, 0] += 5.0 * i
        guess[i, 1] = (guess[i, 1] + (i > 1)) % 3
        guess[i, 2] += 3.0 * (i > 2) + 0.1 * i
        guess[i, 3] = (guess[i, 3] + (i > 3)) % 2
    return truth, guess


def texts(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Text i has i wrong tokens."""
    truth = torch.randint(1000, (count, 8), generator=torch.Generator().manual_seed(seed))
    guess = truth.clone()
    for i in range(count):
        guess[i, :i] = (guess[i, :i] + 1) % 1000
    return truth, guess


PAIRS: Mapping[Kind, Callable[[int, int], tuple[Tensor, Tensor]]] = {
    "image": pictures,
    "vector": pictures,
    "table": rows,
    "tokens": texts,
}
"""Kind -> from a seed and a number of samples, truths and guesses that get worse from one to the next."""


def check_metric(metric: Metric) -> None:
    """Hold a metric to its contract, on every kind of samples that it is meant for.

    Args:
        metric: to be checked.

    Raises:
        ContractBroken: with every promise that it breaks.

    Example:
        >>> from unbatch.plugins import build
        >>> check_metric(build("metrics", "psnr"))
    """
    promises = Promises(metric, "metrics")
    with promises.kept("it says what it is for"):
        require(bool(metric.kinds) and metric.kinds <= set(get_args(Kind)), f"kinds {set(metric.kinds)}")
        require(isinstance(metric.higher_is_better, bool), f"higher_is_better = {metric.higher_is_better!r}")
    for kind in sorted(metric.kinds):
        with promises.kept(f"of {kind}: one float64 a sample, and nothing is touched"):
            _require_values(metric, kind)
        with promises.kept(f"of {kind}: worse samples have worse values, equal ones the best"):
            _require_order(metric, kind)
        with promises.kept(f"of {kind}: what cannot be compared is refused as Misuse"):
            truth, guess = PAIRS[kind](0, 3)
            try:
                metric(truth[:2], guess, 1.0, SCHEMAS[kind])
            except Misuse:
                continue
            raise ContractBroken("2 samples against 3 are not")
    promises.settle()


def _require_values(metric: Metric, kind: Kind) -> None:
    truth, guess = PAIRS[kind](0, 5)
    shape = tuple(truth.shape[1:])
    require(metric.undefined(shape, SCHEMAS[kind]) is None, f"undefined for samples of shape {shape}, which it says it is meant for")
    with untouched(tensors={"truth": truth, "guess": guess}):
        values = metric(truth, guess, 1.0, SCHEMAS[kind])
    require(tuple(values.shape) == (5,) and values.dtype == torch.float64, f"{tuple(values.shape)} values of type {values.dtype}")
    order = torch.tensor([3, 1, 4, 0, 2])
    moved = metric(truth[order], guess[order], 1.0, SCHEMAS[kind])
    require(torch.allclose(moved, values[order], rtol=1e-9, atol=1e-12, equal_nan=True), "a value depends on the samples beside it")
    require(tuple(metric(truth[:0], guess[:0], 1.0, SCHEMAS[kind]).shape) == (0,), "values for an empty batch")


def _require_order(metric: Metric, kind: Kind) -> None:
    truth, guess = PAIRS[kind](0, 5)
    values, best = metric(truth, guess, 1.0, SCHEMAS[kind]), metric(truth, truth.clone(), 1.0, SCHEMAS[kind])
    sign = -1.0 if metric.higher_is_better else 1.0
    worse = sign * values.diff()
    require(bool((worse >= 0).all()) and float(worse.sum()) > 0, f"{values.tolist()} for guesses that get worse")
    require(bool((sign * (best - values) <= ROUNDING).all()), "a guess that is better than the truth")
