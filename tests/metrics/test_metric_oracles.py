"""MSE, PSNR and SSIM against scikit-image and torchmetrics, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio
from torchmetrics.functional.image import peak_signal_noise_ratio as torchmetrics_psnr
from torchmetrics.functional.image import structural_similarity_index_measure

from unbatch.metrics.mse import Mse
from unbatch.metrics.psnr import Psnr
from unbatch.metrics.ssim import Ssim


def pairs(shape: tuple[int, ...], data_range: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand((4, *shape), generator=generator, dtype=torch.float64)
    guess = (truth + 0.2 * torch.randn(truth.shape, generator=generator, dtype=torch.float64)).clamp(0, 1)
    return truth * data_range, guess * data_range


@pytest.mark.parametrize("data_range", [1.0, 255.0])
@pytest.mark.parametrize("shape", [(14,), (1, 8, 8), (3, 20, 30)])
def test_mse_and_psnr_are_those_of_scikit_image(shape: tuple[int, ...], data_range: float) -> None:
    truth, guess = pairs(shape, data_range)
    both = list(zip(truth.numpy(), guess.numpy(), strict=True))
    np.testing.assert_allclose(Mse()(truth, guess, data_range), [mean_squared_error(a, b) for a, b in both], rtol=1e-12)
    expected = [peak_signal_noise_ratio(a, b, data_range=data_range) for a, b in both]
    np.testing.assert_allclose(Psnr()(truth, guess, data_range), expected, rtol=1e-12)


def test_psnr_is_that_of_torchmetrics() -> None:
    truth, guess = pairs((3, 20, 30), 1.0)
    expected = torchmetrics_psnr(guess, truth, data_range=1.0, reduction="none", dim=(1, 2, 3))
    torch.testing.assert_close(Psnr()(truth, guess, 1.0), expected, rtol=1e-6, atol=0)


def test_psnr_of_equal_samples_is_infinite_and_of_nearly_equal_ones_is_not() -> None:
    truth = torch.full((2, 10), 0.5, dtype=torch.float64)
    guess = truth.clone()
    guess[1] += 1e-9
    first, second = Psnr()(truth, guess, 1.0).tolist()
    assert math.isinf(first)
    assert first > 0
    assert second == pytest.approx(180.0, abs=1e-3)


@pytest.mark.parametrize("data_range", [1.0, 255.0])
@pytest.mark.parametrize(
    ("shape", "sigma"),
    [((1, 7, 7), 0.75), ((1, 8, 8), 0.75), ((3, 10, 30), 0.75), ((1, 11, 11), 1.5), ((1, 28, 28), 1.5), ((3, 32, 40), 1.5)],
)
def test_ssim_is_that_of_torchmetrics(shape: tuple[int, ...], sigma: float, data_range: float) -> None:
    truth, guess = pairs(shape, data_range)
    _, everywhere = structural_similarity_index_measure(
        guess, truth, sigma=sigma, data_range=data_range, reduction="none", return_full_image=True
    )
    # torchmetrics averages over the mirrored rim too; Wang et al. and scikit-image only where the window fits.
    rim = 5 if sigma == 1.5 else 3
    expected = everywhere[..., rim : shape[1] - rim, rim : shape[2] - rim].mean((1, 2, 3))
    torch.testing.assert_close(Ssim()(truth, guess, data_range), expected, rtol=1e-9, atol=1e-9)


def test_ssim_of_constant_pictures_is_its_luminance_term() -> None:
    # (2ab + C1) / (a² + b² + C1) with C1 = 0.01²; contrast and structure are 1 where there is none.
    truth, guess = torch.full((1, 1, 16, 16), 0.25, dtype=torch.float64), torch.full((1, 1, 16, 16), 0.75, dtype=torch.float64)
    expected = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    assert Ssim()(truth, guess, 1.0).item() == pytest.approx(expected)


def test_ssim_of_an_inverted_picture_is_negative() -> None:
    truth = torch.rand((1, 1, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert Ssim()(truth, 1 - truth, 1.0).item() < -0.5


@pytest.mark.parametrize(
    ("shape", "reason"), [((14,), "not pictures"), ((1, 6, 30), "6 x 30 pixels are below 7 x 7"), ((8, 8), "not pictures")]
)
def test_ssim_says_why_it_has_no_value(shape: tuple[int, ...], reason: str) -> None:
    assert reason in str(Ssim().undefined(shape))
