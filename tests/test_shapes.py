"""Shapes in annotations are checked in every module of the package while the tests run."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from types import ModuleType

import pytest
import torch

from unbatch.linalg.lowrank import factor

SOURCE = Path(__file__).parents[1] / "src" / "unbatch"
SHAPED = [
    path.relative_to(SOURCE.parent).with_suffix("")
    for path in sorted(SOURCE.rglob("*.py"))
    if "[Tensor, " in path.read_text(encoding="utf-8") and "flower" not in path.parts
]


def shaped(module: ModuleType) -> list[object]:
    """Its own functions that say a shape."""
    own = [value for _, value in inspect.getmembers(module, inspect.isfunction) if value.__module__ == module.__name__]
    return [value for value in own if "[Tensor, " in str(inspect.unwrap(value).__annotations__)]


def test_a_wrong_shape_is_told() -> None:
    with pytest.raises(Exception, match="Type-check error"):
        factor(torch.zeros(3), torch.Generator())


@pytest.mark.parametrize("path", SHAPED, ids=str)
def test_every_function_with_a_shape_is_checked(path: Path) -> None:
    functions = shaped(importlib.import_module(".".join(path.parts)))
    assert [value for value in functions if not hasattr(value, "__wrapped__")] == []
