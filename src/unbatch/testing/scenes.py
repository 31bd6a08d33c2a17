"""Plain cases to try plug-ins on: small networks, small batches, fixed draws."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from unbatch.gradients import capture
from unbatch.schema import Categorical, Continuous
from unbatch.types import Observation, Schema

__all__ = ["CLASSES", "SHAPE", "TABLE", "drawn", "network", "observe", "random_model", "scenes"]

SHAPE, CLASSES = (3, 4, 4), 4

TABLE = Schema(
    "table",
    std=(10.0, 1.0, 1.0, 1.0, 2.0, 1.0, 1.0),
    mean=(0.0,) * 7,
    columns=(
        Continuous("age", 0, 200, "years", rounding=1),
        Categorical("color", ("red", "green", "blue")),
        Continuous("income"),
        Categorical("sex", ("f", "m")),
    ),
)
"""Columns of both kinds, one of them rounded."""


def network(activation: type[nn.Module] = nn.ReLU, inputs: int = 48, classes: int = CLASSES) -> nn.Sequential:
    """Two layers, the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 40), activation(), nn.Linear(40, classes))


def random_model() -> nn.Module:
    """One with a dropout that is active."""
    return nn.Sequential(*network(), nn.Dropout(0.5)).double()


def drawn(shape: tuple[int, ...], seed: int = 5) -> Tensor:
    """Normal numbers, float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def observe(
    model: nn.Module,
    dtype: torch.dtype = torch.float64,
    samples: int = 5,
    batch_size: int | None = None,
    inputs: Tensor | None = None,
    schema: Schema | None = None,
) -> Observation:
    """What a server sees of a batch of random samples, or of these."""
    model = model.to(dtype)
    fed = drawn((samples, *SHAPE)).to(dtype) if inputs is None else inputs.to(dtype)
    update = capture(model, fed, torch.arange(len(fed)) % CLASSES)
    return Observation(model, update, tuple(fed.shape[1:]), batch_size=batch_size, schema=schema)


def scenes(dtype: torch.dtype = torch.float64) -> Iterator[Observation]:
    """One sample behind sigmoids; five behind ReLU, their number told or not; a picture through a convolution; rows of a table."""
    yield observe(network(nn.Sigmoid), dtype, 1, 1)
    yield observe(network(), dtype)
    yield observe(network(), dtype, batch_size=5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        convolution = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(24, CLASSES))
    yield observe(convolution, dtype, 1, 1)
    cells = TABLE.cells([(39, "red", 20.5, "f"), (51, "blue", 3.25, "m")])
    yield observe(network(inputs=TABLE.width), dtype, batch_size=2, inputs=TABLE.encode(cells), schema=TABLE)
