"""Gaussian noise: identity limit, measured deviation and independence, rejected misuse."""

import math

import pytest
import torch

from unbatch.defenses.gaussian_noise import GaussianNoise
from unbatch.errors import Misuse

COUNT = 200_000


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def update() -> dict[str, torch.Tensor]:
    """Tensors of root mean square 1 and 3; sqrt((1 + 9) / 2) together."""
    signs = torch.randint(2, (2, COUNT), generator=seeded(7)).double() * 2 - 1
    return {"small": signs[0], "large": 3 * signs[1].reshape(-1, 8)}


@pytest.mark.parametrize("unit", ["update", "tensor", "absolute"])
def test_no_deviation_is_the_identity(unit: str) -> None:
    given = update()
    made = GaussianNoise(0.0, unit)(given, seeded())  # type: ignore[arg-type]
    assert all(torch.equal(made[name], given[name]) for name in given)


@pytest.mark.parametrize(
    ("unit", "deviations"),
    [("absolute", (0.1, 0.1)), ("tensor", (0.1, 0.3)), ("update", (0.1 * math.sqrt(5), 0.1 * math.sqrt(5)))],
)
def test_the_noise_has_the_deviation_that_it_says(unit: str, deviations: tuple[float, float]) -> None:
    given = update()
    made = GaussianNoise(0.1, unit)(given, seeded())  # type: ignore[arg-type]
    drawn = {}
    for name, expected in zip(given, deviations, strict=True):
        noise = drawn[name] = (made[name] - given[name]).flatten()
        # Five standard errors: of a mean s/√n, of a deviation s/√(2n), and of the fourth standardized moment √(96/n).
        assert abs(float(noise.mean())) < 5 * expected / math.sqrt(COUNT)
        assert abs(float(noise.std()) - expected) < 5 * expected / math.sqrt(2 * COUNT)
        assert abs(float((noise / expected).pow(4).mean()) - 3) < 5 * math.sqrt(96 / COUNT)
    correlation = torch.corrcoef(torch.stack(list(drawn.values())))[0, 1]
    assert abs(float(correlation)) < 5 / math.sqrt(COUNT)


def test_other_seeds_other_noise() -> None:
    given = update()
    assert not torch.equal(GaussianNoise()(given, seeded(0))["small"], GaussianNoise()(given, seeded(1))["small"])


@pytest.mark.parametrize("deviation", [-0.1, math.inf, math.nan])
def test_a_deviation_that_cannot_be_is_refused(deviation: float) -> None:
    with pytest.raises(Misuse, match="deviation"):
        GaussianNoise(deviation)


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(Misuse, match="unit"):
        GaussianNoise(0.1, "percent")  # type: ignore[arg-type]
