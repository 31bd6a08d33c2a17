"""LeNet-5. LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition", Proceedings of the IEEE 1998."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from unbatch import seeds
from unbatch.contracts import Model
from unbatch.errors import Misuse
from unbatch.models._activations import Activation, layer

__all__ = ["LeNet5"]


@dataclass(frozen=True)
class LeNet5(Model):
    """Two 5 by 5 convolutions with max-pooling, three linear layers; for pictures of at least 16 by 16 pixels.

    Attributes:
        activation: after every layer but the last.

    Example:
        >>> LeNet5().build((3, 32, 32), classes=100)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 100])
    """

    activation: Activation = "relu"

    def build(self, input_shape: tuple[int, ...], classes: int, seed: int = 0) -> nn.Module:
        """See ``Model.build``."""
        if len(input_shape) != 3 or min(input_shape[1:]) < 16:
            raise Misuse("pictures of shape (channels, height, width), 16 pixels or more a side", str(input_shape), "use the mlp")
        height, width = ((((side - 4) // 2) - 4) // 2 for side in input_shape[1:])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds.checked(seed))
            return nn.Sequential(
                nn.Conv2d(input_shape[0], 6, 5),
                layer(self.activation),
                nn.MaxPool2d(2),
                nn.Conv2d(6, 16, 5),
                layer(self.activation),
                nn.MaxPool2d(2),
                nn.Flatten(),
                nn.Linear(16 * height * width, 120),
                layer(self.activation),
                nn.Linear(120, 84),
                layer(self.activation),
                nn.Linear(84, classes),
            )
