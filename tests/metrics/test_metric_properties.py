"""What holds for every metric: one value a sample, order of the batch, the best value for equal samples, misuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unbatch.contracts import Metric
from unbatch.errors import Misuse
from unbatch.metrics.lpips import Lpips
from unbatch.metrics.mse import Mse
from unbatch.metrics.psnr import Psnr
from unbatch.metrics.ssim import Ssim

WEIGHTS = "lpips_alexnet_v0.1.safetensors"
BEST = {Mse: 0.0, Psnr: float("inf"), Ssim: 1.0, Lpips: 0.0}


@pytest.fixture(params=[Mse, Psnr, Ssim, Lpips], scope="module")
def metric(request: pytest.FixtureRequest, shared_weights: Callable[[str], Path]) -> Metric:
    return Lpips(str(shared_weights(WEIGHTS))) if request.param is Lpips else request.param()


def pictures(seed: int, count: int = 5, channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand((count, channels, 8, 9), generator=generator, dtype=torch.float64)
    truth = truth.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    strengths = torch.logspace(-2.5, -0.5, count, dtype=torch.float64).view(-1, 1, 1, 1)
    return truth, truth + strengths * torch.randn(truth.shape, generator=generator, dtype=torch.float64)


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(order=st.permutations(range(5)), seed=st.integers(0, 1000))
def test_permuting_the_batch_permutes_the_values(metric: Metric, order: list[int], seed: int) -> None:
    truth, guess = pictures(seed)
    torch.testing.assert_close(metric(truth[order], guess[order], 1.0), metric(truth, guess, 1.0)[order], rtol=1e-9, atol=1e-12)


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(seed=st.integers(0, 1000))
def test_truth_and_guess_can_change_places(metric: Metric, seed: int) -> None:
    truth, guess = pictures(seed, count=2)
    torch.testing.assert_close(metric(truth, guess, 1.0), metric(guess, truth, 1.0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_float64_a_sample_and_more_noise_is_worse(metric: Metric, channels: int, dtype: torch.dtype) -> None:
    truth, guess = pictures(0, channels=channels)
    values = metric(truth.to(dtype), guess.to(dtype), 1.0)
    assert values.shape == (5,)
    assert values.dtype == torch.float64
    steps = values.diff()
    assert bool((steps < 0).all() if metric.higher_is_better else (steps > 0).all())


def test_equal_samples_have_the_best_value(metric: Metric) -> None:
    truth, _ = pictures(0)
    values = metric(truth, truth.clone(), 1.0)
    torch.testing.assert_close(values, torch.full((5,), BEST[type(metric)], dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_data_range_is_the_unit(metric: Metric) -> None:
    truth, guess = pictures(0)
    factor = 255.0**2 if isinstance(metric, Mse) else 1.0
    torch.testing.assert_close(metric(truth * 255, guess * 255, 255.0), metric(truth, guess, 1.0) * factor, rtol=1e-9, atol=1e-12)


def test_an_empty_batch_has_no_values(metric: Metric) -> None:
    assert metric(torch.zeros(0, 3, 32, 32), torch.zeros(0, 3, 32, 32), 1.0).shape == (0,)


def test_the_samples_are_left_alone(metric: Metric) -> None:
    truth, guess = pictures(0)
    kept = truth.clone(), guess.clone()
    metric(truth, guess, 1.0)
    assert torch.equal(truth, kept[0])
    assert torch.equal(guess, kept[1])


def test_a_reason_comes_with_nan_and_a_value_without(metric: Metric) -> None:
    for shape in ((14,), (1, 5, 5), (1, 28, 28), (2, 40, 40), (3, 33, 32)):
        values = metric(torch.zeros(2, *shape), torch.ones(2, *shape), 1.0)
        assert bool(values.isnan().all()) == (metric.undefined(shape) is not None)
        assert bool(values.isnan().any()) == (metric.undefined(shape) is not None)


def test_other_shapes_are_refused(metric: Metric) -> None:
    with pytest.raises(Misuse, match="expected two tensors of one shape"):
        metric(torch.zeros(2, 3, 32, 32), torch.zeros(3, 3, 32, 32), 1.0)


@pytest.mark.parametrize("data_range", [0.0, -1.0, float("nan"), float("inf")])
def test_a_range_that_is_none_is_refused(metric: Metric, data_range: float) -> None:
    with pytest.raises(Misuse, match="expected a data range above zero"):
        metric(torch.zeros(2, 3, 32, 32), torch.zeros(2, 3, 32, 32), data_range)
