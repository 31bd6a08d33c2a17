"""Small words of all reports."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

__all__ = ["DASH", "command_text"]

DASH = "–"
"""In the place of a value that is not there."""


def command_text(command: Sequence[str], width: int = 76) -> str:
    r"""A command for a shell, in lines that are not too long.

    Example:
        >>> print(command_text(["unbatch", "audit", "--model", "a b.py:net", "--seed", "1"], 30))
        unbatch audit \
          --model 'a b.py:net' \
          --seed 1
    """
    parts: list[str] = []
    for word in command:
        quoted = shlex.quote(word)
        if parts and parts[-1].startswith("--") and " " not in parts[-1] and not word.startswith("--"):
            parts[-1] += f" {quoted}"
        elif word.startswith("--") or not parts:
            parts.append(quoted)
        else:
            parts[-1] += f" {quoted}"
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) + 1 > width:
            lines.append(f"  {part}")
        else:
            lines[-1] += f" {part}"
    return " \\\n".join(lines)
