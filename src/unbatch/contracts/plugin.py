"""What all kinds of plug-ins share: frozen settings, and a text that builds them again."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import wraps
from typing import Any

from unbatch import specs

__all__ = ["Plugin"]


@dataclass(frozen=True)
class Plugin:
    """What all kinds share: a printable specification, ``name:field=value,...``, of the settings that are not defaults.

    A setting that is a number must be finite, unless its field says ``field(..., metadata={"infinite": True})``; it is never NaN. That is
    checked before the ``__post_init__`` of the plug-in's own.
    """

    def __init_subclass__(cls) -> None:
        """Let every plug-in refuse numbers that are not finite, whether or not it checks more."""
        own = vars(cls).get("__post_init__")
        if own is not None:

            @wraps(own)
            def checked(self: Plugin) -> None:
                specs.check_finite(self)
                own(self)

            cls.__post_init__ = checked  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        """Refuse settings that no plug-in can have.

        Raises:
            Misuse: a number is not finite.
        """
        specs.check_finite(self)

    @property
    def spec(self) -> str:
        """The text that builds this plug-in again.

        Example:
            >>> from unbatch.plugins import build
            >>> build("models", "mlp:width=50").spec
            'mlp:width=50'
        """
        return specs.write(specs.name_of(type(self)), self._settings())

    @property
    def hidden(self) -> frozenset[str]:
        """Settings that the server is not told."""
        return frozenset()

    @property
    def told(self) -> str:
        """What the server is told of it: the specification without the settings that are hidden."""
        shown = {name: value for name, value in self._settings().items() if name not in self.hidden}
        return specs.write(specs.name_of(type(self)), shown)

    def _settings(self) -> dict[str, Any]:
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return {name: value.spec if isinstance(value, Plugin) else value for name, value in given.items()}
