"""Whether given records were in the batch, by what they feed the layers with: in the row space of the gradient, or not.

    PRESENT     at every layer that was asked, one behind a change that is not linear among them, the record lies in the row space up to
                the rounding of the update, and unrelated records of the same kind leave so much more that none could by chance
    IN_SPAN     so at a layer that sees the record itself only: a mixture of members would pass as well
    ABSENT      it lies outside, beyond what noise explains, and the rank accounts for every sample
    UNDECIDED   all else

No reconstruction is needed, no particular activation, and no small batch: the rank may go up to the number of neurons less one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from unbatch.evidence.certificate import EVIDENCE, MARGIN
from unbatch.evidence.replay import slices
from unbatch.gradients import sensitivities
from unbatch.presence.answering import NEAR, Case, answers, limits
from unbatch.presence.blends import Apart, apart_from_blends, apart_from_changes, beyond_count, moved_within
from unbatch.presence.classes import fitting, nearest
from unbatch.presence.fed import CHUNK, Passes, Witness, passes_of, witnesses
from unbatch.presence.finite import finite, with_blanks
from unbatch.presence.first import first_layer
from unbatch.presence.headcount import accounts_for, number_of
from unbatch.presence.made_up import refuted_if_made_up
from unbatch.presence.pairs import bends_hide, means_show, pairs_hide
from unbatch.presence.rows import Rows, outside_without_bias, rows_of
from unbatch.presence.unrelated import FEW, Reference, decoys, holm, reference_of
from unbatch.presence.unseen import sees_all
from unbatch.types import Membership, Observation, Presence, Verdict

__all__ = ["presence"]

TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""What a record that was there may leave by the rounding of the client's own pass, by the type of the update or the weights. Chosen, as in
``judge``. Swept."""

INNER = 2
"""Layers behind the first that are asked."""

SHOWN = 0.9
"""A layer behind the first must show this share of its rank: otherwise it is too narrow for the batch. Chosen. Swept."""

ALPHA = 1e-3
"""Chance that any unrelated record is taken for a member by what it leaves. Chosen. Swept."""

LONGER = 1.1
"""A record is made so much longer to see whether its column tells. Chosen: far above rounding, and near enough to meet few kinks."""

MOST_CLASSES = 64
"""Classes whose columns are made room for; of more the passes get large rather than many. Chosen: a budget."""

TRIED = 8
"""Records of which the number of samples is read off."""


@dataclass(frozen=True, eq=False)
class _Asked:
    """What one layer said of k records.

    Attributes:
        rows: the layer's row space, None where its columns were asked instead.
        residual: (k,).
        allowed: (k,) what a record that was there may leave.
        reference: what unrelated ones leave.
        each: with how many rows a record feeds the layer.
        named: (k,) the class that fits where columns were asked, -1 where several do or none.
    """

    rows: Rows | None
    residual: Float[Tensor, " k"]
    allowed: Float[Tensor, " k"]
    reference: Reference
    each: int = 1
    named: Int64[Tensor, " k"] | None = None

    @property
    def fits(self) -> Bool[Tensor, " k"]:
        """Which records may have been there."""
        return self.residual <= self.allowed

    def holds(self) -> Bool[Tensor, " k"]:
        """Which records fit where hardly any unrelated one could."""
        if self.rows is not None and self.rows.deviation:
            return self.fits & (self.reference.p_values(self.residual) <= ALPHA)
        return self.fits & (self.reference.digits(self.residual.maximum(self.allowed / MARGIN)) >= EVIDENCE)


