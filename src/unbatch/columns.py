"""The columns of a table: what can stand in their cells, and how people write it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from unbatch.errors import Misuse, some

__all__ = ["Categorical", "Cell", "Column", "Continuous", "check_keys", "column_from_dict", "column_to_dict", "numbers", "texts"]

Cell = str | float
"""What stands in one cell of a table, for people."""

GRID = 1e-9
"""A number whose distance to the column's steps is below this share of itself is on them: text such as 0.3 is not, to the last bit."""

KEYS = {"continuous": {"name", "kind", "range", "unit", "rounding"}, "categorical": {"name", "kind", "levels"}}
"""What a column may say of itself in a file."""


@dataclass(frozen=True)
class Continuous:
    """A column of numbers.

    Attributes:
        name: of the column.
        low: the least value that there can be.
        high: the largest.
        unit: of its values, for people: ``"years"``.
        rounding: the step on which all values lie: 1 for whole numbers, 0.1 for one digit behind the point; 0 if they are not rounded.

    Raises:
        Misuse: no name, limits that leave no room, or a step below zero.

    Example:
        >>> Continuous("age", 17, 90, "years", rounding=1).nearest(torch.tensor([38.6, 120.0])).tolist()
        [39.0, 90.0]
    """

    name: str
    low: float = -math.inf
    high: float = math.inf
    unit: str = ""
    rounding: float = 0.0

    width: ClassVar[int] = 1
    """How many numbers the network sees of it."""

    def __post_init__(self) -> None:
        """Refuse what no column can be."""
        _check_name(self.name)
        if not self.low < self.high:
            raise Misuse(f"a range of {self.name!r} from a lower to a higher number", f"{self.low} to {self.high}", "turn it round")
        if not 0 <= self.rounding < math.inf:
            raise Misuse(f"a rounding step of {self.name!r} of zero or more", str(self.rounding), "give 1 for whole numbers")

    def nearest(self, values: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
        """The values that the column can hold next to these; halves go up."""
        step = self.rounding
        if 0 < step < 1 and abs(1 / step - round(1 / step)) < GRID * (1 / step):
            values = (values * round(1 / step) + 0.5).floor() / round(1 / step)  # 35 / 10 is what "3.5" is read as, 35 * 0.1 is not
        elif step > 0:
            values = (values / step + 0.5).floor() * step
        return values.clamp(self.low, self.high)

    def parse(self, text: Cell) -> float:
        """The number that a cell holds.

        Raises:
            Misuse: the cell holds no finite number, or one that the column cannot hold.
        """
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise Misuse(f"a number in column {self.name!r}", repr(text), "repair the cell, or leave the row out")
        if not self.low <= value <= self.high:
            raise Misuse(f"a number from {self.low:g} to {self.high:g} in column {self.name!r}", repr(text), "widen the schema's range")
        if self.rounding and abs(float(self.nearest(torch.tensor(value, dtype=torch.float64))) - value) > GRID * max(1.0, abs(value)):
            raise Misuse(f"a multiple of {self.rounding:g} in column {self.name!r}", repr(text), "correct the schema's rounding")
        return value

    def show(self, value: float) -> Cell:
        """The value for people."""
        return int(value) if value.is_integer() else value


@dataclass(frozen=True)
class Categorical:
    """A column of levels, one of them in every row.

    Attributes:
        name: of the column.
        levels: all there can be, in the order in which the network sees them.

    Raises:
        Misuse: no name, fewer than two levels, or one level twice.

    Example:
        >>> Categorical("sex", ("Female", "Male")).parse("Male")
        1.0
    """

    name: str
    levels: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse what no column can be."""
        _check_name(self.name)
        if len(self.levels) < 2:
            raise Misuse(f"two or more levels of {self.name!r}", str(list(self.levels)), "leave out a column that is always the same")
        if twice := [level for level in self._index if self.levels.count(level) > 1]:
            raise Misuse(f"every level of {self.name!r} once", f"{some(twice)} twice", "leave out the second")

    @property
    def width(self) -> int:
        """How many numbers the network sees of it: one a level."""
        return len(self.levels)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {level: index for index, level in enumerate(self.levels)}

    def parse(self, text: Cell) -> float:
        """The index of the level that a cell holds.

        Raises:
            Misuse: the cell holds none of the levels.
        """
        if str(text) not in self._index:
            raise Misuse(f"one of the levels {some(self.levels)} in column {self.name!r}", repr(text), "add it to the schema's levels")
        return float(self._index[str(text)])

    def show(self, value: float) -> Cell:
        """The level of an index."""
        return self.levels[int(value)]


Column = Continuous | Categorical


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name:
        raise Misuse("a name for every column", repr(name), "name it as the table's head does")


def column_to_dict(column: Column) -> dict[str, Any]:
    """The column in what JSON has: only the fields that say something. ``column_from_dict`` reads it."""
    if isinstance(column, Categorical):
        return {"name": column.name, "kind": "categorical", "levels": list(column.levels)}
    limits = [limit if math.isfinite(limit) else None for limit in (column.low, column.high)]  # JSON knows no infinity
    plain = {"range": limits if any(limit is not None for limit in limits) else None, "unit": column.unit, "rounding": column.rounding}
    return {"name": column.name, "kind": "continuous"} | {key: value for key, value in plain.items() if value}


def column_from_dict(plain: Mapping[str, Any]) -> Column:
    """The inverse of ``column_to_dict``.

    Raises:
        Misuse: a key is unknown, or a value is not what its key asks for.
    """
    name = plain.get("name", "")
    kind = plain.get("kind", "categorical" if "levels" in plain else "continuous")
    if kind not in KEYS:
        raise Misuse(f"a continuous or a categorical column {name!r}", repr(kind), "use one of the two")
    check_keys(f"the {kind} column {name!r}", plain, KEYS[kind])
    if kind == "categorical":
        return Categorical(name, texts(f"levels of {name!r}", plain.get("levels", ())))
    limits = plain.get("range", (None, None))
    if not isinstance(limits, (list, tuple)) or len(limits) != 2:
        raise Misuse(f"two numbers in the range of {name!r}", repr(limits), "give the least and the largest value")
    free = zip(limits, (-math.inf, math.inf), strict=True)
    low, high = numbers(f"range of {name!r}", [limit if other is None else other for other, limit in free])
    return Continuous(name, low, high, str(plain.get("unit", "")), *numbers(f"rounding of {name!r}", (plain.get("rounding", 0.0),)))


def check_keys(what: str, plain: Mapping[str, Any], known: set[str]) -> None:
    """Refuse a key that means nothing: it is misspelled.

    Raises:
        Misuse: there is one.
    """
    if unknown := sorted(map(str, plain.keys() - known)):
        raise Misuse(f"{what} with the keys {', '.join(sorted(known))}", some(unknown), "correct the spelling")


def numbers(what: str, values: Any) -> tuple[float, ...]:
    """Numbers from a file.

    Raises:
        Misuse: they are none.
    """
    if not isinstance(values, (list, tuple)) or not all(type(value) in (int, float) for value in values):
        raise Misuse(f"numbers for the {what}", repr(values), "write numbers without quotes")
    return tuple(map(float, values))


def texts(what: str, values: Any) -> tuple[str, ...]:
    """Names from a file.

    Raises:
        Misuse: they are none.
    """
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, (str, int, float)) for value in values):
        raise Misuse(f"a list of names for the {what}", repr(values), 'write ["a", "b"]')
    return tuple(map(str, values))
