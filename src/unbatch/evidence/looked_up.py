r"""Which tokens a batch held, by the rows of an embedding that have a gradient.

| here | meaning                                                                    |
|------|----------------------------------------------------------------------------|
| E    | the table, V rows of d numbers                                             |
| U    | its update                                                                 |

If E enters the model by lookups alone, the gradient of a row that was not looked up is zero, whatever the batch, the loss and the number of
steps. So a row of U that is not zero was looked up, unless something else than gradients moves rows. What could: noise and random rounding,
which spare no row, or, pruned, leave zeros anywhere; weight decay, which moves a row along itself; an optimizer that remembers. Hence

    zeros by whole rows     that many zeros gather in whole rows by chance is excluded (``EVIDENCE`` digits): only lookups write there
    rows toward zero        as Adam with weight decay moves rows that were not looked up, every number of them
    rows along themselves   U = −c E + … with one c for all that were not looked up; what leaves the direction of its row was looked up

What is not excluded: a client that writes noise into rows of its choice, or holds back rows of its choice and noises the others.
The converse is never claimed: a gradient may cancel, vanish, be pruned or be rounded to zero.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unbatch.evidence.certificate import EVIDENCE
from unbatch.lookups import Table, tables
from unbatch.types import Lookup, Observation

__all__ = ["lookups"]

MARGIN = 10.0
"""A row leaves its own direction when it does so by this many times what rounding explains. Chosen."""

SEVERAL = 8
"""So many rows that do not move, or all in one way, show what becomes of rows that are not looked up: one may be held by the client."""

UNEVEN = 0.1
"""Spread of a row's sizes, beside their mean, from which on a step along the row is no other step. Chosen."""

STRAY = 6.0
"""Decimal digits against that any row at all was filled by strays. Chosen: one in a million."""

FEW = 0.1
"""Rows between those that moved along themselves and those that did not, as a share of the first: more are noise. Chosen."""

ABSENT = "a token that is not named may have been there all the same, with a gradient that cancels or is rounded to zero"
ALONE = "the table enters the model by lookups alone, and its gradient is zero by whole rows: only lookups leave such zeros"
ALONG = "all rows that were not looked up moved along themselves by one and the same share, as weight decay moves them, and these did not"
TOWARD = (
    "all rows that were not looked up moved toward zero in each of their numbers, as Adam with weight decay moves them, and these did not"
)
MIXED = (
    "hardly a row is left at zero, or along itself: noise, pruning or rounding lies on all rows, weight decay is mixed into"
    " them, or nearly every token was used"
)
EARLIER = "where the client keeps its optimizer's state from one round to the next, tokens of earlier rounds are among them"


def lookups(observation: Observation) -> tuple[Lookup, ...]:
    """What every table that the model looks something up in says of the batch.

    Args:
        observation: what the server saw.

    Returns:
        one a table whose rows are chosen by the input, in the order in which the model uses them; none for a model that takes numbers.
    """
    vocabulary = 0 if observation.schema is None else observation.schema.vocabulary
    if not vocabulary:
        return ()
    found = tables(observation.model, observation.input_shape, vocabulary)
    return tuple(_read(observation, table) for table in found if table.by_input)


def _read(observation: Observation, table: Table) -> Lookup:
    nothing = torch.zeros(0, dtype=torch.int64)
    if table.weight not in observation.update:
        return Lookup(table.weight, table.rows, nothing, reason="it is frozen: the update holds no gradient of it")
    if table.other:
        tied = " (a tied output layer)" if "linear" in table.other else ""
        also = f"it also enters the model by {', '.join(table.other)}{tied}, which gives rows a gradient that were not looked up"
        return Lookup(table.weight, table.rows, nothing, undecided=table.rows, reason=also)
    used, undecided, reason = _rows(observation, table)
    if not len(used):
        return Lookup(table.weight, table.rows, nothing, undecided=undecided, reason=reason)
    said = [reason]
    if not table.named:
        said.append("what the model looks up is not the token itself but made of it")
    if table.padding is not None:
        said.append(f"row {table.padding} is padding and never has a gradient")
    if bool(table.fixed.any()):
        said.append(f"{int(table.fixed.sum())} rows that are looked up whatever the input are left out")
    if undecided:
        said.append(f"of {undecided:,} more rows too little moved to tell")
    if observation.training is not None and (observation.training.momentum or observation.only_moved):
        said.append(EARLIER)
    return Lookup(table.weight, table.rows, used.cpu(), table.named, undecided, "; ".join([*said, ABSENT]))


