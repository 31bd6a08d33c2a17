"""``--fail-on``: what an update must not give away if a pipeline is to go on, and whether the audit could tell.

For each thing that is named there are three answers. It is **given away**: proved by the attack, or, where the truth is known, seen in what
came out. It is **not**: the attack came to an end of its own and the truth shows that what it found is not that, or the last layer is known
to tell too little. Or the audit **could not tell**, which is an answer too and never taken for the second.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unbatch.cli.app import DONE, INCONCLUSIVE, LEAKED
from unbatch.errors import Misuse

if TYPE_CHECKING:
    from unbatch.report.claims import Claim
    from unbatch.types import Finding

__all__ = ["Answers", "Ending", "Limits", "ending", "judge", "parse", "without"]

TOLD = 0.25
"""Expected error of a count, in samples, up to which rounding gives the right count nearly always: the labels can be told."""

UNTOLD = 1.0
"""Expected error of a count, in samples, from which on counts are off by one or more: the labels cannot be told."""

_JUDGED = ("APPROXIMATE", "UNPROVEN")
"""How an attack that proves nothing ends with samples which a known truth can judge. Of any other end, known today or not, the truth tells
what the attack did and not what the update gives away: a budget that was spent, a batch that does not explain the update, a breakdown."""


@dataclass(frozen=True)
class Limits:
    """What ends a pipeline.

    Attributes:
        exact: a sample that was proved, or, where the truth is known, recovered exactly.
        labels: how many samples of each class the batch held.
        tokens: which tokens the batch held, of a model that looks its inputs up.
        psnr: in dB, a sample that was recovered at least so well, where the truth is known.
    """

    exact: bool = False
    labels: bool = False
    tokens: bool = False
    psnr: float = math.inf


@dataclass(frozen=True)
class Answers:
    """What became of the limits.

    Attributes:
        leaks: what the update gives away, a reason each.
        open: what the audit could not tell, a reason each.
    """

    leaks: tuple[str, ...] = ()
    open: tuple[str, ...] = ()


def parse(wishes: Sequence[str], *, truth_known: bool, labels_told: bool = False) -> Limits:
    """The limits that a user names: ``exact``, ``labels``, ``tokens``, ``psnr:25``, repeated or with commas between.

    Raises:
        Misuse: it is none of these, needs a truth that is not given, or asks for labels that are.

    Example:
        >>> parse(["exact,psnr:25", "psnr:30"], truth_known=True)
        Limits(exact=True, labels=False, tokens=False, psnr=25.0)
    """
    parts = [part.strip() for wish in wishes for part in wish.split(",")]
    lowest = math.inf
    for part in parts:
        name, colon, value = part.partition(":")
        if name == "psnr" and colon:
            lowest = min(lowest, _decibels(value))
            if not truth_known:
                raise Misuse("--truth with --fail-on psnr", "none", "give the client's batch, against which it is measured")
        elif part not in ("exact", "labels", "tokens"):
            raise Misuse("--fail-on exact, labels, tokens or psnr:DECIBELS", repr(part), "name one of them")
        elif part == "labels" and labels_told:
            raise Misuse("--fail-on labels without --labels", "both", "what the attack is told is no leak")
    return Limits("exact" in parts, "labels" in parts, "tokens" in parts, lowest)


def _decibels(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise Misuse("a number of decibels in --fail-on psnr:25", repr(text), "25 dB is where pictures become recognizable")
    return value


@dataclass(frozen=True)
class _Leak:
    reason: str


@dataclass(frozen=True)
class _Open:
    reason: str


@dataclass(frozen=True)
class Ending:
    """How a command with a gate ends.

    Attributes:
        code: its exit code.
        row: for the line ``gate``, or empty.
        sentence: for stderr, or empty.
    """

    code: int = DONE
    row: str = ""
    sentence: str = ""


def without(limits: Limits, claims: Sequence[Claim], known: frozenset[str]) -> Limits:
    """The limits less what a baseline holds already. Decibels are no finding of a baseline.

    Args:
        limits: what the user named.
        claims: what was found.
        known: fingerprints of what the baseline proved.
    """
    rules = {claim.rule for claim in claims if claim.fingerprint in known}
    left = {name: rule not in rules for name, rule in (("exact", "samples"), ("labels", "labels"), ("tokens", "tokens"))}
    return Limits(limits.exact and left["exact"], limits.labels and left["labels"], limits.tokens and left["tokens"], limits.psnr)


def ending(answers: Answers, gated: bool, passes: bool, exit_zero: bool, *, spared: bool = False) -> Ending:
    """Exit code and words.

    Args:
        answers: what became of the limits.
        gated: whether there are any.
        passes: whether what could not be told lets a pipeline go on.
        exit_zero: whether nothing that was found fails.
        spared: whether a baseline holds some of what was found.
    """
    if not gated:
        return Ending()
    if answers.leaks:
        return Ending(
            DONE if exit_zero else LEAKED, "leaked" + (", passed as --exit-zero says" if exit_zero else ""), "; ".join(answers.leaks)
        )
    if not answers.open:
        found = "nothing new: what was proved is in the baseline" if spared else "clean: nothing that --fail-on names was found"
        return Ending(row=f"{found}; this does not show that the update is safe")
    why = ", passed as --inconclusive says" if passes else ", passed as --exit-zero says" if exit_zero else ""
    return Ending(DONE if why else INCONCLUSIVE, "inconclusive" + why, "inconclusive: " + "; ".join(answers.open))


def judge(limits: Limits, finding: Finding) -> Answers:
    """Ask for each limit whether the update gives it away."""
    answers = list(_answers(limits, finding))
    return Answers(
        tuple(answer.reason for answer in answers if isinstance(answer, _Leak)),
        tuple(answer.reason for answer in answers if isinstance(answer, _Open)),
    )


def _answers(limits: Limits, finding: Finding) -> Iterator[_Leak | _Open | None]:
    if limits.exact:
        yield _exact(finding)
    if limits.labels:
        yield _labels(finding)
    if limits.tokens:
        yield _tokens(finding)
    if limits.psnr < math.inf:
        yield _psnr(finding, limits.psnr)


def _proved(finding: Finding) -> int:
    """How many samples the attack proved."""
    found = finding.reconstruction
    return len(found.inputs) if found.status.disclosed and found.inputs is not None else 0


def _exact(finding: Finding) -> _Leak | _Open | None:
    if proved := _proved(finding):
        return _Leak(f"{proved} samples are proved disclosed")
    if any(finding.exact):
        return _Leak(f"{sum(finding.exact)} samples were recovered exactly")
    if finding.exact and finding.reconstruction.status.name in _JUDGED:
        return None
    return _Open(f"exact: {finding.reconstruction.status.value}")


def _labels(finding: Finding) -> _Leak | _Open | None:
    """By the attack's proof, or from the last layer where that is sure of its counts."""
    found, counts = finding.reconstruction, finding.counts
    if _proved(finding) and found.labels is not None:
        return _Leak(f"the labels of {len(found.labels)} samples are proved disclosed")
    if counts is None or counts.counts is None or not counts.determined:
        return _Open("labels: no count of the labels was determined" + (f" ({counts.reason})" if counts and counts.reason else ""))
    error = counts.expected_error
    if error is None:
        return _Open("labels: how far the restored counts are off is not known")
    if error <= TOLD:
        return _Leak(f"the label counts can be told from the last layer, each to about {error:.2g} of a sample")
    return None if error >= UNTOLD else _Open(f"labels: the restored counts are off by about {error:.2g} of a sample before rounding")


def _tokens(finding: Finding) -> _Leak | _Open | None:
    """A model that takes numbers has none; rows that are not proved may have been looked up all the same."""
    if named := [lookup for lookup in finding.lookups if lookup.proved]:
        return _Leak("; ".join(lookup.summary() for lookup in named))
    open_ = [lookup.summary() for lookup in finding.lookups if lookup.undecided]
    return _Open("tokens: " + "; ".join(open_)) if open_ else None


def _psnr(finding: Finding, limit: float) -> _Leak | _Open | None:
    values = [value for value in finding.scores.get("psnr", ()) if not math.isnan(value)]
    if (best := max(values, default=-math.inf)) >= limit:
        return _Leak(f"a sample was recovered at {best:.1f} dB, the limit is {limit:g} dB")
    status = finding.reconstruction.status
    whole = status.name in _JUDGED or (status.disclosed and len(values) == len(finding.truth or ()))
    return None if values and whole else _Open(f"psnr: {status.value}")
