"""How long work tells what it is doing."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Progress", "silent"]

Progress = Callable[[str, float], None]
"""Told what is being done and how far it is (0 to 1, or NaN where that is unknown), every now and then."""


def silent(message: str, done: float) -> None:
    """A ``Progress`` that tells nobody."""
