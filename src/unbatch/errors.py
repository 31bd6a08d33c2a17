"""Everything that unbatch raises on purpose.

    UnbatchError
    ├── Misuse (also a ValueError)    what the caller gave cannot be used
    │   ├── BadFile                   a file cannot be read, or is refused because it could run code
    │   ├── BadUpdate                 an update does not fit its model
    │   ├── UnknownPlugin             no attack, model, data set ... of this name
    │   └── NotDeterministic          the model's gradient is not a function of the batch alone
    ├── OutputFailed                  a result cannot be written
    └── ReconstructionFailed          raised by ``Reconstruction.or_raise()``

A misuse says in one sentence what was expected, what came, and what to do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = [
    "BadFile",
    "BadUpdate",
    "Inapplicable",
    "Misuse",
    "NotDeterministic",
    "OutputFailed",
    "ReconstructionFailed",
    "UnbatchError",
    "UnknownPlugin",
    "named",
    "printable",
    "some",
    "wants_more_inputs",
]

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and newline: colors, titles, cursor moves, questions to the terminal
    "\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # not seen, or turning text around
    "\ud800-\udfff]"  # halves of characters, which no file can hold
)


def printable(text: str) -> str:
    r"""The text with everything that a terminal would obey, or that nobody would see, written out.

    Names of tensors, files and classes, and what a model's code says, come from strangers: they must not repaint the screen on which a
    verdict is read.

    Example:
        >>> print(printable("1.weight\x1b[2J\u202etxt.exe"))
        1.weight\x1b[2J\u202etxt.exe
    """
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def named(error: BaseException, most: int = 200) -> str:
    """An exception that is not ours, for a sentence: its kind, and the first line of what it says.

    Example:
        >>> named(KeyError("head")), named(AssertionError())
        ("KeyError: 'head'", 'AssertionError')
    """
    said = str(error).strip().splitlines()
    return type(error).__name__ + (f": {said[0][:most]}" if said else "")


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few names, for a sentence.

    Example:
        >>> some(["a", "b", "c", "d", "e"])
        "'a', 'b', 'c' and 2 more"
    """
    return ", ".join(map(repr, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


class UnbatchError(Exception):
    """The root of the tree: catch it to catch all that unbatch raises on purpose."""

    def __str__(self) -> str:
        """What it says, safe to print: see ``printable``."""
        return printable(super().__str__())


class Misuse(UnbatchError, ValueError):
    """What the caller gave cannot be used.

    Args:
        expected: what would have been right.
        came: what came in its place.
        advice: what to do about it.

    Example:
        >>> str(Misuse("a batch size above zero", "-3", "give the size that the client used"))
        'expected a batch size above zero, got -3: give the size that the client used'
    """

    def __init__(self, expected: str, came: str, advice: str) -> None:
        super().__init__(f"expected {expected}, got {came}: {advice}")
        self.expected, self.came, self.advice = expected, came, advice

    def __reduce__(self) -> tuple[type[Misuse], tuple[str, str, str]]:
        """Pickle by the three parts, so that the error survives a process boundary."""
        return type(self), (self.expected, self.came, self.advice)


class BadFile(Misuse):
    """A file cannot be read, or is refused because reading it could run code."""


class BadUpdate(Misuse):
    """An update does not fit the model that it is said to come from."""


class UnknownPlugin(Misuse):
    """No plug-in of this kind has this name, or a field of it does not exist."""


class NotDeterministic(Misuse):
    """The model's gradient is not a function of the batch alone (dropout, batch statistics)."""


class OutputFailed(UnbatchError):
    """A result cannot be written where it was asked for."""


class ReconstructionFailed(UnbatchError):
    """A reconstruction was demanded and did not come: the message carries status and reason."""


class Inapplicable(Exception):
    """Raised inside ``reconstruct`` or ``estimate`` when only the work shows that the method cannot be used; the text is the reason."""


def wants_more_inputs(error: BaseException) -> Misuse | None:
    """What to say of a model that raised this because its forward takes more than one tensor; None where that is not why."""
    if not isinstance(error, TypeError) or "required positional argument" not in str(error):
        return None
    advice = "give it a forward of one tensor, in a subclass, as docs/updates.md shows"
    return Misuse("a model that takes one tensor, a batch of samples", named(error), advice)