def presence(
    observation: Observation,
    records: Tensor,
    labels: Int64[Tensor, " k"] | None = None,
    reference: Tensor | None = None,
    deviation: float | None = None,
) -> Membership:
    """Ask for each record whether it was in the batch.

    Args:
        observation: what the server saw.
        records: (k, *shape) as the network sees them.
        labels: (k,) theirs, where they are known.
        reference: (j, *shape) records of the same kind that were not there, or None to take what lies outside of ``records``.
        deviation: standard deviation of noise on every number of the update, where it is known.
    """
    passes = passes_of(observation)
    found = witnesses(passes)
    if not bool((kept := finite(passes, found, records)).all()):
        named = labels if labels is None else labels[kept]
        return with_blanks(presence(observation, records[kept], named, reference, deviation) if bool(kept.any()) else None, kept)
    if reference is not None and not len(reference := reference[finite(passes, found, reference)]):
        reference = None
    first, why = first_layer(passes, found, records, deviation)
    if first is None:
        return Membership(tuple(Presence(Verdict.UNDECIDED, reason=why) for _ in records), reason=why)
    witness, rows, _ = first
    whole = _asked(passes, rows, records, reference)
    chosen = whole.fits.nonzero()[:, 0]
    further = _further(passes, found, first, records[chosen], labels if labels is None else labels[chosen], deviation)
    behind, number = further.behind, further.number
    made_up = bool(behind) and refuted_if_made_up(passes, rows, behind, records, TOLERANCE.get(observation.rounding, 1.0))
    case = _case(passes, first, whole, records, chosen, further, told=deviation is not None)
    return Membership(
        tuple(answers(case)),
        witness.weight,
        tuple(layer.weight for layer in behind),
        rows.rank,
        rows.right.shape[1],
        whole.reference.equations if rows.deviation else min(rows.spare, whole.reference.equations),
        number,
        case.complete,
        made_up,
        remarks=limits(observation, case, made_up, given=reference is not None),
    )


@dataclass(frozen=True, eq=False)
class _Further:
    """What was asked of the c records that fit the first layer.

    Attributes:
        inner: what layers behind a change that is not linear said of them, or their columns.
        label: (c,) the class that fits, where it was tested; -1 where several do.
        number: of samples, where it is known.
        apart: whether another record in the place of one would show.
        alike: how near to each other two members may be that count as one sample, where the number was read off them; else 0.
    """

    inner: list[_Asked]
    label: Int64[Tensor, " c"] | None
    number: int | None
    apart: Apart
    alike: float = 0.0

    @property
    def behind(self) -> list[Rows]:
        """Row spaces of the layers behind."""
        return [asked.rows for asked in self.inner if asked.rows is not None]


def _further(
    passes: Passes,
    found: list[Witness],
    first: tuple[Witness, Rows, int],
    records: Tensor,
    labels: Int64[Tensor, " c"] | None,
    deviation: float | None,
) -> _Further:
    """Hold the records that fit the first layer against inner ones, and against what their columns say."""
    observation, (witness, rows, each) = passes.observation, first
    label, number, alike = None, observation.batch_size, 0.0
    if not len(records):
        return _Further([], label, number, Apart(records.new_ones(0).bool(), records.new_zeros(0).double()))
    inner = list(_inner(passes, found, (witness, rows), records, deviation))
    alone = witness.linear and not inner
    columns = each == 1 and observation.one_gradient and not observation.coupled
    plain = isinstance(observation.loss, str) and "weight" not in observation.loss
    check = number is not None and rows.clear and rows.rank == number * each and plain and observation.factor_known
    blurred = 0.0
    if columns and (number is None or alone or check or rows.rank < number):
        tried = slice(None if alone else TRIED)
        asked, label_of, inverse = _by_columns(passes, rows, records[tried], labels if labels is None else labels[tried])
        if alone:
            inner, label = [asked], asked.named
        hide = pairs_hide(passes, rows, records[tried], label_of, inverse)
        one = asked.fits & hide.isfinite()  # others may stand for several that leave what one does
        behind = [(layer.rows.weight, layer.allowed[tried]) for layer in inner if layer.rows is not None]
        if behind and observation.batch_size != rows.rank and records.is_floating_point():  # nothing lies between two words
            between = hide.minimum(bends_hide(passes, behind, records[tried]))[asked.fits]
            blurred = float(between.max()) if len(between) else 0.0
        read = number_of(observation, records[tried][one], label_of[one], inverse[one])
        # Fewer may be said of members that were there several times; more refutes what was told, or there were unseen ones beside these.
        if number is None or (check and read is not None and read > number):
            number, alike = read, float(hide[one].max()) if len(hide[one]) else 0.0
    apart = _apart(passes, witness, rows, inner, records, labels, columns=columns)
    if blurred == torch.inf:
        return _Further(inner, label, number, replace(apart, shown=torch.zeros_like(apart.shown)), alike)
    return _Further(inner, label, number, replace(apart, hidden=apart.hidden.clamp_min(blurred)), alike)


