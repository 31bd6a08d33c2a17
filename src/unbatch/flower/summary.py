"""What the audit of a round found, for programs (``summary.json``) and for people (one line a client)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, Literal

from unbatch.records import Record
from unbatch.types import Finding, Status

__all__ = ["FORMAT", "ClientSummary", "Outcome", "RoundSummary", "page"]

FORMAT: Final = 1
"""Version of the format: raised whenever a reader of the former one would misread a file."""

SILENT: Final = "no samples were proved to be disclosed; this does not show that the updates are safe"

SUSPECT: Final = (Status.APPROXIMATE, Status.UNPROVEN, Status.FEATURES)
"""What was found is near, or may be, the client's data, but was not proved."""

Outcome = Literal["audited", "refused", "crashed", "left out", "failed"]
"""Audited; refused, for the update does not fit; the attack crashed; not audited, as was asked for; the client sent an error."""


class ClientSummary(Record):
    """What became of one client's update.

    Attributes:
        client: Flower's number of the node, as text: it is larger than what JSON holds exactly.
        name: of the client, for people; the number if it has none.
        outcome: whether it was audited, or why not.
        disclosed: whether samples were proved to be disclosed.
        suspected: whether something was found that may be the client's data, but was not proved: look at the report.
        status: name of the ``Status``, where it was audited.
        samples: how many samples the attack reconstructed.
        told: how many samples the client says that it trained on.
        residual: ‖replayed − observed‖ / ‖observed‖, or None.
        seconds: that the audit took.
        reason: why it did not go further, or empty.
        traceback: of a crash, or empty.
        folder: of the report, beside the summary; None where none was written.
    """

    client: str
    name: str
    outcome: Outcome
    disclosed: bool = False
    suspected: bool = False
    status: str | None = None
    samples: int = 0
    told: int | None = None
    residual: float | None = None
    seconds: float = 0.0
    reason: str = ""
    traceback: str = ""
    folder: str | None = None

    def with_finding(self, finding: Finding) -> ClientSummary:
        """The same after its audit."""
        made = finding.reconstruction
        return self.with_reason(
            made.reason,
            outcome="audited",
            disclosed=made.status.disclosed,
            suspected=made.status in SUSPECT,
            status=made.status.name,
            samples=0 if made.inputs is None else len(made.inputs),
            residual=made.residual,
            seconds=finding.seconds,
        )

    def with_reason(self, reason: str, **changed: Any) -> ClientSummary:
        """The same with one more reason, and whatever else changed.

        Example:
            >>> ClientSummary(client="7", name="7", outcome="left out", reason="no space").with_reason("late", outcome="refused").reason
            'no space; late'
        """
        return self.model_copy(update={**changed, "reason": "; ".join(filter(None, (self.reason, reason)))})

    def line(self) -> str:
        """For people.

        Example:
            >>> ClientSummary(client="7", name="7", outcome="audited", disclosed=True, status="PARTIAL", samples=3, told=8).line()
            'client 7: PARTIAL, 3 of 8 samples reconstructed'
        """
        if self.status is None:
            return f"{_called(self.name)}: {self.outcome}: {' '.join(self.reason.split())}"
        parts = [self.status]
        if self.samples:
            parts.append(f"{self.samples}{f' of {self.told}' if self.told else ''} samples reconstructed")
        if self.residual is not None:
            parts.append(f"residual {self.residual:.1e}")
        return f"{_called(self.name)}: {', '.join(parts)}" + (f" ({' '.join(self.reason.split())})" if self.reason else "")


def _called(name: str) -> str:
    """A client in a sentence: many are named "client 0" already.

    Example:
        >>> _called("ward 3"), _called("client 0"), _called("Client-0"), _called("clientele")
        ('client ward 3', 'client 0', 'Client-0', 'client clientele')
    """
    return name if re.match(r"client(?![a-z])", name, re.IGNORECASE) else f"client {name}"


class RoundSummary(Record):
    """What the audit of one round found.

    Attributes:
        format: version of the format.
        round: its number, from 1.
        attack: specification that builds the attack again.
        disclosed: names of the clients of whom samples were proved to be disclosed.
        suspected: names of those of whom something was found that was not proved.
        seconds: that all audits of the round took together.
        clients: all that answered, or failed to.
    """

    format: Literal[1] = FORMAT
    round: int
    attack: str
    disclosed: tuple[str, ...]
    suspected: tuple[str, ...] = ()
    seconds: float
    clients: tuple[ClientSummary, ...]

    def lines(self) -> list[str]:
        """For people: who was disclosed, then a line a client."""
        audited = sum(client.outcome == "audited" for client in self.clients)
        head = f"round {self.round}: {len(self.disclosed)} of {audited} audited clients disclosed"
        head += ": " + ", ".join(self.disclosed) if self.disclosed else ""
        head += f"; look at {', '.join(self.suspected)} too" if self.suspected else ""
        return [head, *(client.line() for client in self.clients)]


def page(rounds: Sequence[RoundSummary]) -> str:
    """The whole federation for people: the clients that were disclosed and when, then every round.

    Example:
        >>> leaky = ClientSummary(client="7", name="ward 3", outcome="audited", disclosed=True, status="RECONSTRUCTED", samples=8)
        >>> print(page([RoundSummary(round=2, attack="spear", disclosed=("ward 3",), seconds=0.1, clients=(leaky,))]))
        samples were disclosed of client ward 3 (round 2)
        <BLANKLINE>
        round 2: 1 of 1 audited clients disclosed: ward 3
            client ward 3: RECONSTRUCTED, 8 samples reconstructed
    """
    head = f"samples were disclosed of {_when(rounds, 'disclosed')}" if any(done.disclosed for done in rounds) else SILENT
    if any(done.suspected for done in rounds):
        head += f"\nsomething near the data, not proved, was found of {_when(rounds, 'suspected')}: judge by the reports"
    blocks = ["\n    ".join(done.lines()) for done in rounds]
    return "\n\n".join([head, *blocks])


def _when(rounds: Sequence[RoundSummary], what: Literal["disclosed", "suspected"]) -> str:
    """Every client that was, and in which rounds."""
    found: dict[str, list[str]] = {}
    for done in rounds:
        for name in getattr(done, what):
            found.setdefault(name, []).append(str(done.round))
    told = (f"{_called(name)} (round{'s' * (len(when) > 1)} {', '.join(when)})" for name, when in found.items())
    return "; ".join(told)