def _rows(observation: Observation, table: Table) -> tuple[Tensor, int, str]:
    """Rows that were looked up, how many more may have been, and what that rests on."""
    update = table.of(observation.update[table.weight]).double()
    weight = table.of(dict(observation.model.named_parameters())[table.weight].detach()).double().to(update.device)
    asked = ~table.fixed.to(update.device)
    if table.padding is not None:
        asked[table.padding] = False
    moved = update.ne(0).any(dim=1) & asked
    if not bool(moved.any()):
        return moved.nonzero()[:, 0], 0, "none of its rows has a gradient"
    # No rounding of a gradient turns a sign; a difference of weights is rounded as these are.
    away = moved & (_turned(update, weight) if observation.training is None else _away(observation, table, update, weight))
    empty = weight.eq(0).all(dim=1)  # decay leaves a row of zeros at zero: what such a row says of the others is nothing
    if by_whole_rows(update[asked & ~empty]) >= EVIDENCE:
        rows, reason = away & whole(update, asked), ALONE
        left = int((moved & ~rows).sum())
    else:
        rows, left, reason = _along(observation, table, update, weight, asked & ~empty)
        if by_whole_rows(update[asked & empty]) >= EVIDENCE:
            reason = reason if bool(rows.any()) else ALONE
            rows = rows | (moved & empty & whole(update, asked & empty))
    return rows.nonzero()[:, 0], left, reason


def _away(observation: Observation, table: Table, update: Tensor, weight: Tensor) -> Bool[Tensor, " V"]:
    """Rows of which a number moved away from zero, by more than rounding: what decays does not, in whatever way and precision it does."""
    return _turned(update, weight, _rounding(observation, table, update, weight.norm(dim=1))[:, None])


def _turned(update: Tensor, weight: Tensor, least: Tensor | float = 0.0) -> Bool[Tensor, " V"]:
    return ((update * weight.sign() < -least) | (update.ne(0) & weight.eq(0))).any(dim=1)


def by_whole_rows(update: Float[Tensor, "V d"]) -> float:
    """Decimal digits against that zeros, as many as there are, gather in as many whole rows by chance.

    Example:
        >>> rows = torch.zeros(100, 8)
        >>> rows[:5] = 1.0
        >>> by_whole_rows(rows) > 50, by_whole_rows(torch.ones(100, 8))
        (True, 0.0)
    """
    seen = update[:, update.ne(0).any(dim=0)]
    rows, numbers = seen.shape
    hit, count = int(seen.ne(0).any(dim=1).sum()), int(seen.ne(0).sum())
    if not count or rows - hit < SEVERAL:
        return 0.0
    chance = _choose(rows, hit) + _choose(hit * numbers, count) - _choose(rows * numbers, count)
    return max(0.0, -chance / math.log(10))


def whole(update: Float[Tensor, "V d"], asked: Bool[Tensor, " V"]) -> Bool[Tensor, " V"]:
    """Rows so full that strays, as many as lie in thin rows, cannot fill them: noise that was pruned leaves a few here and there.

    Example:
        >>> rows = torch.zeros(100, 8)
        >>> rows[:5], rows[50, 3] = 1.0, 1.0
        >>> whole(rows, torch.ones(100).bool()).nonzero()[:, 0].tolist()
        [0, 1, 2, 3, 4]
    """
    filled = update[:, update[asked].ne(0).any(dim=0)].ne(0)
    numbers, count = filled.shape[1], filled.sum(dim=1)
    thin = asked & (2 * count < numbers)
    strays = (float(count[thin].sum()) + 1) / max(1, int(thin.sum()) * numbers)
    chance = [(_choose(numbers, k) + k * math.log(min(1.0, strays))) / math.log(10) for k in range(numbers + 1)]
    digits = -torch.tensor(chance, dtype=torch.float64, device=update.device)[count] - math.log10(int(asked.sum()))
    return asked & (digits >= STRAY)


