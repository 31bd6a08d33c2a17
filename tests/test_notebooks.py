"""The notebooks run from top to bottom, each in a kernel of its own; what they claim, they assert themselves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: it comes with the dev extra")
nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: it comes with the dev extra")
pytest.importorskip("ipykernel", reason="ipykernel is not installed: it comes with the dev extra")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
UPDATE = "UNBATCH_WRITE_NOTEBOOKS"
"""Set by ``make notebooks``: what the cells print and draw is kept in the files, for the site."""


def printed(notebook: Any) -> list[str]:
    """What the code cells printed, without figures."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return [output.text for output in outputs if output.output_type == "stream" and output.name == "stdout"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
@pytest.mark.filterwarnings("ignore")  # of Jupyter, about itself
def test_the_notebook_runs(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    stored = printed(notebook)
    client = nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", record_timing=False)
    client.execute(cwd=str(tmp_path))  # raises at the first cell that does
    assert list(tmp_path.iterdir()) == []
    assert printed(notebook)
    if os.environ.get(UPDATE):
        notebook.metadata.language_info = {"name": "python"}  # not the version that happened to run it
        nbformat.write(notebook, path)
    else:
        assert len(stored) == len(printed(notebook)), "the outputs in the file are of another notebook: run `make notebooks`"


def test_there_are_notebooks() -> None:
    assert {path.stem for path in NOTEBOOKS} == {"audit_an_update", "exact_batches_without_relu"}
