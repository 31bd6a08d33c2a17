"""Which rows of an embedding a batch looked up: read off its gradient, without any search."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Lookup"]


@dataclass(frozen=True, eq=False, repr=False)
class Lookup:
    """What the update says of one table that the model looks its inputs up in. Decided by the evidence alone.

    That a row is not among those that are proved never means that it was not looked up: its gradient may have been zero.

    Attributes:
        table: name of the table's parameter.
        rows: how many rows it has.
        used: (k,) int64, rows that the batch looked up, proved; empty where nothing is.
        names: whether those rows are the tokens of the input themselves.
        undecided: rows that may have been looked up, or moved by rounding alone.
        reason: what it rests on, or why nothing is proved; one sentence.
    """

    table: str
    rows: int
    used: Tensor
    names: bool = False
    undecided: int = 0
    reason: str = ""

    @property
    def proved(self) -> int:
        """How many rows are proved to have been looked up."""
        return len(self.used)

    @property
    def discloses(self) -> bool:
        """Whether it shows rows that the batch looked up."""
        return self.proved > 0

    def __repr__(self) -> str:
        """How many, never which: they are what a client wrote.

        Example:
            >>> import torch
            >>> Lookup("tokens.weight", 50, torch.arange(7), names=True)
            Lookup(7 of 50 rows of 'tokens.weight')
        """
        return f"Lookup({self.proved} of {self.rows} rows of {self.table!r})"

    def summary(self) -> str:
        """In one sentence, without a token.

        Example:
            >>> import torch
            >>> Lookup("tokens.weight", 50, torch.arange(7), names=True).summary()
            '7 of 50 tokens are named by the gradient of tokens.weight'
        """
        if not self.proved:
            return f"{self.table} names no token: {self.reason}"
        what = "tokens are named" if self.names else "rows, which are not the tokens themselves, are shown"
        return f"{self.proved:,} of {self.rows:,} {what} by the gradient of {self.table}"
