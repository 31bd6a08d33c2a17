"""The inputs of an inner layer, judged as if that layer were the first: what it sees is then the sample.

Only what is checked is called disclosed, and it is called what it is: what a layer sees, not the client's input.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from unbatch.evidence.tail import tail_of
from unbatch.types import Observation

__all__ = ["from_layer"]


class _Feed(TorchFunctionMode):
    """Feeds one layer with given rows in the place of what comes to it."""

    def __init__(self, weight: Tensor, rows: Tensor) -> None:
        super().__init__()
        self.weight, self.rows = weight, rows

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is F.linear and (args[1] if len(args) > 1 else kwargs.get("weight")) is self.weight:
            kwargs.pop("input", None)
            return func(self.rows, *args[1:], **kwargs)
        return func(*args, **kwargs)


class _FromLayer(nn.Module):
    """A network that takes what one of its Linear layers sees."""

    def __init__(self, body: nn.Module, layer: str, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        # The same parameters under the same names: whoever swaps them here swaps them in the body.
        self._parameters, self._buffers, self._modules = body._parameters, body._buffers, body._modules
        # Under names that no network gives to its parts: those must be found as before.
        self.__dict__["_unbatch_origin"] = (body, layer, input_shape)

    def forward(self, rows: Tensor) -> Tensor:
        """(k, n) -> (k, C)."""
        body, layer, input_shape = self.__dict__["_unbatch_origin"]
        with _Feed(dict(self.named_parameters())[layer], rows):
            outputs: Tensor = body(rows.new_zeros(1, *input_shape).expand(len(rows), *input_shape))
        return outputs


def from_layer(observation: Observation, layer: str) -> Observation | None:
    """The observation as one of the network from this layer on; None where what follows depends on more than what the layer sees.

    Args:
        observation: what the server saw: one gradient, up to a factor.
        layer: name of the layer's weight.
    """
    weight = dict(observation.model.named_parameters()).get(layer)
    if weight is None or weight.ndim != 2 or layer not in observation.update or tail_of(observation, layer) is None:
        return None
    if not bool(observation.update[layer].any()):  # nobody left a trace there
        return None
    body = copy.deepcopy(observation.model)
    inner = _FromLayer(body, layer, observation.input_shape)
    inner.training = observation.model.training
    rows = torch.randn((2, weight.shape[1]), generator=torch.Generator().manual_seed(0)).to(weight)
    parameters = {name: p for name, p in inner.named_parameters() if p.requires_grad}  # frozen ones stay frozen
    with torch.enable_grad():
        slopes = torch.autograd.grad(inner(rows).sum(), list(parameters.values()), allow_unused=True)
    for parameter, slope in zip(parameters.values(), slopes, strict=True):
        parameter.requires_grad_(slope is not None)
    update = {name: observation.update[name] for name, p in parameters.items() if p.requires_grad and name in observation.update}
    return replace(observation, model=inner, update=update, input_shape=(weight.shape[1],), schema=None, labels=None)
