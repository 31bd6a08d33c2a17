"""The convolutional network by which Inverting Gradients is demonstrated. Geiping, Bauermeister, Dröge, Moeller, NeurIPS 2020."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from unbatch import seeds
from unbatch.contracts import Model
from unbatch.errors import Misuse
from unbatch.models._activations import Activation, layer

__all__ = ["ConvNet"]

PLAN = ((1, 2, 2, 4, 4, 4), (4, 4))
"""Channels of every convolution, as multiples of the width; pooling after each group. Published: as the released code runs, with eight."""


@dataclass(frozen=True)
class ConvNet(Model):
    """Eight 3 by 3 convolutions with batch normalization, pooled twice over 3 by 3 pixels, and one linear layer.

    The network comes in eval mode, as it is attacked there.

    Attributes:
        width: channels of the first convolution; 64 in the paper.
        activation: after every convolution.

    Example:
        >>> net = ConvNet(width=64).build((3, 32, 32), classes=10)
        >>> sum(parameter.numel() for parameter in net.parameters()), net(torch.zeros(2, 3, 32, 32)).shape
        (2904970, torch.Size([2, 10]))
    """

    width: int = 64
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        """Refuse a width that no network can have."""
        if self.width < 1:
            raise Misuse("a width above zero", str(self.width), "give one")

    def build(self, input_shape: tuple[int, ...], classes: int, seed: int = 0) -> nn.Module:
        """See ``Model.build``."""
        if len(input_shape) != 3 or min(input_shape[1:]) < 9:
            raise Misuse("pictures of shape (channels, height, width), of 9 by 9 at least", str(input_shape), "use the mlp, or lenet5")
        channels, (height, width) = input_shape[0], input_shape[1:]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds.checked(seed))
            layers: list[nn.Module] = []
            for group in PLAN:
                for multiple in group:
                    wide = multiple * self.width
                    layers += [nn.Conv2d(channels, wide, 3, padding=1), nn.BatchNorm2d(wide), layer(self.activation)]
                    channels = wide
                layers.append(nn.MaxPool2d(3))
                height, width = height // 3, width // 3
            return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * width, classes)).eval()
