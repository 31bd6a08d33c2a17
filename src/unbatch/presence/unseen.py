"""Whether the layers that were asked see all numbers of a record: of one that differs from a member in the others they say nothing.

So it is with networks of several towers, each of which is fed a part of the record, and with numbers that a network leaves out. Not asked
of large records behind a change that is not linear, as behind convolutions, where it would take minutes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from unbatch.presence.fed import Passes

__all__ = ["sees_all"]

ASKED = 128
"""Numbers of a record that are changed, each by itself, at most. Chosen: a tower of a twentieth of the record is missed once in 700."""

FAR = 3.0
"""A number is changed by so many times the largest of the record, up and down. Chosen: beyond a clamp, and above what a maximum hides."""

SAME = 1e-9
"""What a layer is fed has not changed where it did by less, relatively. Chosen, far above the rounding of a pass."""


def sees_all(passes: Passes, weights: Sequence[str], record: Tensor, *, linear: bool) -> bool:
    """Whether each number of a record moves what one of the layers at least is fed, as far as that is asked.

    Args:
        passes: of the network.
        weights: names of the weights of the layers that were asked.
        record: (*shape).
        linear: whether what the first of them is fed is linear in the record.
    """
    count = record.numel()
    if not linear and count > ASKED:
        return True
    chosen = torch.randperm(count, generator=Generator().manual_seed(0))[:ASKED].to(record.device)
    step = FAR * float(record.abs().max()) or 1.0
    changed = record.flatten().double().repeat(2 * len(chosen), 1)
    index, signs = torch.arange(len(changed), device=record.device), torch.ones(len(chosen), device=record.device).double()
    changed[index, chosen.repeat(2)] += step * torch.cat([signs, -signs])
    changed = changed.reshape(-1, *record.shape)
    moved = torch.zeros(len(changed), dtype=torch.bool, device=record.device)
    for weight in weights:
        own = passes(record[None].double(), [weight])[weight]
        there = [passes(changed[part], [weight])[weight] - own for part in passes.parts(changed, [weight])]
        moved |= torch.cat([off.flatten(1).abs().amax(dim=1) for off in there]) > SAME * float(own.abs().max())
    return bool((moved[: len(chosen)] | moved[len(chosen) :]).all())
