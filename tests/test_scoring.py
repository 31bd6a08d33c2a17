"""Guesses held against the truth, kind by kind, and what a guess is worth that knows nothing of the update."""

from __future__ import annotations

import math

import pytest
import torch

from unbatch import plugins
from unbatch.contracts import Metric
from unbatch.datasets.digits import Digits
from unbatch.errors import Misuse
from unbatch.schema import Categorical, Continuous, Schema
from unbatch.scoring import baselines, score
from unbatch.types import Batch

METRICS: dict[str, Metric] = {name: plugins.load("metrics", name)() for name in plugins.names("metrics")}
TABLE = Schema(
    "table",
    (40.0, 0.5, 0.5),
    (10.0, 0.5, 0.5),
    ("no", "yes"),
    (Continuous("age", 17, 90, "years", rounding=1), Categorical("sex", ("f", "m"))),
)


def batch(*rows: tuple[float, str]) -> Batch:
    return Batch(TABLE.encode(TABLE.cells(rows)), torch.zeros(len(rows), dtype=torch.int64), TABLE)


def test_rows_are_matched_scored_and_called_exact_by_the_cell() -> None:
    truth = batch((20, "f"), (50, "m"), (80, "f"))
    guess = batch((82, "f"), (20, "f"), (50, "f")).inputs + 0.01  # far below half a year
    scores = score(truth, guess, METRICS)
    assert scores.order == (1, 2, 0)
    assert scores.exact == (True, False, False)
    assert scores.scores == {"cell_accuracy": (1.0, 0.5, 1.0), "cell_mae": (0.0, 0.0, 2.0), "exact_row": (1.0, 0.0, 0.0)}
    assert list(scores.measures) == ["cell_accuracy", "cell_mae", "exact_row"]
    assert scores.mean("cell_accuracy") == pytest.approx(5 / 6)


def test_a_row_without_a_partner_has_no_scores_and_is_not_exact() -> None:
    scores = score(batch((20, "f"), (50, "m")), batch((50, "m")).inputs, METRICS)
    assert scores.order == (-1, 0)
    assert scores.exact == (False, True)
    assert math.isnan(scores.scores["cell_accuracy"][0])


def test_texts_are_matched_and_scored_by_the_token() -> None:
    schema = Schema("tokens", vocabulary=10)
    truth = Batch(torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]]), torch.zeros(2, dtype=torch.int64), schema)
    scores = score(truth, torch.tensor([[5, 6, 7, 9], [1, 2, 3, 4]]), METRICS)
    assert scores.order == (1, 0)
    assert scores.scores == {"token_accuracy": (1.0, 0.75), "exact_row": (1.0, 0.0)}
    assert scores.exact == (True, False)


def test_pictures_have_the_metrics_of_pictures_in_the_order_of_a_report() -> None:
    truth = Digits().batch(3)
    scores = score(truth, truth.inputs.flip(0), METRICS)
    assert scores.order == (2, 1, 0)
    assert scores.exact == (True, True, True)
    assert list(scores.scores) == ["psnr", "ssim", "mse", "lpips"]
    assert list(scores.notes) == ["lpips"]
    assert [(one.title, one.unit) for one in scores.measures.values()][:2] == [("PSNR", "dB"), ("SSIM", "")]


def test_samples_of_another_shape_are_refused() -> None:
    with pytest.raises(Misuse, match="expected reconstructions of shape"):
        score(Digits().batch(2), torch.zeros(2, 1, 9, 9), METRICS)


class Pool(Digits):
    """Rows of which three quarters are 30 or 50 years old, and women."""

    cells = TABLE.cells([(30, "f"), (50, "f"), (50, "f"), (70, "m")] * 500)

    @property
    def schema(self) -> Schema:
        return TABLE

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (3,)

    def __len__(self) -> int:
        return len(self.cells)

    def take(self, indices: torch.Tensor) -> Batch:
        return Batch(TABLE.encode(self.cells[indices]), torch.zeros(len(indices), dtype=torch.int64), TABLE)


def test_the_typical_row_is_the_mode_of_levels_and_the_mean_of_numbers() -> None:
    truth = batch((50, "f"), (50, "m"), (30, "f"))
    worth = baselines(Pool(), truth, METRICS)["typical"]
    assert sorted(worth.scores["cell_mae"]) == [0.0, 0.0, 20.0]
    assert worth.scores["exact_row"] == (1.0, 0.0, 0.0)


def test_random_rows_draw_every_cell_by_itself_and_the_seed_repeats_them() -> None:
    truth = batch(*[(30, "m")] * 400)
    worth = baselines(Pool(), truth, METRICS, seed=1)["random"]
    # 1/4 of the ages are 30 (the others are two deviations away and more), 1/4 of the rows men; both together 1/16, as no row of the pool.
    assert worth.mean("cell_accuracy") == pytest.approx(0.25, abs=0.05)
    assert worth.mean("exact_row") == pytest.approx(1 / 16, abs=0.04)
    assert worth == baselines(Pool(), truth, METRICS, seed=1)["random"]
    assert worth != baselines(Pool(), truth, METRICS, seed=2)["random"]
