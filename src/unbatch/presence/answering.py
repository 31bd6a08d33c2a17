"""From what the layers said of records to an answer for each, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from unbatch.evidence.certificate import MARGIN
from unbatch.presence.rows import Rows
from unbatch.types import Observation, Presence, Verdict

__all__ = ["NEAR", "Case", "answers", "limits"]

NEAR = 3
"""A record that leaves up to this many times what one that was there may leave is too near to be called absent. Chosen. Swept.

Nor is one absent that leaves no more than the root of it, where unrelated ones leave far more: two that are alike leave a second direction
that is the square of their distance, and the number of samples may be another than the one that was told."""


@dataclass(frozen=True, eq=False)
class Case:
    """All that is known of k records, of which those ``chosen`` fit the first layer and were held against inner ones.

    Attributes:
        rows: of the first layer.
        residual: (k,) outside of its row space.
        allowed: (k,) what a record that was there may leave.
        typical: what unrelated ones leave.
        p_value: (k,) that one leaves as little, corrected.
        holds: (k,) whether the record fits where no unrelated one could by chance.
        chosen: indices of those that fit.
        inner: (c,) the largest residual of these at inner layers, None where there is none.
        inner_fits: (c,) whether they fit at all of them.
        inner_holds: (c,) whether they do at one where unrelated ones could not.
        hidden: (c,) share of a record by which a longer, brighter or blended copy may differ from it and pass; 0 where none was tried.
        inner_refuted: (c,) which do not fit at an inner layer that shows every sample, clear of the noise.
        unbiased: (k,) whether the record fits but for what stands for the bias, which no record confirms.
        inner_unbiased: (c,) the same at inner layers.
        linear: whether the first layer sees mixtures as mixtures.
        label: (c,) the class that fits, where it was tested; -1 where several do.
        number: of samples, where it is known.
        alike: how near to each other two members may be that count as one sample.
        complete: whether the rank accounts for all of them.
        trusted: whether the row space is clear of the noise, or the noise was told.
        alpha: the largest p value of a member.
    """

    rows: Rows
    residual: Tensor
    allowed: Tensor
    typical: float
    p_value: Tensor
    holds: Tensor
    chosen: Tensor
    inner: Tensor | None
    inner_fits: Tensor | None
    inner_holds: Tensor | None
    hidden: Tensor
    inner_refuted: Tensor
    unbiased: Tensor
    inner_unbiased: Tensor
    linear: bool
    label: Tensor | None
    number: int | None
    alike: float
    complete: bool
    trusted: bool
    alpha: float


def answers(case: Case) -> Iterator[Presence]:
    """One for every record, in their order."""
    place = {int(index): i for i, index in enumerate(case.chosen.tolist())}
    columns = zip(case.residual.tolist(), case.allowed.tolist(), case.p_value.tolist(), case.holds.tolist(), strict=True)
    for index, (residual, allowed, p_value, holds) in enumerate(columns):
        at = place.get(index)
        verdict, reason = (
            _outside(case, index, residual, allowed, p_value) if at is None else _inside(case, at, residual, allowed, holds, p_value)
        )
        inner = None if at is None or case.inner is None else float(case.inner[at])
        named = None if at is None or case.label is None or verdict is not Verdict.PRESENT else int(case.label[at])
        yield Presence(verdict, residual, allowed, case.typical, p_value, inner, None if named == -1 else named, reason)


def _outside(case: Case, index: int, residual: float, allowed: float, p_value: float) -> tuple[Verdict, str]:
    left = f"{residual:.1e} of it lies outside of the row space, where a record that was there leaves at most {allowed:.0e}"
    if residual <= NEAR * allowed:
        return Verdict.UNDECIDED, f"{left}: too near to tell"
    if residual <= case.alike or residual <= min(math.sqrt(allowed), case.typical / MARGIN):
        return Verdict.UNDECIDED, f"{left}; but {PAIR}"
    if bool(case.unbiased[index]):
        return Verdict.UNDECIDED, f"{left}; but {BIAS}"
    copy = "; unrelated records leave more, so it may be a changed copy of one that was" if p_value <= case.alpha else ""
    if case.complete:
        return Verdict.ABSENT, f"{left}, and its {len(case.rows.values)} directions account for all {case.number} samples{copy}"
    return Verdict.UNDECIDED, f"{left}; but {_unaccounted(case)}{copy}"


BIAS = "not without the gradient of the bias, which may have another scale: no record that was asked for confirms it"


PAIR = "it is so near that it may be one of two that are much alike and left one direction between them, as one sample more would"


def _unaccounted(case: Case) -> str:
    if case.number is None:
        return "how many samples there were is not known (tell the batch size), so some may have left no trace"
    if not case.rows.clear:
        return "noise hides the weak directions, and the samples in them"
    if case.rows.rank < case.number:
        return f"only {case.rows.rank} directions of {case.number} samples are visible: the rest left no trace, or depends on these"
    if case.rows.rank == case.number:
        return f"statistics of the batch, or the loss, leave less than {case.number} directions of so many samples: one of the two is wrong"
    return f"{case.rows.rank} directions are visible where {case.number} samples were told: one of the two is wrong"


def _inside(case: Case, at: int, residual: float, allowed: float, holds: bool, p_value: float) -> tuple[Verdict, str]:
    here = f"it lies in the row space but for {residual:.0e}"
    if not case.trusted:
        told = f"{here}, but noise or other samples fill all directions, and only the strongest were asked (p = {p_value:.1g})"
        return Verdict.UNDECIDED, f"{told}: tell the noise (--noise) if it is known"
    if not holds:
        return Verdict.UNDECIDED, f"{here}, but unrelated records leave no more than {case.typical:.0e}: that tells nothing"
    if p_value > case.alpha:
        told = f"{here}, and unrelated records leave {case.typical:.0e}, but so unevenly that one might leave as little (p = {p_value:.1g})"
        return Verdict.UNDECIDED, f"{told}: ask for more of them beside it"
    beside = f"{here}, where unrelated records leave {case.typical:.1e} (p ≤ {max(p_value, 1e-300):.0e} for all that were asked for)"
    if case.inner is None or case.inner_fits is None or case.inner_holds is None:
        return (
            Verdict.IN_SPAN,
            f"{beside}; no layer behind a change that is not linear shows the batch, so a mixture of members is not excluded",
        )
    if not bool(case.inner_fits[at]):
        if bool(case.inner_unbiased[at]):
            return Verdict.UNDECIDED, f"{here}, but {float(case.inner[at]):.0e} of what it becomes lies outside further on; but {BIAS}"
        off = f"{here}, but {float(case.inner[at]):.0e} of what it becomes lies outside further on: a mixture of what was there"
        if not bool(case.inner_refuted[at]):
            return Verdict.UNDECIDED, f"{off}, unless that layer shows only a part of the batch"
        return Verdict.ABSENT, off
    if not bool(case.inner_holds[at]):
        return (
            Verdict.IN_SPAN,
            f"{beside}; further on, unrelated records, blends or changed copies fit as well, or a part of it is not seen: a mixture of"
            " members is not excluded",
        )
    known = f"a copy of it that feeds the layer the same but for {allowed:.0e} would pass too"
    if hidden := float(case.hidden[at]):
        known = f"{known}, or one that is longer, brighter, or blended with its nearest other record here, by up to {hidden:.0e} of it"
    return Verdict.PRESENT, f"{beside}, and what it becomes further on fits as well ({float(case.inner[at]):.0e}); {known}"


def limits(observation: Observation, case: Case, made_up: bool, *, given: bool) -> tuple[str, ...]:
    """What a reader must know of all answers."""
    said = ["this very record is asked for, as the network sees it: an augmented or compressed copy is another record"]
    measured = "given records" if given else "records that lie outside, or were made of parts of these"
    said.append(f"what unrelated records leave was measured on {measured}; p values take its logarithm for normally distributed")
    if made_up:
        said.append("even a record that was made up from the update is excluded: it would have to meet more conditions than it has numbers")
    else:
        said.append(
            "a record that was chosen without knowledge of the update is what is asked for: one that was made up from it is not excluded"
        )
    if not observation.one_gradient:
        said.append("the client trained locally: only layers that its training left in place were asked")
    if observation.rounding != observation.dtype:
        said.append(f"the numbers of the update are those of {str(observation.rounding).removeprefix('torch.')}")
    if case.complete and case.number == observation.batch_size:
        said.append(f"that nobody is unseen rests on the batch size that was told, {case.number}")
    if case.number is not None and case.rows.rank > case.number and case.rows.clear:
        said.append(f"the rank {case.rows.rank} contradicts a batch of {case.number}")
    return tuple(said)
