"""Which functions of a model have kinks, where a second derivative says nothing of what lies beyond."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.overrides import TorchFunctionMode

from unbatch.trace import trial
from unbatch.types import Observation

__all__ = ["kinks"]

_KINKED = {
    *("relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "prelu", "rrelu", "threshold", "hardtanh", "hardswish", "hardsigmoid"),
    *("clamp", "clamp_", "clamp_min", "clamp_max", "clip", "abs", "abs_", "maximum", "minimum", "max", "min", "amax", "amin"),
    *("max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "softshrink", "hardshrink"),
}


class _Names(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.seen.append(getattr(func, "__name__", "").removeprefix("_").replace("_with_indices", ""))
        return func(*args, **(kwargs or {}))


def kinks(observation: Observation) -> list[str]:
    """Names of piecewise functions that a forward pass calls, in order, once each.

    Example:
        >>> from torch import nn, ones_like
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> kinks(Observation(net, {name: ones_like(p) for name, p in net.named_parameters()}, (2,)))
        ['relu']
    """
    with _Names() as names:
        trial(observation.model, observation.input_shape)
    return [name for name in dict.fromkeys(names.seen) if name in _KINKED]
