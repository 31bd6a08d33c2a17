"""VGG-11. Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from unbatch import seeds
from unbatch.contracts import Model
from unbatch.errors import Misuse
from unbatch.models._activations import Activation, layer

__all__ = ["Vgg"]

PLAN = ((1,), (2,), (4, 4), (8, 8), (8, 8))
"""Channels of every convolution, as multiples of the width; pooling after each group as long as pixels are left."""


@dataclass(frozen=True)
class Vgg(Model):
    """Eight 3 by 3 convolutions with batch normalization and max-pooling, and one linear layer, the usual form for small pictures.

    The network comes in eval mode: in train mode the statistics of a batch would mix its samples.

    Attributes:
        width: channels of the first convolution; 64 in the paper.
        activation: after every convolution.

    Example:
        >>> Vgg(width=4).build((3, 32, 32), classes=10)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    width: int = 16
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        """Refuse sizes that no network can have."""
        if self.width < 1:
            raise Misuse("a width above zero", str(self.width), "raise it")

    def build(self, input_shape: tuple[int, ...], classes: int, seed: int = 0) -> nn.Module:
        """See ``Model.build``."""
        if len(input_shape) != 3:
            raise Misuse("pictures of shape (channels, height, width)", str(input_shape), "use the mlp")
        channels, side = input_shape[0], min(input_shape[1:])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds.checked(seed))
            layers: list[nn.Module] = []
            for group in PLAN:
                for multiple in group:
                    layers += [
                        nn.Conv2d(channels, multiple * self.width, 3, padding=1),
                        nn.BatchNorm2d(multiple * self.width),
                        layer(self.activation),
                    ]
                    channels = multiple * self.width
                if side > 1:
                    layers.append(nn.MaxPool2d(2))
                    side //= 2
            return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)).eval()
