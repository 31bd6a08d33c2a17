"""Records of which the network makes no finite numbers, as of a blank one divided by its own spread: nothing is said of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from unbatch.presence.fed import Passes, Witness
from unbatch.types import Membership, Presence, Verdict

__all__ = ["finite", "with_blanks"]

BLANK = "the network makes no finite numbers of this record, so that nothing can be held against the update"


def finite(passes: Passes, found: Sequence[Witness], records: Tensor) -> Bool[Tensor, " k"]:
    """(k,) which records feed the first of these layers finite numbers; all, where it is not reached by each alone.

    Args:
        passes: of the model.
        found: the layers that can be asked.
        records: (k, *shape).
    """
    kept = torch.ones(len(records), dtype=torch.bool, device=records.device)
    if not found or not records.is_floating_point():
        return kept
    weight = found[0].weight
    for part in passes.parts(records, [weight]):
        fed = passes(records[part], [weight]).get(weight)
        if fed is not None:
            kept[part] = fed.isfinite().flatten(1).all(dim=1)
    return kept


def with_blanks(found: Membership | None, kept: Bool[Tensor, " k"]) -> Membership:
    """The answers to those records that were ``kept``, and that nothing is known of the others.

    Args:
        found: of the records that were kept, or None if there are none.
        kept: (k,) see ``finite``.
    """
    given = iter(() if found is None else found.answers)
    answers = tuple(next(given) if one else Presence(Verdict.UNDECIDED, reason=BLANK) for one in kept.tolist())
    return Membership(answers, reason=BLANK) if found is None else replace(found, answers=answers)
