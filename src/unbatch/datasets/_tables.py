"""What the table data sets share: reading rows of text, checking every cell, and standardizing as the network will see them."""

from __future__ import annotations

import csv
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from unbatch.contracts import Dataset
from unbatch.errors import BadFile, Misuse, some
from unbatch.schema import Categorical, Cell, Column, Continuous, Schema
from unbatch.types import Batch

__all__ = ["Layout", "Standardize", "Table", "TableDataset", "read_table", "version"]

Standardize = Literal["all", "continuous", "none"]
"""What is brought to mean 0 and deviation 1: every number that the network sees, as in TabLeak; only continuous columns; or nothing."""

LARGEST = 1 << 30
"""Bytes of the largest file that is read: all of it stands in memory as text."""

ABSENT = frozenset(("", "?", "na", "n/a", "nan", "null", "none"))
"""What a cell without a value holds, in small letters, where it is none of the column's levels."""


@dataclass(frozen=True)
class Layout:
    """How a file of rows is written.

    Attributes:
        columns: those that the network sees, by the names in ``names`` or in the file's head.
        label: name of the column with the class.
        classes: what that column holds, in the order of the class indices.
        names: of all columns, for a file without a head; None takes them from its first line.
        separator: between two cells; None for white space of any length.
        comment: lines that begin with it are passed over; empty for none.
        full_stop: whether a full stop after the label is passed over.
        drop_missing: whether rows with a missing value are left out; else they are refused.
    """

    columns: tuple[Column, ...]
    label: str
    classes: tuple[str, ...]
    names: tuple[str, ...] | None = None
    separator: str | None = ","
    comment: str = ""
    full_stop: bool = False
    drop_missing: bool = False


@dataclass(frozen=True, eq=False)
class Table:
    """A pool of rows.

    Attributes:
        cells: (N, f) float64: see ``Schema``.
        labels: (N,) int64.
        schema: how to read an input.
    """

    cells: Tensor
    labels: Tensor
    schema: Schema


