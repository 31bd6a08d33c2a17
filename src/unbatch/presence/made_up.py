"""Whether the layers behind the first refute every record that somebody makes up within the first one's row space."""

from __future__ import annotations

import torch
from torch import Tensor

from unbatch.evidence.certificate import EVIDENCE, FINEST, SPARE
from unbatch.presence.fed import Passes
from unbatch.presence.rows import Rows
from unbatch.presence.unrelated import INDEPENDENT

__all__ = ["refuted_if_made_up"]

MOST = 544
"""Records that are made up at most to count conditions."""


def refuted_if_made_up(passes: Passes, rows: Rows, inner: list[Rows], records: Tensor, tolerance: float) -> bool:
    """Whether records made up in the first row space violate the inner conditions in more independent ways than there are to tune.

    Args:
        passes: of records through the network.
        rows: row space of the first layer.
        inner: those of layers behind it.
        records: whose size those made up are given.
        tolerance: what a record that was there may leave.
    """
    numbers = records[0].numel()
    count = rows.rank + SPARE
    if (
        not records.is_floating_point()
        or count > MOST
        or sum(r.spare for r in inner) < count
        or rows.right.shape[1] not in (numbers, numbers + 1)
    ):
        return False
    generator = torch.Generator(records.device).manual_seed(0)
    drawn = torch.randn((count, rows.rank), generator=generator, dtype=torch.float64, device=records.device) * rows.values
    made = (drawn @ rows.right)[:, :numbers]
    made = made * (records.double().flatten(1).norm(dim=1).median() / made.norm(dim=1, keepdim=True).clamp_min(1e-300))
    found = []
    for part in inner:
        fed = part.extended(passes(made.reshape(-1, *records.shape[1:]), [part.weight])[part.weight][:, 0])
        found.append((fed - fed @ part.right.T @ part.right) / fed.norm(dim=1, keepdim=True).clamp_min(1e-300))
    values = torch.linalg.svdvals(torch.cat(found, dim=1))
    ways = int((values > INDEPENDENT * float(values[0])).sum()) - rows.rank
    eps = max(tolerance, FINEST)
    return ways * -float(torch.tensor(eps).log10()) >= EVIDENCE
