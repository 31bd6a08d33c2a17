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
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from unbatch.evidence.answering import Case, answers, limits
from unbatch.evidence.blends import apart_from_blends
from unbatch.evidence.certificate import EVIDENCE, FINEST, MARGIN, SPARE
from unbatch.evidence.fed import Witness, feeds, witnesses
from unbatch.evidence.rows import Rows, rows_of
from unbatch.evidence.unrelated import FEW, INDEPENDENT, Reference, decoys, holm, reference_of
from unbatch.gradients import sensitivities
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

TRIED = 8
"""Records of which the number of samples is read off."""

MOST = 544
"""Records that are made up at most to count conditions."""


@dataclass(frozen=True, eq=False)
class _Asked:
    """What one layer said of k records.

    Attributes:
        rows: the layer's row space, None where its columns were asked instead.
        residual: (k,).
        allowed: (k,) what a record that was there may leave.
        reference: what unrelated ones leave.
    """

    rows: Rows | None
    residual: Float[Tensor, " k"]
    allowed: Float[Tensor, " k"]
    reference: Reference

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
    found = witnesses(observation)
    first, why = _first(observation, found, records, deviation)
    if first is None:
        return Membership(tuple(Presence(Verdict.UNDECIDED, reason=why) for _ in records), reason=why)
    witness, rows, each = first
    whole = _asked(observation, rows, records, reference)
    chosen = whole.fits.nonzero()[:, 0]
    inner = [] if not len(chosen) else list(_inner(observation, found, (witness, rows), records[chosen], deviation))
    label: Tensor | None = None
    number = observation.batch_size
    columns = each == 1 and observation.one_gradient and not observation.coupled
    if len(chosen) and columns and (number is None or (witness.linear and not inner)):
        tried = chosen if witness.linear and not inner else chosen[:TRIED]
        asked, label_of, inverse = _by_columns(observation, rows, records[tried], labels if labels is None else labels[tried])
        if witness.linear and not inner:
            inner, label = [asked], label_of
        if number is None and observation.factor_known:
            number = _number(inverse[asked.fits])
    complete = rows.clear and number is not None and rows.rank == number * each
    made_up = bool(inner) and inner[0].rows is not None and _surplus(observation, rows, [a.rows for a in inner if a.rows], records)
    asked_labels = labels if labels is None else labels[chosen]
    apart = _apart(observation, witness, rows, inner, records[chosen], asked_labels)
    case = Case(
        rows=rows,
        residual=whole.residual,
        allowed=whole.allowed,
        typical=whole.reference.typical,
        p_value=holm(whole.reference.p_values(whole.residual)),
        holds=whole.holds(),
        chosen=chosen,
        inner=None if not inner else torch.stack([a.residual for a in inner]).amax(dim=0),
        inner_fits=None if not inner else torch.stack([a.fits for a in inner]).all(dim=0),
        inner_holds=None if not inner else torch.stack([a.holds() for a in inner]).any(dim=0) & apart,
        inner_complete=any(a.rows is not None and number is not None and a.rows.clear and a.rows.rank >= number * each for a in inner),
        linear=witness.linear,
        label=label,
        number=number,
        complete=complete,
        trusted=rows.clear or deviation is not None,
        alpha=ALPHA,
    )
    return Membership(
        tuple(answers(case)),
        witness.weight,
        tuple(a.rows.weight for a in inner if a.rows is not None),
        rows.rank,
        rows.right.shape[1],
        whole.reference.equations if rows.deviation else min(rows.spare, whole.reference.equations),
        number,
        complete,
        made_up,
        remarks=limits(observation, case, made_up, given=reference is not None),
    )


def _apart(
    observation: Observation, witness: Witness, rows: Rows, inner: list[_Asked], records: Tensor, labels: Tensor | None
) -> Bool[Tensor, " k"]:
    """Whether a record of another length, or a blend of members, would show in each record's place."""
    apart = torch.ones(len(records), dtype=torch.bool, device=observation.device)
    if not inner or not records.is_floating_point():
        return apart
    if inner[0].rows is None:
        # Where the row space says nothing of a record's length, as without a bias, its column must.
        longer = LONGER * records
        there, _, _ = _by_columns(observation, rows, longer, labels)
        residual, noise, _ = _left(observation, rows, longer)
        apart &= ~(there.fits & (residual <= _allowed(observation, noise)))
    if witness.linear:
        behind = [a.rows for a in inner if a.rows is not None]
        left = torch.stack([a.allowed for a in inner]).amax(dim=0)
        apart &= apart_from_blends(lambda given, name: feeds(observation, given, [name])[name], rows, behind, records, left)
    return apart


