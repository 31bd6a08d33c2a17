"""Pages of which a part is drawn: what stands between ``<!-- NAME -->`` and the next ``<!-- end -->`` is written anew, the rest is people's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

__all__ = ["fill_in"]


def fill_in(page: Path, blocks: Mapping[str, str]) -> None:
    """Write each block between the marks of its name; other marks keep what they hold."""

    def written(found: re.Match[str]) -> str:
        return f"<!-- {found[1]} -->\n{blocks[found[1]]}\n<!-- end -->" if found[1] in blocks else found[0]

    page.write_text(re.sub(r"<!-- ([a-z0-9 ]+) -->\s.*?<!-- end -->", written, page.read_text(), flags=re.DOTALL))
