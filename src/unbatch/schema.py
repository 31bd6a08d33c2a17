"""How to read an input back: what a number in it means.

Four kinds of samples:

    image    (C, H, W), each channel less its mean, divided by its deviation
    vector   (...), any numbers, normalized the same way along their first dimension where mean and std are given
    table    (d,), one row of columns: a continuous column is one number, a categorical one a group of d_j numbers, 1 at its level and
             0 elsewhere ("one-hot"); every one of the d numbers less its mean, divided by its deviation
    tokens   (length,), whole numbers from 0, each the index of a row of the model's embedding

A sample is seen in two forms. The network sees ``inputs``. People read what ``decode`` gives: pictures from 0 to 1, tokens, or the
**cells** of a table, (b, f) with one number a column: the value of a continuous column in its unit, the index of a level.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from unbatch.columns import Categorical, Cell, Column, Continuous, check_keys, column_from_dict, column_to_dict, numbers, texts
from unbatch.errors import Misuse, some

__all__ = ["Categorical", "Cell", "Column", "Continuous", "Kind", "Schema"]

Kind = Literal["image", "vector", "table", "tokens"]

KEYS = {"kind", "mean", "std", "classes", "columns", "vocabulary"}
"""The keys that ``Schema.from_dict`` knows."""


@dataclass(frozen=True)
class Schema:
    """How to read an input back.

    Attributes:
        kind: ``"image"``, ``"vector"``, ``"table"`` or ``"tokens"``: see the module.
        mean: subtracted before training: of every channel, or of each of a table's d numbers; in units of the raw data, where images
            span 0 to 1. Empty where nothing is subtracted.
        std: divided by after that.
        classes: names of the classes, or empty.
        columns: of a table, in the order in which the network sees them.
        vocabulary: how many different tokens there are, 0 but for ``"tokens"``.

    Raises:
        Misuse: a field does not fit the kind, or another field.

    Example:
        >>> table = Schema("table", columns=(Continuous("age", rounding=1), Categorical("sex", ("Female", "Male"))))
        >>> table.encode(table.cells([(39, "Male")])).tolist()
        [[39.0, 0.0, 1.0]]
        >>> table.rows(table.decode(torch.tensor([[38.7, 0.4, 0.2]])))
        [(39, 'Female')]
    """

    kind: Kind = "vector"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    classes: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    vocabulary: int = 0

    def __post_init__(self) -> None:
        """Refuse fields that contradict each other."""
        if self.kind not in get_args(Kind):
            raise Misuse(f"a kind of samples among {', '.join(get_args(Kind))}", repr(self.kind), "use one of them")
        if len(self.mean) != len(self.std) or not all(map(math.isfinite, self.mean)) or not all(0 < s < math.inf for s in self.std):
            came = f"{len(self.mean)} means and {len(self.std)} deviations" if len(self.mean) != len(self.std) else "others"
            raise Misuse("as many deviations as means, finite, deviations above zero", came, "give one of each a channel, or none")
        if bool(self.columns) != (self.kind == "table"):
            raise Misuse("columns for a table, and for nothing else", f"{len(self.columns)} for kind {self.kind!r}", "name every column")
        if (self.vocabulary > 0) != (self.kind == "tokens"):
            came = f"{self.vocabulary} for kind {self.kind!r}"
            raise Misuse("the size of the vocabulary for tokens, and for nothing else", came, "give the rows of the embedding")
        names = [column.name for column in self.columns]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise Misuse("a name of its own for every column", f"{some(twice)} twice", "rename one of them")
        if self.columns and len(self.mean) not in (0, self.width):
            raise Misuse(f"a mean for each of the {self.width} numbers of a row", str(len(self.mean)), "count a number a level")
        if self.kind == "tokens" and self.mean:
            raise Misuse("tokens without mean and deviation", f"{len(self.mean)} means", "tokens are not normalized")

    @staticmethod
    def guess(input_shape: Sequence[int]) -> Schema:
        """An image if the shape reads (1 or 3, H, W), else a vector.

        Example:
            >>> Schema.guess((3, 32, 32)).kind, Schema.guess((14,)).kind
            ('image', 'vector')
        """
        return Schema("image" if len(input_shape) == 3 and input_shape[0] in (1, 3) else "vector")

    @property
    def width(self) -> int:
        """How many numbers the network sees of a row of a table, d; 0 for other kinds."""
        return sum(column.width for column in self.columns)

    @property
    def spans(self) -> tuple[slice, ...]:
        """Where among the d numbers the network sees each column."""
        ends = [0, *accumulate(column.width for column in self.columns)]
        return tuple(slice(*pair) for pair in pairwise(ends))

    @property
    def discrete(self) -> tuple[bool, ...]:
        """For every column, whether its cells are levels."""
        return tuple(isinstance(column, Categorical) for column in self.columns)

    @property
    def scales(self) -> tuple[float, ...]:
        """For every column, what an error is measured by: the standard deviation of a continuous one; 1 for levels."""
        deviations = self.std or (1.0,) * self.width
        return tuple(1.0 if fixed else deviations[span.start] for fixed, span in zip(self.discrete, self.spans, strict=True))

    def grains(self, same: float) -> tuple[float, ...]:
        """For every column, the largest error below which two cells are the same.

        Half a step of a column that is rounded, half a level of levels, else ``same`` deviations.
        """
        return tuple(
            (column.rounding / 2 if isinstance(column, Continuous) else 0.5) or same * scale
            for column, scale in zip(self.columns, self.scales, strict=True)
        )

    def check(self, input_shape: Sequence[int]) -> None:
        """See that samples of a shape can be read by this schema.

        Raises:
            Misuse: they cannot.

        Example:
            >>> Schema("tokens", vocabulary=50).check((3, 32, 32))
            Traceback (most recent call last):
            unbatch.errors.Misuse: expected samples of shape (length,) for tokens, got (3, 32, 32): ...
        """
        shape, advice = tuple(input_shape), "make the schema and the model's input agree"
        if self.kind == "image" and len(shape) != 3:
            raise Misuse("samples of shape (channels, height, width) for images", str(shape), advice)
        if self.kind == "tokens" and len(shape) != 1:
            raise Misuse("samples of shape (length,) for tokens", str(shape), advice)
        if self.kind == "table" and shape != (self.width,):
            raise Misuse(f"samples of shape ({self.width},) for the {len(self.columns)} columns of the table", str(shape), advice)
        if len(self.mean) not in (0, 1, *shape[:1]):
            raise Misuse(f"a mean for each of the {shape[0]} channels", str(len(self.mean)), advice)

    def to_raw(self, inputs: Tensor) -> Tensor:
        """Undo the normalization: (b, C, ...) as the network sees it -> (b, C, ...) in raw units. Differentiable."""
        if not self.mean:
            return inputs
        shape = (1, -1, *[1] * (inputs.ndim - 2))
        return inputs * inputs.new_tensor(self.std).view(shape) + inputs.new_tensor(self.mean).view(shape)

    def to_network(self, raw: Tensor) -> Tensor:
        """The inverse of ``to_raw``."""
        if not self.mean:
            return raw
        shape = (1, -1, *[1] * (raw.ndim - 2))
        return (raw - raw.new_tensor(self.mean).view(shape)) / raw.new_tensor(self.std).view(shape)

    def decode(self, inputs: Tensor) -> Tensor:
        """What people read: (b, f) cells of a table, else ``to_raw``.

        A categorical cell is the level with the largest number, a continuous one the nearest value that its column can hold.

        Args:
            inputs: (b, *shape) as the network sees them; any numbers, such as those of an attack.
        """
        if self.kind != "table":
            return self.to_raw(inputs)
        raw = self.to_raw(inputs.double())  # float32 does not hold every whole number
        cells = [
            column.nearest(raw[:, span.start]) if isinstance(column, Continuous) else raw[:, span].argmax(dim=1).to(raw)
            for column, span in zip(self.columns, self.spans, strict=True)
        ]
        return torch.stack(cells, dim=1)

    def encode(self, values: Tensor) -> Tensor:
        """The inverse of ``decode``: (b, f) cells of a table, or (b, *shape) raw -> (b, *shape) as the network sees them."""
        if self.kind != "table":
            return self.to_network(values)
        raw = values.new_zeros((len(values), self.width))
        for index, (column, span) in enumerate(zip(self.columns, self.spans, strict=True)):
            if isinstance(column, Continuous):
                raw[:, span.start] = values[:, index]
            else:
                raw[:, span] = torch.nn.functional.one_hot(values[:, index].long(), column.width).to(raw)
        return self.to_network(raw)

    def cells(self, rows: Sequence[Sequence[Cell]]) -> Tensor:
        """(b, f) float64 cells from rows as people write them: numbers, and names of levels.

        Raises:
            Misuse: a row has another number of cells, or a cell holds what its column cannot.
        """
        for row in rows:
            if len(row) != len(self.columns):
                raise Misuse(f"{len(self.columns)} cells a row", str(len(row)), "give every column a cell")
        found = [[column.parse(cell) for column, cell in zip(self.columns, row, strict=True)] for row in rows]
        return torch.tensor(found, dtype=torch.float64).reshape(len(rows), len(self.columns))

    def rows(self, cells: Tensor) -> list[tuple[Cell, ...]]:
        """The inverse of ``cells``."""
        return [tuple(column.show(value) for column, value in zip(self.columns, row, strict=True)) for row in cells.double().tolist()]

    def to_dict(self) -> dict[str, Any]:
        """The schema in what JSON has: only the fields that say something. ``from_dict`` reads it."""
        plain: dict[str, Any] = {"kind": self.kind, "mean": list(self.mean), "std": list(self.std), "classes": list(self.classes)}
        plain |= {"columns": [column_to_dict(column) for column in self.columns], "vocabulary": self.vocabulary}
        return {key: value for key, value in plain.items() if value}

    @staticmethod
    def from_dict(plain: Mapping[str, Any]) -> Schema:
        """A schema from what ``to_dict`` gives, or a person wrote into a TOML or JSON file.

        Raises:
            Misuse: a key is unknown or missing, or a value is not what its key asks for.

        Example:
            >>> Schema.from_dict({"kind": "table", "columns": [{"name": "age", "kind": "continuous", "range": [17, 90]}]}).width
            1
        """
        check_keys("a schema", plain, KEYS)
        columns = plain.get("columns", [])
        if not isinstance(columns, (list, tuple)) or not all(isinstance(column, Mapping) for column in columns):
            raise Misuse("a list of columns in a schema", repr(columns), "write one [[columns]] a column")
        return Schema(
            plain.get("kind", "table" if columns else "vector"),
            numbers("mean", plain.get("mean", ())),
            numbers("std", plain.get("std", ())),
            texts("classes", plain.get("classes", ())),
            tuple(column_from_dict(column) for column in columns),
            int(*numbers("vocabulary", (plain.get("vocabulary", 0),))),
        )
