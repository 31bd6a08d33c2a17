"""Clients as people write them: small networks, trained with plain PyTorch, whose files a server has."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """A block of a ResNet with batch normalization."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.second, self.last = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.last(self.second(F.relu(self.norm(self.first(x))))))


class Block(nn.Module):
    """A transformer block with attention of one head."""

    def __init__(self, width: int, causal: bool) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.after, self.up, self.down, self.causal = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width), causal

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=self.causal))
        return x + self.down(F.gelu(self.up(self.after(x))))


class Vit(nn.Module):
    """Patches of 4×4, one block, the mean of its tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.block, self.head = nn.Conv2d(1, 24, 4, 4), Block(24, False), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.patches(x).flatten(2).transpose(1, 2)).mean(dim=1))


class Gpt(nn.Module):
    """Tokens, one causal block, and the class that the last one says; or the next token of each."""

    def __init__(self, every: bool = False) -> None:
        super().__init__()
        self.tokens, self.places, self.block = nn.Embedding(50, 16), nn.Parameter(torch.randn(6, 16) / 4), Block(16, True)
        self.head, self.every = nn.Linear(16, 50 if every else 4), every

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.tokens(x) + self.places)
        return self.head(x if self.every else x[:, -1])


class Lora(nn.Module):
    """A Linear layer that stays, and an adapter of rank 4 that is trained, with B zero at the start."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_A, self.lora_B = nn.Linear(base.in_features, 4, bias=False), nn.Linear(4, base.out_features, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


def mlp(numbers: int = 144, width: int = 60, activation: type[nn.Module] = nn.GELU) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(numbers, width), activation(), nn.Linear(width, width), activation(), nn.Linear(width, 4))


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(150, 40),
        nn.ReLU(),
        nn.Linear(40, 30),
        nn.ReLU(),
        nn.Linear(30, 4),
    )


def resnet() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), Residual(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def relu_mlp() -> nn.Module:
    return mlp(activation=nn.ReLU)


def double_mlp() -> nn.Module:
    return mlp().double()


def table() -> nn.Module:
    return nn.Sequential(nn.Linear(30, 50), nn.SiLU(), nn.Linear(50, 40), nn.SiLU(), nn.Linear(40, 4))


def language_model() -> nn.Module:
    return Gpt(every=True)


def lora() -> nn.Module:
    net = mlp().requires_grad_(False)
    net[3] = Lora(net[3])
    net[5] = Lora(net[5])
    return net


def tied_language_model() -> nn.Module:
    net = Gpt(every=True)
    net.head.weight = net.tokens.weight
    return net
