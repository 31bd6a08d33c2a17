"""A model is never changed by being looked at, whatever names its parts stand under."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from unbatch.determinism import check_deterministic
from unbatch.errors import Misuse
from unbatch.evidence import judge
from unbatch.gradients import capture, per_example
from unbatch.swap import called_with
from unbatch.trace import run
from unbatch.types import Candidate, Observation, Status


def network() -> tuple[nn.Sequential, nn.PReLU]:
    """One module under two names, as an embedding that an encoder and a decoder share."""
    torch.manual_seed(0)
    shared = nn.PReLU()
    return nn.Sequential(nn.Linear(12, 40), shared, nn.Linear(40, 40), shared, nn.Linear(40, 4)), shared


INPUTS, LABELS = torch.rand(3, 12, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2])

LOOKS: dict[str, Callable[[nn.Module], object]] = {
    "run": lambda model: run(model, INPUTS),
    "capture": lambda model: capture(model, INPUTS, LABELS),
    "per_example": lambda model: per_example(model, INPUTS, LABELS),
    "check_deterministic": lambda model: check_deterministic(model, INPUTS),
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_module_with_two_names_keeps_its_parameters(look: str) -> None:
    model, shared = network()
    own = shared.weight
    LOOKS[look](model)
    assert shared.weight is own
    assert own.dtype == torch.float32


def test_the_gradient_of_a_module_with_two_names_is_that_of_both_uses() -> None:
    model, shared = network()
    update: dict[str, Tensor] = capture(model, INPUTS, LABELS)
    nn.functional.cross_entropy(model(INPUTS), LABELS).backward()
    assert shared.weight.grad is not None
    assert torch.allclose(update["1.weight"], shared.weight.grad)
    found = judge(Observation(model, update, (12,), batch_size=3), Candidate(INPUTS, LABELS))
    assert found.status is Status.RECONSTRUCTED
    assert shared.weight is dict(model.named_parameters())["1.weight"]


class _Counting(nn.Module):
    """Replaces one of its buffers in a pass, and fails on negative inputs."""

    passes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.register_buffer("passes", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.passes = self.passes + 1
        if bool((x < 0).any()):
            raise ValueError("negative")
        return x * self.weight


def test_what_a_model_replaces_is_told_and_its_own_is_left() -> None:
    net = _Counting()
    given = {"weight": torch.full((1,), 2.0), "passes": torch.full((1,), 5.0)}
    assert called_with(net, given, torch.ones(1)).tolist() == [2.0]
    assert (given["passes"].item(), net.passes.item(), net.weight.item()) == (6.0, 0.0, 1.0)


def test_a_model_that_fails_has_its_own_back() -> None:
    net = _Counting()
    own = dict(net.named_parameters()) | dict(net.named_buffers())
    with pytest.raises(ValueError, match="negative"):
        called_with(net, {"weight": torch.zeros(1), "passes": torch.ones(1)}, -torch.ones(1))
    now = dict(net.named_parameters()) | dict(net.named_buffers())
    assert all(now[name] is tensor for name, tensor in own.items())


def test_a_model_compiled_by_jit_is_refused_in_a_sentence() -> None:
    net = torch.jit.trace(nn.Linear(3, 2), torch.ones(1, 3))  # type: ignore[no-untyped-call]
    with pytest.raises(Misuse, match=r"before torch\.jit\.script or trace"):
        called_with(net, {}, torch.ones(1, 3))
