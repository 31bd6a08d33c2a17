"""Learned perceptual distance: how different two pictures look to AlexNet.

Weights come from a file of the user's and are never downloaded. The file is a safetensors file with the convolutions of torchvision's
AlexNet, ``features.0`` to ``features.4`` (weight and bias), and the heads of LPIPS v0.1, ``lin.0.weight`` to ``lin.4.weight``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from unbatch.contracts import Metric
from unbatch.errors import BadFile
from unbatch.metrics._pairs import checked, not_pictures
from unbatch.schema import Kind, Schema

__all__ = ["Lpips"]

VARIABLE = "UNBATCH_LPIPS_WEIGHTS"
"""The environment variable that is asked where the field is not given."""

CHANNELS = (3, 64, 192, 384, 256, 256)
KERNELS = (11, 5, 3, 3, 3)
STRIDES = (4, 1, 1, 1, 1)
PADDINGS = (2, 2, 1, 1, 1)
POOLED = (1, 2)
"""The convolutions that a 3 x 3 max pooling of stride 2 comes before."""

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""LPIPS's own normalization of pictures from -1 to 1, by channel."""

CHUNK = 1 << 19
"""Most pixels that go through the network at once."""


@dataclass(frozen=True)
class Lpips(Metric):
    """LPIPS v0.1 with AlexNet, of "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric"; 0 for equal pictures.

    Grey pictures count as color pictures with three equal channels.

    Attributes:
        weights: path of the safetensors file; None asks the environment variable UNBATCH_LPIPS_WEIGHTS.

    Raises:
        BadFile: the file is missing or damaged, or is not one of these weights.

    Example:
        >>> Lpips().undefined((1, 28, 28))
        'pictures of 28 x 28 pixels are below 32 x 32'
    """

    weights: str | None = None
    higher_is_better: ClassVar[bool] = False
    kinds: ClassVar[frozenset[Kind]] = frozenset(("image", "vector"))
    title: ClassVar[str] = "LPIPS"
    rank: ClassVar[int] = 4

    def __post_init__(self) -> None:
        """Read the file now, so that a bad one is found before anything is computed."""
        self._network()

    def undefined(self, shape: tuple[int, ...], schema: Schema | None = None) -> str | None:
        """The network needs 32 x 32 pixels, one or three channels, and its weights."""
        if (reason := not_pictures(shape, smallest=32)) is not None:
            return reason
        if shape[0] not in (1, 3):
            return f"pictures of {shape[0]} channels are neither grey nor color"
        if self._network() is None:
            return f"no weights were given: name their file in {VARIABLE} or as lpips:FILE"
        return None

    def __call__(self, truth: Tensor, guess: Tensor, data_range: float, schema: Schema | None = None) -> Tensor:
        """See ``Metric``; raw values are taken to span 0 to ``data_range``."""
        left, right = checked(truth, guess, data_range)
        network = self._network()
        if network is None or self.undefined(tuple(truth.shape[1:])) is not None:
            return left.new_full((len(left),), torch.nan)
        step = max(1, CHUNK // (left.shape[2] * left.shape[3]))
        pairs = zip(torch.split(left, step), torch.split(right, step), strict=True)
        return torch.cat([_distances(network, one / data_range, other / data_range) for one, other in pairs])

    def _network(self) -> Mapping[str, Tensor] | None:
        name = self.weights or os.environ.get(VARIABLE)
        if not name:
            return None
        path = Path(name).expanduser()
        try:
            state = path.stat()
        except OSError as error:
            raise BadFile("a safetensors file with LPIPS weights", f"nothing that can be read at {name!r}", "check the path") from error
        return _read(path, (state.st_mtime_ns, state.st_size))


@lru_cache(maxsize=2)
def _read(path: Path, _version: tuple[int, int]) -> Mapping[str, Tensor]:
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadFile("a safetensors file with LPIPS weights", f"damaged or other data in {path}", "get the file again") from error
    for name, shape in _shapes().items():
        came = tuple(found[name].shape) if name in found else "none"
        if came != shape:
            raise BadFile(f"AlexNet's LPIPS v0.1 weights, {name!r} of shape {shape}", f"{came} in {path}", "give the file for AlexNet")
    return {name: found[name].double() for name in _shapes()}


def _shapes() -> dict[str, tuple[int, ...]]:
    """Name of a tensor -> its shape."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, kernel in enumerate(KERNELS):
        fan_in, fan_out = CHANNELS[layer : layer + 2]
        shapes[f"features.{layer}.weight"] = (fan_out, fan_in, kernel, kernel)
        shapes[f"features.{layer}.bias"] = (fan_out,)
        shapes[f"lin.{layer}.weight"] = (1, fan_out, 1, 1)
    return shapes


@torch.no_grad()
def _distances(network: Mapping[str, Tensor], truth: Tensor, guess: Tensor) -> Tensor:
    """(n, 1 or 3, H, W) from 0 to 1, twice -> (n,)."""
    shift, scale = (truth.new_tensor(values).view(1, 3, 1, 1) for values in (SHIFT, SCALE))
    x = ((2 * torch.cat([truth, guess]) - 1).expand(-1, 3, -1, -1) - shift) / scale
    total = truth.new_zeros(len(truth))
    for layer, (stride, padding) in enumerate(zip(STRIDES, PADDINGS, strict=True)):
        if layer in POOLED:
            x = F.max_pool2d(x, kernel_size=3, stride=2)
        weight, bias = network[f"features.{layer}.weight"], network[f"features.{layer}.bias"]
        x = F.relu(F.conv2d(x, weight, bias, stride=stride, padding=padding))
        one, other = (x / (x.norm(dim=1, keepdim=True) + 1e-10)).chunk(2)
        total += F.conv2d((one - other).square(), network[f"lin.{layer}.weight"]).mean((1, 2, 3))
    return total
