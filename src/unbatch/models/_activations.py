"""Activations by name, for the networks that let one choose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import nn

from unbatch.errors import Misuse

__all__ = ["Activation", "layer"]

Activation = Literal["relu", "leaky_relu", "gelu", "silu", "sigmoid", "tanh"]

_LAYERS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}


def layer(name: Activation) -> nn.Module:
    """A fresh layer.

    Raises:
        Misuse: no activation has this name.

    Example:
        >>> layer("silu")
        SiLU()
    """
    if name not in _LAYERS:
        raise Misuse(f"an activation among {', '.join(_LAYERS)}", repr(name), "use one of them")
    return _LAYERS[name]()
