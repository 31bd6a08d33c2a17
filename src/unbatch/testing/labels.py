"""What every label restorer must keep."""

from __future__ import annotations

import torch

from unbatch.contracts import LabelRestorer
from unbatch.testing.promises import Promises, require, unmoved
from unbatch.testing.scenes import SHAPE, network, observe, random_model
from unbatch.types import Counts, Observation

__all__ = ["check_restorer"]


def check_restorer(restorer: LabelRestorer, observation: Observation | None = None) -> None:
    """Hold a label restorer to its contract.

    Args:
        restorer: to be checked.
        observation: that it is made for; without one, four samples of eight classes through two layers, their number told.

    Raises:
        ContractBroken: with every promise that it breaks.

    Example:
        >>> from unbatch.plugins import build
        >>> check_restorer(build("labels", "ilrg"))
    """
    promises = Promises(restorer, "labels")
    seen = observation if observation is not None else _plain(torch.float64)
    with promises.kept("it answers, the same for the same seed, and touches nothing else"):
        with unmoved(seen):
            first, second = restorer(seen, seed=3), restorer(seen, seed=3)
        _require_form(seen, first)
        require(_equal(first, second), "another answer in the second run")
    with promises.kept("it takes float32"):
        if observation is None:
            single = _plain(torch.float32)
            _require_form(single, restorer(single))
    with promises.kept("a model that draws at random is not applicable, with the reason"):
        found = restorer(Observation(random_model(), dict(observe(network()).update), SHAPE, batch_size=5))
        require(not found.applicable and found.counts is None and "Dropout" in found.reason, found.reason or "an answer")
    promises.settle()


def _plain(dtype: torch.dtype) -> Observation:
    return observe(network(classes=8), dtype, samples=4, batch_size=4)


def _equal(first: Counts, second: Counts) -> bool:
    pairs = ((first.presence, second.presence), (first.counts, second.counts))
    return all(one is other if one is None or other is None else torch.equal(one, other) for one, other in pairs)


def _require_form(seen: Observation, found: Counts) -> None:
    presence, counts = found.presence, found.counts
    require(presence is not None, f"no answer: {found.reason}: give an observation that it is made for with observation=")
    if presence is not None:
        came = f"presence of shape {tuple(presence.shape)} and type {presence.dtype}"
        require(tuple(presence.shape) == (seen.classes,) and presence.dtype == torch.bool, came)
    if counts is None:
        require(bool(found.reason), "no counts, and no reason")
        return
    require(counts.dtype == torch.int64 and bool((counts >= 0).all()), "counts that are not whole or below zero")
    require(seen.batch_size in (None, int(counts.sum())), f"counts of {int(counts.sum())} samples for a batch of {seen.batch_size}")