def _first(
    observation: Observation, found: list[Witness], records: Tensor, deviation: float | None
) -> tuple[tuple[Witness, Rows, int] | None, str]:
    """The first layer whose row space is not full, with the number of rows that a record feeds it with; or why there is none."""
    full = []
    for witness in found:
        fed = feeds(observation, records[:64], [witness.weight]).get(witness.weight)
        if fed is None:
            continue
        told = None if observation.batch_size is None else observation.batch_size * fed.shape[1]
        rows = rows_of(observation, witness, _typical(fed), deviation, told)
        if rows is not None:
            return (witness, rows, fed.shape[1]), ""
        full.append(f"{witness.weight!r} {tuple(observation.update[witness.weight].shape)}")
    if full:
        return None, (
            f"the gradient has full rank at every layer that sees records one by one ({', '.join(full[:3])}): as many samples as neurons or"
            " more, or noise on all of it; then everything lies in its row space"
        )
    return None, (
        "no Linear layer in the update is fed by each record alone"
        + ("" if observation.one_gradient else " through weights that stayed while the client trained")
        + ": convolutions, statistics of the batch and dropout before it stand in the way"
    )


def _typical(fed: Tensor) -> float:
    return float(fed.square().mean().sqrt()) or 1.0


def _parts(count: int, numbers: int) -> Iterator[slice]:
    step = max(1, (1 << 24) // max(1, numbers))
    return (slice(start, start + step) for start in range(0, count, step))


def _left(observation: Observation, rows: Rows, records: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of every record, the largest share outside over its rows; what noise explains there; and, of the first 64, the vectors outside."""
    residuals: list[Tensor] = []
    noises: list[Tensor] = []
    vectors: list[Tensor] = []
    for part in _parts(len(records), records[0].numel()):
        fed = feeds(observation, records[part], [rows.weight])[rows.weight]
        count, each, _ = fed.shape
        residual, noise = (values.reshape(count, each) for values in rows.residuals(fed.flatten(0, 1)))
        worst = (residual - noise).argmax(dim=1, keepdim=True)
        residuals.append(residual.gather(1, worst)[:, 0])
        noises.append(noise.gather(1, worst)[:, 0])
        if not vectors:
            few = worst[:64, 0]
            some = rows.extended(fed[torch.arange(len(few), device=fed.device), few])
            vectors.append((some - some @ rows.right.T @ rows.right) / some.norm(dim=1, keepdim=True).clamp_min(1e-300))
    return torch.cat(residuals), torch.cat(noises), vectors[0]


def _asked(observation: Observation, rows: Rows, records: Tensor, reference: Tensor | None) -> _Asked:
    """Hold records against the row space of a layer, and unrelated ones beside them."""
    residual, noise, _ = _left(observation, rows, records)
    allowed = _allowed(observation, noise)
    if reference is None:
        reference = records[residual > MARGIN * allowed][: 8 * FEW]
        if len(reference) < FEW:
            reference = torch.cat([reference, decoys(records)])
    left, _, vectors = _left(observation, rows, reference)
    found = reference_of(vectors, torch.ones(len(vectors), dtype=vectors.dtype, device=vectors.device))
    logs = left.clamp_min(1e-17).log()
    spread = float(logs.std()) if len(logs) > 1 else 0.0
    return _Asked(rows, residual, allowed, Reference(float(logs.mean().exp()), spread, len(logs), found.equations))


def _allowed(observation: Observation, noise: Tensor) -> Tensor:
    own = next(observation.model.parameters()).dtype
    types = [dtype for dtype in (observation.rounding, own) if dtype in TOLERANCE]
    return max(TOLERANCE[dtype] for dtype in types) + MARGIN * noise


def _inner(
    observation: Observation, found: list[Witness], first: tuple[Witness, Rows], records: Tensor, deviation: float | None
) -> Iterator[_Asked]:
    """Layers behind a change that is not linear, the first one itself if it is one, whose row spaces are not full."""
    behind = [witness for witness in found if not witness.linear and witness != first[0]]
    if not first[0].linear:
        behind = [first[0], *behind]
    count = 0
    for witness in behind:
        fed = feeds(observation, records[:64], [witness.weight]).get(witness.weight)
        if fed is None or count == INNER:
            continue
        told = None if observation.batch_size is None else observation.batch_size * fed.shape[1]
        rows = rows_of(observation, witness, _typical(fed), deviation, told)
        if rows is not None and rows.rank >= SHOWN * first[1].rank:
            asked = _asked(observation, rows, records, decoys(records, 2 * FEW))
            if asked.reference.typical > float(asked.allowed.median()):  # otherwise it tells no one from another
                count += 1
                yield asked


def _by_columns(observation: Observation, rows: Rows, records: Tensor, labels: Tensor | None) -> tuple[_Asked, Tensor, Tensor]:
    """The columns that records cause, of every class or of the labels told, against the column space; the class that fits; and 1/w."""

    def left(given: Tensor, told: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        columns = sensitivities(observation.model, given, rows.weight, observation.loss)  # (c, k, m)
        size = columns.norm(dim=2).clamp_min(1e-300)
        inside = columns @ rows.left
        outside = columns - inside @ rows.left.T
        shares = outside.norm(dim=2) / size
        label = shares.argmin(dim=0) if told is None else told
        own = torch.arange(len(given), device=given.device)
        noise = rows.noise_on((inside[label, own] / rows.values).norm(dim=1)) / size[label, own]
        fed = feeds(observation, given, [rows.weight])[rows.weight][:, 0]
        inverse = rows.inverse_weights(fed, columns[label, own])
        return shares[label, own], noise, label, torch.stack([inverse, outside[label, own].norm(dim=1)])

    found = [left(records[part], None if labels is None else labels[part]) for part in _parts(len(records), 64 * len(rows.left))]
    residual, noise, label, more = (torch.cat([part[i] for part in found], dim=-1) for i in range(4))
    unrelated = left(decoys(records), None)
    spare = len(rows.left) - rows.rank
    logs = unrelated[0].clamp_min(1e-17).log()
    reference = Reference(float(logs.mean().exp()), float(logs.std()), len(logs), min(spare, len(logs)))
    return _Asked(None, residual, _allowed(observation, noise), reference), label, more[0]


def _number(inverse: Tensor) -> int | None:
    """The number of samples: what 1/w of records that were there is, or a whole multiple of it where they were repeated."""
    if not len(inverse) or not bool((inverse > ONE).all()):
        return None
    number = float(inverse.max())
    times = (number / inverse).round()
    each = inverse * times
    spread = float((each.max() - each.min()) / number)
    whole = spread < NEAR and abs(float(each.median()) - round(float(each.median()))) < min(OFF, number * max(SHARP, MARGIN * spread))
    return round(float(each.median())) if whole else None


NEAR = 1e-3
"""What members say of 1/w may differ by this share. Chosen, as ``completeness.WHOLE``."""

ONE = 0.5
"""Derived: no batch has less than one sample, and 1/w is rounded to a whole number."""

OFF, SHARP = 0.1, 1e-6
"""How far 1/w may be from a whole number, in samples; and the share of it that is allowed in any case, however well members agree.
Chosen."""


def _surplus(observation: Observation, rows: Rows, inner: list[Rows], records: Tensor) -> bool:
    """Whether records made up in the first row space violate the inner conditions in more independent ways than there are to tune."""
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
        fed = part.extended(feeds(observation, made.reshape(-1, *records.shape[1:]), [part.weight])[part.weight][:, 0])
        found.append((fed - fed @ part.right.T @ part.right) / fed.norm(dim=1, keepdim=True).clamp_min(1e-300))
    values = torch.linalg.svdvals(torch.cat(found, dim=1))
    ways = int((values > INDEPENDENT * float(values[0])).sum()) - rows.rank
    eps = max(TOLERANCE.get(observation.rounding, 1.0), FINEST)
    return ways * -float(torch.tensor(eps).log10()) >= EVIDENCE
