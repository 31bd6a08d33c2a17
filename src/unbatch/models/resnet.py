"""ResNet-18 and ResNet-50. He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from unbatch import seeds
from unbatch.contracts import Model
from unbatch.errors import Misuse
from unbatch.models._activations import Activation, layer

__all__ = ["ResNet"]

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}
"""Blocks a stage, by depth."""

SMALL = 64
"""Pixels a side up to which a picture is not shrunk at the entry."""


@dataclass(frozen=True)
class ResNet(Model):
    """Residual network with batch normalization; at most 64 pixels a side are not shrunk at the entry, as usual for small pictures.

    The network comes in eval mode: in train mode the statistics of a batch would mix its samples.

    Attributes:
        depth: 18 has blocks of two convolutions, 50 bottlenecks of three.
        width: channels of the first stage; 64 in the paper, which gives 512 or 2048 features.
        activation: after every convolution.

    Example:
        >>> net = ResNet(width=4).build((3, 32, 32), classes=10)
        >>> net(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    depth: Literal[18, 50] = 18
    width: int = 64
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        """Refuse sizes that no network can have."""
        if self.depth not in BLOCKS or self.width < 1:
            raise Misuse("a depth of 18 or 50 and a width above zero", f"depth {self.depth}, width {self.width}", "use one of these")

    def build(self, input_shape: tuple[int, ...], classes: int, seed: int = 0) -> nn.Module:
        """See ``Model.build``."""
        if len(input_shape) != 3:
            raise Misuse("pictures of shape (channels, height, width)", str(input_shape), "use the mlp")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds.checked(seed))
            small = min(input_shape[1:]) <= SMALL
            entry: list[nn.Module] = [
                nn.Conv2d(input_shape[0], self.width, 3 if small else 7, 1 if small else 2, 1 if small else 3, bias=False),
                nn.BatchNorm2d(self.width),
                layer(self.activation),
            ]
            if not small:
                entry.append(nn.MaxPool2d(3, 2, 1))
            channels, stages = self.width, []
            for stage, blocks in enumerate(BLOCKS[self.depth]):
                for block in range(blocks):
                    built = Block(channels, self.width * 2**stage, 2 if stage and not block else 1, self.depth == 50, self.activation)
                    stages.append(built)
                    channels = built.channels
            head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
            return nn.Sequential(*entry, *stages, *head).eval()


class Block(nn.Module):
    """Convolutions around which the input passes unchanged, or by a projection where its shape changes."""

    def __init__(self, entering: int, width: int, stride: int, bottleneck: bool, activation: Activation) -> None:
        super().__init__()
        self.channels = 4 * width if bottleneck else width
        if bottleneck:
            plan = [(entering, width, 1, 1), (width, width, 3, stride), (width, self.channels, 1, 1)]
        else:
            plan = [(entering, width, 3, stride), (width, width, 3, 1)]
        layers: list[nn.Module] = []
        for fan_in, fan_out, kernel, step in plan:
            layers += [nn.Conv2d(fan_in, fan_out, kernel, step, kernel // 2, bias=False), nn.BatchNorm2d(fan_out), layer(activation)]
        self.residual = nn.Sequential(*layers[:-1])
        self.activation = layer(activation)
        same = stride == 1 and entering == self.channels
        projection = nn.Conv2d(entering, self.channels, 1, stride, bias=False)
        self.shortcut = nn.Identity() if same else nn.Sequential(projection, nn.BatchNorm2d(self.channels))

    def forward(self, x: Tensor) -> Tensor:
        """(b, entering, h, w) -> (b, channels, h / stride, w / stride)."""
        result: Tensor = self.activation(self.residual(x) + self.shortcut(x))
        return result
