"""Models to expose, and ways to read what is said of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from unbatch.exposure import Exposure, LayerExposure


@pytest.fixture(autouse=True)
def same_weights() -> Iterator[None]:
    """Modules draw their weights from the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def by_name(found: Exposure) -> dict[str, LayerExposure]:
    return {layer.name: layer for layer in found.layers}


def answers(found: Exposure) -> dict[str, tuple[str, str]]:
    return {layer.name: (layer.exact, layer.single) for layer in found.layers}


def undetermined(columns: Tensor, fed: Tensor) -> list[int]:
    """Which of b samples are not given by their zeros: of columns (m, b) and what the layer is fed (b, n), in float64, all different."""
    unit = columns / columns.norm(dim=0).clamp_min(1e-300)
    if int(torch.linalg.matrix_rank(fed)) < len(fed):
        return list(range(len(fed)))
    lost = []
    for i, column in enumerate(unit.T):
        rows = unit[column == 0][:, torch.arange(len(fed)) != i]
        enough = len(fed) == 1 or (len(rows) >= len(fed) - 1 and int(torch.linalg.matrix_rank(rows, rtol=1e-11)) == len(fed) - 1)
        if not enough or not bool(column.any()):
            lost.append(i)
    return lost


class Vit(nn.Module):
    """One block on 16 patches, with a class token and positions."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.head = nn.Linear(48, 32), nn.Linear(32, 10)
        self.token, self.position = nn.Parameter(torch.zeros(1, 1, 32)), nn.Parameter(torch.randn(1, 17, 32))
        self.before, self.after = nn.LayerNorm(32), nn.LayerNorm(32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

    def forward(self, x: Tensor) -> Tensor:
        x = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(len(x), 16, 48)
        x = torch.cat([self.token.expand(len(x), -1, -1), self.patch(x)], dim=1) + self.position
        y = self.before(x)
        x = x + self.attention(y, y, y)[0]
        return self.head((x + self.mlp(self.after(x)))[:, 0])


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(5, 7, num_layers=2, batch_first=True), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Made(nn.Module):
    """A module from a function and parts."""

    def __init__(self, forward: Callable[[Made, Tensor], Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.made = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.made(self, x)
