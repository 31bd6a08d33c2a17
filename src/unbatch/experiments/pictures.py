"""A small picture of a trial: the client's samples above, and below each what was made of it."""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from unbatch.report.pictures import Scale
from unbatch.types import Batch

__all__ = ["drawing"]

MOST, SIDE, GAP = 8, 64, 2
"""Samples of a picture, the side that each has at most, and the white between them, in pixels."""


def drawing(batch: Batch, guesses: Tensor, order: Sequence[int]) -> bytes | None:
    """The first few samples as a PNG; None where samples are no pictures.

    Args:
        batch: the client's.
        guesses: (k, *shape) as the network sees them.
        order: for every sample of the batch the index of its guess, -1 where there is none.
    """
    if batch.schema.kind != "image":
        return None
    truth, made = (batch.schema.decode(inputs.detach().cpu().double()) for inputs in (batch.inputs, guesses))
    scale = Scale.fit(truth, raw=bool(batch.schema.mean))
    blank = torch.full_like(scale(truth[0]), 0.5)
    above = [scale(sample) for sample in truth[:MOST]]
    below = [scale(made[partner]) if partner >= 0 else blank for partner in order[:MOST]]
    tiles = torch.stack([*above, *below])
    longest = max(tiles.shape[2:])
    if longest > SIDE:
        tiles = F.interpolate(tiles, scale_factor=SIDE / longest, mode="area")
    return _png(tiles, columns=len(above))


def _png(tiles: Tensor, columns: int) -> bytes:
    """Tiles (2 c, 1 or 3, H, W) from 0 to 1, in two rows."""
    height, width = tiles.shape[2:]
    sheet = torch.ones(3, 2 * height + GAP, columns * (width + GAP) - GAP)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        top, left = row * (height + GAP), column * (width + GAP)
        sheet[:, top : top + height, left : left + width] = tile
    file = io.BytesIO()
    Image.fromarray((sheet * 255).round().byte().permute(1, 2, 0).numpy()).save(file, "PNG", optimize=True)
    return file.getvalue()
