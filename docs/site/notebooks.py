"""Notebooks as pages: their text, their code, and what they printed and drew when they were last run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add a page a notebook; the notebook itself stays beside it, to be downloaded."""
    for path in sorted(Path(config.docs_dir).glob("notebooks/*.ipynb")):
        name = path.relative_to(config.docs_dir).as_posix()
        files.append(File.generated(config, name.replace(".ipynb", ".md"), content=_page(path)))
    return files


def _page(path: Path) -> str:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    head, *rest = ["".join(cell["source"]) if cell["cell_type"] == "markdown" else _code(cell) for cell in cells]
    return "\n\n".join([head, f"*This page is a notebook: [{path.name}]({path.name}).*", *rest])


def _code(cell: dict[str, Any]) -> str:
    parts = [f"```python\n{''.join(cell['source'])}\n```"]
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/png" in data:
            parts.append(f"![What the cell above drew](data:image/png;base64,{''.join(data['image/png']).strip()})")
        elif text := "".join(output.get("text", data.get("text/plain", ""))).rstrip():
            parts.append(f"```text\n{text}\n```")
    return "\n\n".join(parts)
