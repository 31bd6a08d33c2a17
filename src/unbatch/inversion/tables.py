"""Rows of a table as something to descend in: levels and bounded numbers relaxed, and many guesses of one batch pooled into one.

Vero, Balunović, Dimitrov, Vechev, "TabLeak: Tabular Data Leakage in Federated Learning", ICML 2023.

| here      | meaning                                                                              |
|-----------|--------------------------------------------------------------------------------------|
| u         | (..., d) what the descent moves: any numbers                                         |
| relaxed   | (..., d) rows as the network sees them, with probabilities in the place of one-hot    |
| hard      | (..., d) rows of the table: a level in every group, numbers that their column can hold |
| member    | one of the r descents of an ensemble                                                  |
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from unbatch.linalg.matching import match_rows
from unbatch.types import Schema

__all__ = ["Relaxation", "aligned", "certainty", "hard"]


def hard(schema: Schema, rows: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """The nearest rows of the table.

    Example:
        >>> from unbatch.schema import Categorical, Continuous
        >>> table = Schema("table", columns=(Continuous("age", 0, 99, rounding=1), Categorical("sex", ("f", "m"))))
        >>> hard(table, torch.tensor([[[38.7, 0.1, 0.4]]])).tolist()
        [[[39.0, 0.0, 1.0]]]
    """
    flat = rows.reshape(-1, schema.width)
    return schema.encode(schema.decode(flat)).to(rows).reshape(rows.shape)


@dataclass(frozen=True, eq=False)
class Relaxation:
    """From u to relaxed rows, differentiable.

    Every group of a level column goes through a softmax in raw units; every continuous column with two limits through a sigmoid between
    them, out of place.

    Attributes:
        schema: of the table.
        softmax: False to leave groups as they are.
        bounded: False to leave numbers as they are: wide ranges with few large values spoil the sigmoid.

    Example:
        >>> from unbatch.schema import Categorical, Continuous
        >>> table = Schema("table", columns=(Continuous("age", 0, 80), Categorical("sex", ("f", "m"))))
        >>> Relaxation(table)(torch.zeros(1, 3)).tolist()
        [[40.0, 0.5, 0.5]]
    """

    schema: Schema
    softmax: bool = True
    bounded: bool = True

    def __call__(self, u: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Relaxed rows, as the network sees them."""
        mean, deviation = self._scale(u)
        parts = []
        for column, span in zip(self.schema.columns, self.schema.spans, strict=True):
            here = u[..., span]
            low, high = getattr(column, "low", -math.inf), getattr(column, "high", math.inf)
            if column.width > 1:
                levels = torch.softmax(here * deviation[span] + mean[span], dim=-1)
                here = (levels - mean[span]) / deviation[span] if self.softmax else here
            elif self.bounded and math.isfinite(low) and math.isfinite(high):
                here = (low + (high - low) * torch.sigmoid(here) - mean[span]) / deviation[span]
            parts.append(here)
        return torch.cat(parts, dim=-1)

    def _scale(self, like: Tensor) -> tuple[Tensor, Tensor]:
        schema = self.schema
        return like.new_tensor(schema.mean or (0.0,) * schema.width), like.new_tensor(schema.std or (1.0,) * schema.width)


def aligned(
    schema: Schema, members: Float[Tensor, "r b d"], labels: Int64[Tensor, "r b"], reference: int, *, told: bool
) -> Int64[Tensor, "r b"]:
    """For every member the order that brings its rows beside those of the reference: least number of wrong cells (Hungarian).

    Args:
        schema: of the table.
        members: relaxed rows.
        labels: of every member's rows.
        reference: index of the member that the others are brought beside.
        told: whether labels are fixed, so that only rows of one class can be one row. The paper matches rows alone.
    """
    cells = schema.decode(members.reshape(-1, schema.width)).reshape(*members.shape[:2], len(schema.columns))
    orders = []
    for index in range(len(members)):
        order = torch.zeros(members.shape[1], dtype=torch.int64)
        for label in torch.unique(labels[reference]) if told else (None,):
            ours = torch.arange(len(order)) if label is None else (labels[reference] == label).nonzero()[:, 0].cpu()
            theirs = ours if label is None else (labels[index] == label).nonzero()[:, 0].cpu()
            found = match_rows(cells[reference][ours].cpu(), cells[index][theirs].cpu(), schema.discrete, schema.scales)
            order[ours] = theirs[torch.tensor(found)]
        orders.append(order)
    return torch.stack(orders).to(members.device)


def certainty(schema: Schema, members: Float[Tensor, "r b d"]) -> Float[Tensor, "b f"]:
    """How far aligned members agree in every cell, from 0 to 1.

    Of levels 1 − H(mean probabilities) / log K. The paper gives the entropy of a normal distribution for numbers, which has no scale; here
    it is the share by which their spread, in deviations of the column, lies below one.

    Example:
        >>> from unbatch.schema import Categorical
        >>> table = Schema("table", columns=(Categorical("sex", ("f", "m")),))
        >>> certainty(table, torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])).tolist()
        [[0.0]]
    """
    raw, seen = schema.to_raw(members.flatten(0, 1)).reshape(members.shape), []
    for fixed, span in zip(schema.discrete, schema.spans, strict=True):
        if fixed:
            mean = raw[..., span].clamp_min(0).mean(dim=0)
            share = mean / mean.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(mean.dtype).tiny)
            seen.append(1 - torch.special.entr(share).sum(dim=-1) / math.log(share.shape[-1]))
        else:
            seen.append(1 - members[..., span.start].std(dim=0, correction=0).clamp(max=1))
    return torch.stack(seen, dim=-1)
