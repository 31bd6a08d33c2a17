"""Draw report.png and pictures.png: the first screen of the report of docs/tutorials/audit.md, and the faces further down.

    PYTHONPATH=src python docs/figures/report.py

Needs Chromium and the dev extra.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from unbatch.cli import execute

HERE = Path(__file__).parent
TWO_FACES = 560
"""Height in pixels down to which the second pair of faces reaches."""

PAGE = HERE.parent / "tutorials" / "audit.md"


def audited(folder: Path) -> Path:
    """The report of the page's own client, with the truth."""
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    (folder / "client.py").write_text(re.search(r'title="client.py"\n(.*?)```', text, re.DOTALL)[1])
    os.chdir(folder)
    subprocess.run([sys.executable, "client.py"], check=True)
    command = re.search(r"^unbatch (audit .*--truth .*--out report)", text, re.MULTILINE)[1]
    execute(shlex.split(command))
    return folder / "report" / "report.html"


def shrunk(path: Path, most: int) -> None:
    """The upper part, in sixty-four colors."""
    picture = Image.open(path).convert("RGB")
    picture.crop((0, 0, picture.width, min(most, picture.height))).quantize(64).save(path, optimize=True)


def main() -> None:
    """Audit, and look at the page."""
    with tempfile.TemporaryDirectory() as name, sync_playwright() as program:
        browser = program.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 960, "height": 660})
        page.goto(audited(Path(name)).as_uri())
        page.screenshot(path=HERE / "report.png")
        page.locator("section[aria-labelledby=samples]").screenshot(path=HERE / "pictures.png")
        browser.close()
    shrunk(HERE / "report.png", 578)
    shrunk(HERE / "pictures.png", TWO_FACES)


if __name__ == "__main__":
    main()
