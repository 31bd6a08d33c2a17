"""The networks of the honesty trials, and what training has made of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KINDS = ("mlp", "other activation", "residual", "convolution", "norm", "zero bias", "clamped", "frozen", "no bias", "layer norm")
SHARES = (48, 9, 7, 7, 9, 4, 4, 3, 4, 5)
"""How often each is drawn, in percent."""

STATES = ("fresh", "trained", "memorized", "sharpened", "memorized and sharpened")
EFFORT = 2e10
"""Floating-point operations that a training may cost: about a second of one core."""

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
    "softplus": nn.Softplus,
}


class Residual(nn.Module):
    """A Linear layer with ReLU, blocks x + W relu(V x), a head."""

    def __init__(self, inputs: int, width: int, classes: int, blocks: int) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(inputs, width), nn.Linear(width, classes)
        self.blocks = nn.ModuleList(nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width)]) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1)).relu()
        for inner, outer in self.blocks:
            x = x + outer(inner(x).relu())
        return self.head(x)


class Clamped(nn.Module):
    """A network that cuts its input to a range before it reads it."""

    def __init__(self, body: nn.Module, limit: float) -> None:
        super().__init__()
        self.body, self.limit = body, limit

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.clamp(-self.limit, self.limit))


class Product(nn.Module):
    """What two layers make of a sample, multiplied: columns of both are straight lines in it."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.first, self.gate, self.last = nn.Linear(inputs, 32), nn.Linear(inputs, 32), nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.last(self.first(x) * self.gate(x))
        return scores


def mlp(inputs: int, width: int, depth: int, classes: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """``depth`` Linear layers with an activation between them."""
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in itertools.pairwise([inputs, *[width] * (depth - 1), classes]):
        layers += [nn.Linear(fan_in, fan_out), activation()]
    return nn.Sequential(*layers[:-1])


def network(draw: Random, shape: tuple[int, ...], classes: int, scale: float, kind: str | None = None) -> tuple[nn.Module, str]:
    """A fresh network, float32, in eval mode unless it normalizes by the batch; its weights come from the global generator.

    Args:
        draw: of the sizes.
        shape: of one sample.
        classes: C.
        scale: of the inputs, for the range that some networks cut them to.
        kind: one of ``KINDS``, drawn if None.

    Returns:
        the network, and a few words on it.
    """
    kind = kind or draw.choices(KINDS, SHARES)[0]
    if kind == "convolution" and len(shape) < 3:
        kind = "mlp"
    inputs = math.prod(shape)
    width, depth = draw.randint(40, 300 if inputs < 4000 else 150), draw.choice((2, 2, 3, 3, 4, 5, 6))
    words = f"{kind}, width {width}, depth {depth}"
    if kind == "other activation":
        name = draw.choice(list(ACTIVATIONS))
        return mlp(inputs, width, depth, classes, ACTIVATIONS[name]).eval(), f"{words}, {name}"
    if kind == "residual":
        return Residual(inputs, width, classes, max(1, depth // 2)).eval(), words
    if kind == "convolution":
        return _convolution(shape, width, depth, classes).eval(), words
    model = mlp(inputs, width, depth, classes)
    if kind == "norm":
        train, place = draw.random() < 0.6, draw.choice((1, 2, 3))
        layers = list(model)
        layers.insert(place, nn.BatchNorm1d(inputs if place == 1 else width))
        return nn.Sequential(*layers).train(train), f"{words}, batch norm at {place} in {'train' if train else 'eval'} mode"
    if kind in ("zero bias", "no bias", "layer norm"):
        return _of_open_length(draw, model, width, kind).eval(), words
    if kind == "frozen":
        chosen = draw.choice([module for module in model if isinstance(module, nn.Linear)][1:])
        chosen.requires_grad_(requires_grad=False)
    if kind == "clamped":
        return Clamped(model, draw.choice((0.3, 0.8, 2.0)) * scale).eval(), words
    return model.eval(), words


def _of_open_length(draw: Random, model: nn.Sequential, width: int, kind: str) -> nn.Sequential:
    """Networks that say little or nothing of a sample's length: biases of zero, none, or a layer norm behind the first layer."""
    if kind == "zero bias":
        for module in model[1::2]:
            nn.init.zeros_(module.bias)
        return model
    if kind == "no bias" or draw.random() < 0.5:
        for module in model[1::2] if kind == "no bias" else model[1:2]:
            module.register_parameter("bias", None)
    return nn.Sequential(*model[:2], nn.LayerNorm(width), *model[2:]) if kind == "layer norm" else model


def _convolution(shape: tuple[int, ...], width: int, depth: int, classes: int) -> nn.Module:
    channels, *sides = shape
    steps = 2 if min(sides) >= 16 else 1
    flat = 4 * math.prod((side - 3) // steps + 1 for side in sides)
    return nn.Sequential(nn.Conv2d(channels, 4, 3, stride=steps), nn.ReLU(), *mlp(flat, width, max(2, depth - 1), classes))


def train(model: nn.Module, inputs: Tensor, labels: Tensor, steps: int, rate: float, seed: int) -> int:
    """Adam on mini-batches of 32; gives back how many steps the effort allowed."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    steps = min(steps, max(5, int(EFFORT / (6 * 32 * sum(parameter.numel() for parameter in model.parameters())))))
    optimizer, generator = torch.optim.Adam(trained, rate), torch.Generator().manual_seed(seed)
    for _ in range(steps):
        part = torch.randint(len(inputs), (32,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[part]), labels[part]).backward()
        optimizer.step()
    model.zero_grad(set_to_none=True)
    return steps


def sharpen(model: nn.Module, factor: float) -> None:
    """Multiply the last Linear layer: the network becomes sure of what it says."""
    *_, last = (module for module in model.modules() if isinstance(module, nn.Linear))
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.mul_(factor)
