"""What every protocol must keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from unbatch.contracts import Defense, Protocol, Stage
from unbatch.errors import NotDeterministic
from unbatch.testing.promises import ContractBroken, Promises, require, same, untouched
from unbatch.testing.scenes import CLASSES, SHAPE, drawn, network, random_model
from unbatch.types import Batch

__all__ = ["check_protocol"]

SAMPLES = 12


@dataclass(frozen=True)
class _Half(Defense):
    """Scales by one half."""

    stage: ClassVar[Stage] = Stage.CLIENT
    rescales: ClassVar[bool] = True

    def __call__(self, gradients: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG002
        return {name: tensor / 2 for name, tensor in gradients.items()}


def check_protocol(protocol: Protocol) -> None:
    """Hold a protocol to its contract.

    Args:
        protocol: to be checked; it must take a batch of 12.

    Raises:
        ContractBroken: with every promise that it breaks.

    Example:
        >>> from unbatch.plugins import build
        >>> check_protocol(build("protocols", "fedsgd"))
    """
    promises = Promises(protocol, "protocols")
    model: nn.Module = network().double()
    batch = Batch(drawn((SAMPLES, *SHAPE)), torch.arange(SAMPLES) % CLASSES)
    with promises.kept("the same seed gives the same, and nothing else is touched"):
        with untouched(model, {"inputs": batch.inputs, "labels": batch.labels}):
            first, second = protocol.observe(model, batch, seed=3), protocol.observe(model, batch, seed=3)
        require(same(first.update, second.update), "another update the second time")
        require(first.input_shape == SHAPE, f"samples of shape {first.input_shape}")
        require(first.protocol == protocol.spec, f"the protocol {first.protocol!r} is told, not {protocol.spec!r}")
    with promises.kept("the server is not told the labels"):
        require(first.labels is None, "it is")
    with promises.kept("a defense is applied, and the server is told of it"):
        defended = protocol.observe(model, batch, defenses=[_Half()], seed=3)
        require(not same(first.update, defended.update), "the update is what it is without it")
        require(any("defended" in remark for remark in defended.remarks), "it is not told")
        require(not defended.factor_known, "factor_known where a defense scales by a factor of its own")
    with promises.kept("a model that draws at random is refused with NotDeterministic"):
        try:
            protocol.observe(random_model(), batch)
        except NotDeterministic:
            pass
        else:
            raise ContractBroken("it is not")
    promises.settle()
