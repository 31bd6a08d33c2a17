"""What makes a candidate unlikely by itself, whatever its update is: one number a restart, to be added with a weight.

Weights in the papers belong to these forms, in the space that the network sees.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unbatch.inversion.replay import Statistics
from unbatch.types import Schema

__all__ = ["batch_norm_statistics", "box", "entropy", "group_consistency", "norm", "outside", "total_variation"]


def total_variation(pictures: Float[Tensor, "r b *channels h w"]) -> Float[Tensor, " r"]:
    """Mean absolute difference of neighbors, down plus across (anisotropic): small for pictures, large for noise.

    Example:
        >>> total_variation(torch.tensor([[[[[0.0, 1.0], [0.0, 1.0]]]]])).tolist()
        [1.0]
    """
    down = (pictures[..., 1:, :] - pictures[..., :-1, :]).abs().flatten(1)
    across = (pictures[..., :, 1:] - pictures[..., :, :-1]).abs().flatten(1)
    return sum((part.mean(dim=1) for part in (down, across) if part.shape[1]), pictures.new_zeros(len(pictures)))


def norm(inputs: Float[Tensor, "r b *shape"]) -> Float[Tensor, " r"]:
    """Euclidean length of the whole batch, not squared (Yin et al., "See through Gradients", CVPR 2021)."""
    return inputs.flatten(1).square().sum(dim=1).clamp_min(torch.finfo(inputs.dtype).tiny).sqrt()


def box(schema: Schema, shape: tuple[int, ...], like: Tensor) -> tuple[Tensor, Tensor] | None:
    """The smallest and the largest input of a picture from 0 to 1, each (1, 1, *shape); None where the normalization is not known."""
    if schema.kind != "image" or not schema.mean:
        return None
    raw = like.new_zeros((1, *shape))
    return schema.to_network(raw)[None], schema.to_network(raw + 1)[None]


def outside(inputs: Float[Tensor, "r b *shape"], low: Tensor, high: Tensor) -> Float[Tensor, " r"]:
    """Mean squared distance to a box, as a penalty in the place of clamping.

    Example:
        >>> outside(torch.tensor([[[0.5, 3.0]]]), torch.tensor(0.0), torch.tensor(1.0)).tolist()
        [2.0]
    """
    return (inputs - inputs.clamp(low, high)).square().flatten(1).mean(dim=1)


def group_consistency(inputs: Float[Tensor, "r b *shape"]) -> Float[Tensor, " r"]:
    """Distance of every restart to the mean of all (Yin et al. 2021, without registration); the mean is taken as given.

    Example:
        >>> group_consistency(torch.tensor([[[0.0]], [[2.0]]])).tolist()
        [1.0, 1.0]
    """
    return norm(inputs - inputs.detach().mean(dim=0))


def batch_norm_statistics(fed: Statistics, known: Statistics) -> Float[Tensor, " r"]:
    """Σ over batch-norm layers of ‖mean − known mean‖ + ‖variance − known variance‖ (Yin et al. 2021).

    Args:
        fed: of the candidate, (r, channels) each.
        known: running statistics of the model, or those of the very batch where an adversary has them; (channels,) each.
    """
    return torch.stack([norm(mine - theirs) for name in known for mine, theirs in zip(fed[name], known[name], strict=True)]).sum(dim=0)


def entropy(probabilities: Float[Tensor, "r b c"]) -> Float[Tensor, " r"]:
    """Mean Shannon entropy in nats: zero where every sample has one certain class.

    Example:
        >>> entropy(torch.tensor([[[0.5, 0.5]], [[1.0, 0.0]]], dtype=torch.float64)).round(decimals=4).tolist()
        [0.6931, 0.0]
    """
    return torch.special.entr(probabilities).sum(dim=-1).mean(dim=1)
