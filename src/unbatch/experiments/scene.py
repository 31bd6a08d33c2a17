"""What a trial is played with: a batch drawn in a given mix of classes, and a model with so much training behind it."""

from __future__ import annotations

import copy
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unbatch import seeds
from unbatch.contracts import Dataset, Model
from unbatch.errors import Misuse
from unbatch.experiments.identity import built, files_digest
from unbatch.store.trials import Settings
from unbatch.types import Batch

__all__ = ["drawn", "victim"]

RATE, STEP = 1e-3, 64
"""Learning rate of Adam, and samples of a step, in training before the attack."""


def _classes_of(data: Dataset) -> int:
    """As many as the data set names; at least two, for with one there is no gradient."""
    return max(2, len(data.schema.classes))


def drawn(data: Dataset, settings: Settings) -> Batch:
    """The client's batch: of a trained model from the half of the data that the training did not see.

    Raises:
        Misuse: there are too few samples, or a mix of classes cannot have this size.
    """
    start = len(data) // 2 if settings.trained else 0
    generator = seeds.generator(settings.seed, "data")
    size, total = settings.batch_size, len(data) - start
    if settings.mix == "random" and not settings.trained:
        return data.batch(size, seeds.derive(settings.seed, "data"))  # as `unbatch demo` draws it
    if settings.mix == "random":
        if size > total:
            raise Misuse(f"a batch of at most {total} samples", str(size), "take fewer, or the mix repeated")
        return data.take(start + torch.randperm(total, generator=generator)[:size])
    if settings.mix == "repeated":
        return data.take(start + torch.randint(total, (size,), generator=generator))
    pool = torch.arange(start, len(data))
    labels = torch.cat([data.take(part).labels for part in torch.split(pool, 256)])
    return data.take(start + _by_class(labels, _counts(settings, _classes_of(data), generator), generator))


def _counts(settings: Settings, classes: int, generator: torch.Generator) -> Tensor:
    """(C,) how many of each class."""
    size, mix = settings.batch_size, settings.mix
    counts = torch.zeros(classes, dtype=torch.int64)
    some = torch.randperm(classes, generator=generator)
    if mix == "unique":
        if size > classes:
            raise Misuse(f"a batch of at most {classes} samples, one of every class", str(size), "take fewer")
        counts[some[:size]] = 1
    elif mix == "one":
        counts[some[0]] = size
    elif mix == "imbalanced":
        if size < 3 or classes < 3:
            raise Misuse("at least 3 samples of 3 classes", f"{size} of {classes}", "take more")
        counts[some[:3]] = torch.tensor([size - 2, 1, 1])
    else:
        random = np.random.default_rng(int(torch.randint(1 << 31, (1,), generator=generator)))
        shares = random.dirichlet(np.full(classes, float(mix.partition(":")[2])))
        counts = torch.from_numpy(random.multinomial(size, shares))
    return counts


def _by_class(labels: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
    """Indices with these counts of classes; with replacement where a class has too few samples."""
    chosen = []
    for label, count in enumerate(counts.tolist()):
        pool = (labels == label).nonzero()[:, 0]
        if count and not len(pool):
            raise Misuse(f"samples of class {label}", "none in the data", "take another mix or another data set")
        few = torch.randperm(len(pool), generator=generator)[:count]
        chosen.append(pool[few if count <= len(pool) else torch.randint(len(pool), (count,), generator=generator)])
    return torch.cat(chosen)


def victim(data: Dataset, settings: Settings, device: str) -> nn.Module:
    """The broadcast model, in the type in which the client computes."""
    model = _network(
        settings.dataset,
        files_digest(settings.dataset),
        settings.model,
        data.input_shape,
        _classes_of(data),
        settings.seed,
        settings.trained,
    )
    return copy.deepcopy(model).to(device=device, dtype=getattr(torch, settings.dtype))


@lru_cache(maxsize=2)
def _network(dataset: str, _files: str, spec: str, shape: tuple[int, ...], classes: int, seed: int, steps: int) -> nn.Module:
    """Fresh, or trained on the first half of the data, in float32."""
    plugin: Model = built("models", spec)
    model = plugin.build(shape, classes, seeds.derive(seed, "weights"))
    if not steps:
        return model
    data: Dataset = built("datasets", dataset)
    training, half = model.training, len(data) // 2
    generator = seeds.generator(seed, "weights")
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    pool = data.take(torch.arange(half))
    inputs = pool.inputs.float()
    for _ in range(steps):
        chosen = torch.randint(half, (min(STEP, half),), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[chosen]), pool.labels[chosen]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    optimizer.zero_grad()
    return model.train(training)
