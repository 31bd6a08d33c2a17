"""Tables: what is read, how the UCI files are written, and every way in which a file or its schema can be bad."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from unbatch.contracts import Dataset
from unbatch.datasets.adult import Adult
from unbatch.datasets.german import German
from unbatch.datasets.law_school import LawSchool
from unbatch.datasets.table import CsvTable
from unbatch.errors import BadFile, Misuse
from unbatch.plugins import build

CSV = "name,age,sex,rich\nAda,36,f,no\nBob,52,m,yes\nCid,20,m,no\n"
TOML = """
label = "rich"
classes = ["no", "yes"]
[[columns]]
name = "age"
range = [0, 120]
unit = "years"
rounding = 1
[[columns]]
name = "sex"
levels = ["f", "m"]
"""
ADULT = "39, State-gov, 77516, Bachelors, 13, Divorced, Adm-clerical, Wife, White, Male, 2174, 0, 40, Cuba, <=50K"


def write(folder: Path, csv: str = CSV, toml: str = TOML) -> str:
    (folder / "people.csv").write_text(csv)
    (folder / "people.toml").write_text(toml)
    return str(folder / "people.csv")


def rows(dataset: Dataset, count: int | None = None) -> list[tuple[str | float, ...]]:
    taken = dataset.take(torch.arange(len(dataset) if count is None else count))
    return dataset.schema.rows(dataset.schema.decode(taken.inputs))


def test_rows_labels_and_schema_are_those_of_the_files(tmp_path: Path) -> None:
    dataset = CsvTable(write(tmp_path))
    assert rows(dataset) == [(36, "f"), (52, "m"), (20, "m")]
    assert dataset.take(torch.arange(3)).labels.tolist() == [0, 1, 0]
    assert dataset.schema.classes == ("no", "yes")
    assert dataset.schema.columns[0].unit == "years"  # type: ignore[union-attr]


def test_the_order_of_columns_is_that_of_the_schema(tmp_path: Path) -> None:
    head, age, sex = TOML.partition("[[columns]]")[0], *TOML.split("[[columns]]")[1:]
    assert rows(CsvTable(write(tmp_path, toml=f"{head}[[columns]]{sex}[[columns]]{age}"))) == [("f", 36), ("m", 52), ("m", 20)]


@pytest.mark.parametrize(("standardize", "means"), [("all", (36, 1 / 3, 2 / 3)), ("continuous", (36, 0, 0)), ("none", (0, 0, 0))])
def test_what_is_standardized_is_a_choice(tmp_path: Path, standardize: str, means: tuple[float, ...]) -> None:
    dataset = build("datasets", f'table:"{write(tmp_path)}",standardize={standardize}')
    assert dataset.schema.mean == pytest.approx(means)
    assert rows(dataset) == [(36, "f"), (52, "m"), (20, "m")]


def test_a_json_file_may_say_what_the_columns_hold(tmp_path: Path) -> None:
    first = CsvTable(write(tmp_path))
    plain = {**first.schema.to_dict(), "label": "rich"}
    (tmp_path / "others.json").write_text(json.dumps(plain))
    second = CsvTable(first.path, str(tmp_path / "others.json"))
    assert second.schema == first.schema
    # Means and deviations that are given are kept, whatever rows there are.
    shorter = tmp_path / "shorter.csv"
    shorter.write_text("age,sex,rich\n100,f,no\n")
    assert CsvTable(str(shorter), str(tmp_path / "others.json")).schema == first.schema


def test_a_range_that_is_not_given_is_that_of_the_rows(tmp_path: Path) -> None:
    column = CsvTable(write(tmp_path, toml=TOML.replace("range = [0, 120]", ""))).schema.columns[0]
    assert (column.low, column.high) == (20, 52)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "csv",
    [
        "\ufeff" + CSV,
        CSV.replace("\n", "\r\n"),
        CSV.replace(",", ", "),
        CSV.replace("36", "36.0") + "\n\n",
        CSV.replace("Ada", '"Ada, Countess of\nLovelace"'),
    ],
)
def test_csv_as_others_write_it(tmp_path: Path, csv: str) -> None:
    assert rows(CsvTable(write(tmp_path, csv)))[0] == (36, "f")


def test_another_separator_and_rows_without_a_value(tmp_path: Path) -> None:
    csv = CSV.replace(",", ";") + "Dan;;f;no\nEve;41;?;no\nFay;41;f;NA\n"
    dataset = CsvTable(write(tmp_path, csv, 'separator = ";"\ndrop_missing = true\n' + TOML))
    assert rows(dataset) == [(36, "f"), (52, "m"), (20, "m")]


def test_a_level_may_be_called_like_a_missing_value_or_be_a_number(tmp_path: Path) -> None:
    csv = "color,n,y\nNone,1.0,0\nred,2,1\n"
    toml = 'label = "y"\nclasses = [0, 1]\n[[columns]]\nname = "color"\nlevels = ["None", "red"]\n[[columns]]\nname = "n"\nlevels = [1, 2]'
    assert rows(CsvTable(write(tmp_path, csv, toml))) == [("None", "1"), ("red", "2")]


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert len(CsvTable(path)) == 3
    os.utime(write(tmp_path, CSV + "Dan,33,m,no\n"), ns=(1, 1))
    assert len(CsvTable(path)) == 4


BAD_CSV: dict[str, tuple[str, str]] = {
    "empty": ("", "expected rows in .*people.csv', got an empty file"),
    "blank lines": ("\n \n", "got an empty file"),
    "a head alone": ("name,age,sex,rich\n", "expected rows in .*, got none"),
    "no column": (CSV.replace("age", "years"), "expected columns named 'age' in .*, got only 'name', 'years', 'sex', 'rich'"),
    "no label": (CSV.replace("rich", "poor"), "expected columns named 'rich'"),
    "a column twice": (CSV.replace("name", "age"), "expected one column named 'age' in .*, got several"),
    "a level never seen": (CSV.replace("52,m", "52,x"), "one of the levels 'f', 'm' in column 'sex' in line 3 of .*, got 'x'"),
    "a class never seen": (CSV.replace("yes", "maybe"), "one of the levels 'no', 'yes' in column 'rich' in line 3 of .*, got 'maybe'"),
    "a missing number": (CSV.replace("52", ""), "a value in column 'age' in line 3 of .*, got nothing"),
    "a missing level": (CSV.replace("52,m", "52,?"), "a value in column 'sex' in line 3 of .*, got '\\?'"),
    "no number": (CSV.replace("52", "old"), "a number in column 'age' in line 3 of .*, got 'old'"),
    "infinity": (CSV.replace("52", "inf"), "a number in column 'age' in line 3 of .*, got 'inf'"),
    "beyond the range": (CSV.replace("52", "152"), "a number from 0 to 120 in column 'age' in line 3 of .*, got '152'"),
    "off the steps": (CSV.replace("52", "52.5"), "a multiple of 1 in column 'age' in line 3 of .*, got '52.5'"),
    "a cell too few": (CSV.replace("52,m", "52"), "expected 4 cells in line 3 of .*, got 3"),
    "an open quote": (CSV + '"Dan,33,m,no\n', "expected a file of text with a row a line"),
}


@pytest.mark.parametrize("case", BAD_CSV)
def test_a_bad_csv_file_is_refused_in_one_sentence(tmp_path: Path, case: str) -> None:
    csv, sentence = BAD_CSV[case]
    with pytest.raises(BadFile, match=sentence) as caught:
        CsvTable(write(tmp_path, csv))
    assert "\n" not in str(caught.value)


BAD_TOML: dict[str, tuple[str, str]] = {
    "empty": ("", "expected the columns of a table in .*people.toml', got kind 'vector'"),
    "no TOML": ("label = ", "expected a TOML or JSON file that says what the columns hold, got .*people.toml"),
    "a misspelled key": (TOML.replace("label", "lable"), "a schema with the keys .* in .*people.toml', got 'lable'"),
    "no label": (TOML.replace('label = "rich"', ""), "the column of the class in 'label', .*, got one or none of them"),
    "no classes": (TOML.replace('classes = ["no", "yes"]', ""), "the column of the class in 'label', .*, got one or none of them"),
    "the label as a column": (TOML.replace('"rich"', '"sex"'), "columns that are not the label in .*, got 'sex' among them"),
    "a label that is a number": (TOML.replace('"rich"', "3"), "'label' as str in .*, got 3"),
    "a long separator": ('separator = "||"' + TOML, "one character as separator in .*, got '||'"),
    "a level twice": (TOML.replace('"m"', '"f"'), "every level of 'sex' once in .*, got 'f' twice"),
    "an empty range": (TOML.replace("120", "0"), "a range of 'age' from a lower to a higher number in .*"),
}


@pytest.mark.parametrize("case", BAD_TOML)
def test_a_bad_file_of_columns_is_refused_in_one_sentence(tmp_path: Path, case: str) -> None:
    toml, sentence = BAD_TOML[case]
    with pytest.raises(BadFile, match=sentence) as caught:
        CsvTable(write(tmp_path, toml=toml))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[1, 2]", "{", '{"columns": ' + "[" * 20000 + "]" * 20000 + "}"])
def test_bad_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(BadFile, match="a TOML or JSON file that says what the columns hold"):
        CsvTable(write(tmp_path), str(tmp_path / "bad.json"))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x01", b"age,sex\n\x80\x81", b"a" * 200_000])
def test_bytes_that_are_no_table_are_refused(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path)
    Path(path).write_bytes(content)
    with pytest.raises(BadFile, match=r"expected a file of text with a row a line|expected columns named"):
        CsvTable(path)


@pytest.mark.parametrize("make", [CsvTable, Adult, German, LawSchool])
def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path, make: Callable[[str], Dataset]) -> None:
    with pytest.raises(BadFile, match="got nothing that can be read at"):
        make(str(tmp_path / "none.csv"))
    with pytest.raises(BadFile):
        make(str(tmp_path))


def test_a_csv_file_without_a_file_of_columns_says_so(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "people.toml").unlink()
    with pytest.raises(
        BadFile, match=r"expected a TOML or JSON file that says what the columns hold, got nothing that can be read at .*people.json"
    ):
        CsvTable(path)


def test_comments_full_stops_and_missing_values_of_adult(tmp_path: Path) -> None:
    lines = ["|1x3 Cross validator", f"{ADULT}.", ADULT.replace("State-gov", "?") + ".", ADULT.replace("<=50K", ">50K") + ".", ""]
    (tmp_path / "adult.test").write_text("\n".join(lines))
    dataset = Adult(str(tmp_path / "adult.test"))
    assert dataset.take(torch.arange(len(dataset))).labels.tolist() == [0, 1]
    assert rows(dataset)[0] == (
        39,
        "State-gov",
        77516,
        "Bachelors",
        13,
        "Divorced",
        "Adm-clerical",
        "Wife",
        "White",
        "Male",
        2174,
        0,
        40,
        "Cuba",
    )


def test_a_level_that_adult_does_not_know_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "adult.data").write_text(f"{ADULT}\n{ADULT.replace('Cuba', 'Atlantis')}\n")
    with pytest.raises(BadFile, match=r"in column 'native-country' in line 2 of .*, got 'Atlantis'"):
        Adult(str(tmp_path / "adult.data"))


def test_the_adult_set_is_whole_and_of_the_papers_size(shared_data: Callable[[str], Path]) -> None:
    train, test = (Adult(str(shared_data(name))) for name in ("adult.data", "adult.test"))
    assert (len(train), len(test)) == (30162, 15060)
    assert (train.input_shape, len(train.schema.columns), sum(train.schema.discrete)) == ((105,), 14, 8)
    assert train.take(torch.arange(len(train))).labels.bincount().tolist() == [22654, 7508]
    for dataset in (train, test):
        everything = dataset.take(torch.arange(len(dataset)))
        assert torch.equal(dataset.schema.decode(everything.inputs.float()), dataset.table.cells)


def test_a_folder_gives_the_training_rows_of_adult_with_the_statistics_of_both(shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("adult.data").parent
    shared_data("adult.test")
    both, train, test = Adult(str(folder)), Adult(str(folder / "adult.data")), Adult(str(folder / "adult.test"))
    assert torch.equal(both.table.cells, train.table.cells)
    ages = torch.cat([train.table.cells[:, 0], test.table.cells[:, 0]])
    assert (both.schema.mean[0], both.schema.std[0]) == pytest.approx((ages.mean().item(), ages.std(correction=0).item()), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "make", "count", "width", "columns", "levels", "labels"),
    [
        ("german.data", German, 1000, 63, 20, 13, [700, 300]),
        ("law_school_clean.csv", LawSchool, 20798, 23, 11, 5, [2293, 18505]),
    ],
)
def test_the_other_real_sets(
    shared_data: Callable[[str], Path],
    name: str,
    make: Callable[[str], German | LawSchool],
    count: int,
    width: int,
    columns: int,
    levels: int,
    labels: list[int],
) -> None:
    dataset = make(str(shared_data(name)))
    assert (len(dataset), dataset.input_shape, len(dataset.schema.columns), sum(dataset.schema.discrete)) == (
        count,
        (width,),
        columns,
        levels,
    )
    everything = dataset.take(torch.arange(count))
    assert everything.labels.bincount().tolist() == labels
    assert torch.equal(dataset.schema.decode(everything.inputs.float()), dataset.table.cells)


def test_a_batch_of_another_table_does_not_fit(tmp_path: Path) -> None:
    dataset = CsvTable(write(tmp_path))
    with pytest.raises(Misuse, match=r"expected samples of shape \(3,\) for the 2 columns of the table, got \(4,\)"):
        dataset.schema.check((4,))
