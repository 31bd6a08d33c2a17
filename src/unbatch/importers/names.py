"""Whose tensor is whose: the names in a file, however it was saved, to the names of a model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from unbatch.errors import Misuse, some

__all__ = ["FLOATS", "by_name", "check_tensors", "state_of"]

WRAPPERS = ("module.", "_orig_mod.", "model.")
"""What ``DataParallel``, ``torch.compile`` and Lightning put before every name."""

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""The types that weights and updates may have."""


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Everything that a file may name: the model's ``state_dict()``, in its order.

    Example:
        >>> list(state_of(nn.BatchNorm1d(2)))
        ['weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked']
    """
    return {name: tensor for name, tensor in model.state_dict(keep_vars=True).items() if isinstance(tensor, Tensor)}


def by_name(model: nn.Module, tensors: Mapping[str, Tensor], wrong: type[Misuse] = Misuse) -> dict[str, Tensor]:
    """The same tensors under the model's names.

    Names that fit are left alone, and those of adapters are matched without what PEFT adds to them. Otherwise arrays that are only
    numbered (``arr_0`` of ``numpy.savez(path, *arrays)``, ``0`` of a Flower record made of a list) are taken in the order of
    ``state_dict()``, and prefixes of wrappers are taken off where exactly one way to do so makes every name fit.

    Args:
        model: whose names are wanted.
        tensors: any name -> tensor.
        wrong: raised for arrays whose number or shapes do not fit.

    Example:
        >>> list(by_name(nn.Linear(2, 1), {"_orig_mod.module.weight": torch.ones(1, 2)}))
        ['weight']
    """
    wanted = state_of(model)
    if tensors.keys() <= wanted.keys():
        return dict(tensors)
    if (arrays := _numbered(tensors)) is not None:
        return _in_order(model, wanted, arrays, wrong)
    fitting = [found for found in _unwrapped(tensors) if found.keys() <= wanted.keys()]
    if len(fitting) == 1:
        return fitting[0]
    adapters = any(is_adapter(name) for name in (*tensors, *wanted))
    return (_as_adapters(wanted, tensors) or dict(tensors)) if adapters else dict(tensors)


def is_adapter(name: str) -> bool:
    """Whether a name is one of LoRA's."""
    return re.search(r"(^|\.)lora_(embedding_)?[AB](\.|$)", name) is not None


def _as_adapters(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file of PEFT, or for a model of PEFT's, whose names are alike but for what it adds; none where that is not clear."""
    homes: dict[str, list[str]] = {}
    for name in wanted:
        homes.setdefault(plain_name(name), []).append(name)
    found = {name: homes.get(plain_name(name), []) for name in tensors}
    taken = [homes[0] for homes in found.values() if len(homes) == 1]
    if len(taken) < len(found) or len(set(taken)) < len(taken):
        return {}
    return {found[name][0]: tensor for name, tensor in tensors.items()}


def plain_name(name: str) -> str:
    """A name without what PEFT, its adapters' names and wrappers add to it.

    Example:
        >>> plain_name("base_model.model.head.lora_A.default.weight"), plain_name("head.lora_A"), plain_name("head.base_layer.weight")
        ('head.lora_A', 'head.lora_A', 'head.weight')
    """
    while (start := next((wrapper for wrapper in ("base_model.", *WRAPPERS) if name.startswith(wrapper)), None)) is not None:
        name = name.removeprefix(start)
    name = re.sub(r"(^|\.)(lora_(?:embedding_)?[AB])(\.[^.]+)?\.weight$", r"\1\2", name)
    name = re.sub(r"(^|\.)(lora_embedding_[AB])\.[^.]+$", r"\1\2", name)
    return re.sub(r"(^|\.)(?:base_layer|modules_to_save\.[^.]+)\.(?=[^.]+$)", r"\1", name)


def _unwrapped(tensors: Mapping[str, Tensor], before: str = "") -> Iterator[dict[str, Tensor]]:
    """The tensors without one, two, ... prefixes that all of their names share."""
    for wrapper in WRAPPERS:
        prefix = before + wrapper
        if all(name.startswith(prefix) for name in tensors):
            yield {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
            yield from _unwrapped(tensors, prefix)


def _numbered(tensors: Mapping[str, Tensor]) -> list[Tensor] | None:
    """The tensors in the order of their numbers, if these are 0, 1, ... and there is nothing but a number in the names."""
    found = [re.fullmatch(r"(arr_)?(0|[1-9][0-9]*)", name) for name in tensors]
    if not tensors or len({match and match[1] for match in found}) > 1:
        return None
    numbers = {int(match[2]): tensor for match, tensor in zip(found, tensors.values(), strict=True) if match}
    return [numbers[i] for i in range(len(tensors))] if numbers.keys() == set(range(len(tensors))) else None


def _in_order(model: nn.Module, wanted: Mapping[str, Tensor], arrays: Sequence[Tensor], wrong: type[Misuse]) -> dict[str, Tensor]:
    """Arrays for the whole state, for the parameters alone, or for the trained ones alone."""
    parameters = dict(model.named_parameters())
    trained = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
    lists = [names for names in (wanted, parameters, trained) if len(names) == len(arrays)]
    if not lists:
        raise wrong(
            f"{len(wanted)} arrays, one for each tensor of the model's state_dict() in its order"
            + (f" (or {len(parameters)}, its parameters alone)" if len(parameters) != len(wanted) else ""),
            str(len(arrays)),
            "save all of them, or save them by name",
        )
    names = next((names for names in lists if all(a.shape == t.shape for a, t in zip(arrays, names.values(), strict=True))), lists[0])
    for place, (name, array) in enumerate(zip(names, arrays, strict=True)):
        _check_tensor(name, array, names[name], wrong, "save them in the order of state_dict(), or by name", f"array {place} to be ")
    return dict(zip(names, arrays, strict=True))


def check_tensors(model: nn.Module, tensors: Mapping[str, Tensor], wrong: type[Misuse], what: str, advice: str, before: str = "") -> None:
    """Refuse tensors that the model does not have, or has otherwise.

    Raises:
        wrong: with the first tensor's name, what was expected of it, and what came.
    """
    wanted = state_of(model)
    if extra := [name for name in tensors if name not in wanted]:
        if any(map(is_adapter, extra)) and not any(map(is_adapter, wanted)):
            advice = "the file holds LoRA adapters and the model has none: let its factory put them in (peft.get_peft_model, same rank and"
            advice += " layers) before it returns it, and say --rest-frozen (rest_frozen=True)"
        elif any(map(is_adapter, extra)):
            advice = "the model's adapters sit in other layers: build it with the LoraConfig that the client used"
        raise wrong(what, some(extra), advice)
    for name in wanted:
        if name in tensors:
            _check_tensor(name, tensors[name], wanted[name], wrong, advice, before)


def _check_tensor(name: str, tensor: Tensor, wanted: Tensor, wrong: type[Misuse], advice: str, before: str = "") -> None:
    """Refuse a tensor of another shape, and numbers of another kind where the model has a parameter."""
    shape = tuple(wanted.shape)
    if tensor.shape != wanted.shape:
        if sorted(tensor.shape) == sorted(shape):
            advice = "its axes look swapped, save it in torch's order (.T for a matrix)"
        raise wrong(f"{before}{name!r} of shape {shape}", f"{tuple(tensor.shape)}", advice)
    if isinstance(wanted, nn.Parameter) and tensor.dtype not in FLOATS:
        raise wrong(f"floating-point numbers in {name!r}", str(tensor.dtype).removeprefix("torch."), "save it in 16, 32 or 64 bits")
