"""Census rows of Becker and Kohavi, "Adult", UCI Machine Learning Repository, 1996."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from unbatch.datasets._tables import Layout, Standardize, Table, TableDataset, read_table, version
from unbatch.schema import Categorical, Continuous

__all__ = ["Adult"]


def _whole(name: str, low: float, high: float, unit: str = "") -> Continuous:
    return Continuous(name, low, high, unit, rounding=1)


def _levels(name: str, text: str) -> Categorical:
    return Categorical(name, tuple(text.split()))


# Order, spelling and all levels as in the set's own adult.names, also those that no row has.
COLUMNS = (
    _whole("age", 17, 90, "years"),
    _levels("workclass", "Private Self-emp-not-inc Self-emp-inc Federal-gov Local-gov State-gov Without-pay Never-worked"),
    _whole("fnlwgt", 12_285, 1_490_400, "people"),
    _levels(
        "education",
        "Bachelors Some-college 11th HS-grad Prof-school Assoc-acdm Assoc-voc 9th 7th-8th 12th Masters 1st-4th 10th Doctorate 5th-6th "
        "Preschool",
    ),
    _whole("education-num", 1, 16),
    _levels("marital-status", "Married-civ-spouse Divorced Never-married Separated Widowed Married-spouse-absent Married-AF-spouse"),
    _levels(
        "occupation",
        "Tech-support Craft-repair Other-service Sales Exec-managerial Prof-specialty Handlers-cleaners Machine-op-inspct Adm-clerical "
        "Farming-fishing Transport-moving Priv-house-serv Protective-serv Armed-Forces",
    ),
    _levels("relationship", "Wife Own-child Husband Not-in-family Other-relative Unmarried"),
    _levels("race", "White Asian-Pac-Islander Amer-Indian-Eskimo Other Black"),
    _levels("sex", "Female Male"),
    _whole("capital-gain", 0, 99_999, "dollars"),
    _whole("capital-loss", 0, 4_356, "dollars"),
    _whole("hours-per-week", 1, 99, "hours"),
    _levels(
        "native-country",
        "United-States Cambodia England Puerto-Rico Canada Germany Outlying-US(Guam-USVI-etc) India Japan Greece South China Cuba Iran "
        "Honduras Philippines Italy Poland Jamaica Vietnam Mexico Portugal Ireland France Dominican-Republic Laos Ecuador Taiwan Haiti "
        "Columbia Hungary Guatemala Nicaragua Scotland Thailand Yugoslavia El-Salvador Trinadad&Tobago Peru Hong Holand-Netherlands",
    ),
)

LAYOUT = Layout(
    COLUMNS,
    "income",
    ("<=50K", ">50K"),
    names=(*(column.name for column in COLUMNS), "income"),
    comment="|",
    full_stop=True,
    drop_missing=True,
)


@dataclass(frozen=True)
class Adult(TableDataset):
    """Does a person of the 1994 census earn more than 50,000 dollars? 6 continuous columns, 8 of levels, 105 numbers a row.

    Rows with a missing value are left out, as usual: 30,162 remain of ``adult.data`` and 15,060 of ``adult.test``.

    Attributes:
        path: of ``adult.data`` or ``adult.test``; or of a folder with both, from which the rows of the first are taken, with the means and
            deviations of both, as in "TabLeak: Tabular Data Leakage in Federated Learning".
        standardize: ``"all"`` numbers that the network sees, only those of ``"continuous"`` columns, or ``"none"``.

    Raises:
        BadFile: the file is missing, or is none of these.

    Example:
        >>> import tempfile
        >>> row = "39, State-gov, 77516, Bachelors, 13, Divorced, Adm-clerical, Wife, White, Male, 2174, 0, 40, Cuba, <=50K."
        >>> path = Path(tempfile.mkdtemp()) / "adult.test"
        >>> _ = path.write_text("|1x3 Cross validator" + chr(10) + row + chr(10))
        >>> adult = Adult(str(path))
        >>> adult.input_shape, adult.schema.rows(adult.schema.decode(adult.batch(1).inputs))[0][:4]
        ((105,), (39, 'State-gov', 77516, 'Bachelors'))
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
        paths = (path / "adult.data", path / "adult.test") if path.is_dir() else (path,)
        return _table(paths, self.standardize, tuple(version(one, "a file of the Adult data set") for one in paths))


@lru_cache(maxsize=4)
def _table(paths: tuple[Path, ...], standardize: Standardize, _versions: tuple[tuple[int, int], ...]) -> Table:
    return read_table(paths, LAYOUT, standardize)
