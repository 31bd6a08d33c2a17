"""The seal on what an attack was given: whatever it changes is seen, in tensors too large to be hashed byte by byte as well."""

from dataclasses import dataclass

import pytest
import torch
from torch import Generator, Tensor, nn

from unbatch.contracts import Attack
from unbatch.contracts.seal import WORDS, Seal
from unbatch.gradients import capture
from unbatch.types import Candidate, Observation, Progress, Status

INPUTS = 5 * WORDS // 3


def seen(dtype: torch.dtype, offset: int = 0) -> Observation:
    """Of a layer of five blocks or more and a few bytes; its gradient begins so many numbers after its storage does."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(INPUTS + 1, 7), nn.ReLU(), nn.Linear(7, 3)).to(dtype)
    update = capture(net, torch.rand(4, INPUTS + 1, dtype=dtype), torch.tensor([0, 1, 2, 0]))
    gradient = update["0.weight"]
    moved = torch.empty(gradient.numel() + offset, dtype=dtype)[offset:].view_as(gradient).copy_(gradient)
    return Observation(net, update | {"0.weight": moved}, (INPUTS + 1,))


def bits(tensor: Tensor) -> Tensor:
    """The tensor's own numbers as whole numbers."""
    return tensor.detach().flatten().view(torch.int64 if tensor.dtype == torch.float64 else torch.int32)


def two_signs(tensor: Tensor) -> None:
    tensor.detach().view(-1)[[3, 9 * WORDS // 2]] *= -1


def two_signs_of_a_block(tensor: Tensor) -> None:
    tensor.detach().view(-1)[[4, 5, 6, 7]] *= -1


def last_bit(tensor: Tensor) -> None:
    bits(tensor)[2 * WORDS + 5] ^= 1


def last_bits_that_sum_to_none(tensor: Tensor) -> None:
    bits(tensor)[10] += 1
    bits(tensor)[12] -= 1


def last_number(tensor: Tensor) -> None:
    bits(tensor)[-1] ^= 1


def first_number(tensor: Tensor) -> None:
    bits(tensor)[0] ^= 1


def places(tensor: Tensor) -> None:
    flat = tensor.detach().view(-1)
    flat[:2] = flat[:2].flip(0).clone()


def blocks(tensor: Tensor) -> None:
    words = tensor.detach().view(-1)[: 16 * WORDS // tensor.element_size()].view(2, -1)
    words.copy_(words.flip(0).clone())


CHANGES = [two_signs, two_signs_of_a_block, last_bit, last_bits_that_sum_to_none, last_number, first_number, places, blocks]


@pytest.mark.parametrize(("dtype", "offset"), [(torch.float64, 0), (torch.float32, 0), (torch.float32, 1)])
@pytest.mark.parametrize("changed", CHANGES)
def test_a_change_of_any_bit_breaks_it(changed: object, dtype: torch.dtype, offset: int) -> None:
    observation = seen(dtype, offset)
    for tensor in (observation.update["0.weight"], next(observation.model.parameters())):
        seal, before = Seal(observation), tensor.detach().clone()
        assert not seal.broken
        changed(tensor)  # type: ignore[operator]
        assert not torch.equal(before, tensor)
        assert seal.broken
        tensor.detach().copy_(before)
        assert not seal.broken


@dataclass(frozen=True)
class Turns(Attack):
    """Turns the signs of two numbers of what it was given round, behind autograd's back."""

    def reconstruct(self, observation: Observation, generator: Generator, progress: Progress) -> Candidate:
        numbers = observation.update["0.weight"].numpy().reshape(-1)
        numbers[[1, 2]] = -numbers[[1, 2]]
        return Candidate()


def test_an_attack_that_changes_what_it_was_given_has_broken_down() -> None:
    made = Turns()(seen(torch.float64))
    assert made.status is Status.BROKE_DOWN
    assert "the attack changed what it was given" in made.reason
