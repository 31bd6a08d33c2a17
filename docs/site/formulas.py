"""Formulas as MathML, made when the site is built: a page needs neither a script nor the network to show them."""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">(?:\\\((.*?)\\\)|\\\[(.*?)\\\])</\1>', re.DOTALL)
"""What ``pymdownx.arithmatex`` leaves of ``$…$`` and ``$$…$$``."""


def on_page_content(content: str, **_: object) -> str:
    """The page with every formula drawn."""
    return FORMULA.sub(_drawn, content)


def _drawn(found: re.Match[str]) -> str:
    inline, block = found[2], found[3]
    return convert(html.unescape(inline if block is None else block).strip(), display="inline" if block is None else "block")
