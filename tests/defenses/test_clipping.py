"""Clipping: identity limit, known answer, measured length, rejected misuse, and what the server is told."""

import math

import pytest
import torch

from unbatch.defenses.clipping import Clipping
from unbatch.errors import Misuse

UPDATE = {"w": torch.tensor([[3.0, 0.0], [0.0, 0.0]], dtype=torch.float64), "b": torch.tensor([0.0, 4.0], dtype=torch.float64)}


def clipped(norm: float) -> dict[str, torch.Tensor]:
    return Clipping(norm)(UPDATE, torch.Generator())


@pytest.mark.parametrize("norm", [5.0, 7.0, math.inf])
def test_a_norm_that_is_long_enough_is_the_identity(norm: float) -> None:
    assert all(torch.equal(tensor, UPDATE[name]) for name, tensor in clipped(norm).items())


def test_known_answer() -> None:
    made = clipped(2.5)
    assert made["w"].tolist() == [[1.5, 0.0], [0.0, 0.0]]
    assert made["b"].tolist() == [0.0, 2.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_random_updates_get_the_norm_and_keep_their_direction(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    given = {name: (30 * torch.randn(shape, generator=generator)).to(dtype) for name, shape in {"w": (40, 30), "b": (40,)}.items()}
    made = Clipping(0.7)(given, generator)
    before, after = (torch.cat([tensor.double().flatten() for tensor in tensors.values()]) for tensors in (given, made))
    rounding = 4 * torch.finfo(dtype).eps
    assert float(after.norm()) == pytest.approx(0.7, rel=rounding)
    assert float(torch.cosine_similarity(before, after, dim=0)) == pytest.approx(1.0, abs=rounding)


def test_large_half_precision_numbers_do_not_overflow() -> None:
    made = Clipping(1.0)({"w": torch.full((1000,), 6e4, dtype=torch.float16)}, torch.Generator())["w"]
    assert float(made.double().norm()) == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("norm", [0.0, -1.0, math.nan])
def test_a_norm_that_cannot_be_is_refused(norm: float) -> None:
    with pytest.raises(Misuse, match="norm"):
        Clipping(norm)
