"""Whether a report says rightly that its setting is easier than a real client's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unbatch.realism import upper_bounds
from unbatch.report.claims import setting_of
from unbatch.types import LocalTraining, Observation


def seen(*, train: bool = True, dtype: torch.dtype = torch.float32, labels: bool = False, steps: bool = True) -> Observation:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).to(dtype).train(train)
    generator = torch.Generator().manual_seed(0)
    update = {name: torch.randn(p.shape, generator=generator, dtype=torch.float64).to(dtype) for name, p in model.named_parameters()}
    training = LocalTraining(epochs=3, batch_size=2, learning_rate=0.1) if steps else None
    return Observation(model, update, (4,), labels=torch.tensor([0, 1, 2, 0]) if labels else None, training=training, batch_size=4)


def test_several_steps_in_train_mode_and_float32_are_realistic() -> None:
    assert upper_bounds(seen()) == ()
    assert setting_of(upper_bounds(seen())).startswith("Realistic")


@pytest.mark.parametrize(
    ("easier", "reason"),
    [
        ({"train": False}, "eval mode"),
        ({"dtype": torch.float64}, "float64"),
        ({"labels": True}, "labels were told"),
        ({"steps": False}, "one gradient of one batch"),
    ],
)
def test_each_that_makes_it_easier_is_named(easier: dict[str, object], reason: str) -> None:
    (told,) = upper_bounds(seen(**easier))  # type: ignore[arg-type]
    assert reason in told
    assert setting_of((told,)).startswith("Upper bound")
