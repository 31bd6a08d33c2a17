"""What an attack was given must be what the evidence then reads: a seal on it, made before a stranger's code runs, looked at after.

Small tensors are hashed byte by byte. Of one that may be gigabytes that would be most of an attack's time, so it is summed up: its bytes,
as words w of 64 bits, with random factors a and c, block by block,

    s = Σ aᵢ wᵢ mod 2⁶⁴    and    t = Σ cᵢ (wᵢ >> 32) mod 2⁶⁴,

which reads it once and makes no copy. Nothing that changes a bit passes, but for luck: suppose that upper halves of words were changed,
by ηᵢ with |ηᵢ| < 2³², not all zero, and let 2ᵛ be the highest power that divides all of them, v ≤ 31. Then t changes by Σ cᵢ ηᵢ, which is
any of the 2⁶⁴⁻ᵛ multiples of 2ᵛ with equal chance: it is zero once in 2³³ or less. If lower halves alone were changed, the same holds of s.
(One sum would not do: two signs turned round add 2⁶³ twice.) The factors are drawn anew for every seal, from the system's own randomness:
whoever changes a number does not know them, and has one try.
"""

from __future__ import annotations

import copy
import hashlib
import secrets
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor, nn

from unbatch.types import Observation

__all__ = ["Seal"]

WORDS = 1 << 13
"""Words of a block, and the factors of each of its two sums. Chosen: with them a block stays in the cache."""


class Seal:
    """Put on an observation, it tells whether anything that the evidence will read was written to or put in another's place.

    Args:
        observation: what the server saw. What it holds is held here as well, so that none of it can leave its place to another.

    Example:
        >>> seen = Observation(nn.Linear(2, 3), {"weight": torch.ones(3, 2), "bias": torch.ones(3)}, (2,))
        >>> seal = Seal(seen)
        >>> before = seal.broken
        >>> seen.update["weight"].numpy()[1, 1] = 2
        >>> before, seal.broken
        (False, True)
    """

    def __init__(self, observation: Observation) -> None:
        self._observation, self._held = observation, copy.copy(observation)
        self._factors = np.frombuffer(secrets.token_bytes(16 * WORDS), dtype=np.uint64).reshape(2, WORDS)
        self._before = self._state()

    @property
    def broken(self) -> bool:
        """Whether anything has changed."""
        return self._state() != self._before

    def _state(self) -> tuple[object, ...]:
        observation = self._observation
        model, labels = observation.model, observation.labels
        state = [
            *model.named_parameters(),
            *model.named_buffers(),
            *observation.update.items(),
            *([] if labels is None else [("", labels)]),
        ]
        told = [id(getattr(observation, field.name)) for field in fields(observation)]
        parts = [
            (name, id(module), type(module), module.training, module.extra_repr(), "forward" in vars(module), _hooks(module))
            for name, module in model.named_modules()
        ]
        kept = (
            observation.behavior,
            observation.rounding,
            *((call.weight, call.bias, call.activation, call.raw) for call in observation.layers),
        )
        return (*told, *kept, *parts, *((name, self._digest(tensor)) for name, tensor in state))

    def _digest(self, tensor: Tensor) -> tuple[object, ...]:
        """Of all its bytes in their order: numbers that only change places are seen as well."""
        data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        start = -data.ctypes.data % 8  # where the first whole word begins
        end = len(data) - (len(data) - start) % 8
        words = data[start:end].view(np.uint64) if end - start > 8 * WORDS else None
        rest = [data] if words is None else [data[:start], data[end:], self._sums(words)]
        return tuple(tensor.shape), tensor.dtype, *(hashlib.sha256(part.data).digest() for part in rest)

    def _sums(self, words: np.ndarray) -> np.ndarray:
        """(blocks, 2) s and t of every block."""
        sums, halves = np.empty((-(-len(words) // WORDS), 2), dtype=np.uint64), np.empty(WORDS, dtype=np.uint64)
        for number, start in enumerate(range(0, len(words), WORDS)):
            block = words[start : start + WORDS]
            whole, upper = self._factors[:, : len(block)]
            np.right_shift(block, np.uint64(32), out=halves[: len(block)])
            sums[number] = np.dot(block, whole), np.dot(halves[: len(block)], upper)
        return sums


def _hooks(module: nn.Module) -> tuple[int, ...]:
    """Numbers of the hooks that run with a module."""
    return (*module._forward_pre_hooks, *module._forward_hooks, *module._backward_pre_hooks, *module._backward_hooks)
