"""What precision and clipping did to an update: weights that a client holds in fewer bits, and gradients of a norm that was cut."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from unbatch.errors import Misuse

__all__ = ["clipped", "differences", "length"]

USUAL = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0)
"""Norms to which gradients are clipped: one of exactly this length was."""

NEAR = 2e-5
"""A length is such a norm when it is this near to it, relatively."""

FEW = 100
"""Fewer numbers than this show nothing."""

HALVES = (torch.bfloat16, torch.float16)


def differences(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """After less before, subtracted in float64; as exact as the coarser of the two, but not coarser than float32. And what to remark.

    A client that holds its weights in half precision began with the broadcast ones rounded to it: that rounding is no training.

    Example:
        >>> before = {"w": torch.full((200,), 0.1)}
        >>> moved, told = differences(before, {"w": before["w"].bfloat16()})
        >>> bool(moved["w"].any()), len(told)
        (False, 1)
    """
    half = next((dtype for dtype in HALVES if _held(after, dtype)), None)
    rounded = half is not None and not _held({name: before[name] for name in after}, half)
    moved = {}
    for name, tensor in after.items():
        start = before[name].detach().cpu()
        coarser = min(tensor.dtype, start.dtype, key=lambda dtype: dtype.itemsize)
        start = start.to(half) if rounded and half is not None else start
        moved[name] = (tensor.double() - start.double()).to(torch.promote_types(coarser, torch.float32))
    told = f"that the client's weights are {str(half).removeprefix('torch.')}: it began with the broadcast ones rounded to that"
    return moved, (told,) if rounded else ()


def _held(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> bool:
    """Whether a type holds all of the numbers, of which there must be some."""
    floats = [tensor.detach() for tensor in tensors.values() if tensor.is_floating_point()]
    return sum(t.numel() for t in floats) >= FEW and all(torch.equal(t.to(dtype).to(t.dtype), t) for t in floats)


def length(update: Mapping[str, Tensor]) -> float:
    """L2 norm over all tensors together."""
    return float(sum(float(tensor.double().square().sum()) for tensor in update.values()) ** 0.5)


def clipped(update: Mapping[str, Tensor], told: float | None, *, one_step: bool, known: bool) -> tuple[bool, tuple[str, ...]]:
    """Whether the scale of an update is still known after its clipping, and what to remark.

    Args:
        update: the (average) gradient.
        told: the norm to which the client clips, or None to recognize a usual one.
        one_step: whether it is a single gradient.
        known: whether its scale is known otherwise.

    Raises:
        Misuse: the norm cannot be, or the update is longer.

    Example:
        >>> clipped({"w": torch.full((100,), 0.1)}, None, one_step=True, known=True)
        (False, ('that its gradient was clipped: it is exactly 1 long',))
    """
    if told is not None and not 0 < told < float("inf"):
        raise Misuse("a norm above zero to clip to", repr(told), "leave it out if the client does not clip")
    if told is not None and not one_step:
        return False, (f"that each of its steps was clipped to {told:g}, by a factor of its own: they count differently",)
    if not known or not one_step:
        return known, ()
    size = length(update)
    if told is not None:
        if size > told * (1 + 1e-3):
            raise Misuse(
                f"a gradient no longer than {told:g}, to which it was clipped", f"{size:.4g}", "check the norm and the learning rate"
            )
        cut = size >= told * (1 - 1e-3)
        return not cut, (f"that gradients are clipped to {told:g}: this one was {'longer' if cut else 'shorter, so that it was not'}",)
    usual = next((norm for norm in USUAL if abs(size - norm) <= NEAR * norm), None)
    if usual is None or sum(tensor.numel() for tensor in update.values()) < FEW:
        return known, ()
    return False, (f"that its gradient was clipped: it is exactly {usual:g} long",)
