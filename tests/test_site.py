"""The site of the documentation: it builds strictly, fetches nothing when it is read, and says of the program what is so."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from unbatch.experiments.grids import Grid
from unbatch.store.trials import TrialRecord
from unbatch.types import Status, Verdict

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FETCHED = re.compile(r'<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)="(?:https?:)?//[^"]*"[^>]*>')
SHOWN = ("index.html", "tutorials/audit.html", "reference/python.html", "explanation/notation.html")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site, built as ``make site`` builds it."""
    for needed in ("material", "mkdocstrings", "latex2mathml"):
        pytest.importorskip(needed, reason="the site's generator is not installed: it comes with the dev extra")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.long
def test_nothing_is_fetched_when_a_page_is_read(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    found = {page.name: FETCHED.findall(page.read_text(encoding="utf-8")) for page in pages}
    assert {name: tags for name, tags in found.items() if tags} == {}


@pytest.mark.long
def test_formulas_are_drawn(site: Path) -> None:
    text = (site / "explanation" / "notation.html").read_text(encoding="utf-8")
    assert text.count("<math") > 30
    assert 'display="block"' in text
    assert [page.name for page in site.rglob("*.html") if 'class="arithmatex"' in page.read_text(encoding="utf-8")] == []


@pytest.mark.long
def test_the_reference_is_drawn_from_the_program(site: Path) -> None:
    python = (site / "reference" / "python.html").read_text(encoding="utf-8")
    names = ("audit", "capture", "Observation", "members", "expose", "restore_labels", "polish")
    assert [name for name in names if f'id="unbatch.{name}"' not in python] == []
    assert "&gt;&gt;&gt;" in python
    commands = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    heads = re.sub(r"<a class=.headerlink.*?</a>", "", commands)
    assert [name for name in ("audit", "run", "members", "defend") if f"unbatch {name}</h2>" not in heads] == []
    assert "--fail-on" in commands


@pytest.mark.long
def test_it_can_be_searched(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    assert {"tutorials/audit.html", "notebooks/audit_an_update.html"} <= {entry["location"].partition("#")[0] for entry in index["docs"]}


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    program = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no Chromium on this machine")
    with program.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_everybody_can_read_it(site: Path, browser: object, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[attr-defined]
    page, wrong = context.new_page(), {}
    for name in SHOWN:
        page.goto((site / name).as_uri())
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), f"{name} is wider than the screen"
        found = axe.run(page, options={"runOnly": ["wcag2a", "wcag2aa"]}).response["violations"]
        wrong[name] = [(each["id"], [node["html"][:120] for node in each["nodes"][:3]]) for each in found]
    context.close()
    assert {name: found for name, found in wrong.items() if found} == {}


# What pages say of the program


def test_every_status_has_its_row() -> None:
    page = (DOCS / "reference" / "statuses.md").read_text(encoding="utf-8")
    assert [status.name for status in Status if f"| `{status.name}` |" not in page] == []
    assert [verdict.name for verdict in Verdict if f"`{verdict.name}`" not in page] == []


def test_messages_of_the_page_are_those_of_the_program() -> None:
    page = (DOCS / "reference" / "statuses.md").read_text(encoding="utf-8")
    said = re.findall(r"^\| ([^|`]+) \|", page[page.index("## Messages that are met often") :], re.MULTILINE)[1:]
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    assert len(said) > 5
    assert [message for message in said if message not in sources] == []


def test_every_key_of_a_plan_has_its_row() -> None:
    page = (DOCS / "reference" / "plans.md").read_text(encoding="utf-8")
    assert [key for key in Grid.model_fields if f"`{key}`" not in page] == []


def test_every_column_of_a_trial_is_listed() -> None:
    page = (DOCS / "reference" / "files.md").read_text(encoding="utf-8")
    assert [name for name in TrialRecord.model_fields if name != "scores" and f"`{name}`" not in page] == []


def test_every_attack_has_its_place_on_the_page_that_chooses() -> None:
    page = (DOCS / "which_attack.md").read_text(encoding="utf-8")
    assert [path.stem for path in (ROOT / "src/unbatch/attacks").glob("[a-z]*.py") if f"`{path.stem}" not in page] == []
