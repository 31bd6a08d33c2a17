"""Models that a client may well have, and that no other test has: the answer is a true sentence, and no traceback."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unbatch import plugins
from unbatch.errors import Misuse
from unbatch.evidence import judge
from unbatch.gradients import capture
from unbatch.last_layer import obstacle
from unbatch.types import Candidate, Observation, Reconstruction, Status

INPUTS, LABELS = torch.rand(3, 12, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2])


class Own(torch.autograd.Function):
    """A ReLU as it is written by hand, without what torch.func needs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp_min(0)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return slopes[0] * (x > 0)


class Written(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = Own.apply(x)  # type: ignore[no-untyped-call]
        return made


def mlp(activation: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 40), activation, nn.Linear(40, 40), activation, nn.Linear(40, 4))


class Bodied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = mlp(nn.ReLU())[:3], nn.Linear(40, 4)


class Checkpointed(Bodied):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.body, x, use_reentrant=False))  # type: ignore[no-any-return]


class Untrained(Bodied):
    """What its body computes it computes without gradients, though nothing of it is frozen."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            fed = self.body(x)
        return self.head(fed.relu())  # type: ignore[no-any-return]


class Few(Bodied):
    """It takes few samples at a time."""

    def forward(self, x: Tensor) -> Tensor:
        assert len(x) <= 8, "at most 8"
        return self.head(self.body(x).relu())  # type: ignore[no-any-return]


class Mixed(Bodied):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.head(self.body(x).relu()).float()  # type: ignore[no-any-return]


def seen_of(model: nn.Module) -> Observation:
    return Observation(model, capture(model, INPUTS, LABELS), (12,), batch_size=3)


def test_what_cannot_be_differentiated_forward_is_said_to_be_so() -> None:
    found: Reconstruction = plugins.build("attacks", "span:seconds=2")(seen_of(mlp(Written())))
    assert found.status is Status.NOT_APPLICABLE
    assert "cannot differentiate" in found.reason


def test_what_is_computed_without_gradients_proves_nothing() -> None:
    assert judge(seen_of(Untrained()), Candidate(INPUTS, LABELS)).status is Status.UNPROVEN


@pytest.mark.parametrize("labels", [LABELS, None])
@pytest.mark.parametrize(("model", "sentence"), [(Checkpointed, "checkpointing"), (Few, "at most 8")])
def test_what_a_model_refuses_is_said_in_a_sentence(model: type[nn.Module], sentence: str, labels: Tensor | None) -> None:
    with pytest.raises(Misuse, match=sentence):
        judge(seen_of(model()), Candidate(INPUTS, labels))


def test_scores_of_another_precision_are_compared() -> None:
    assert "cross-entropy" in str(obstacle(seen_of(Mixed())))
