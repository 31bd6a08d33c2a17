"""What all pages share: the templates of this folder, their one style, and that everything from strangers is escaped."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from unbatch.errors import printable
from unbatch.report.claims import LEVELS, setting_of
from unbatch.report.words import DASH, command_text

__all__ = ["DASH", "render"]


def render(template: str, **values: Any) -> str:
    """A page, self-contained: no script, nothing loaded from elsewhere.

    Args:
        template: name of a file in this folder that extends ``base.html``.
        values: what it is about.
    """
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    folder = files("unbatch.report")
    loader = FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8"))
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=loader, finalize=_shown
    )
    environment.globals |= {
        "style": Markup(folder.joinpath("style.css").read_text(encoding="utf-8")),  # noqa: S704 -- our own file
        "dash": DASH,
        "levels": LEVELS,
        "setting_of": setting_of,
        "command_text": command_text,
    }
    return environment


def _shown(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
