"""What holds for every metric, whichever there are: one value a sample, order of the batch, the best value for equal samples, misuse."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unbatch import plugins
from unbatch.contracts import Metric
from unbatch.errors import Misuse
from unbatch.metrics.cell_accuracy import CellAccuracy
from unbatch.metrics.cell_mae import CellMae
from unbatch.metrics.exact_row import ExactRow
from unbatch.metrics.mse import Mse
from unbatch.metrics.psnr import Psnr
from unbatch.schema import Categorical, Continuous, Kind, Schema
from unbatch.testing import check_metric
from unbatch.testing.metrics import PAIRS, SCHEMAS, pictures, rows
from unbatch.testing.scenes import TABLE

SHAPES = {"image": (3, 32, 36), "vector": (3, 32, 36), "table": (7,), "tokens": (8,)}

CASES = [(name, kind) for name in plugins.names("metrics") for kind in get_args(Kind) if kind in plugins.load("metrics", name).kinds]


@dataclasses.dataclass
class Case:
    metric: Metric
    kind: Kind

    def pairs(self, seed: int = 0, count: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
        return PAIRS[self.kind](seed, count)

    def __call__(self, truth: torch.Tensor, guess: torch.Tensor, data_range: float = 1.0) -> torch.Tensor:
        return self.metric(truth, guess, data_range, SCHEMAS[self.kind])


@pytest.fixture(params=CASES, scope="module", ids=" ".join)
def case(request: pytest.FixtureRequest, shared_weights: Callable[[str], Path]) -> Case:
    name, kind = request.param
    if name == "lpips":
        return Case(plugins.build("metrics", f'lpips:"{shared_weights("lpips_alexnet_v0.1.safetensors")}"'), kind)
    return Case(plugins.load("metrics", name)(), kind)


@pytest.mark.parametrize("name", plugins.names("metrics"))
def test_it_says_what_it_is_for(name: str) -> None:
    cls = plugins.load("metrics", name)
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert cls.kinds
    assert cls.kinds <= set(get_args(Kind))
    assert isinstance(cls.higher_is_better, bool)
    assert cls.title


def test_it_keeps_the_contract(case: Case) -> None:
    check_metric(case.metric)


def test_every_kind_of_samples_has_a_metric() -> None:
    assert {kind for _, kind in CASES} == set(get_args(Kind))


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(order=st.permutations(range(5)), seed=st.integers(0, 1000))
def test_permuting_the_batch_permutes_the_values(case: Case, order: list[int], seed: int) -> None:
    truth, guess = case.pairs(seed)
    torch.testing.assert_close(case(truth[order], guess[order]), case(truth, guess)[order], rtol=1e-9, atol=1e-12)


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(seed=st.integers(0, 1000))
def test_truth_and_guess_can_change_places(case: Case, seed: int) -> None:
    truth, guess = case.pairs(seed, count=2)
    torch.testing.assert_close(case(truth, guess), case(guess, truth), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_float64_a_sample_and_more_noise_is_worse(case: Case, dtype: torch.dtype) -> None:
    truth, guess = case.pairs()
    if truth.is_floating_point():
        truth, guess = truth.to(dtype), guess.to(dtype)
    values = case(truth, guess)
    assert values.shape == (5,)
    assert values.dtype == torch.float64
    worse = values.diff() * (-1 if case.metric.higher_is_better else 1)
    assert bool((worse >= 0).all())
    assert worse.sum() > 0
    assert case.kind in ("table", "tokens") or bool((worse > 0).all())


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_color_pictures_have_values(case: Case, channels: int) -> None:
    if case.kind == "image":
        assert bool(case(*pictures(0, 3, channels)).isfinite().all())


def test_the_data_range_is_the_unit_of_pictures(case: Case) -> None:
    if case.kind not in ("image", "vector"):
        return
    ratios = case(*(255 * samples for samples in case.pairs()), data_range=255.0) / case(*case.pairs())
    assert ratios.tolist() == pytest.approx([ratios[0].item()] * 5, rel=1e-9)
    # A number in ranges, in raw units, or in their square.
    assert any(ratios[0].item() == pytest.approx(255.0**power) for power in (0, 1, 2))
    assert type(case.metric) not in (Mse, Psnr) or ratios[0].item() == pytest.approx(255.0**2 if isinstance(case.metric, Mse) else 1.0)


def test_a_reason_comes_with_nan_and_a_value_without(case: Case) -> None:
    assert case.metric.undefined(SHAPES[case.kind], SCHEMAS[case.kind]) is None
    if case.kind not in ("image", "vector"):
        return
    for shape in ((14,), (1, 5, 5), (1, 28, 28), (2, 40, 40), (3, 33, 32)):
        values = case(torch.zeros(2, *shape), torch.ones(2, *shape))
        assert bool(values.isnan().all()) == (case.metric.undefined(shape) is not None)
        assert bool(values.isnan().any()) == (case.metric.undefined(shape) is not None)


def test_other_shapes_are_refused(case: Case) -> None:
    truth, guess = case.pairs()
    with pytest.raises(Misuse, match="expected two tensors of one shape"):
        case(truth[:2], guess[:3])


@pytest.mark.parametrize("data_range", [0.0, -1.0, float("nan"), float("inf")])
def test_a_range_that_is_none_is_refused(case: Case, data_range: float) -> None:
    if case.kind in ("image", "vector"):
        with pytest.raises(Misuse, match="expected a data range above zero"):
            case(*case.pairs(), data_range=data_range)


@pytest.mark.parametrize("schema", [None, Schema("vector"), Schema("table", columns=(Continuous("age"),))])
def test_cells_are_not_compared_without_the_schema_of_their_table(schema: Schema | None) -> None:
    for metric in (CellAccuracy(), CellMae(), ExactRow()):
        with pytest.raises(Misuse, match="expected the schema of the table"):
            metric(*rows(0, 3), 1.0, schema)


def test_share_of_cells_and_error_by_hand() -> None:
    truth = torch.tensor([[40.0, 0.0, 7.0, 1.0], [40.0, 0.0, 7.0, 1.0]])
    # 3 years are within 0.319 deviations of 10 years, 4 are not; 0.7 is beyond 0.319 of 2; a level is right or wrong.
    guess = torch.tensor([[43.0, 0.0, 7.5, 1.0], [44.0, 2.0, 7.7, 0.0]])
    assert CellAccuracy()(truth, guess, 1.0, TABLE).tolist() == [1.0, 0.0]
    assert CellAccuracy(tolerance=0.45)(truth, guess, 1.0, TABLE).tolist() == [1.0, 0.5]
    torch.testing.assert_close(CellMae()(truth, guess, 1.0, TABLE), torch.tensor([1.75, 2.35], dtype=torch.float64), atol=1e-6, rtol=0)
    assert CellMae().by_column(truth, guess, TABLE) == pytest.approx({"age": 3.5, "income": 0.6}, abs=1e-6)


def test_a_row_is_exact_when_every_cell_is() -> None:
    truth = torch.tensor([[40.0, 0.0, 7.0, 1.0]], dtype=torch.float64).expand(5, -1)
    guess = truth.clone()
    guess[1, 0] += 1
    guess[2, 1] = 1
    guess[3, 2] += 1e-4  # income is not rounded: 1e-5 of its deviation of 2 is rounding of the machine, more is not
    guess[4, 2] += 1e-6
    assert ExactRow()(truth, guess, 1.0, TABLE).tolist() == [1.0, 0.0, 0.0, 0.0, 1.0]


def test_a_table_of_levels_has_no_mean_error() -> None:
    assert CellMae().undefined((2,), Schema("table", columns=(Categorical("sex", ("f", "m")),))) == "no column is continuous"


def test_a_tolerance_below_zero_is_refused() -> None:
    with pytest.raises(Misuse, match="a tolerance of zero or more"):
        CellAccuracy(-0.1)
