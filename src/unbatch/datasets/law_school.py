"""Law students of the LSAC survey of 1998.

As cleaned by Le Quy et al., "A survey on datasets for fairness-aware machine learning", 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from unbatch.datasets._tables import Layout, Standardize, Table, TableDataset, read_table, version
from unbatch.schema import Categorical, Continuous

__all__ = ["LawSchool"]

LAYOUT = Layout(
    (
        Continuous("decile1b", 1, 10, rounding=1),
        Continuous("decile3", 1, 10, rounding=1),
        Continuous("lsat", 11, 48, "points", rounding=0.1),
        Continuous("ugpa", 1.5, 4, "grade points", rounding=0.1),
        Continuous("zfygpa", -3.35, 3.48, "deviations", rounding=0.01),
        Continuous("zgpa", -6.44, 4.01, "deviations", rounding=0.01),
        Categorical("fulltime", ("1", "2")),
        Categorical("fam_inc", ("1", "2", "3", "4", "5")),
        Categorical("male", ("0", "1")),
        Categorical("tier", ("1", "2", "3", "4", "5", "6")),
        Categorical("race", ("Non-White", "White")),
    ),
    "pass_bar",
    ("0", "1"),
)


@dataclass(frozen=True)
class LawSchool(TableDataset):
    """Does a student pass the bar exam? 20,798 rows, 6 continuous columns, 5 of levels, 23 numbers a row.

    The law school set in "TabLeak: Tabular Data Leakage in Federated Learning" is another extract of the same survey, with 7 columns.

    Attributes:
        path: of ``law_school_clean.csv``.
        standardize: ``"all"`` numbers that the network sees, only those of ``"continuous"`` columns, or ``"none"``.

    Raises:
        BadFile: the file is missing, or is another one.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "law.csv"
        >>> head = "decile1b,decile3,lsat,ugpa,zfygpa,zgpa,fulltime,fam_inc,male,tier,race,pass_bar"
        >>> _ = path.write_text(head + chr(10) + "10.0,10.0,44.0,3.5,1.33,1.88,1.0,5.0,0.0,4.0,White,1.0")
        >>> law = LawSchool(str(path))
        >>> law.schema.rows(law.schema.decode(law.batch(1).inputs))[0][2:8]
        (44, 3.5, 1.33, 1.88, '1', '5')
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
        return _table(path, self.standardize, version(path, "the file law_school_clean.csv"))


@lru_cache(maxsize=4)
def _table(path: Path, standardize: Standardize, _version: tuple[int, int]) -> Table:
    return read_table([path], LAYOUT, standardize)
