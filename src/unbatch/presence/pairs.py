"""Whether the mean of two members that are much alike would show by its column, where no layer behind tells it from a member.

Members x ± δ of one label leave columns d(x ± δ), and both lie in the column space. What of d(x) does not is of second order,

    d(x) − (d(x + δ) + d(x − δ)) / 2,

and a tolerance of 2e-5 hides a hundredth: two rows of a table that are alike but for one number, and the row between them.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from unbatch.evidence.replay import slices
from unbatch.gradients import sensitivities
from unbatch.presence.blends import moved_within
from unbatch.presence.fed import CHUNK, Passes
from unbatch.presence.rows import Rows

__all__ = ["means_show"]


def means_show(
    passes: Passes,
    rows: Rows,
    records: Float[Tensor, " c *shape"],
    labels: Int64[Tensor, " c"],
    allowed: Float[Tensor, " c"],
) -> Bool[Tensor, " c"]:
    """Whether each record would show if it were the mean of two members a hundredth of its length to either side, within the row space.

    Args:
        passes: of records as far as a layer.
        rows: row space of the layer that sees the records.
        records: that fit it.
        labels: (c,) theirs.
        allowed: (c,) what of a member's column may lie outside of the column space, as a share.
    """
    model, loss = passes.observation.model, passes.observation.loss

    def columns(given: Tensor) -> Float[Tensor, "c m"]:
        parts = slices(len(given), CHUNK // (64 * len(rows.left)))
        found = [sensitivities(model, given[part], rows.weight, loss) for part in parts]
        return torch.cat(
            [each[labels[part], torch.arange(each.shape[1], device=each.device)] for each, part in zip(found, parts, strict=True)]
        )

    shown = torch.ones_like(labels, dtype=torch.bool)
    if not len(records):
        return shown
    exact = records.double()
    here = columns(exact)
    for moved in moved_within(rows, records):
        bent = (columns(moved) + columns(2 * exact - moved)) / 2 - here
        outside = bent - (bent @ rows.left) @ rows.left.T
        shown &= outside.norm(dim=1) > allowed * here.norm(dim=1)
    return shown