def _choose(whole: int, part: int) -> float:
    """Logarithm of the binomial coefficient."""
    return math.lgamma(whole + 1) - math.lgamma(part + 1) - math.lgamma(whole - part + 1)


def _along(
    observation: Observation, table: Table, update: Tensor, weight: Tensor, telling: Bool[Tensor, " V"]
) -> tuple[Bool[Tensor, " V"], int, str]:
    """Rows that do not move along themselves, where the others do, all by the same share."""
    length = weight.norm(dim=1).clamp_min(1e-300)
    share = (update * weight).sum(dim=1) / length.square()
    across = (update - share[:, None] * weight).norm(dim=1)
    bound = _rounding(observation, table, update, length)
    # A row that did not move at all may have been pruned, or rounded away: it shows no decay.
    sizes = weight.abs()
    uneven = sizes.std(dim=1, correction=0) > UNEVEN * sizes.mean(dim=1)  # in rows of one size every kind of decay looks the same
    near = telling & (across <= bound) & update.ne(0).any(dim=1) & uneven
    if not bool(near.any()):
        return _toward(observation, table, update, weight, telling)
    common = share[near].median()
    still = near & ((share - common).abs() * length <= bound)
    rest = update - common * weight if int(still.sum()) >= SEVERAL else update
    rest = rest * update.ne(0)  # a number that was pruned, or rounded away, tells nothing of where it went
    moved = telling & (across > MARGIN * bound) & _away(observation, table, rest, weight)
    if not bool(still.any()) or not bool(moved.any()):
        return torch.zeros_like(telling), int((telling & ~still).sum()), "none of its rows moved otherwise than along itself"
    apart = float((across[moved] / length[moved]).median() / (bound[still] / length[still]).median())
    number, total = int(still.sum()), int(telling.sum())
    digits = number * (weight.shape[1] - 1) * math.log10(max(apart, 1.0)) - _choose(total, number) / math.log(10)
    between = telling & ~still & (across <= MARGIN * bound) & update.ne(0).any(dim=1)
    if digits < EVIDENCE or int(between.sum()) > max(1.0, FEW * number):
        return torch.zeros_like(telling), total, MIXED
    return moved, int((telling & ~still & ~moved & update.ne(0).any(dim=1)).sum()), ALONG


def _toward(
    observation: Observation, table: Table, update: Tensor, weight: Tensor, telling: Bool[Tensor, " V"]
) -> tuple[Bool[Tensor, " V"], int, str]:
    """Rows of which a number moved away from zero, where the others moved toward zero in all of theirs, as Adam with decay leaves them."""
    factor = 1.0 if observation.training is None else observation.training.factor(observation.batch_size) or 1.0
    far = weight.abs() > 4 * factor * float(update.abs().max())  # no number that decay may have driven through zero
    counted = (far & update.ne(0)).sum(dim=1)
    toward = telling & (update * weight.sign() * far >= 0).all(dim=1) & (counted > 0)
    away = telling & _away(observation, table, update * far, weight)
    total, hit = int(telling.sum()), int(toward.sum())
    digits = (float(counted[toward].sum()) * math.log(2) - _choose(total, hit)) / math.log(10)
    if digits < EVIDENCE or not bool(away.any()):
        return torch.zeros_like(telling), total, MIXED
    return away, int((telling & ~toward & ~away).sum()), TOWARD


def _rounding(observation: Observation, table: Table, update: Tensor, length: Tensor) -> Float[Tensor, " V"]:
    """What rounding may leave of a row across its own direction."""
    local = observation.training
    own = dict(observation.model.named_parameters())[table.weight].dtype
    stored = observation.update[table.weight].dtype
    eps = torch.finfo(stored).eps
    if local is None:
        return 2 * eps * (length + update.norm(dim=1))
    factor = local.factor(observation.batch_size) or 1.0
    steps = 1 + local.steps(observation.batch_size or 1)
    return 2 * steps * torch.finfo(own).eps * length / factor + 2 * eps * update.norm(dim=1)
