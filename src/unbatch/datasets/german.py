"""Credit applications of Hofmann, "Statlog (German Credit Data)", UCI Machine Learning Repository, 1994."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from unbatch.datasets._tables import Layout, Standardize, Table, TableDataset, read_table, version
from unbatch.schema import Categorical, Continuous

__all__ = ["German"]


def _codes(name: str, prefix: str, numbers: range) -> Categorical:
    """Levels written as in the file: A11, A12, ..."""
    return Categorical(name, tuple(f"A{prefix}{number}" for number in numbers))


def _whole(name: str, low: float, high: float, unit: str = "") -> Continuous:
    return Continuous(name, low, high, unit, rounding=1)


# All levels of the set's own description, also A47 and A95, which no row has.
COLUMNS = (
    _codes("checking account", "1", range(1, 5)),
    _whole("duration", 4, 72, "months"),
    _codes("credit history", "3", range(5)),
    _codes("purpose", "4", range(11)),
    _whole("amount", 250, 18_424, "marks"),
    _codes("savings", "6", range(1, 6)),
    _codes("employment since", "7", range(1, 6)),
    _whole("installment rate", 1, 4, "% of income"),
    _codes("personal status and sex", "9", range(1, 6)),
    _codes("other debtors", "10", range(1, 4)),
    _whole("resident since", 1, 4),
    _codes("property", "12", range(1, 5)),
    _whole("age", 19, 75, "years"),
    _codes("other installment plans", "14", range(1, 4)),
    _codes("housing", "15", range(1, 4)),
    _whole("existing credits", 1, 4),
    _codes("job", "17", range(1, 5)),
    _whole("dependents", 1, 2, "people"),
    _codes("telephone", "19", range(1, 3)),
    _codes("foreign worker", "20", range(1, 3)),
)

LAYOUT = Layout(
    COLUMNS,
    "risk",
    ("1", "2"),
    names=(*(column.name for column in COLUMNS), "risk"),
    separator=None,
)


@dataclass(frozen=True)
class German(TableDataset):
    """Is a person a good credit risk (1) or a bad one (2)? 1,000 rows, 7 continuous columns, 13 of levels, 63 numbers a row.

    Attributes:
        path: of ``german.data``, the file with the levels as codes like A11.
        standardize: ``"all"`` numbers that the network sees, only those of ``"continuous"`` columns, or ``"none"``.

    Raises:
        BadFile: the file is missing, or is another one.

    Example:
        >>> import tempfile
        >>> row = "A11 6 A34 A43 1169 A65 A75 4 A93 A101 4 A121 67 A143 A152 2 A173 1 A192 A201 1"
        >>> path = Path(tempfile.mkdtemp()) / "german.data"
        >>> _ = path.write_text(row)
        >>> german = German(str(path))
        >>> german.input_shape, german.schema.rows(german.schema.decode(german.batch(1).inputs))[0][:3]
        ((63,), ('A11', 6, 'A34'))
    """

    path: str
    standardize: Standardize = "all"

    def __post_init__(self) -> None:
        """Read the file now, so that a bad one is found before anything is computed."""
        _ = self.table

    @property
    def table(self) -> Table:
        """The pool."""
        path = Path(self.path).expanduser()
        return _table(path, self.standardize, version(path, "the file german.data"))


@lru_cache(maxsize=4)
def _table(path: Path, standardize: Standardize, _version: tuple[int, int]) -> Table:
    return read_table([path], LAYOUT, standardize)
