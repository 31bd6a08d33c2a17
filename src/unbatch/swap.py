"""A pass of a model with other tensors in the place of its own, which leaves the model as it was."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["called_with"]


def called_with(model: nn.Module, tensors: dict[str, Tensor], inputs: Tensor) -> Any:
    """What the model returns with these tensors, under all names that each of its own has.

    ``functional_call`` with tied weights puts a tensor back once for every name of it. Where one module stands under two names, as an
    embedding that an encoder and a decoder share, the second time it puts back what was given, and the client's parameter is gone.

    Args:
        model: any module that takes one tensor.
        tensors: name of a parameter or buffer -> what stands in its place; buffers that the model replaces are replaced here.
        inputs: (b, *shape).

    Example:
        >>> shared = nn.PReLU()
        >>> net = nn.Sequential(shared, shared)
        >>> called_with(net, {"0.weight": torch.tensor([0.5])}, torch.tensor([[-4.0]])).tolist(), shared.weight is net[1].weight
        ([[-1.0]], True)
        >>> type(shared.weight).__name__
        'Parameter'
    """
    named = chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    given = {id(own): tensors[name] for name, own in named if name in tensors}
    everywhere = {}
    for prefix, module in model.named_modules():
        own_ones = (
            module.named_parameters(recurse=False, remove_duplicate=False),
            module.named_buffers(recurse=False, remove_duplicate=False),
        )
        for leaf, own in chain(*own_ones):
            if id(own) in given:
                everywhere[f"{prefix}.{leaf}" if prefix else leaf] = given[id(own)]
    outputs = torch.func.functional_call(model, everywhere, (inputs,), tie_weights=False)
    tensors.update({name: tensor for name, tensor in everywhere.items() if name in tensors})
    return outputs