def _case(
    passes: Passes, first: tuple[Witness, Rows, int], whole: _Asked, records: Tensor, chosen: Tensor, further: _Further, *, told: bool
) -> Case:
    """All that is known, as one answer a record is made of it."""
    (witness, rows, each), number = first, further.number
    # A layer with fewer directions than another does not see every sample, and nobody is held against it where one does.
    most = max([rows.rank, *(layer.rank for layer in further.behind)])
    inner = [a for a in further.inner if a.rows is None or a.rows.rank >= most] or further.inner
    fits = torch.stack([torch.ones(len(chosen), dtype=torch.bool, device=records.device), *(a.fits for a in inner)]).all(dim=0)
    tangled = beyond_count(records[chosen], fits, max(rows.rank, number or 0)) if records.is_floating_point() else torch.zeros_like(fits)
    # More directions than there were samples are noise, or what pruning left.
    counted = number is not None and rows.rank <= number * each
    behind = [(a, accounts_for(passes.observation, a.rows, number, a.each)) for a in inner if a.rows is not None and counted]
    refuted = [~a.fits for a, shows_all in behind if shows_all]
    return Case(
        rows=rows,
        residual=whole.residual,
        allowed=whole.allowed,
        typical=whole.reference.typical,
        p_value=holm(whole.reference.p_values(whole.residual)),
        holds=whole.holds(),
        chosen=chosen,
        inner=None if not inner else torch.stack([a.residual for a in inner]).amax(dim=0),
        inner_fits=fits if inner else None,
        inner_holds=None if not inner else torch.stack([a.holds() for a in inner]).any(dim=0) & further.apart.shown & ~tangled,
        hidden=further.apart.hidden,
        inner_refuted=torch.stack([torch.zeros_like(fits), *refuted]).any(dim=0),
        linear=witness.linear,
        unbiased=_but_for_bias(passes, [whole], records),
        inner_unbiased=_but_for_bias(passes, inner, records[chosen]),
        label=further.label,
        number=number,
        alike=further.alike,
        complete=accounts_for(passes.observation, rows, number, each),
        trusted=rows.clear or told,
        alpha=ALPHA,
    )


def _but_for_bias(passes: Passes, asked: list[_Asked], records: Tensor) -> Bool[Tensor, " k"]:
    """(k,) which records fit these layers but for the numbers that stand for biases, which none of them confirms.

    Biases may have been trained at a rate of their own: then no member fits, and none is absent.
    """
    if not asked or bool(torch.stack([a.holds() for a in asked]).all(dim=0).any()):
        return torch.zeros(len(records), dtype=torch.bool, device=records.device)
    left = [a.residual if a.rows is None else outside_without_bias(passes, a.rows, records) for a in asked]
    return torch.stack([one <= NEAR * a.allowed for one, a in zip(left, asked, strict=True)]).all(dim=0)


