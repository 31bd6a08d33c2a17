"""``--fail-on``: what an update must not give away if a pipeline is to go on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unbatch.errors import Misuse

if TYPE_CHECKING:
    from unbatch.types import Finding

__all__ = ["Limits", "leaks", "parse"]

TOLD = 0.25
"""Expected error of a count, in samples, up to which rounding gives the right count nearly always: the labels can be told."""


@dataclass(frozen=True)
class Limits:
    """What ends a pipeline.

    Attributes:
        exact: a sample that was proved, or, where the truth is known, recovered exactly.
        labels: how many samples of each class the batch held.
        psnr: in dB, a sample that was recovered at least so well, where the truth is known.
    """

    exact: bool = False
    labels: bool = False
    psnr: float = math.inf


def parse(wishes: Sequence[str], *, truth_known: bool, labels_told: bool = False) -> Limits:
    """The limits that a user names: ``exact``, ``labels``, ``psnr:25``, repeated or with commas between.

    Raises:
        Misuse: it is none of these, needs a truth that is not given, or asks for labels that are.

    Example:
        >>> parse(["exact,psnr:25", "psnr:30"], truth_known=True)
        Limits(exact=True, labels=False, psnr=25.0)
    """
    parts = [part.strip() for wish in wishes for part in wish.split(",")]
    lowest = math.inf
    for part in parts:
        name, colon, value = part.partition(":")
        if name == "psnr" and colon:
            lowest = min(lowest, _decibels(value))
            if not truth_known:
                raise Misuse("--truth with --fail-on psnr", "none", "give the client's batch, against which it is measured")
        elif part not in ("exact", "labels"):
            raise Misuse("--fail-on exact, labels or psnr:DECIBELS", repr(part), "name one of them")
        elif part == "labels" and labels_told:
            raise Misuse("--fail-on labels without --labels", "both", "what the attack is told is no leak")
    return Limits("exact" in parts, "labels" in parts, lowest)


def _decibels(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise Misuse("a number of decibels in --fail-on psnr:25", repr(text), "25 dB is where pictures become recognizable")
    return value


def leaks(limits: Limits, finding: Finding) -> list[str]:
    """What the update gives away beyond the limits, one reason each."""
    made, found = finding.reconstruction, []
    proved = len(made.inputs) if made.status.disclosed and made.inputs is not None else 0
    if limits.exact and (proved or any(finding.exact)):
        found.append(f"{proved} samples are proved disclosed" if proved else f"{sum(finding.exact)} samples were recovered exactly")
    if limits.labels and (reason := _labels(finding)):
        found.append(reason)
    best = max((value for value in finding.scores.get("psnr", ()) if not math.isnan(value)), default=-math.inf)
    if best >= limits.psnr:
        found.append(f"a sample was recovered at {best:.1f} dB, the limit is {limits.psnr:g} dB")
    return found


def _labels(finding: Finding) -> str:
    """How the labels can be told, or nothing: by the attack's proof, or from the last layer where that is sure of its counts."""
    made, counts = finding.reconstruction, finding.counts
    if made.status.disclosed and made.labels is not None:
        return f"the labels of {len(made.labels)} samples are proved disclosed"
    if counts is None or counts.counts is None or not counts.determined or counts.expected_error is None or counts.expected_error > TOLD:
        return ""
    return f"the label counts can be told from the last layer, each to about {counts.expected_error:.2g} of a sample"
