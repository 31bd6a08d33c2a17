"""From a stored finding to what is shown: verdict, figures, meaning, measures. Pure functions, for pages and terminals alike."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from pydantic import JsonValue

from unbatch.report.words import DASH, command_text
from unbatch.store.findings import StoredFinding
from unbatch.types import Status

__all__ = [
    "Figure",
    "Severity",
    "badge",
    "caption",
    "headline",
    "how_it_was_done",
    "meaning",
    "measures_title",
    "metric_names",
    "number",
    "reproduce",
    "samples_title",
    "score",
    "seconds",
    "severity",
    "severity_of",
]

SHOWN = 12
"""Items of a list that are shown."""

SMALL, LARGE, WHOLE = 1e-3, 1e6, 1000
"""Numbers below and from here on are written as powers of ten; from the last on, without decimals. Four digits are left in each case."""

SECOND, MINUTE, HOUR = 0.9995, 59.95, 3600
"""Seconds from which a time is written in seconds, in minutes, in hours. Rounding to the digits shown makes a whole one there."""


class Severity(Enum):
    """How bad it is, in one word. There is no "safe": a failed attack proves nothing."""

    DISCLOSED = "disclosed"
    PARTLY = "partly"
    NOT_SHOWN = "not shown"


_SEVERITY: dict[Status, tuple[Severity, str]] = {
    Status.RECONSTRUCTED: (Severity.DISCLOSED, "Disclosed"),
    Status.PARTIAL: (Severity.PARTLY, "Partly disclosed"),
    Status.APPROXIMATE: (Severity.PARTLY, "Approximated"),
    Status.FEATURES: (Severity.PARTLY, "Inner features disclosed"),
    Status.UNPROVEN: (Severity.PARTLY, "Found, not proved"),
    Status.INCONSISTENT: (Severity.NOT_SHOWN, "Disclosure not shown"),
    Status.BUDGET_EXHAUSTED: (Severity.NOT_SHOWN, "Disclosure not shown"),
    Status.CONVERGED: (Severity.NOT_SHOWN, "Disclosure not shown"),
    Status.DIVERGED: (Severity.NOT_SHOWN, "Disclosure not shown"),
    Status.NOT_APPLICABLE: (Severity.NOT_SHOWN, "Disclosure not shown"),
    Status.BROKE_DOWN: (Severity.NOT_SHOWN, "The attack broke down"),
}

_MEANING: dict[Status, str] = {
    Status.RECONSTRUCTED: "Whoever sees this update has the samples it was computed from. The proof does not rest on the truth: sent"
    " through the model again, the reconstructed batch gives the same update, down to rounding. Treat the samples as disclosed to the"
    " server, and to everyone who can read what the server received.",
    Status.PARTIAL: "Whoever sees this update has at least the samples shown. Each is proved by itself; the rest of the batch was not"
    " found, which does not mean that it cannot be.",
    Status.APPROXIMATE: "Whoever sees this update can come near to the samples. Nothing here is proved exact; judge by what a person"
    " could recognize, and expect better attacks.",
    Status.FEATURES: "Whoever sees this update has inputs of an inner layer, one vector a sample, each proved. What those vectors encode of"
    " the samples is disclosed with them; layers before it may be inverted in a second step.",
    Status.UNPROVEN: "A batch was found that the update neither proves nor refutes. It may well be right: do not treat the update as safe.",
    Status.INCONSISTENT: "What the attack found does not give the update with the model, the loss and the training that were told. If one"
    " of these is told wrongly, or rounding is in the way, what it found can be the client's data to the last digit all the same: look at"
    " it below, hold it against the client's own with --truth. This does not show that the update is safe.",
    Status.BUDGET_EXHAUSTED: "The attack ran out of its budget. The same attack with more time, or another one, may succeed: this does"
    " not show that the update is safe.",
    Status.CONVERGED: "The search came to an end by its own measure, with something that does not explain the update. Other starts, another"
    " prior or another attack may succeed: this does not show that the update is safe.",
    Status.DIVERGED: "The numbers of the search overflowed, so that it did not take place to its end. Nothing was learned of the update:"
    " this does not show that the update is safe.",
    Status.BROKE_DOWN: "The attack failed by a fault of its own, which is below. Nothing was learned of the update: this does"
    " not show that the update is safe.",
    Status.NOT_APPLICABLE: "This attack needs something that this model or update does not have. Other attacks need other things: this"
    " does not show that the update is safe.",
}

_BESIDE = (
    " What is marked as not proved came out with them: all together nearly give the update, so that it may well be the rest of the batch,"
    " as near as noise or rounding lets anybody come. Judge it by what a person could recognize."
)

_BY_TRUTH = (
    "What the attack proposed was held against the client's own samples, and it is them. The update alone does not show that it is, so a"
    " server that has nothing else could not be sure; but it would hold the samples all the same. Treat them as disclosed."
)


_BY_TOKENS = (
    "Whoever sees this update can read which tokens the batch held, without any search: an embedding's gradient has a row for each, and it"
    " is zero for all others. Names, diagnoses and numbers are often single tokens. In which order they stood, and how often each came, is"
    " not shown by this; other attacks may show it."
)


@dataclass(frozen=True)
class Figure:
    """One headline number: what it is, its value as text, and how to read it."""

    label: str
    value: str
    hint: str


def severity(stored: StoredFinding) -> Severity:
    """How bad it is: by proof, or by the truth where that is known and says worse."""
    if stored.recovered and not Status[stored.status].disclosed:
        return Severity.DISCLOSED if stored.recovered == stored.batch else Severity.PARTLY
    if _by_tokens(stored):
        return Severity.PARTLY
    return _SEVERITY[Status[stored.status]][0]


def _by_tokens(stored: StoredFinding) -> bool:
    """Whether tokens are proved to be disclosed where no sample is."""
    return any(lookup.proved for lookup in stored.lookups) and not Status[stored.status].disclosed


def severity_of(status: Status) -> Severity:
    """How bad a status is."""
    return _SEVERITY[status][0]


def badge(stored: StoredFinding) -> str:
    """The severity in two or three words."""
    if stored.recovered and not Status[stored.status].disclosed:
        return "Recovered, as the truth shows"
    if _by_tokens(stored):
        return "Tokens disclosed"
    return _SEVERITY[Status[stored.status]][1]


def meaning(stored: StoredFinding) -> str:
    """What the verdict means to whoever is responsible for privacy."""
    if stored.recovered and not Status[stored.status].disclosed:
        return _BY_TRUTH
    if _by_tokens(stored):
        return _BY_TOKENS
    return _MEANING[Status[stored.status]] + (_BESIDE if stored.approximate else "")


def measures_title(stored: StoredFinding) -> str:
    """The heading above the advice: a disclosure could have been prevented; after a failure one can only go on."""
    return "What would have prevented it" if Status[stored.status].disclosed else "What to do next, and what protects"


def headline(stored: StoredFinding) -> list[Figure]:
    """The few numbers that matter; those that need the truth are left out where it is not known."""
    known = stored.true_labels is not None
    true = len(stored.true_labels or ())
    figures = []
    if stored.status == Status.FEATURES.name:
        figures.append(Figure("Vectors recovered", str(stored.proved), f"inputs of {stored.layer}, one a sample"))
    elif stored.redacted:
        figures.append(Figure("Samples found", str(stored.reconstructed), "left out of this report"))
    elif known and stored.exact:
        figures.append(Figure("Exact samples", f"{sum(stored.exact)} of {true}", "recovered, held against the truth"))
    elif known:
        figures.append(Figure("Samples found", f"{stored.reconstructed} of {true}", "samples in the true batch"))
    else:
        figures.append(Figure("Samples found", str(stored.reconstructed), "the truth was not given"))
    figures += [
        Figure("Tokens named", f"{lookup.proved:,} of {lookup.rows:,}", f"proved by the gradient of {lookup.table}")
        for lookup in stored.lookups
        if lookup.proved
    ]
    if stored.proved:
        worst = max((value for value in stored.accuracy if value is not None), default=math.inf)
        bound = f", each right to {number(worst)} of its size" if worst < math.inf else ""
        more = "" if stored.missing is None else f"; {stored.missing} more not found" if stored.missing else "; no more there"
        more = f"; {stored.approximate} more came out without proof" if stored.approximate else more
        figures.append(
            Figure("Proved samples" if stored.reconstructed else "Proved rows", str(stored.proved), f"by the update{bound}{more}")
        )
    if any(value is not None for value in stored.scores.get("psnr", ())):
        figures.append(Figure("Median PSNR", score(_median(stored.scores["psnr"]), "dB"), "above 35 dB hardly an eye sees a difference"))
    if known and stored.labels_right and not stored.approximate:
        figures.append(Figure("Labels right", f"{sum(stored.labels_right)} of {true}", "restored from the update"))
    if stored.residual is not None:
        figures.append(Figure("Replay residual", number(stored.residual), "0 means the very same update"))
    figures.append(Figure("Time", seconds(stored.seconds), "wall time of the attack"))
    return figures


def _median(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return statistics.median_low(defined) if defined else None


_STATS: dict[str, str] = {
    "layer": "layer that was inverted",
    "width": "neurons in that layer",
    "inputs": "inputs of that layer",
    "rank": "rank of its gradient: the number of different samples",
    "gap": "gap in its singular values: how clear the rank is",
    "subsets": "subsets of neurons tried",
    "directions": "candidate directions kept",
    "agreement": "agreement of signs with zeros (1 is perfect)",
}


def samples_title(stored: StoredFinding) -> str:
    """The heading above the samples: only what was proved, or is the truth, may be called reconstructed."""
    status = Status[stored.status]
    if status is Status.FEATURES:
        return f"What {stored.layer} sees of the samples"
    if status.disclosed:
        return "Side by side" if stored.true_labels is not None else "What was reconstructed"
    if status is Status.INCONSISTENT:
        return "What was proposed, and does not explain the update"
    return "What was found, not proved"


def caption(stored: StoredFinding) -> str:
    """The word for one sample of the attack's."""
    return "Restored" if Status[stored.status].disclosed else "Proposed"


