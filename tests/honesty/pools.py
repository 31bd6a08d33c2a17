"""Real samples for the honesty trials: pictures and tables that lie beside the repository, else scikit-learn's digits."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

PICTURES = {
    "mnist": "mnist_test.npz",
    "fashion": "fashion_mnist_test.npz",
    "cifar10": "cifar10_test.npz",
    "cifar100": "cifar100_test.npz",
    "tinyimagenet": "tinyimagenet_val.npz",
}
TABLES = {"adult": "adult.data", "german": "german.data", "law": "law_school_clean.csv"}
NAMES = (*PICTURES, *TABLES, "digits", "synthetic")
MOST = 4000
"""Samples of a pool, at most."""


@dataclass(frozen=True, eq=False)
class Pool:
    """Samples of one data set.

    Attributes:
        name: ``digits`` where the data set that was asked for is not on this machine.
        inputs: (N, *shape) uint8 for pictures of 0 to 255, float32 for standardized numbers.
        labels: (N,) int64.
        classes: how many there are.
    """

    name: str
    inputs: Tensor
    labels: Tensor
    classes: int

    def take(self, indices: Tensor) -> Tensor:
        """(b, *shape) float64, pictures from 0 to 1."""
        chosen = self.inputs[indices].double()
        return chosen / 255 if self.inputs.dtype == torch.uint8 else chosen


def shared() -> Path:
    """The folder of the real data sets, which need not exist."""
    return Path(os.environ.get("UNBATCH_SHARED") or Path(__file__).resolve().parents[3] / "shared") / "data"


@cache
def pool(name: str) -> Pool:
    """A pool by its name: see ``NAMES``."""
    if name == "synthetic":
        return _synthetic()
    path = shared() / {**PICTURES, **TABLES}.get(name, "")
    if name == "digits" or not path.is_file():
        return _digits()
    return _pictures(name, path) if name in PICTURES else _table(name, path)


def _digits() -> Pool:
    found = load_digits()
    inputs = torch.from_numpy(found.images / 16).float()[:, None]
    return Pool("digits", inputs, torch.from_numpy(found.target).long(), 10)


def _synthetic() -> Pool:
    generator = torch.Generator().manual_seed(20261121)
    inputs = torch.randn((MOST, 3, 6, 6), generator=generator)
    return Pool("synthetic", inputs, torch.randint(5, (MOST,), generator=generator), 5)


def _pictures(name: str, path: Path) -> Pool:
    with np.load(path, allow_pickle=False) as file:
        images, labels = file["images"][:MOST], file["labels"]
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return Pool(name, torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels[:MOST]), int(labels.max()) + 1)


def _table(name: str, path: Path) -> Pool:
    """One-hot for what is not a number, mean 0 and deviation 1 for what is; the last column is the label."""
    with path.open(newline="") as file:
        rows = [line.split() for line in file] if name == "german" else [[cell.strip() for cell in row] for row in csv.reader(file)]
    rows = [row for row in rows[1 if name == "law" else 0 :] if len(row) > 1][:MOST]
    *columns, last = [list(column) for column in zip(*rows, strict=True)]
    values = sorted(set(last))
    encoded = torch.cat([_encoded(column) for column in columns], dim=1).float()
    return Pool(name, encoded, torch.tensor([values.index(cell) for cell in last]), len(values))


def _encoded(column: list[str]) -> Tensor:
    try:
        numbers = torch.tensor([float(cell) for cell in column], dtype=torch.float64)
    except ValueError:
        values = sorted(set(column))
        return torch.nn.functional.one_hot(torch.tensor([values.index(cell) for cell in column]), len(values)).double()
    return ((numbers - numbers.mean()) / numbers.std().clamp_min(1e-9))[:, None]
