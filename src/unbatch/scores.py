"""What a model returns, as the scores that all else reads: a plain tensor, and two scores a sample where the model gives one.

A model of one score s learns by binary cross-entropy, or is a regression. Binary cross-entropy of s is the cross-entropy of the scores
(0, s): nothing is lost. The gradient of a regression is Σ wᵢ rᵢ ∇s(xᵢ), where rᵢ depends on a target that nobody knows. It is that of
samples that count wᵢ |rᵢ| and pull their score up or down: two labels, and weights of which neither the sizes nor the sum are known.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["BCE", "REGRESSION", "beside_zero", "mse", "plain", "plainly"]

BCE = "the one score s of a sample is read as the scores 0 and s, whose cross-entropy is the binary cross-entropy of s"
REGRESSION = (
    "not the targets: each sample counts as much as its target is off, which is not known, and its label is 1 where the target lies above"
    " what the network says and 0 where it lies below"
)


def plain(outputs: Any) -> Any:
    """The scores in what a model returns: its ``logits``, by attribute or by key, if it has such; a column where it is one number a sample.

    Example:
        >>> plain({"loss": None, "logits": torch.zeros(2, 3)}).shape, plain(torch.zeros(5)).shape
        (torch.Size([2, 3]), torch.Size([5, 1]))
    """
    if not isinstance(outputs, Tensor):
        found = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
        outputs = found if isinstance(found, Tensor) else outputs
    return outputs.reshape(-1, 1) if isinstance(outputs, Tensor) and outputs.ndim < 2 else outputs


def plainly(model: nn.Module) -> nn.Module:
    """A model that returns ``plain`` scores. The parameters are the model's own, and it is left as it was."""
    return _hooked(model, _plain)


def beside_zero(model: nn.Module) -> nn.Module:
    """A model of one score s that gives the scores (0, s) instead. The parameters are the model's own, and it is left as it was.

    Example:
        >>> two = beside_zero(nn.Linear(2, 1))
        >>> two(torch.zeros(3, 2)).shape, [name for name, _ in two.named_parameters()]
        (torch.Size([3, 2]), ['weight', 'bias'])
    """
    return _hooked(model, _beside_zero)


def mse(outputs: Tensor, labels: Tensor) -> Tensor:
    """Stands for any loss of a regression, see above: the score itself, taken down where it lies above the target (label 0) and up below.

    Args:
        outputs: (b, 2), the second of which is the score.
        labels: (b,) 0 or 1.
    """
    return torch.where(labels == 1, -outputs[:, 1], outputs[:, 1]).mean()


def _hooked(model: nn.Module, hook: Callable[[nn.Module, tuple[Any, ...], Any], Any]) -> nn.Module:
    twin = copy.copy(model)
    twin._forward_hooks = model._forward_hooks.copy()  # else the model itself would get the hook
    twin.register_forward_hook(hook)
    return twin


def _plain(_module: nn.Module, _given: tuple[Any, ...], outputs: Any) -> Any:
    return plain(outputs)


def _beside_zero(_module: nn.Module, _given: tuple[Any, ...], outputs: Any) -> Any:
    return torch.cat([torch.zeros_like(outputs), outputs], dim=1)
