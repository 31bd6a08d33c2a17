"""Whether the layers that were asked see all numbers of a record: of one that differs from a member in the others they say nothing.

So it is with networks of several towers, each of which is fed a part of the record, with a frame that is cut off, and with numbers that a
network leaves out. One pass back asks all numbers at once; those that it does not see, where a maximum or a kink hides them, are changed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from unbatch.presence.fed import Passes

__all__ = ["sees_all"]

DRAWN = 3
"""Records that are drawn about the one that is asked for. Chosen: what no maximum and no kink hides at one of them is seen."""

ASKED = 128
"""Numbers that the pass back does not see are changed, each by itself: so many at most. Chosen: a budget, for rounding hides all."""

FAR = 3.0
"""A number is changed by so many times the largest of the record, up and down. Chosen: beyond a clamp, and above what a maximum hides."""

SAME = 1e-9
"""What a layer is fed has not changed where it did by less, relatively. Chosen, far above the rounding of a pass."""


def sees_all(passes: Passes, weights: Sequence[str], record: Tensor) -> bool:
    """Whether each number of a record moves what one of the layers at least is fed, as far as that is asked.

    Args:
        passes: of the network.
        weights: names of the weights of the layers that were asked.
        record: (*shape).
    """
    record = record.double()
    size, generator = float(record.abs().max()) or 1.0, Generator().manual_seed(0)
    drawn = torch.randn((DRAWN, *record.shape), generator=generator, dtype=torch.float64).to(record.device)
    slopes = passes.slopes(torch.cat([record[None], record + size * drawn]), weights).flatten(1)
    blind = (~(slopes != 0).any(dim=0)).nonzero()[:, 0]
    chosen = blind[torch.randperm(len(blind), generator=generator).to(blind.device)[:ASKED]]
    return not len(chosen) or _moved(passes, weights, record, chosen, FAR * size)


def _moved(passes: Passes, weights: Sequence[str], record: Tensor, chosen: Tensor, step: float) -> bool:
    """Whether each of the numbers that were chosen moves what a layer is fed, as it is changed by itself."""
    changed = record.flatten().repeat(2 * len(chosen), 1)
    index, signs = torch.arange(len(changed), device=record.device), torch.ones(len(chosen), device=record.device).double()
    changed[index, chosen.repeat(2)] += step * torch.cat([signs, -signs])
    changed = changed.reshape(-1, *record.shape)
    moved = torch.zeros(len(changed), dtype=torch.bool, device=record.device)
    for weight in weights:
        own = passes(record[None], [weight])[weight]
        there = [passes(changed[part], [weight])[weight] - own for part in passes.parts(changed, [weight])]
        moved |= torch.cat([off.flatten(1).abs().amax(dim=1) for off in there]) > SAME * float(own.abs().max())
    return bool((moved[: len(chosen)] | moved[len(chosen) :]).all())
