"""How far the update of a candidate is from the observed one: one number a restart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unbatch.types import Observation

__all__ = ["Distance", "DistanceKind"]

DistanceKind = Literal["squared", "cosine", "layerwise"]


class Distance:
    """Between replayed updates and the observed one.

    | kind      | distance                                                                   | source                                  |
    |-----------|----------------------------------------------------------------------------|-----------------------------------------|
    | squared   | Σ over all entries of (replayed − observed)²                               | DLG, Zhu et al. 2019                    |
    | cosine    | 1 − cosine of the two, all tensors taken as one vector                     | Inverting Gradients, Geiping et al. 2020 |
    | layerwise | mean over tensors of 1 − cosine; each counts alike, however small it is    |                                         |

    Only ``squared`` sees the length of the update; the others are of use where a factor is not known.

    Args:
        observation: its update.
        kind: see the table.
        masked: compare only where the observed update is not zero, for one that was pruned.
        dtype: of the computation.

    Example:
        >>> seen = Observation(torch.nn.Linear(2, 1, bias=False), {"weight": torch.tensor([[3.0, 0.0]])}, (2,))
        >>> replayed = {"weight": torch.tensor([[[3.0, 0.0]], [[3.0, 4.0]]])}
        >>> Distance(seen, "squared", torch.float32)(replayed).tolist()
        [0.0, 16.0]
        >>> [round(value, 4) for value in Distance(seen, "cosine", torch.float32)(replayed).tolist()]
        [0.0, 0.4]
        >>> Distance(seen, "squared", torch.float32, masked=True)(replayed).tolist()
        [0.0, 0.0]
    """

    def __init__(self, observation: Observation, kind: DistanceKind, dtype: torch.dtype, *, masked: bool = False) -> None:
        self.kind = kind
        self.observed: dict[str, Float[Tensor, " n"]] = {name: t.to(dtype).flatten() for name, t in observation.update.items()}
        self.sent: dict[str, Bool[Tensor, " n"]] = {name: t != 0 for name, t in self.observed.items()} if masked else {}
        self.squares = {name: tensor.square().sum() for name, tensor in self.observed.items()}
        self.size = float(torch.stack(list(self.squares.values())).sum())

    def __call__(self, replayed: Mapping[str, Tensor]) -> Float[Tensor, " r"]:
        """(r,) for tensors of shape (r, *parameter shape)."""
        rows = {name: tensor.flatten(1) for name, tensor in replayed.items()}
        rows = {name: row * self.sent[name] for name, row in rows.items()} if self.sent else rows
        if self.kind == "squared":
            return torch.stack([(row - self.observed[name]).square().sum(dim=1) for name, row in rows.items()]).sum(dim=0)
        inner = torch.stack([row @ self.observed[name] for name, row in rows.items()])
        sizes = torch.stack([row.square().sum(dim=1) for row in rows.values()])
        squares = torch.stack([self.squares[name] for name in rows])[:, None]
        if self.kind == "cosine":
            return 1 - inner.sum(dim=0) / (_positive(sizes.sum(dim=0)) * squares.sum()).sqrt()
        alive = squares[:, 0] > 0  # a tensor without a gradient has no direction
        return (1 - inner[alive] / (_positive(sizes[alive]) * squares[alive]).sqrt()).mean(dim=0)


def _positive(squares: Tensor) -> Tensor:
    """Never zero, where a square root has no slope."""
    return squares.clamp_min(torch.finfo(squares.dtype).tiny ** 0.5)
