"""What checks shapes in tests: beartype, on the annotations of jaxtyping alone.

Everywhere else users' values are checked by unbatch itself, and tests give wrong ones on purpose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beartype import beartype

__all__ = ["checked"]


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its shapes checked."""
    given = getattr(function, "__annotations__", {})
    function.__annotations__ = {name: wanted for name, wanted in given.items() if "[Tensor, " in str(wanted)}
    return beartype(function) if function.__annotations__ else function
