"""Options that stand together, such as how a client trained: one dataclass, taken by every command that needs them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any

__all__ = ["grouped"]


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the fields of each parameter that is a dataclass as options of its own: typer knows no groups.

    Args:
        command: a function whose parameters are typer's, or dataclasses of them.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Size:
        ...     wide: int
        ...     high: int = 1
        >>> @grouped
        ... def show(name: str, size: Size) -> None:
        ...     print(name, size.wide * size.high)
        >>> list(inspect.signature(show).parameters)
        ['name', 'wide', 'high']
        >>> show(name="window", wide=3, high=2)
        window 6
    """
    groups: dict[str, Callable[..., Any]] = {}
    flat: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        group = parameter.annotation
        if isinstance(group, type) and is_dataclass(group):
            groups[name] = group
            flat += inspect.signature(group, eval_str=True).parameters.values()
        else:
            flat.append(parameter)
    keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in flat]
    fields = {name: tuple(inspect.signature(group).parameters) for name, group in groups.items()}

    @functools.wraps(command)
    def run(**given: Any) -> None:
        built = {name: groups[name](**{field: given.pop(field) for field in fields[name]}) for name in groups}
        command(**given, **built)

    run.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in keyword}
    return run