def _apart(
    passes: Passes, witness: Witness, rows: Rows, inner: list[_Asked], records: Tensor, labels: Tensor | None, *, columns: bool
) -> Apart:
    """Whether a changed copy, a record of another length, or a blend of members, would show in each record's place.

    Layers behind with fewer conditions than the row space has directions leave blends of members of one region alone. Then a record must
    come with a member's column, too, where ``columns`` can be asked: that of a blend is none, but where two are much alike (``pairs``).
    """
    observation, count = passes.observation, len(records)
    behind = [a.rows for a in inner if a.rows is not None]
    apart = Apart(records.new_ones(count).bool(), records.new_zeros(count).double())
    if behind or (inner and records.is_floating_point()):
        seen = apart_from_changes(passes, rows, behind or [rows], records, _tolerance(observation), linear=witness.linear)
        apart = seen if behind else replace(seen, shown=apart.shown)  # of what only the columns show, these are asked below
    if not inner or not records.is_floating_point():
        return apart
    asked = [rows.weight, *(layer.weight for layer in behind)]
    shown = apart.shown & sees_all(passes, asked, records[0])
    if not behind:
        # Where the row space says nothing of a record's length, as without a bias, or of blends, its column must: not so where members
        # of one region of a ReLU network span all that a column may be there. A region may be small: so a nearer one is tried, too, as near
        # as a column that turns with the record would still show.
        moved = [*moved_within(rows, records), *moved_within(rows, records, _tolerance(observation) ** 0.5)] if witness.linear else []
        for changed in (LONGER * records, -records, *moved):
            there, _, _ = _by_columns(passes, rows, changed, labels)
            residual, noise, _ = _left(passes, rows, changed)
            shown = shown & ~(there.fits & (residual <= _allowed(observation, noise)))
        # Where the bias gradient was changed, as by pruning, its number lies in the row space by itself, and most moves are no blends.
        bias = torch.zeros_like(rows.right[0])
        bias[-1:] = 1.0
        if rows.shift and float((bias - rows.right[:, -1] @ rows.right).norm()) <= _tolerance(observation):
            shown = torch.zeros_like(shown)
    if witness.linear:
        left = torch.stack([a.allowed for a in inner]).amax(dim=0)
        shown = shown & apart_from_blends(passes, rows, behind, records, left)
        if columns and max((layer.spare for layer in behind), default=0) < rows.rank - bool(rows.shift):
            own, label, _ = _by_columns(passes, rows, records, labels)
            shown = shown & own.fits
            shown = shown if behind else shown & means_show(passes, rows, records, label, own.allowed)
    return replace(apart, shown=shown)


