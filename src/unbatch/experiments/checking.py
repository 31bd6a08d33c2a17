"""Everything in a grid that can be wrong before the first trial: names, settings, files, sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from unbatch.errors import Misuse
from unbatch.experiments.grids import Grid
from unbatch.experiments.identity import built

__all__ = ["check_grid"]

Where = Callable[[str, object], str]
"""Key and value -> where they stand, for a sentence."""


def check_grid(grid: Grid, where: Where) -> None:
    """Build every plug-in once.

    Args:
        grid: lists of specifications.
        where: tells where a value of a list stands.

    Raises:
        Misuse: with the line, what was expected, and what to do.
    """
    kinds = {"models": "models", "protocols": "protocols", "attacks": "attacks", "restorers": "labels", "metrics": "metrics"}
    for key, kind in kinds.items():
        for spec in getattr(grid, key):
            _built(kind, spec, where(key, spec))
    for chain in grid.chains():
        for spec in chain:
            _built("defenses", spec, where("defenses", spec))
    largest = max(grid.batch_sizes)
    for spec in grid.datasets:
        data = _built("datasets", spec, where("datasets", spec))
        most = len(data) // 2 if any(grid.trained) else len(data)
        if "random" in grid.mixes and largest > most:
            half = ", of which half is kept for training" if any(grid.trained) else ""
            came = f"{largest} in {where('batch_sizes', largest)}"
            raise Misuse(f"batch sizes up to {most}", came, f'{spec} has {len(data)} samples{half}; take fewer, or mixes = "repeated"')
    _check_device(grid.device, where("device", None))


def _built(kind: str, spec: str, where: str) -> Any:
    try:
        return built(kind, spec)
    except Misuse as error:
        raise type(error)(error.expected, f"{error.came} in {where}", error.advice) from error


def _check_device(name: str, where: str) -> None:
    try:
        torch.device(name)
    except RuntimeError as error:
        raise Misuse("a device", f"{name!r} in {where}", "write cpu, cuda, cuda:1, ...") from error