@dataclass(frozen=True)
class TableDataset(Dataset):
    """A data set that is a pool of rows: implement ``table``."""

    @property
    @abstractmethod
    def table(self) -> Table:
        """The pool; cached by whoever makes it."""

    @property
    def schema(self) -> Schema:
        """See ``Dataset.schema``."""
        return self.table.schema

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(d,): one number for every continuous column, one for every level of the others."""
        return (self.table.schema.width,)

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.table.labels)

    def take(self, indices: Tensor) -> Batch:
        """See ``Dataset.take``.

        Raises:
            Misuse: the indices are not (b,) int64 from 0 to N - 1.
        """
        table, count = self.table, len(self)
        if indices.ndim != 1 or indices.dtype != torch.int64:
            raise Misuse("indices of shape (b,) and type int64", f"{indices.dtype} of shape {tuple(indices.shape)}", "give a list of them")
        outside = indices[(indices < 0) | (indices >= count)]
        if len(outside):
            raise Misuse(f"indices from 0 to {count - 1}", str(int(outside[0])), f"{self.spec} has {count} rows")
        chosen = indices.cpu()
        return Batch(table.schema.encode(table.cells[chosen]), table.labels[chosen].clone(), table.schema)


def version(path: Path, what: str) -> tuple[int, int]:
    """Changes when the file does: for a cache.

    Raises:
        BadFile: there is no such file.
    """
    try:
        state = path.stat()
        size = state.st_size
    except OSError as error:
        raise BadFile(what, f"nothing that can be read at '{path}'", "check the path") from error
    if not path.is_file() or size > LARGEST:
        raise BadFile(what, f"a folder or {size:,} bytes at '{path}'", f"give one file of at most {LARGEST:,} bytes")
    return state.st_mtime_ns, size


def read_table(paths: Sequence[Path], layout: Layout, standardize: Standardize = "all", given: Schema | None = None) -> Table:
    """The rows of the first file.

    Args:
        paths: of the file, and of others of the same layout whose rows count for means and deviations.
        layout: how the files are written.
        standardize: what is brought to mean 0 and deviation 1.
        given: a schema with the means and deviations to use; computed from the rows if None, or if it has none.

    Raises:
        BadFile: a file cannot be read, is empty, lacks a column, or a cell does not hold what its column can.
    """
    read = [_read(path, layout) for path in paths]
    schema = replace(given or Schema("table", columns=layout.columns), classes=layout.classes)
    if not schema.mean:
        schema = _standardized(torch.cat([cells for cells, _ in read]), schema, standardize)
    return Table(*read[0], schema)


def _standardized(cells: Tensor, schema: Schema, standardize: Standardize) -> Schema:
    """The schema with means and deviations; what never varies, and what is left as it is, has mean 0 and deviation 1 in their place."""
    plain = schema.encode(cells)
    deviation, mean = torch.std_mean(plain, dim=0, correction=0)
    fixed = [one for one, column in zip(schema.discrete, schema.columns, strict=True) for _ in range(column.width)]
    left = torch.tensor([standardize == "none" or (standardize == "continuous" and one) for one in fixed])
    mean = torch.where(left, torch.zeros_like(mean), mean)
    deviation = torch.where(left | (deviation <= 1e-9 * plain.abs().amax(dim=0)), torch.ones_like(mean), deviation)
    return replace(schema, mean=tuple(mean.tolist()), std=tuple(deviation.tolist()))


def _read(path: Path, layout: Layout) -> tuple[Tensor, Tensor]:
    """(N, f) cells and (N,) labels of one file."""
    lines = _lines(path, layout)
    names = layout.names
    if names is None:
        names = tuple(lines.pop(0)[1]) if lines else ()
    wanted = [*(column.name for column in layout.columns), layout.label]
    if missing := [name for name in wanted if name not in names]:
        raise BadFile(
            f"columns named {some(missing)} in '{path}'", f"only {some(names, 20)}", "correct the schema, or the head of the file"
        )
    if twice := [name for name in wanted if names.count(name) > 1]:
        raise BadFile(f"one column named {some(twice)} in '{path}'", "several", "rename the others")
    for number, row in lines:
        if len(row) != len(names):
            raise BadFile(f"{len(names)} cells in line {number} of '{path}'", str(len(row)), "repair the line, or take it out")
    places = [names.index(name) for name in wanted]
    columns: list[Column] = [*layout.columns, _Label(layout.label, layout.classes)]
    if layout.drop_missing:
        lines = [line for line in lines if not any(_absent(line[1][place], column) for place, column in zip(places, columns, strict=True))]
    if not lines:
        raise BadFile(f"rows in '{path}'", "none", "give a file with a row a line")
    values = [_values(path, column, [(number, row[place]) for number, row in lines]) for place, column in zip(places, columns, strict=True)]
    return torch.tensor(values[:-1], dtype=torch.float64).T.contiguous(), torch.tensor(values[-1], dtype=torch.float64).long()


class _Label(Categorical):
    """The column of the class; there may be one class only."""

    def __post_init__(self) -> None:
        """Nothing is refused."""


def _lines(path: Path, layout: Layout) -> list[tuple[int, list[str]]]:
    """(number of the line, its cells) of every line that is neither empty nor a comment."""
    version(path, "a file with a row a line")
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=layout.separator or " ", skipinitialspace=True, strict=True)
            found = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadFile("a file of text with a row a line", f"'{path}' ({error})", "save it as CSV in UTF-8") from error
    if layout.separator is None:
        found = [(number, [cell for cell in row if cell]) for number, row in found]
    found = [(number, row) for number, row in found if any(row) and not (layout.comment and row[0].startswith(layout.comment))]
    if not found:
        raise BadFile(f"rows in '{path}'", "an empty file", "give a file with a row a line")
    if layout.full_stop:
        found = [(number, [*row[:-1], row[-1].removesuffix(".")]) for number, row in found]
    return found


def _absent(text: str, column: Column) -> bool:
    """Whether a cell has no value."""
    return text.lower() in ABSENT and not (isinstance(column, Categorical) and text in column.levels)


def _values(path: Path, column: Column, cells: list[tuple[int, str]]) -> list[float]:
    """The column's numbers; a text that stands in many rows is parsed once."""
    known: dict[Cell, float] = {}
    for number, text in cells:
        if text in known:
            continue
        if _absent(text, column):
            came = repr(text) if text else "nothing"
            expected = f"a value in column {column.name!r} in line {number} of '{path}'"
            raise BadFile(expected, came, "fill it in, leave the row out, or let rows without a value be dropped")
        try:
            known[text] = column.parse(text)
        except Misuse as error:
            # Numbers in a column of levels: "1.0" is the level "1", as spreadsheets write it.
            if (whole := _level(text, column)) is None:
                raise BadFile(f"{error.expected} in line {number} of '{path}'", error.came, error.advice) from error
            known[text] = whole
    return [known[text] for _, text in cells]


def _level(text: str, column: Column) -> float | None:
    """The index of a level that is the same number, or None."""
    if isinstance(column, Continuous):
        return None
    try:
        value = float(text)
        same = [index for index, level in enumerate(column.levels) if float(level) == value]
    except ValueError:
        return None
    return float(same[0]) if len(same) == 1 and math.isfinite(value) else None