def how_it_was_done(stored: StoredFinding) -> list[tuple[str, str]]:
    """The attack, its settings and what it counted, in plain words, as (what, value)."""
    name, _, settings = stored.attack.partition(":")
    rows = [("attack", name or DASH), ("settings", settings.replace(",", ", ") or "defaults"), ("seed", str(stored.seed))]
    shape = " × ".join(map(str, stored.input_shape))
    of = f" for {len(columns)} columns" if (columns := stored.input_schema.columns) else ""
    rows.append(("one sample", f"{shape} = {math.prod(stored.input_shape):,} numbers{of}"))
    known = [key for key in _STATS if key in stored.stats]
    others = [key for key in stored.stats if key not in _STATS and key != "seconds"]
    rows += [(_STATS.get(key, key.replace("_", " ")), _told(stored.stats[key])) for key in (*known, *others)]
    return rows


def reproduce(stored: StoredFinding) -> tuple[str, str]:
    """(the command, or a Python snippet where there was none) that run the attack again; the other of the two is empty.

    Quoted, since what a report says may come from strangers.
    """
    if stored.origin is not None and stored.origin.command:
        return command_text(stored.origin.command), ""
    attack = stored.attack or "spear"
    return "", (
        "import unbatch\n"
        "observation = ...  # as it was made: the model, the update, and what the adversary was told\n"
        f"unbatch.audit(observation, attack={attack!r}, seed={stored.seed})"
    )


