"""The convolutional network of DLG's demonstration, by which attacks on gradients are compared.

Zhu, Liu, Han, "Deep Leakage from Gradients", NeurIPS 2019. Only the name comes from LeNet.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from unbatch.contracts import Model
from unbatch.errors import Misuse
from unbatch.models._activations import Activation, layer

__all__ = ["LeNetZhu"]


@dataclass(frozen=True)
class LeNetZhu(Model):
    """Three 5 by 5 convolutions of 12 channels, of which two halve the picture, and one linear layer: nothing has a kink.

    Attributes:
        activation: after every convolution.
        spread: weights and biases are drawn evenly from −spread to spread; PyTorch's own initialization if 0.

    Example:
        >>> net = LeNetZhu().build((3, 32, 32), classes=10)
        >>> sum(parameter.numel() for parameter in net.parameters()), net(torch.zeros(2, 3, 32, 32)).shape
        (15826, torch.Size([2, 10]))
    """

    activation: Activation = "sigmoid"
    spread: float = 0.5

    def build(self, input_shape: tuple[int, ...], classes: int, seed: int = 0) -> nn.Module:
        """See ``Model.build``."""
        if len(input_shape) != 3:
            raise Misuse("pictures of shape (channels, height, width)", str(input_shape), "use the mlp")
        height, width = ((side + 3) // 4 for side in input_shape[1:])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = nn.Sequential(
                nn.Conv2d(input_shape[0], 12, 5, stride=2, padding=2),
                layer(self.activation),
                nn.Conv2d(12, 12, 5, stride=2, padding=2),
                layer(self.activation),
                nn.Conv2d(12, 12, 5, padding=2),
                layer(self.activation),
                nn.Flatten(),
                nn.Linear(12 * height * width, classes),
            )
            for parameter in net.parameters():
                if self.spread:
                    nn.init.uniform_(parameter, -self.spread, self.spread)
        return net
