"""What every metric does first: see that truth and guess can be compared."""

from __future__ import annotations

import math

from torch import Tensor

from unbatch.errors import Misuse
from unbatch.schema import Schema

__all__ = ["checked", "checked_cells", "not_pictures"]


def checked(truth: Tensor, guess: Tensor, data_range: float) -> tuple[Tensor, Tensor]:
    """Both in float64 on the CPU, (n, *shape).

    Raises:
        Misuse: the shapes differ, or the range is not above zero.
    """
    if truth.shape != guess.shape or truth.ndim < 2:
        raise Misuse("two tensors of one shape (n, *shape)", f"{tuple(truth.shape)} and {tuple(guess.shape)}", "match the samples first")
    if not (math.isfinite(data_range) and data_range > 0):
        raise Misuse("a data range above zero", repr(data_range), "give the span of the raw values: 1 for pictures from 0 to 1")
    return truth.detach().cpu().double(), guess.detach().cpu().double()


def checked_cells(truth: Tensor, guess: Tensor, schema: Schema | None) -> tuple[Tensor, Tensor, Schema]:
    """Cells of a table, (n, f) float64 on the CPU twice, and the table's schema.

    Raises:
        Misuse: the shapes differ, or the schema is none of a table with f columns.
    """
    left, right = checked(truth, guess, data_range=1.0)
    if schema is None or schema.kind != "table" or left.shape[1:] != (len(schema.columns),):
        came = "none" if schema is None else f"kind {schema.kind!r} of {len(schema.columns)} columns for cells {tuple(left.shape)}"
        raise Misuse("the schema of the table that the cells are from", came, "compare what Schema.decode gives")
    return left, right, schema


def not_pictures(shape: tuple[int, ...], smallest: int) -> str | None:
    """Why samples of this shape are not pictures (C, H, W) of at least ``smallest`` pixels a side, or None if they are.

    Example:
        >>> not_pictures((1, 8, 8), smallest=32)
        'pictures of 8 x 8 pixels are below 32 x 32'
    """
    if len(shape) != 3:
        return f"samples of shape {shape} are not pictures (C, H, W)"
    if min(shape[1:]) < smallest:
        return f"pictures of {shape[1]} x {shape[2]} pixels are below {smallest} x {smallest}"
    return None
