"""The fully connected network, with ReLU that of the SPEAR paper."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import nn

from unbatch import seeds
from unbatch.contracts import Model
from unbatch.errors import Misuse
from unbatch.models._activations import Activation, layer

__all__ = ["Mlp"]


@dataclass(frozen=True)
class Mlp(Model):
    """``depth`` linear layers with an activation between them, PyTorch's default initialization.

    Attributes:
        width: of every hidden layer.
        depth: number of linear layers; 6 in "SPEAR: Exact Gradient Inversion of Batches in Federated Learning".
        activation: between the layers.

    Example:
        >>> sum(isinstance(layer, nn.Linear) for layer in Mlp(width=8).build((1, 2, 2), classes=3))
        6
    """

    width: int = 200
    depth: int = 6
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        """Refuse sizes that no network can have."""
        if self.width < 1 or self.depth < 1:
            raise Misuse("a width and a depth above zero", f"width {self.width}, depth {self.depth}", "raise them")

    def build(self, input_shape: tuple[int, ...], classes: int, seed: int = 0) -> nn.Module:
        """See ``Model.build``."""
        sizes = [math.prod(input_shape), *[self.width] * (self.depth - 1), classes]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds.checked(seed))
            layers: list[nn.Module] = [nn.Flatten()]
            for fan_in, fan_out in itertools.pairwise(sizes):
                layers += [nn.Linear(fan_in, fan_out), layer(self.activation)]
        return nn.Sequential(*layers[:-1])