def _left(passes: Passes, rows: Rows, records: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of every record, the largest share outside over its rows; what noise explains there; and, of the first 64, the vectors outside."""
    residuals: list[Tensor] = []
    noises: list[Tensor] = []
    vectors: list[Tensor] = []
    for part in passes.parts(records, [rows.weight]):
        fed = passes(records[part], [rows.weight])[rows.weight]
        count, each, _ = fed.shape
        residual, noise = (values.reshape(count, each) for values in rows.residuals(fed.flatten(0, 1)))
        worst = (residual - noise).argmax(dim=1, keepdim=True)
        residuals.append(residual.gather(1, worst)[:, 0])
        noises.append(noise.gather(1, worst)[:, 0])
        if not vectors:
            few = worst[:64, 0]
            vectors.append(rows.outside(fed[torch.arange(len(few), device=fed.device), few])[0])
    return torch.cat(residuals), torch.cat(noises), vectors[0]


def _asked(passes: Passes, rows: Rows, records: Tensor, reference: Tensor | None) -> _Asked:
    """Hold records against the row space of a layer, and unrelated ones beside them."""
    residual, noise, _ = _left(passes, rows, records)
    allowed = _allowed(passes.observation, noise)
    if reference is None:
        reference = records[(residual > MARGIN * allowed).nonzero()[: 8 * FEW, 0]]
        if len(reference) < FEW:
            reference = torch.cat([reference, decoys(records)])
    left, _, vectors = _left(passes, rows, reference)
    kept = left.isfinite()  # of what was made of parts the network may make no numbers
    left, vectors = left[kept], vectors[kept[: len(vectors)]]
    found = reference_of(vectors, torch.ones(len(vectors), dtype=vectors.dtype, device=vectors.device))
    logs = left.clamp_min(1e-17).log()
    spread = float(logs.std()) if len(logs) > 1 else 0.0
    return _Asked(rows, residual, allowed, Reference(float(logs.mean().exp()), spread, len(logs), found.equations))


def _allowed(observation: Observation, noise: Tensor) -> Tensor:
    return _tolerance(observation) + MARGIN * noise


def _tolerance(observation: Observation) -> float:
    return max(TOLERANCE[dtype] for dtype in (observation.rounding, next(observation.model.parameters()).dtype) if dtype in TOLERANCE)


def _inner(passes: Passes, found: list[Witness], first: tuple[Witness, Rows], records: Tensor, deviation: float | None) -> Iterator[_Asked]:
    """Layers behind a change that is not linear, the first one itself if it is one, whose row spaces are not full."""
    observation = passes.observation
    behind = [witness for witness in found if not witness.linear and witness != first[0]]
    if not first[0].linear:
        behind = [first[0], *behind]
    count = 0
    for witness in behind:
        fed = passes(records[:64], [witness.weight]).get(witness.weight)
        if fed is None or count == INNER:
            continue
        told = None if observation.batch_size is None else observation.batch_size * fed.shape[1]
        rows = rows_of(observation, witness, float(fed.square().mean().sqrt()) or 1.0, deviation, told, wanted=SHOWN * first[1].rank)
        if rows is not None:
            asked = _asked(passes, rows, records, decoys(records, 2 * FEW))
            if asked.reference.typical > float(asked.allowed.median()):  # otherwise it tells no one from another
                count += 1
                rounded = passes.rounded(records, rows.weight, rows.shift) if records.is_floating_point() else 0.0
                yield replace(asked, allowed=asked.allowed + MARGIN * rounded, each=fed.shape[1])


def _by_columns(passes: Passes, rows: Rows, records: Tensor, labels: Tensor | None) -> tuple[_Asked, Tensor, Tensor]:
    """The columns that records cause, of every class or of the labels told, against the column space; the class that fits; and 1/w."""
    observation = passes.observation

    def left(given: Tensor, told: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        columns = sensitivities(observation.model, given, rows.weight, observation.loss)  # (c, k, m)
        size = columns.norm(dim=2).clamp_min(tiny := torch.finfo(torch.float64).tiny)
        shares = torch.where(size > tiny, rows.outside_columns(columns) / size, 1.0)  # where a class is sure, nothing lies in every span
        few, own = nearest(shares, told), torch.arange(len(given), device=given.device)
        columns, shares, size = columns[few, own], shares[few, own], size[few, own]
        noise = rows.noise_on((columns @ rows.left / rows.values).norm(dim=2)) / size
        inverse = rows.inverse_weights(passes(given, [rows.weight])[rows.weight][:, 0], columns)
        best, only = fitting(shares <= _allowed(observation, noise), inverse)
        label = few[best, own]
        return shares[best, own], noise[best, own], label, inverse[best, own], label.where(only, -1)

    parts = slices(len(records), CHUNK // (min(MOST_CLASSES, observation.classes) * len(rows.left)))
    found = [left(records[part], None if labels is None else labels[part]) for part in parts]
    residual, noise, label, inverse, named = (torch.cat([part[i] for part in found]) for i in range(5))
    unrelated = left(decoys(records), None)
    logs = unrelated[0].clamp_min(1e-17).log()
    reference = Reference(float(logs.mean().exp()), float(logs.std()), len(logs), min(len(rows.left) - rows.rank, len(logs)))
    return _Asked(None, residual, _allowed(observation, noise), reference, named=named), label, inverse
