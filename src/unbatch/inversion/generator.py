"""A network that draws a batch of pictures from fixed noise; its weights are what is searched, for many restarts side by side.

Zhang et al., "Generative Gradient Inversion via Over-Parameterized Networks in Federated Learning", ICCV 2023. Restarts are groups of one
grouped convolution, so that all of them are one pass. Every convolution of a block is normalized by its largest singular value, followed
step by step by power iteration (Miyato et al., "Spectral Normalization for Generative Adversarial Networks", ICLR 2018).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional as F

from unbatch.inversion.descent import Variables

__all__ = ["PictureGenerator", "width_for"]

LATENT = 128
"""Numbers of noise a picture."""

SEED_SIDE, SLOPE = 4, 0.1
"""Pixels a side to begin with; slope of LeakyReLU below zero. Published."""

FULL = 32
"""Up to this side blocks keep their width; every doubling beyond halves it."""


def width_for(count: int, height: int, width: int) -> int:
    """Channels as in the release: doubled from 32 while the generator of 32 pixels has at most 4 parameters a pixel of the batch.

    Example:
        >>> [width_for(b, 32, 32) for b in (16, 64, 128, 256)]
        [32, 64, 128, 128]
    """
    channels = 32
    while _parameters(channels) <= 4 * count * height * width:
        channels *= 2
    return channels


def _parameters(channels: int) -> int:
    """Of the generator of 32 by 32 pixels."""
    blocks = 4 * 2 * (9 * channels**2 + 3 * channels)
    return LATENT * channels * SEED_SIDE**2 + 3 * channels + blocks + 3 * channels + 3


@dataclass(frozen=True)
class _Layer:
    """One convolution with batch statistics after it."""

    name: str
    entering: int
    leaving: int


class PictureGenerator:
    """Weights -> pictures.

    Args:
        shape: (channels, height, width) of a picture.
        count: b, pictures that it draws.
        channels: of its blocks.
        generator: of the noise and of the first weights.
        dtype: of the computation.

    Example:
        >>> draws = PictureGenerator((3, 12, 12), 2, 8, Generator().manual_seed(0), torch.float32)
        >>> draws(draws.start(3, Generator().manual_seed(1))).shape
        torch.Size([3, 2, 3, 12, 12])
    """

    def __init__(self, shape: tuple[int, ...], count: int, channels: int, generator: Generator, dtype: torch.dtype) -> None:
        self.shape, self.count, self.channels, self.dtype = shape, count, channels, dtype
        doublings = max(0, math.ceil(math.log2(max(shape[1:]) / SEED_SIDE)))
        widths = [channels]
        for doubling in range(1, doublings + 1):
            widths.append(widths[-1] if SEED_SIDE * 2**doubling <= FULL else max(1, widths[-1] // 2))
        self.blocks: list[list[_Layer]] = []
        before = channels
        for number, width in enumerate(widths):
            self.blocks.append([_Layer(f"block{number}.0", before, width), _Layer(f"block{number}.1", width, width)])
            before = width
        self.last = before
        self.noise = torch.randn((count, LATENT), generator=generator, device=generator.device, dtype=dtype)
        self._left: dict[str, Tensor] = {}

    def start(self, restarts: int, generator: Generator) -> Variables:
        """Fresh weights as PyTorch initializes them, (r, ...) each."""

        def uniform(bound: float, *shape: int) -> Tensor:
            drawn = torch.rand((restarts, *shape), generator=generator, device=generator.device, dtype=self.dtype)
            return bound * (2 * drawn - 1)

        # A transposed convolution's fan-in is taken over its second axis, the channels that leave.
        weights = {"seed.weight": uniform((self.channels * SEED_SIDE**2) ** -0.5, LATENT, self.channels, SEED_SIDE, SEED_SIDE)}
        weights |= self._normalization("seed", self.channels, restarts)
        for layer in (layer for block in self.blocks for layer in block):
            bound = (9 * layer.entering) ** -0.5
            weights[f"{layer.name}.weight"] = uniform(bound, layer.leaving, layer.entering, 3, 3)
            weights |= self._normalization(layer.name, layer.leaving, restarts)
            left = torch.randn((restarts, layer.leaving), generator=generator, device=generator.device, dtype=self.dtype)
            self._left[layer.name] = F.normalize(left, dim=1)
        weights["head.weight"] = uniform(self.last**-0.5, self.shape[0], self.last)
        weights["head.bias"] = uniform(self.last**-0.5, self.shape[0])
        return weights

    def _normalization(self, name: str, channels: int, restarts: int) -> Variables:
        like = torch.ones((restarts, channels), dtype=self.dtype, device=self.noise.device)
        return {f"{name}.scale": like, f"{name}.shift": torch.zeros_like(like)}

    def __call__(self, weights: Variables) -> Float[Tensor, "r b c h w"]:
        """Pictures from −1 to 1."""
        restarts = len(weights["head.bias"])
        seed = torch.einsum("bl,rlcij->brcij", self.noise, weights["seed.weight"])
        maps = self._activated("seed", seed.flatten(1, 2), weights)
        for number, block in enumerate(self.blocks):
            if number:
                maps = F.interpolate(maps, scale_factor=2, mode="nearest")
            for layer in block:
                filters = self._normalized(layer.name, weights[f"{layer.name}.weight"])
                maps = self._activated(layer.name, F.conv2d(maps, filters.flatten(0, 1), padding=1, groups=restarts), weights)
        maps = maps.view(self.count, restarts, self.last, *maps.shape[2:])
        drawn = torch.einsum("brchw,roc->brohw", maps, weights["head.weight"]) + weights["head.bias"][None, :, :, None, None]
        height, width = self.shape[1:]
        top, left = (drawn.shape[3] - height) // 2, (drawn.shape[4] - width) // 2
        return drawn[..., top : top + height, left : left + width].tanh().transpose(0, 1)

    def _activated(self, name: str, maps: Tensor, weights: Variables) -> Tensor:
        """Statistics of the batch, then LeakyReLU."""
        scale, shift = (weights[f"{name}.{part}"].flatten() for part in ("scale", "shift"))
        return F.leaky_relu(F.batch_norm(maps, None, None, scale, shift, training=True), SLOPE)

    def _normalized(self, name: str, filters: Tensor) -> Tensor:
        """Filters over their largest singular value, by one step of power iteration from where the last call was."""
        matrix = filters.flatten(2)
        with torch.no_grad():
            right = F.normalize(torch.einsum("ro,roi->ri", self._left[name], matrix), dim=1)
            left = F.normalize(torch.einsum("roi,ri->ro", matrix, right), dim=1)
            self._left[name] = left
        largest = torch.einsum("ro,roi,ri->r", left, matrix, right)
        return filters / largest.view(-1, 1, 1, 1, 1)
