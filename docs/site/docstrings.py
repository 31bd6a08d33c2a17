"""Docstrings as this project writes them, for the parser of the reference: one example is an example too."""

from __future__ import annotations

import re

import griffe


class OneExample(griffe.Extension):
    """Read the section ``Example:`` as what it is: code and what it prints."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        """Look at one module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
