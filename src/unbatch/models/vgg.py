"""VGG-11 and VGG-16. Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from unbatch import seeds
from unbatch.contracts import Model
from unbatch.errors import Misuse
from unbatch.models._activations import Activation, layer

__all__ = ["Vgg"]

PLANS = {11: ((1,), (2,), (4, 4), (8, 8), (8, 8)), 16: ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))}
"""Channels of every convolution, as multiples of the width, by depth; pooling after each group as long as pixels are left."""


@dataclass(frozen=True)
class Vgg(Model):
    """3 by 3 convolutions with batch normalization and max-pooling, and one linear layer, the usual form for small pictures.

    The network comes in eval mode: in train mode the statistics of a batch would mix its samples.

    Attributes:
        depth: 11 has eight convolutions, 16 thirteen: as the paper counts, with its three linear layers.
        width: channels of the first convolution; 64 in the paper.
        activation: after every convolution.

    Example:
        >>> Vgg(width=4).build((3, 32, 32), classes=10)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    depth: Literal[11, 16] = 11
    width: int = 16
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        """Refuse sizes that no network can have."""
        if self.depth not in PLANS or self.width < 1:
            raise Misuse("a depth of 11 or 16 and a width above zero", f"depth {self.depth}, width {self.width}", "use one of these")

    def build(self, input_shape: tuple[int, ...], classes: int, seed: int = 0) -> nn.Module:
        """See ``Model.build``."""
        if len(input_shape) != 3:
            raise Misuse("pictures of shape (channels, height, width)", str(input_shape), "use the mlp")
        channels, side = input_shape[0], min(input_shape[1:])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds.checked(seed))
            layers: list[nn.Module] = []
            for group in PLANS[self.depth]:
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
