"""Rows of a table, pictures and tokens, from what people write to what a network sees and back; and every schema that cannot be."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unbatch.errors import Misuse
from unbatch.schema import Categorical, Column, Continuous, Schema
from unbatch.types import Batch

AGE, SEX, GRADE = Continuous("age", 17, 90, "years", rounding=1), Categorical("sex", ("f", "m")), Continuous("grade", 1, 5, rounding=0.1)
COLOR = Categorical("color", ("red", "green", "blue"))


def table(*columns: Column, standardized: bool = True) -> Schema:
    width = sum(column.width for column in columns)
    numbers = torch.arange(width) + 1.0
    return (
        Schema("table", tuple((numbers / 10).tolist()), tuple(numbers.tolist()), columns=columns)
        if standardized
        else Schema("table", columns=columns)
    )


@given(
    rows=st.lists(
        st.tuples(
            st.integers(17, 90),
            st.sampled_from(("f", "m")),
            st.integers(10, 50).map(lambda tenths: tenths / 10),
            st.sampled_from(("red", "green", "blue")),
        ),
        max_size=6,
    ),
    standardized=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_rows_come_back_to_the_last_digit(rows: list[tuple[Any, ...]], standardized: bool, dtype: torch.dtype) -> None:
    schema = table(AGE, SEX, GRADE, COLOR, standardized=standardized)
    inputs = schema.encode(schema.cells(rows)).to(dtype)
    assert inputs.shape == (len(rows), 7)
    assert schema.rows(schema.decode(inputs)) == rows


def test_what_the_network_sees_is_one_hot_and_standardized() -> None:
    schema = table(AGE, COLOR)
    inputs = schema.encode(schema.cells([(40, "blue")]))
    expected = (torch.tensor([[40.0, 0, 0, 1]]) - torch.tensor([0.1, 0.2, 0.3, 0.4])) / torch.tensor([1.0, 2, 3, 4])
    torch.testing.assert_close(inputs, expected.double(), atol=1e-5, rtol=0)
    assert schema.spans == (slice(0, 1), slice(1, 4))
    assert (schema.width, schema.discrete, schema.scales) == (4, (False, True), (1.0, 1.0))


def test_decoding_takes_the_nearest_row_that_there_can_be() -> None:
    schema = table(AGE, SEX, GRADE, standardized=False)
    wild = torch.tensor([[200.0, 0.1, 0.2, 3.449], [-5.0, 2.0, -3.0, 3.45], [38.5, 0.0, 0.0, 9.0]], dtype=torch.float64)
    assert schema.rows(schema.decode(wild)) == [(90, "m", 3.4), (17, "f", 3.5), (39, "f", 5)]


def test_a_column_that_is_not_rounded_keeps_its_digits() -> None:
    schema = Schema("table", columns=(Continuous("income"),))
    assert schema.decode(torch.tensor([[1234.5678901]], dtype=torch.float64)).item() == 1234.5678901


def test_undoing_the_standardization_lets_gradients_through() -> None:
    schema = table(AGE, SEX)
    inputs = torch.zeros(1, 3, requires_grad=True)
    schema.to_raw(inputs).sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.tolist() == [[1.0, 2.0, 3.0]]


@pytest.mark.parametrize("step", [1.0, 0.5, 0.1, 0.01, 0.25, 3.0, 0.3])
def test_multiples_of_the_step_are_parsed_and_others_are_not(step: float) -> None:
    column = Continuous("x", rounding=step)
    for count in (-7, 0, 3, 1001):
        text = f"{count * step:.10g}"
        assert column.nearest(torch.tensor(column.parse(text), dtype=torch.float64)).item() == pytest.approx(count * step, rel=1e-15)
    with pytest.raises(Misuse, match=r"a multiple of .* in column 'x'"):
        column.parse(str(2.5 * step))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_too_large_for_float32_are_rounded_in_float64(dtype: torch.dtype) -> None:
    schema = Schema("table", (16_777_216.0,), (1000.0,), columns=(Continuous("n", rounding=1),))
    for value in (16_777_217.0, 16_777_219.0):
        assert schema.decode(schema.encode(torch.tensor([[value]], dtype=torch.float64)).to(dtype)).item() == value


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (("old", "f"), "expected a number in column 'age', got 'old'"),
        (("nan", "f"), "expected a number in column 'age', got 'nan'"),
        ((12, "f"), "expected a number from 17 to 90 in column 'age', got 12"),
        ((20.5, "f"), "expected a multiple of 1 in column 'age', got 20.5"),
        ((20, "x"), "expected one of the levels 'f', 'm' in column 'sex', got 'x'"),
        ((20,), "expected 2 cells a row, got 1"),
    ],
)
def test_cells_that_a_column_cannot_hold_are_refused(row: tuple[Any, ...], sentence: str) -> None:
    with pytest.raises(Misuse, match=sentence):
        table(AGE, SEX).cells([row])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Schema("picture"), "a kind of samples among image, vector, table, tokens, got 'picture'"),  # type: ignore[arg-type]
        (lambda: Schema("image", (0.5,)), "as many deviations as means, finite, deviations above zero, got 1 means and 0 deviations"),
        (lambda: Schema("image", (0.5,), (0.0,)), "deviations above zero"),
        (lambda: Schema("image", (float("nan"),), (1.0,)), "finite"),
        (lambda: Schema("table"), "columns for a table, and for nothing else, got 0 for kind 'table'"),
        (lambda: Schema("image", columns=(AGE,)), "columns for a table, and for nothing else, got 1 for kind 'image'"),
        (lambda: Schema("table", columns=(AGE, AGE)), "a name of its own for every column, got 'age' twice"),
        (lambda: Schema("table", (0.0,), (1.0,), columns=(AGE, SEX)), "a mean for each of the 3 numbers of a row, got 1"),
        (lambda: Schema("tokens"), "the size of the vocabulary for tokens, and for nothing else, got 0"),
        (lambda: Schema("vector", vocabulary=5), "the size of the vocabulary for tokens, and for nothing else, got 5"),
        (lambda: Schema("tokens", (0.0,), (1.0,), vocabulary=5), "tokens without mean and deviation"),
        (lambda: Continuous(""), "a name for every column, got ''"),
        (lambda: Continuous("x", 5, 5), "a range of 'x' from a lower to a higher number, got 5 to 5"),
        (lambda: Continuous("x", rounding=-1), "a rounding step of 'x' of zero or more, got -1"),
        (lambda: Categorical("x", ("a",)), "two or more levels of 'x'"),
        (lambda: Categorical("x", ("a", "b", "a")), "every level of 'x' once, got 'a' twice"),
    ],
)
def test_a_schema_that_contradicts_itself_is_refused(make: Any, sentence: str) -> None:
    with pytest.raises(Misuse, match=sentence) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "shape", "sentence"),
    [
        (Schema("image"), (14,), r"samples of shape \(channels, height, width\) for images, got \(14,\)"),
        (Schema("image", (0.0,) * 3, (1.0,) * 3), (1, 8, 8), "a mean for each of the 1 channels, got 3"),
        (table(AGE, SEX), (4,), r"samples of shape \(3,\) for the 2 columns of the table, got \(4,\)"),
        (Schema("tokens", vocabulary=9), (3, 8, 8), r"samples of shape \(length,\) for tokens"),
    ],
)
def test_a_schema_that_contradicts_the_input_is_refused(schema: Schema, shape: tuple[int, ...], sentence: str) -> None:
    with pytest.raises(Misuse, match=sentence):
        schema.check(shape)
    with pytest.raises(Misuse, match=sentence):
        Batch(torch.zeros(2, *shape), torch.zeros(2, dtype=torch.int64), schema)


@pytest.mark.parametrize(
    "schema",
    [
        Schema(),
        Schema("image", (0.5,), (0.25,), ("cat", "dog")),
        Schema("tokens", vocabulary=50, classes=("a", "b")),
        table(AGE, SEX, GRADE, COLOR, Continuous("income", unit="dollars"), Continuous("debt", low=0)),
    ],
)
def test_it_comes_back_from_json(schema: Schema) -> None:
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict(), allow_nan=False))) == schema


@pytest.mark.parametrize(
    ("plain", "sentence"),
    [
        ({"colums": []}, "a schema with the keys .*, got 'colums'"),
        ({"columns": {"name": "age"}}, "a list of columns in a schema"),
        ({"columns": ["age"]}, "a list of columns in a schema"),
        ({"columns": [{"name": "age", "unti": "years"}]}, "the continuous column 'age' with the keys .*, got 'unti'"),
        (
            {"columns": [{"name": "age", "levels": ["a", "b"], "range": [0, 1]}]},
            "the categorical column 'age' with the keys .*, got 'range'",
        ),
        ({"columns": [{"name": "age", "kind": "numeric"}]}, "a continuous or a categorical column 'age', got 'numeric'"),
        ({"columns": [{"name": 3}]}, "a name for every column, got 3"),
        ({"columns": [{"name": "age", "range": 5}]}, "two numbers in the range of 'age', got 5"),
        ({"columns": [{"name": "age", "range": ["0", 1]}]}, "numbers for the range of 'age'"),
        ({"columns": [{"name": "age", "rounding": True}]}, "numbers for the rounding of 'age'"),
        ({"columns": [{"name": "age", "levels": "ab"}]}, "a list of names for the levels of 'age', got 'ab'"),
        ({"mean": 3.0}, "numbers for the mean, got 3.0"),
        ({"classes": [[]]}, "a list of names for the classes"),
        ({"kind": "picture"}, "a kind of samples among"),
    ],
)
def test_a_file_that_says_nonsense_is_refused(plain: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Misuse, match=sentence) as caught:
        Schema.from_dict(plain)
    assert "\n" not in str(caught.value)


def test_pictures_and_vectors_are_read_as_before() -> None:
    schema = Schema("image", (0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    raw = torch.rand((2, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(schema.decode(schema.encode(raw)), raw)
    vector = torch.ones(2, 5)
    assert Schema().decode(vector) is vector


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        (torch.zeros(2, 3), "tokens of type int64, got torch.float32"),
        (torch.tensor([[0, 9]]), "tokens from 0 to 8, got 0 to 9"),
        (torch.tensor([[-1, 3]]), "tokens from 0 to 8, got -1 to 3"),
    ],
)
def test_tokens_outside_of_the_vocabulary_are_refused(inputs: torch.Tensor, sentence: str) -> None:
    with pytest.raises(Misuse, match=sentence):
        Batch(inputs, torch.zeros(len(inputs), dtype=torch.int64), Schema("tokens", vocabulary=9))
