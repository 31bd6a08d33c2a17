"""Quantization: identity limit, known answers, measured errors, rejected misuse, and what the server is told."""

import math

import pytest
import torch

from unbatch import plugins
from unbatch.defenses.quantization import Quantization
from unbatch.errors import Misuse
from unbatch.models.mlp import Mlp
from unbatch.types import Batch

COUNT = 100_000


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quantized(tensor: torch.Tensor, kind: str, *, stochastic: bool = False) -> torch.Tensor:
    return Quantization(kind, stochastic)({"w": tensor}, seeded())["w"]  # type: ignore[arg-type]


def normal() -> torch.Tensor:
    return torch.randn((COUNT,), generator=seeded(1), dtype=torch.float64)


def test_none_is_the_identity() -> None:
    assert torch.equal(quantized(normal(), "none"), normal())


@pytest.mark.parametrize(("kind", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_casts_arrive_in_their_type_and_leave_its_numbers_as_they_are(kind: str, dtype: torch.dtype) -> None:
    given = normal()
    made = quantized(given, kind)
    assert made.dtype is dtype
    half_a_step = torch.finfo(dtype).eps / 2 * given.abs().clamp_min(torch.finfo(dtype).tiny)
    assert bool(((made.double() - given).abs() <= half_a_step).all())
    assert torch.equal(quantized(made, kind), made)


@pytest.mark.parametrize("stochastic", [False, True])
def test_int8_leaves_its_own_grid_as_it_is(stochastic: bool) -> None:
    grid = torch.arange(-127, 128, dtype=torch.float64) / 128  # steps of a power of two: exact in binary
    assert torch.equal(quantized(grid, "int8", stochastic=stochastic), grid)


def test_int8_known_answer() -> None:
    made = quantized(torch.tensor([127.0, -12.4, 0.49, 0.51]), "int8")
    assert made.tolist() == [127.0, -12.0, 0.0, 1.0]


def test_int8_has_at_most_255_values_and_errors_up_to_half_a_step() -> None:
    given = normal()
    made = quantized(given, "int8")
    step = float(given.abs().max()) / 127
    assert len(made.unique()) <= 255
    error = (made - given) / step
    assert float(error.abs().max()) <= 0.5 + 1e-9
    # Rounding errors of a smooth density are uniform: their root mean square is a step over √12.
    assert float(error.square().mean().sqrt()) == pytest.approx(1 / math.sqrt(12), rel=5 / math.sqrt(COUNT))


def test_stochastic_int8_is_right_in_the_mean() -> None:
    given = torch.full((COUNT,), 0.3, dtype=torch.float64)
    given[0] = 127.0  # makes the step 1
    made = quantized(given, "int8", stochastic=True)
    assert set(made.tolist()) == {0.0, 1.0, 127.0}
    assert abs(float(made[1:].mean()) - 0.3) < 5 * math.sqrt(0.3 * 0.7 / COUNT)


def test_sign_known_answer() -> None:
    assert quantized(torch.tensor([4.0, -1.0, 0.0, 3.0]), "sign").tolist() == [2.0, -2.0, 0.0, 2.0]


def test_sign_leaves_what_has_one_magnitude_as_it_is() -> None:
    given = torch.tensor([0.5, -0.5, 0.5])
    assert torch.equal(quantized(given, "sign"), given)


@pytest.mark.parametrize("kind", ["fp16", "bf16", "int8", "sign", "none"])
def test_only_signs_lose_the_scale(kind: str) -> None:
    defense = plugins.build("defenses", f"quantization:{kind}")
    batch = Batch(torch.randn((4, 6), generator=seeded(2)), torch.arange(4) % 2)
    seen = plugins.build("protocols", "fedsgd").observe(Mlp(width=8, depth=2).build((6,), 2), batch, defenses=[defense])
    assert seen.factor_known is (kind != "sign")


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(Misuse, match="fp16"):
        Quantization("fp8")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["fp16", "sign"])
def test_stochastic_rounding_is_for_int8(kind: str) -> None:
    with pytest.raises(Misuse, match="int8"):
        Quantization(kind, stochastic=True)  # type: ignore[arg-type]
