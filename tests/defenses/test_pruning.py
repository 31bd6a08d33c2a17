"""Pruning: identity limit, known answer, measured share, rejected misuse."""

import math

import pytest
import torch

from unbatch.defenses.pruning import Pruning
from unbatch.errors import Misuse

UPDATE = {"w": torch.tensor([[1.0, -8.0], [2.0, 6.0]]), "b": torch.tensor([-0.5, 0.25])}


def pruned(share: float, of: str = "tensor") -> dict[str, list[float]]:
    made = Pruning(share, of)(UPDATE, torch.Generator())  # type: ignore[arg-type]
    return {name: tensor.tolist() for name, tensor in made.items()}


@pytest.mark.parametrize("of", ["tensor", "update"])
def test_no_share_is_the_identity(of: str) -> None:
    assert pruned(0.0, of) == {name: tensor.tolist() for name, tensor in UPDATE.items()}


def test_known_answer_tensor_by_tensor() -> None:
    assert pruned(0.5) == {"w": [[0.0, -8.0], [0.0, 6.0]], "b": [-0.5, 0.0]}


def test_known_answer_over_the_whole_update() -> None:
    assert pruned(0.5, "update") == {"w": [[0.0, -8.0], [2.0, 6.0]], "b": [0.0, 0.0]}


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("of", ["tensor", "update"])
def test_the_share_is_pruned_and_no_pruned_number_was_larger_than_a_kept_one(share: float, of: str) -> None:
    generator = torch.Generator().manual_seed(0)
    given = {name: torch.randn(shape, generator=generator) for name, shape in {"w": (70, 30), "v": (200, 50)}.items()}
    made = Pruning(share, of)(given, generator)  # type: ignore[arg-type]
    groups = [["w"], ["v"]] if of == "tensor" else [["w", "v"]]
    for names in groups:
        before, after = (torch.cat([tensors[name].flatten() for name in names]) for tensors in (given, made))
        assert int((after == 0).sum()) == round(share * len(after))
        assert torch.equal(after[after != 0], before[after != 0])
        assert float(before[after == 0].abs().max()) < float(before[after != 0].abs().min())


def test_something_is_left_of_every_tensor() -> None:
    made = pruned(0.999)
    assert made == {"w": [[0.0, -8.0], [0.0, 0.0]], "b": [-0.5, 0.0]}


def test_equal_magnitudes_lose_exactly_the_share() -> None:
    made = Pruning(0.25)({"w": torch.tensor([1.0, -1.0, 1.0, -1.0])}, torch.Generator())["w"]
    assert made.tolist() == [0.0, -1.0, 1.0, -1.0]


@pytest.mark.parametrize("share", [-0.1, 1.0, math.nan])
def test_a_share_that_cannot_be_is_refused(share: float) -> None:
    with pytest.raises(Misuse, match="share"):
        Pruning(share)


def test_an_unknown_scope_is_refused() -> None:
    with pytest.raises(Misuse, match="tensor or update"):
        Pruning(0.5, "layer")  # type: ignore[arg-type]
