"""An audit on the common scale: see ``claims``."""

from __future__ import annotations

from typing import Final

from unbatch.report import summary
from unbatch.report.claims import NOWHERE, UNTESTED_ROUND, Level, Sheet, claim_of, shade
from unbatch.store.counts import StoredCounts
from unbatch.store.findings import StoredFinding
from unbatch.store.lookups import StoredLookup
from unbatch.types import Status

__all__ = ["labels_answer", "of_audit"]


def of_audit(stored: StoredFinding) -> Sheet:
    """The sheet of an audit.

    Example:
        >>> from unbatch.store.findings import stored_finding
        >>> from unbatch.types import Finding, Knowledge, Reconstruction, Schema
        >>> finding = Finding(Reconstruction(Status.BUDGET_EXHAUSTED), Knowledge(), Schema(), (4,), seed=0, seconds=1.0)
        >>> [(claim.rule, claim.level) for claim in of_audit(stored_finding(finding)).claims]
        [('samples', 'unknown'), ('labels', 'not tested')]
    """
    origin = stored.origin or NOWHERE
    layer = stored.inverted or stored.layer or ""
    claims = [claim_of("samples", *_samples(stored), origin, layer)]
    if stored.status == Status.FEATURES.name:
        count = stored.proved or len(stored.accuracy)
        claims.append(claim_of("features", "proved", f"{count} vectors that {stored.layer} sees were recovered and proved.", origin, layer))
    claims += [claim_of("tokens", *_tokens(lookup), origin, lookup.table) for lookup in stored.lookups]
    if (told := labels_answer(stored.counts, stored)) is not None:
        claims.append(claim_of("labels", *told, origin))
    return Sheet(
        command="audit",
        badge=summary.badge(stored),
        severity=shade(summary.severity(stored).value),
        verdict=stored.verdict,
        meaning=summary.meaning(stored),
        claims=tuple(claims),
        untested=(
            f"attacks other than {_tried(stored)}",
            "whether given records were in the batch, by their traces alone",
            *UNTESTED_ROUND,
        ),
        upper_bounds=stored.upper_bounds,
        knowledge=stored.knowledge,
        origin=origin,
        environment=stored.environment,
        detail=stored.model_dump(mode="json"),
    )


def _tried(stored: StoredFinding) -> str:
    """The attacks that were run."""
    names = stored.tried or (stored.attack.partition(":")[0] or "this one",)
    return ", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else names[0]


_UNDECIDED: Final[dict[Status, tuple[Level, str]]] = {
    Status.APPROXIMATE: ("likely", "An approximation of the batch was found; nothing of it is proved exact."),
    Status.UNPROVEN: ("likely", "A batch was found that the update neither proves nor refutes."),
    Status.FEATURES: ("unknown", "The samples were not reconstructed, only what an inner layer sees of them."),
    Status.INCONSISTENT: ("unknown", "What was found does not give the observed update, and may be the client's data all the same."),
    Status.BUDGET_EXHAUSTED: ("unknown", "The search ended before it found anything that can be proved."),
    Status.CONVERGED: ("unknown", "The search came to its own end with something that does not give the observed update."),
    Status.DIVERGED: ("unknown", "The search left all finite numbers."),
    Status.BROKE_DOWN: ("unknown", "The attack broke down."),
    Status.NOT_APPLICABLE: ("not tested", "The attack does not apply to this update."),
}


def _samples(stored: StoredFinding) -> tuple[Level, str]:
    """What is known of the samples: by proof, or by the truth."""
    status = Status[stored.status]
    if status.disclosed:
        rest = "; no more were in the batch" if stored.missing == 0 else ""
        count = stored.proved or stored.reconstructed
        beside = f"; {stored.approximate} more came out without proof" if stored.approximate else ""
        return "proved", f"{count} sample{'s were' if count != 1 else ' was'} recovered and proved{rest}{beside}."
    if stored.recovered:
        return "proved", f"{stored.recovered} samples were recovered exactly, as the truth shows; the update alone does not prove it."
    level, said = _UNDECIDED[status]
    return level, said + (f" {stored.reason[0].upper()}{stored.reason[1:]}." if stored.reason and level == "not tested" else "")


def _tokens(lookup: StoredLookup) -> tuple[Level, str]:
    """What is known of the tokens, in numbers."""
    if lookup.proved:
        return "proved", lookup.sentence
    return ("unknown" if lookup.undecided else "not tested"), lookup.sentence


def labels_answer(counts: StoredCounts | None, stored: StoredFinding | None = None) -> tuple[Level, str] | None:
    """What is known of the labels; None where they were told."""
    if counts is None:
        return "not tested", "No label restorer was run."
    if counts.source == "told":
        return None
    if counts.determined:
        return "proved", f"The update shows how many samples of each class there were ({counts.source})."
    if stored is not None and Status[stored.status].disclosed and stored.proved and counts.proved:
        return "proved", f"The labels of {counts.proved} samples were recovered with them, and proved."
    if counts.presence is not None or counts.left_out:
        return "likely", f"How many samples of each class there were can be guessed, and is not determined ({counts.source})."
    return "not tested", f"The labels were not restored by {counts.source}: {counts.reason}."
