"""What is kept on disk as JSON: plain values that never change, nothing unknown among them, and no text that a terminal would obey."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from unbatch.errors import printable

__all__ = ["Record"]


class Record(BaseModel):
    r"""The base of everything that is stored. All text in it, written or read, is made printable: see ``errors.printable``.

    Example:
        >>> class Note(Record):
        ...     names: dict[str, tuple[str, ...]]
        >>> print(Note(names={"cat\x1b[31m": ("a", "\x9b2J")}).model_dump_json())
        {"names":{"cat\\x1b[31m":["a","\\x9b2J"]}}
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    @model_validator(mode="before")
    @classmethod
    def _neutral(cls, data: Any) -> Any:
        return _neutral(data)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some values changed, whose text is made printable too."""
        return super().model_copy(update=_neutral(update or {}), deep=deep)


def _neutral(data: Any) -> Any:
    if isinstance(data, str):
        return printable(data)
    if isinstance(data, Mapping):
        return {_neutral(key): _neutral(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return type(data)(map(_neutral, data))
    return data
