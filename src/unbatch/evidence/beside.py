"""What of a proposal is passed on beside what was proved, for people to look at: no evidence."""

from __future__ import annotations

import torch
from torch import Tensor

from unbatch.types import Candidate, Reconstruction, Status

__all__ = ["approximate", "certainty", "comes_near"]

EXPLAINED = 0.3
"""A batch whose replay is at most this far from the update explains nine tenths of its energy: approximate, not wrong. Derived: 0.3² is a
tenth. Swept."""


def comes_near(residual: float) -> bool:
    """Whether a replay that is so far from the update makes its batch an approximate one."""
    return residual <= EXPLAINED


def approximate(candidate: Candidate, made: Reconstruction) -> Tensor | None:
    """(j, *input_shape) the samples that are not proved, where all together come as near to the update as an approximate batch must.

    Noise may leave one sample of twenty proved, and the others right to four digits: who sees the one alone takes the update for safer than
    it is.

    Args:
        candidate: what the attack proposed.
        made: what the evidence made of it.
    """
    if made.status is not Status.PARTIAL or made.explained or made.inputs is None or candidate.inputs is None:
        return None
    if made.residual is None or not comes_near(made.residual):
        return None
    proved = {_bytes(row) for row in made.inputs}
    given = candidate.inputs.to(made.inputs.dtype)
    rest = [index for index, row in enumerate(given) if _bytes(row) not in proved]
    return given[rest] if rest else None


def _bytes(row: Tensor) -> bytes:
    return row.cpu().numpy().tobytes()


def certainty(candidate: Candidate, made: Reconstruction) -> Tensor | None:
    """What the attack says of its cells, where the samples are still those that it proposed."""
    said, kept = candidate.certainty, made.inputs
    if said is None or kept is None or candidate.inputs is None or said.ndim != 2 or not len(said) == len(kept) == len(candidate.inputs):
        return None
    return said.double().clamp(0, 1) if bool(said.isfinite().all()) and torch.equal(kept, candidate.inputs.to(kept.dtype)) else None
