"""Any table: a CSV file, and a small file that says what its columns hold."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from unbatch.datasets._tables import Layout, Standardize, Table, TableDataset, read_table, version
from unbatch.errors import BadFile, Misuse
from unbatch.schema import Continuous, Schema

__all__ = ["CsvTable"]

OF_A_FILE = {"label": str, "separator": str, "drop_missing": bool}
"""What the file of columns says beside the schema, and the type of each."""

LARGEST = 1 << 20
"""Bytes of the largest file of columns that is read."""


@dataclass(frozen=True)
class CsvTable(TableDataset):
    r"""Rows of a CSV file whose first line names the columns. Columns that the file of columns does not name are passed over.

    That file is TOML or JSON. It holds ``label``, the name of the column with the class; ``classes``, what that column holds; and
    one entry of ``columns`` a column, with its ``name`` and either its ``levels`` or, for numbers and only if wanted, their ``range``,
    ``unit`` and ``rounding``, the step on which they lie. If wanted, it also holds ``separator`` in place of a comma, ``drop_missing``
    = true to leave out rows without a value, and ``mean`` and ``std`` of the numbers that the network sees, which else come from the rows.

    Attributes:
        path: of the CSV file.
        columns: path of the file of columns; empty for the CSV file's own name with .toml or .json in place of its ending.
        standardize: ``"all"`` numbers that the network sees, only those of ``"continuous"`` columns, or ``"none"``.

    Raises:
        BadFile: a file is missing or damaged, or the two contradict each other.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "people.csv"
        >>> _ = path.write_text("name,age,sex,rich\nAda,36,f,no\nBob,52,m,yes\n")
        >>> _ = path.with_suffix(".toml").write_text('''
        ... label = "rich"
        ... classes = ["no", "yes"]
        ... [[columns]]
        ... name = "age"
        ... rounding = 1
        ... [[columns]]
        ... name = "sex"
        ... levels = ["f", "m"]
        ... ''')
        >>> people = CsvTable(str(path))
        >>> people.input_shape, sorted(people.schema.rows(people.schema.decode(people.batch(2).inputs)))
        ((3,), [(36, 'f'), (52, 'm')])
    """

    path: str
    columns: str = ""
    standardize: Standardize = "all"

    def __post_init__(self) -> None:
        """Read the files now, so that a bad one is found before anything is computed."""
        _ = self.table

    @property
    def table(self) -> Table:
        """The pool."""
        path = Path(self.path).expanduser()
        beside = path.with_suffix(".toml") if path.with_suffix(".toml").is_file() else path.with_suffix(".json")
        columns = Path(self.columns).expanduser() if self.columns else beside
        versions = version(path, "a CSV file"), version(columns, "a TOML or JSON file that says what the columns hold")
        return _table(path, columns, self.standardize, versions)


@lru_cache(maxsize=4)
def _table(path: Path, columns: Path, standardize: Standardize, _versions: tuple[tuple[int, int], ...]) -> Table:
    schema, layout = _described(columns)
    table = read_table([path], layout, standardize, schema)
    # Where a range was not given, that of the rows is: means and deviations are theirs too.
    lows, highs = (limits.tolist() for limits in table.cells.aminmax(dim=0))
    ranged = tuple(
        _ranged(column, low, high) if isinstance(column, Continuous) else column
        for column, low, high in zip(schema.columns, lows, highs, strict=True)
    )
    return replace(table, schema=replace(table.schema, columns=ranged))


def _ranged(column: Continuous, low: float, high: float) -> Continuous:
    if low == high:  # a column that never varies has no range
        return column
    return replace(column, low=low if column.low == -math.inf else column.low, high=high if column.high == math.inf else column.high)


def _described(path: Path) -> tuple[Schema, Layout]:
    plain = _read(path)
    try:
        schema = Schema.from_dict({key: value for key, value in plain.items() if key not in OF_A_FILE})
        _check(plain, schema)
    except Misuse as error:
        raise BadFile(f"{error.expected} in '{path}'", error.came, error.advice) from error
    separator, drop_missing = plain.get("separator", ","), plain.get("drop_missing", False)
    return schema, Layout(schema.columns, plain["label"], schema.classes, separator=separator, drop_missing=drop_missing)


def _check(plain: Mapping[str, Any], schema: Schema) -> None:
    for key, kind in OF_A_FILE.items():
        if key in plain and not isinstance(plain[key], kind):
            raise Misuse(f"{key!r} as {kind.__name__}", repr(plain[key]), "see `unbatch describe table`")
    if schema.kind != "table":
        raise Misuse("the columns of a table", f"kind {schema.kind!r}", "write one [[columns]] a column")
    if not plain.get("label") or not schema.classes:
        raise Misuse("the column of the class in 'label', and what it holds in 'classes'", "one or none of them", "name both")
    if plain["label"] in [column.name for column in schema.columns]:
        raise Misuse("columns that are not the label", f"{plain['label']!r} among them", "take it out of the columns")
    if len(plain.get("separator", ",")) != 1:
        raise Misuse("one character as separator", repr(plain["separator"]), 'write separator = ";"')


def _read(path: Path) -> dict[str, Any]:
    expected, advice = "a TOML or JSON file that says what the columns hold", "see `unbatch describe table`"
    if version(path, expected)[1] > LARGEST:
        raise BadFile(expected, f"{path.stat().st_size:,} bytes at '{path}'", advice)
    try:
        text = path.read_text(encoding="utf-8-sig")
        plain = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise BadFile(expected, f"'{path}' ({error})", advice) from error
    if not isinstance(plain, dict):
        raise BadFile(expected, f"a {type(plain).__name__} in '{path}'", advice)
    return plain