def _told(value: JsonValue) -> str:
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, list):
        shown = ", ".join(map(_told, value[:SHOWN]))
        return shown + (f" and {len(value) - SHOWN} more" if len(value) > SHOWN else "") or DASH
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')}: {_told(item)}" for key, item in value.items()) or DASH
    return value.replace("inf", "∞") if value in ("inf", "-inf") else value


def metric_names(stored: StoredFinding) -> list[tuple[str, str, str]]:
    """(key, name, unit) of every metric in the report, in its order; one that does not say how it is called, by its key."""
    keys = [*(key for key in stored.measures if key in stored.scores), *(key for key in stored.scores if key not in stored.measures)]
    told = [stored.measures.get(key) for key in keys]
    return [(key, one.title, one.unit) if one else (key, key.replace("_", " "), "") for key, one in zip(keys, told, strict=True)]


def score(value: float | None, unit: str = "") -> str:
    """A score as people read it; decibels with theirs.

    Example:
        >>> score(256.31, "dB"), score(float("inf"), "dB"), score(0.98765), score(2.5e-26), score(None)
        ('256.3 dB', 'exact (inf)', '0.9877', '2.5 × 10⁻²⁶', '–')
    """
    if value is None or math.isnan(value):
        return DASH
    if unit == "dB":
        return "exact (inf)" if value == math.inf else f"{value:.1f} dB"
    return number(value)


def number(value: float) -> str:
    """A number with the digits that matter: plain where it is short, a power of ten where it is not.

    Example:
        >>> number(0.0), number(0.25), number(1234.5), number(3.21e-13), number(2e7)
        ('0', '0.25', '1,234', '3.2 × 10⁻¹³', '2.0 × 10⁷')
    """
    if not math.isfinite(value):
        return DASH if math.isnan(value) else "∞" if value > 0 else "−∞"
    size = abs(value)
    if size == 0:
        return "0"
    if size < SMALL or size >= LARGE:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.replace('-', '−')} × 10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    if size >= WHOLE:
        return f"{value:,.0f}".replace("-", "−")
    return f"{value:.4g}".replace("-", "−")


_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def seconds(value: float) -> str:
    """A time span.

    Example:
        >>> seconds(0.0123), seconds(3.14159), seconds(75), seconds(7384)
        ('12 ms', '3.1 s', '1 min 15 s', '2 h 3 min')
    """
    if not 0 <= value < math.inf:
        return DASH
    if value < SECOND:
        return f"{value * 1000:.0f} ms"
    if value < MINUTE:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < HOUR:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // HOUR} h {whole % HOUR // 60} min"
