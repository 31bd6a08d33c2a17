"""Guessed samples held against true ones: matched one to one, then compared pair by pair as people read them.

And what a guess is worth that knows nothing of the update: every reconstruction has to be seen beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unbatch.contracts import Dataset, Metric
from unbatch.linalg.matching import match, match_rows, match_tokens, wrong_cells
from unbatch.types import Batch, Measure, Schema

__all__ = ["EXACT", "Scores", "baselines", "labels_right", "score"]

EXACT = 1e-5
"""A sample is recovered exactly when its root mean square error is below this share of the batch's data range (100 dB); a number in a
table whose column is not rounded, when its error is below this share of the column's deviation. Chosen."""

SAMPLE, NUMBERS = 5000, 1 << 25
"""Most samples of a pool, and most numbers, that a baseline looks at: means are known to about a hundredth of a deviation then."""


@dataclass(frozen=True)
class Scores:
    """How near guesses came.

    Attributes:
        order: (b,) for every true sample the index of the guess matched to it, -1 where there is none.
        scores: metric name -> (b,) values, by true sample; NaN where undefined.
        notes: metric name -> why it is undefined.
        measures: metric name -> how a report calls it, in the order in which a report shows them.
        exact: (b,) whether the true sample was recovered exactly.
    """

    order: tuple[int, ...]
    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    measures: Mapping[str, Measure] = field(default_factory=dict)
    exact: tuple[bool, ...] = ()

    def mean(self, name: str) -> float:
        """The mean of a metric over the samples that have a value."""
        values = torch.tensor(self.scores[name], dtype=torch.float64)
        return float(values[~values.isnan()].mean())


def score(truth: Batch, guesses: Tensor, metrics: Mapping[str, Metric], schema: Schema | None = None) -> Scores:
    """Match optimally, then compare pair by pair in raw units; a true sample without a partner scores NaN.

    Args:
        truth: the client's batch.
        guesses: (k, *shape) as the network sees them.
        metrics: name -> metric; those that are not meant for this kind of samples are left out.
        schema: how to read both; the truth's own if None.

    Raises:
        Misuse: the guesses have another shape, or are not finite.
    """
    schema = schema or truth.schema
    left, right = (schema.decode(inputs.detach().cpu().double()) for inputs in (truth.inputs, guesses))
    order = _match_samples(left, right, schema)
    partners = torch.tensor(order, dtype=torch.int64)
    found = (partners >= 0).nonzero()[:, 0]
    low, data_range = _span(left, schema)
    pairs = left[found] - low, right[partners[found]] - low
    chosen = {name: metric for name, metric in metrics.items() if schema.kind in metric.kinds}
    chosen = dict(sorted(chosen.items(), key=lambda item: (item[1].rank, item[0])))
    scores, notes = {}, {}
    for name, metric in chosen.items():
        values = torch.full((len(left),), float("nan"), dtype=torch.float64)
        if (reason := metric.undefined(tuple(truth.inputs.shape[1:]), schema)) is not None:
            notes[name] = reason
        elif len(found):
            values[found] = metric(*pairs, data_range, schema)
        scores[name] = tuple(values.tolist())
    exact = torch.zeros(len(left), dtype=torch.bool)
    exact[found] = _exact(*pairs, data_range, schema)
    measures = {name: Measure(metric.title or name.replace("_", " "), metric.unit) for name, metric in chosen.items()}
    return Scores(order, scores, notes, measures, tuple(exact.tolist()))


def labels_right(order: Sequence[int], labels: Tensor | None, truth: Batch) -> tuple[bool, ...]:
    """(b,) whether the label of every true sample was recovered with it.

    Args:
        order: see ``Scores``.
        labels: (k,) int64 those of the first k guesses; the others have none.
        truth: the client's batch.
    """
    given = [] if labels is None else labels.tolist()
    return tuple(0 <= guess < len(given) and given[guess] == label for guess, label in zip(order, truth.labels.tolist(), strict=True))


def _match_samples(truth: Tensor, guess: Tensor, schema: Schema) -> tuple[int, ...]:
    """For every true sample the index of the guess that belongs to it, -1 where there is none; both as ``schema.decode`` gives them."""
    if schema.kind == "table":
        return match_rows(truth, guess, schema.discrete, schema.scales)
    return match_tokens(truth, guess) if schema.kind == "tokens" else match(truth, guess)


def _span(truth: Tensor, schema: Schema) -> tuple[float, float]:
    """The least raw value, and what raw values span."""
    if schema.kind in ("table", "tokens") or (schema.kind == "image" and schema.mean) or not truth.numel():
        return 0.0, 1.0
    return float(truth.min()), float(truth.max() - truth.min()) or 1.0


def _exact(truth: Tensor, guess: Tensor, data_range: float, schema: Schema) -> Tensor:
    if schema.kind == "table":
        return ~wrong_cells(truth, guess, schema.discrete, schema.grains(EXACT), tolerance=1.0).any(dim=1)
    if schema.kind == "tokens":
        return (truth == guess).all(dim=1)
    return (truth - guess).square().flatten(1).mean(dim=1).sqrt() < EXACT * data_range


def baselines(pool: Dataset, truth: Batch, metrics: Mapping[str, Metric], seed: int = 0) -> dict[str, Scores]:
    """What guesses are worth that know the data set and nothing of the update: an attack that does no better has learned nothing.

    ``random`` draws every cell, pixel or token from those at its place in the pool, independently of the others. ``typical`` gives all
    samples the most frequent level or token, the mean of numbers and pictures. Both are matched and scored like a reconstruction.

    Args:
        pool: where the client's batch may come from.
        truth: the client's batch.
        metrics: as for ``score``.
        seed: of the draws.

    Example:
        >>> from unbatch.datasets.digits import Digits
        >>> from unbatch.metrics.psnr import Psnr
        >>> worth = baselines(Digits(), Digits().batch(4), {"psnr": Psnr()})
        >>> {name: round(scores.mean("psnr")) for name, scores in worth.items()}
        {'random': 9, 'typical': 11}
    """
    schema, size = pool.schema, len(truth)
    generator = torch.Generator().manual_seed(seed)
    some = torch.randperm(len(pool), generator=generator)[: min(SAMPLE, 1 + NUMBERS // math.prod(pool.input_shape))]
    values = schema.decode(pool.take(some).inputs)
    flat = values.reshape(len(values), -1)
    rows = torch.randint(len(flat), (size, flat.shape[1]), generator=generator)
    drawn = flat[rows, torch.arange(flat.shape[1])]
    whole = torch.tensor(schema.discrete) if schema.kind == "table" else torch.full((flat.shape[1],), schema.kind == "tokens")
    usual = torch.where(whole, flat.mode(dim=0).values, flat.double().mean(dim=0)).to(flat)
    guesses = {"random": drawn, "typical": usual.expand(size, -1)}
    return {name: score(truth, schema.encode(guess.reshape(size, *values.shape[1:])), metrics, schema) for name, guess in guesses.items()}
