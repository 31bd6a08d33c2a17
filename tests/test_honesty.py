"""No wrong answer is ever called a reconstruction: starved searches, corrupted updates, foreign models."""

import pytest
import torch
from torch import Tensor

from unbatch.attacks.spear import Spear
from unbatch.gradients import capture
from unbatch.models.mlp import Mlp
from unbatch.types import Observation, Status

SHAPE = (3, 6, 6)
KINDS = ("starved", "noise", "one entry", "scaled tensor", "foreign model", "fp16 rounding", "swapped neurons")

ACCURACY = {"fp16 rounding": 0.2}
"""Distance from the true sample (of length 10) at which an answer is wrong, where the update itself is only so accurate."""


def corrupt(kind: str, update: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)

    if kind == "noise":
        size = 10 ** float(torch.empty(1).uniform_(-9, -1, generator=generator))
        return {name: tensor + size * tensor.abs().mean() * noise(tensor) for name, tensor in update.items()}
    if kind == "one entry":
        name = list(update)[int(torch.randint(len(update), (1,), generator=generator))]
        damaged = update[name].clone()
        damaged.view(-1)[int(torch.randint(damaged.numel(), (1,), generator=generator))] += damaged.abs().max()
        return {**update, name: damaged}
    if kind == "scaled tensor":
        name = list(update)[int(torch.randint(len(update), (1,), generator=generator))]
        return {**update, name: 1.01 * update[name]}
    if kind == "fp16 rounding":
        return {name: tensor.half().double() for name, tensor in update.items()}
    if kind == "swapped neurons":
        return {**update, "1.weight": update["1.weight"].roll(1, 0)}
    return update


def trial(seed: int) -> tuple[str, Status, float]:
    """One spoiled audit: its kind, the status, and the error of what was returned (infinite for nothing)."""
    generator = torch.Generator().manual_seed(seed)
    kind = KINDS[seed % len(KINDS)]
    size = int(torch.randint(2, 9, (1,), generator=generator))
    model = Mlp(width=60, depth=3 + seed % 3).build(SHAPE, 5, seed).double()
    x = torch.randn((size, *SHAPE), generator=generator, dtype=torch.float64)
    y = torch.randint(5, (size,), generator=generator)
    update = corrupt(kind, capture(model, x, y), generator)
    if kind == "foreign model":
        model = Mlp(width=60, depth=3 + seed % 3).build(SHAPE, 5, seed + 1).double()
    budget = {"subsets": 3 + size} if kind == "starved" else {"subsets": 3000}
    found = Spear(seconds=1.0, **budget)(Observation(model, update, SHAPE), seed=seed)  # type: ignore[arg-type]
    if found.inputs is None or len(found.inputs) != size:
        return kind, found.status, float("inf")
    return kind, found.status, float(torch.cdist(x.flatten(1), found.inputs.flatten(1)).amin(dim=1).max())


def run_trials(seeds: range) -> None:
    outcomes = [trial(seed) for seed in seeds]
    wrong = [(kind, error) for kind, status, error in outcomes if status is Status.RECONSTRUCTED and not error < ACCURACY.get(kind, 1e-3)]
    assert wrong == []
    # The trials bite: few of them can succeed, and those that do had been spoiled below rounding or searched with luck.
    assert sum(status is Status.RECONSTRUCTED for _, status, _ in outcomes) < len(outcomes) // 2


def test_no_wrong_answer_in_28_trials() -> None:
    run_trials(range(28))


@pytest.mark.long
def test_no_wrong_answer_in_1000_trials() -> None:
    run_trials(range(1000, 2000))
