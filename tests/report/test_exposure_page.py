"""The page of an exposure: on its own, escaped, and readable in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from unbatch.errors import OutputFailed
from unbatch.exposure import Exposure, expose
from unbatch.models.lenet5 import LeNet5
from unbatch.models.mlp import Mlp
from unbatch.report import exposure as page

CHROMIUM = Path("/usr/bin/chromium")
NASTY = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>&{{ 7*7 }}"
VOID = {"meta", "path", "rect", "circle", "br", "polyline"}


def mlp() -> Exposure:
    return expose(Mlp(60).build((3, 8, 8), 10), (3, 8, 8))


def lenet() -> Exposure:
    return expose(LeNet5().build((1, 28, 28), 10), (1, 28, 28))


def closed() -> Exposure:
    """Nothing but a convolution, and no scores: no exact route, no labels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return expose(nn.Conv2d(3, 4, 3), (3, 8, 8))


class Outline(HTMLParser):
    """Tags, attributes and headings; fails on tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.names: list[str] = []
        self.headings: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.names += [name for name, _ in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("h1", "h2"):
            self.headings.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.names += [name for name, _ in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings[-1] += data


def text_of(rendered: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", rendered.partition("</style>")[2]))


def written(found: Exposure, folder: Path) -> str:
    path = page.write(found, folder)
    assert sorted(item.name for item in folder.iterdir()) == ["exposure.html", "exposure.json"]
    assert Exposure.from_json((folder / "exposure.json").read_text(encoding="utf-8")) == found
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("make", "severity", "headings"),
    [
        (mlp, "disclosed", ["How likely, by batch size", "Labels from the last layer", "The cheapest change that closes each"]),
        (lenet, "partly", ["How likely, by batch size", "Labels from the last layer", "The cheapest change that closes each"]),
        (closed, "not-shown", ["Labels from the last layer"]),
    ],
)
def test_page_stands_alone_and_says_all(make: Callable[[], Exposure], severity: str, headings: list[str], tmp_path: Path) -> None:
    found = make()
    rendered = written(found, tmp_path)
    outline = Outline(rendered)
    assert not re.search(r"https?://|url\(|@import|//cdn|<script|<link|<iframe", rendered)
    assert page.severity(found) == severity
    assert f'<main class="{severity}">' in rendered
    always = ["What holds against more than one route", "How to read this", "Environment", "Responsible use"]
    assert outline.headings == [found.verdict, "Headline figures", "Layer by layer", *headings, *always]
    text = text_of(rendered)
    for layer in found.layers:
        if layer.remedy is not None:
            assert layer.remedy.title in text
        if layer.limits is not None:
            assert f"Layer {layer.name} " in text
            assert f"b ≤ {layer.limits.sure:,}" in text
    for note in found.notes:
        assert note in text.replace("&#39;", "'")
    assert "safe" not in page.badge(found)


def test_closed_layers_of_a_kind_share_a_row_and_open_ones_do_not() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(3, 3, 3) for _ in range(4)), nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 3)
        )
    found = expose(model, (3, 10, 10))
    told = page.rows(found)
    assert [(row.name, row.count) for row in told] == [("0", 1), ("1 and 2 more", 3), ("5", 1), ("7", 1), ("9", 1)]
    assert sum(row.count for row in told) == len(found.layers)
    assert "64 patches" in told[0].why
    assert "several patches" in told[1].why
    assert not re.search(r"\d", told[1].why)


def test_strangers_cannot_write_markup(tmp_path: Path) -> None:
    found = mlp()
    first = found.layers[0].model_copy(update={"name": NASTY, "kind": NASTY, "why": NASTY})
    nasty = found.model_copy(update={"model": NASTY, "verdict": NASTY, "layers": (first, *found.layers[1:]), "environment": {NASTY: NASTY}})
    rendered = written(nasty, tmp_path)
    outline = Outline(rendered)
    assert not {"script", "img"} & set(outline.tags)
    assert not any(name.startswith("on") for name in outline.names)
    assert "49" not in text_of(rendered).split()


def test_both_files_or_neither(tmp_path: Path) -> None:
    (tmp_path / "exposure.json").mkdir()
    with pytest.raises(OutputFailed, match=r"exposure\.json"):
        page.write(closed(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["exposure.json"]


def test_figures_follow_the_layers() -> None:
    told = {figure.label: figure.value for figure in page.figures(lenet())}
    assert told["Samples, exactly"] == "none known"
    assert told["Inner features"].startswith("b ≤ ")
    assert (told["One sample alone"], told["Labels"]) == ("features only", "6 of 6")
    assert {figure.label: figure.value for figure in page.figures(mlp())}["One sample alone"] == "exact"


CONTRAST = """selector => {
  const element = document.querySelector(selector);
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  let below = element, background = [0, 0, 0, 0];
  while (below && (background.length > 3 && background[3] === 0)) {
    background = parse(getComputedStyle(below).backgroundColor);
    below = below.parentElement;
  }
  const light = color => {
    const [r, g, b] = color.slice(0, 3).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const [high, low] = [light(parse(getComputedStyle(element).color)), light(background)].sort((a, b) => b - a);
  return (high + 0.05) / (low + 0.05);
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM.exists():
        pytest.skip(f"no browser at {CHROMIUM}")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=flags)
        yield browser
        browser.close()


@pytest.mark.xdist_group("browser")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("make", [mlp, closed])
def test_in_a_browser(browser: Any, tmp_path: Path, make: Callable[[], Exposure], width: int, scheme: str) -> None:
    found, complaints, requests = make(), list[str](), list[str]()
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    view = context.new_page()
    view.on("console", lambda message: complaints.append(message.text))
    view.on("pageerror", lambda error: complaints.append(str(error)))
    view.on("request", lambda request: requests.append(request.url))
    url = page.write(found, tmp_path).as_uri()
    view.goto(url)
    assert view.evaluate("document.documentElement.scrollWidth") <= width, "only tables scroll sideways"
    heading = view.locator("h1")
    assert heading.inner_text() == found.verdict
    box = heading.bounding_box()
    assert box["y"] + box["height"] < 844, "the verdict is seen without scrolling"
    for selector in (
        "h1",
        ".badge",
        ".verdict p",
        ".hint",
        "td.why",
        ".layers .kind",
        ".facts li",
        ".strength",
        "footer p",
        *([".layers .quiet"] if view.locator(".layers .quiet").count() else []),
    ):
        assert view.evaluate(CONTRAST, selector) >= 4.5, selector
    charts = view.locator("svg.chart:visible")
    assert charts.count() == sum(layer.limits is not None for layer in found.layers[:4])
    for selector in (".key .all", ".axis span") if charts.count() else ():
        assert view.evaluate(CONTRAST, selector) >= 4.5, selector
    dark = view.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0] < 128")
    assert dark == (scheme == "dark")
    context.close()
    assert complaints == []
    assert requests == [url]
