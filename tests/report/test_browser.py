"""The page in a real browser, at desktop and phone width, light and dark."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from unbatch.report import counts, html
from unbatch.store.counts import StoredCounts, StoredLabels
from unbatch.store.findings import StoredFinding
from unbatch.types import Status

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM}"),
    pytest.mark.xdist_group("browser"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

Stored = Callable[..., StoredFinding]

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
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Open the report in ``tmp_path``; afterwards nothing may have been complained of or asked for."""
    contexts, complaints, requests = [], [], []

    def go(width: int, scheme: str) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(html.write(tmp_path).as_uri())
        return page

    yield go
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [(tmp_path / "report.html").as_uri()] * len(contexts)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize(
    ("status", "shape", "found", "text"),
    [
        (Status.RECONSTRUCTED, (3, 8, 8), None, ""),
        (Status.PARTIAL, (3, 8, 8), 2, "W" * 300),
        (Status.RECONSTRUCTED, (104,), None, ""),
        (Status.BUDGET_EXHAUSTED, (1, 8, 8), 0, ""),
    ],
    ids=["pictures", "partial", "values", "nothing"],
)
def test_page(
    stored: Stored, visit: Callable[..., Any], width: int, scheme: str, status: Status, shape: tuple[int, ...], found: int | None, text: str
) -> None:
    told = stored(status, shape, found=found, text=text)
    page = visit(width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    heading = page.locator("h1")
    assert heading.is_visible()
    assert heading.inner_text() == told.verdict
    box = heading.bounding_box()
    assert box["y"] + box["height"] < 844, "the verdict is seen without scrolling"
    assert page.locator(".badge svg").is_visible()
    assert page.locator(".badge").inner_text().strip()
    sizes = page.eval_on_selector_all("img", "images => images.map(image => [image.complete, image.naturalWidth, image.clientWidth])")
    assert all(complete and natural > 0 and shown > 40 for complete, natural, shown in sizes)
    assert bool(sizes) == (len(shape) == 3 and found != 0)
    for selector in ("h1", ".badge", ".verdict p", ".hint", ".rows dt", ".facts .not", ".strength", "footer p"):
        assert page.evaluate(CONTRAST, selector) >= 4.5, selector
    if found != 0:
        for selector in (".counts td", ".counts th", ".floors td", ".legend"):
            assert page.evaluate(CONTRAST, selector) >= 4.5, selector
        widths = page.eval_on_selector_all(".counts .bar", "bars => bars.map(bar => bar.getBoundingClientRect().width)")
        assert len(widths) == 4, "restored and true, of two classes"
        assert max(widths) - min(widths) < 1, "all counts are 2"
        assert min(widths) > 40
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0] < 128")
    assert dark == (scheme == "dark")


def test_many_samples_unfold_by_keyboard_with_a_visible_focus(stored: Stored, visit: Callable[..., Any]) -> None:
    stored(size=40)
    page = visit(390, "light")
    hidden = page.locator("details img").first
    assert not hidden.is_visible()
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert hidden.is_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)") >= 2
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_of_counts_alone(browser: Any, tmp_path: Path, width: int, scheme: str) -> None:
    held = tuple(range(200))
    told = StoredCounts(source="anchored", counts=held, presence=tuple(count > 0 for count in held), expected_error=0.2)
    names = tuple(f"{'W' * 60 if index == 199 else 'class'} {index}" for index in held)
    path = counts.write(StoredLabels(counts=told, classes=names, input_shape=(4,), knowledge=("not the labels",)), tmp_path)
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = page.locator("h1").bounding_box()
    assert box["y"] + box["height"] < 844
    for selector in ("h1", ".badge", ".verdict p", ".lead", ".counts td", ".counts th", ".notes", ".facts .not", ".rows dt"):
        assert page.evaluate(CONTRAST, selector) >= 4.5, selector
    bars = page.locator(".counts .bar")
    assert bars.count() == 199
    assert bars.first.bounding_box()["width"] > bars.nth(20).bounding_box()["width"] > 0
    assert not bars.nth(30).is_visible()
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert bars.nth(30).is_visible()
    assert complaints == []
    context.close()


def test_print_shows_everything(stored: Stored, visit: Callable[..., Any]) -> None:
    stored(size=40)
    page = visit(1280, "light")
    page.emulate_media(media="print")
    assert page.evaluate("[...document.querySelectorAll('details img')].every(image => image.getBoundingClientRect().height > 20)")
