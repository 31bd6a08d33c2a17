"""Which tokens a batch held, as it is stored."""

from __future__ import annotations

from unbatch.records import Record
from unbatch.types import Lookup

__all__ = ["StoredLookup", "stored_lookup"]


class StoredLookup(Record):
    """What a table's gradient says of the tokens: see ``types.Lookup``.

    Attributes:
        table: name of the table's parameter.
        rows: how many rows it has.
        proved: how many of them the batch looked up, proved.
        tokens: which, or None where they are left out.
        names: whether those rows are the tokens of the input themselves.
        undecided: rows that may have been looked up besides.
        reason: what it rests on, or why nothing is proved.
    """

    table: str
    rows: int
    proved: int = 0
    tokens: tuple[int, ...] | None = None
    names: bool = False
    undecided: int = 0
    reason: str = ""

    @property
    def sentence(self) -> str:
        """What is known, without a token."""
        if not self.proved:
            return f"{self.table} names no token: {self.reason}."
        what = "tokens are named" if self.names else "rows, which are made of the tokens, are shown"
        return f"{self.proved:,} of {self.rows:,} {what} by the gradient of {self.table}, each proved."


def stored_lookup(found: Lookup) -> StoredLookup:
    """As it is stored.

    Example:
        >>> import torch
        >>> stored_lookup(Lookup("tokens.weight", 50, torch.tensor([3, 8]), names=True)).tokens
        (3, 8)
    """
    return StoredLookup(
        table=found.table,
        rows=found.rows,
        proved=found.proved,
        tokens=tuple(found.used.tolist()),
        names=found.names,
        undecided=found.undecided,
        reason=found.reason,
    )
