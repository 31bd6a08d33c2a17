"""What a stranger's code may leave changed in PyTorch for all that runs after it, and that is put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["kept"]


@contextmanager
def kept() -> Iterator[None]:
    """Puts back the default device and type, and whether gradients, anomalies and deterministic algorithms are on.

    Example:
        >>> with kept():
        ...     torch.set_default_dtype(torch.float16)
        >>> torch.get_default_dtype()
        torch.float32
    """
    device, dtype = torch.get_default_device(), torch.get_default_dtype()
    strict = _strict()
    with torch.set_grad_enabled(torch.is_grad_enabled()), torch.autograd.set_detect_anomaly(torch.is_anomaly_enabled()):
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            if _strict() != strict:  # else PyTorch would load its compiler for nothing, which takes seconds
                torch.use_deterministic_algorithms(strict[0], warn_only=strict[1])
            if torch.get_default_device() != device:
                torch.set_default_device(None if device.type == "cpu" else device)


def _strict() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
