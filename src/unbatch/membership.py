"""Was this very record in the batch? Asked of one update, for records that the asker has."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import torch
from torch import Tensor

from unbatch.errors import Misuse
from unbatch.presence import presence
from unbatch.types import HUGE, Membership, Observation

__all__ = ["check_readable", "members"]


def members(
    observation: Observation,
    candidates: Tensor,
    labels: Tensor | None = None,
    *,
    reference: Tensor | None = None,
    noise: float | None = None,
) -> Membership:
    """Tell for every candidate whether it was in the batch of an update.

    Every sample leaves what it feeds a Linear layer with in the row space of the layer's gradient. So no reconstruction is needed, no
    particular activation, and no small batch; the layer must see records one by one, and have more neurons than the batch has samples.

    Args:
        observation: what the server saw.
        candidates: (k, *shape) as the network sees them; tokens as whole numbers.
        labels: (k,) int64, theirs where they are known.
        reference: (j, *shape) records of the same kind that were not in the batch, to measure what these leave.
        noise: standard deviation of noise on every number of the update, where it is known.

    Raises:
        Misuse: shapes or types that do not fit the observation.

    Example:
        >>> from torch import nn
        >>> from unbatch.gradients import capture
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch...>
        >>> net = nn.Sequential(nn.Linear(60, 40), nn.GELU(), nn.Linear(40, 40), nn.GELU(), nn.Linear(40, 3)).double()
        >>> x, y = torch.randn(20, 60).double(), torch.arange(20) % 3
        >>> seen = Observation(net, capture(net, x[:10], y[:10]), (60,), batch_size=10)
        >>> members(seen, x).summary()
        '20 records asked for: 10 PRESENT, 10 ABSENT'
    """
    check_readable(observation)
    start = time.perf_counter()
    candidates = _checked(observation, candidates, "candidates")
    reference = None if reference is None else _checked(observation, reference, "reference")
    if labels is not None and (labels.ndim != 1 or len(labels) != len(candidates) or labels.dtype != torch.int64):
        came = f"shape {tuple(labels.shape)} and type {labels.dtype}"
        raise Misuse(f"{len(candidates)} labels of type int64", came, "give one class index a candidate, or none")
    if labels is not None and not 0 <= int(labels.min()) <= int(labels.max()) < observation.classes:
        came = f"{int(labels.min())} to {int(labels.max())}"
        raise Misuse(f"labels from 0 to {observation.classes - 1}", came, "give indices of the model's classes")
    if noise is not None and not 0 < noise < math.inf:
        raise Misuse("a standard deviation of the noise above zero", repr(noise), "leave it out if there is none")
    labels = None if labels is None else labels.to(observation.device)
    found = presence(observation, candidates, labels, reference, noise)
    return replace(found, stats={**found.stats, "seconds": time.perf_counter() - start})


def check_readable(observation: Observation) -> None:
    """Refuse an update that no record can be held against.

    Raises:
        Misuse: with the reason, and what to ask instead.
    """
    if observation.unreadable:
        advice = "ask which tokens were used instead: unbatch audit, or unbatch.tokens(observation)"
        raise Misuse("an update that records can be held against", observation.unreadable, advice)


def _checked(observation: Observation, records: Tensor, what: str) -> Tensor:
    if tuple(records.shape[1:]) != observation.input_shape or not len(records):
        came = f"{tuple(records.shape)}"
        raise Misuse(f"{what} of shape (k, {', '.join(map(str, observation.input_shape))})", came, "give them as the network sees them")
    tokens = observation.schema is not None and observation.schema.kind == "tokens"
    if records.is_floating_point() == tokens:
        raise Misuse(f"{what} that are {'tokens' if tokens else 'numbers'}", str(records.dtype), "give them as the network sees them")
    if tokens and not 0 <= int(records.min()) <= int(records.max()) < (observation.schema.vocabulary if observation.schema else 0):
        raise Misuse(f"{what} of the model's vocabulary", f"{int(records.min())} to {int(records.max())}", "use the model's own tokenizer")
    if not tokens and not bool((torch.stack(records.aminmax()).abs() <= HUGE).all()):
        raise Misuse(f"finite {what}, up to {HUGE:.0e}", "NaN, infinity or larger numbers", "give them as the network sees them")
    return records.to(observation.device)
