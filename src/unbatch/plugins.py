"""From names to classes: the only place that knows where plug-ins live.

A plug-in is a file in the folder of its kind with one concrete class in it; the file's name is the plug-in's name. Other packages add
theirs through the entry-point groups ``unbatch.attacks``, ``unbatch.models`` and so on. Nothing is registered by hand.
"""

from __future__ import annotations

import importlib
import inspect
import re
import types
import typing
from dataclasses import Field, fields
from importlib.metadata import EntryPoint
from typing import Any

from unbatch import specs
from unbatch.errors import Misuse, UnknownPlugin, named
from unbatch.specs import KINDS

__all__ = ["KINDS", "build", "configured", "load", "names"]

CONTRACTS = dict(zip(KINDS, ("Attack", "LabelRestorer", "Protocol", "Defense", "Model", "Dataset", "Metric"), strict=True))
"""Kind -> the class of ``contracts`` that a plug-in of this kind is derived from."""


def names(kind: str) -> list[str]:
    """All names of a kind, sorted, without importing any of them.

    Raises:
        UnknownPlugin: there is no such kind.

    Example:
        >>> "spear" in names("attacks")
        True
    """
    if kind not in KINDS:
        raise UnknownPlugin(f"a kind among {', '.join(KINDS)}", repr(kind), "use one of them")
    return sorted(specs.built_in(kind) | {point.name for point in specs.added(kind)})


def load(kind: str, name: str) -> type[Any]:
    """The class behind a name: a built-in one, or else what another package adds under this name.

    Raises:
        UnknownPlugin: no plug-in of this kind has this name; or another package adds one that cannot be loaded, or is none.
    """
    if kind in KINDS and name in specs.built_in(kind):  # to ask what other packages add takes as long as a small search
        return _only_class(f"unbatch.{kind}.{name}")
    known = names(kind)
    if name not in known:
        raise UnknownPlugin(f"one of the {kind} {', '.join(known)}", repr(name), f"see `unbatch list {kind}`")
    points = [point for point in specs.added(kind) if point.name == name]
    if len({point.value for point in points}) > 1:
        raise UnknownPlugin(f"one package that adds {name!r} to the {kind}", _packages(points), "uninstall all but one of them")
    return _checked(kind, points[0])


def _only_class(module_name: str) -> type[Any]:
    from unbatch.contracts import Plugin

    module = importlib.import_module(module_name)
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Plugin) and value.__module__ == module.__name__ and not inspect.isabstract(value)
    ]
    if len(found) != 1:
        raise UnknownPlugin("one concrete class a file", f"{len(found)} in {module.__name__}", "move the others to files of their own")
    return found[0]


def _checked(kind: str, point: EntryPoint) -> type[Any]:
    """What another package adds, if it keeps to the contract of its kind.

    Raises:
        UnknownPlugin: with what is wrong with it, and whose it is.
    """
    from unbatch import contracts

    whose = f"{point.name!r}, which {_packages([point])} adds to the {kind}, to be"
    advice = f"tell its authors; without that package `unbatch list {kind}` leaves it out"
    if not re.fullmatch(r"[\w-]+", point.name):
        raise UnknownPlugin(f"{whose} named in letters, digits, - and _", repr(point.name), advice)
    try:
        cls: Any = point.load()
        if inspect.isclass(cls):
            typing.get_type_hints(cls)
    except Exception as error:
        raise UnknownPlugin(f"{whose} importable", named(error), advice) from error
    contract, wrong = getattr(contracts, CONTRACTS[kind]), ""
    if not inspect.isclass(cls) or not issubclass(cls, contract):
        wrong = getattr(cls, "__qualname__", type(cls).__name__)
    elif inspect.isabstract(cls):
        wrong = f"{cls.__qualname__} without {', '.join(sorted(vars(cls)['__abstractmethods__']))}"
    elif not getattr(vars(cls).get("__dataclass_params__"), "frozen", False):
        wrong = f"{cls.__qualname__}, which is not @dataclass(frozen=True)"
    if wrong:
        raise UnknownPlugin(f"{whose} a frozen dataclass derived from unbatch.contracts.{contract.__name__}", wrong, advice)
    return typing.cast("type[Any]", cls)


def _packages(points: list[EntryPoint]) -> str:
    return " and ".join(sorted({point.dist.name if point.dist else point.value for point in points}))


def build(kind: str, spec: str) -> Any:
    """A plug-in from its specification: ``name``, ``name:field=value,field=value``, or ``name:VALUE`` for its first field.

    A value with a comma in it stands in double quotes: see ``specs.parse``. Attacks may stand behind one another: ``dlg:steps=50+span``.

    Raises:
        UnknownPlugin: the name or a field is unknown.
        Misuse: a value does not fit its field.

    Example:
        >>> build("models", "mlp:width=50,depth=3")
        Mlp(width=50, depth=3, activation='relu')
    """
    if kind == "attacks" and len(several := specs.stages(spec)) > 1:
        from unbatch.chains import chained

        return chained([build(kind, one) for one in several])
    return configured(load(kind, specs.parse(spec)[0]), spec)


def configured(cls: type[Any], spec: str) -> Any:
    """An object of a frozen dataclass with the settings of a specification.

    Raises:
        UnknownPlugin: a field is unknown.
        Misuse: a value does not fit its field.
    """
    name, parts = specs.parse(spec)
    settings = {field.name: field for field in fields(cls)}
    types_of = typing.get_type_hints(cls)
    given: dict[str, Any] = {}
    for field, value in parts:
        key = next(iter(settings), "") if field is None else field
        if key not in settings:
            raise UnknownPlugin(f"a field of {name} among {', '.join(settings) or 'none'}", repr(key), f"see `unbatch describe {name}`")
        if key in given:
            raise Misuse(f"one value for {name}'s {key}", f"several in {spec!r}", "give one, in double quotes if it has a comma in it")
        given[key] = _convert(name, settings[key], types_of[key], value)
    try:
        return cls(**given)
    except Misuse:
        raise
    except (TypeError, ValueError) as error:
        raise Misuse(f"settings for {name}", repr(spec), str(error)) from error


def _convert(name: str, field: Field[Any], wanted: Any, text: str) -> Any:
    """Text to the field's type: bool, int, float, str, another plug-in by its specification, or one of these or None."""
    options = typing.get_args(wanted) if typing.get_origin(wanted) in (typing.Union, types.UnionType) else (wanted,)
    if type(None) in options and text.lower() in ("none", ""):
        return None
    for option in options:
        if typing.get_origin(option) is typing.Literal:
            if chosen := [choice for choice in typing.get_args(option) if str(choice) == text]:
                return chosen[0]
            continue
        kind = next((kind for kind, contract in CONTRACTS.items() if getattr(option, "__name__", "") == contract), None)
        if kind is not None:
            return build(kind, text)
        if option is bool:
            if text.lower() in ("true", "false"):
                return text.lower() == "true"
            continue
        if option in (int, float, str):
            try:
                return option(text)
            except ValueError:
                continue
    readable = getattr(wanted, "__name__", str(wanted)).replace("typing.", "")
    raise Misuse(f"{name}'s {field.name} to be {readable}", repr(text), f"see `unbatch describe {name}`")
