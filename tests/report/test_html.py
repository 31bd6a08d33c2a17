import base64
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unbatch.errors import BadFile, OutputFailed
from unbatch.report import html
from unbatch.report.pictures import Scale, data_uri, side
from unbatch.store.findings import StoredFinding, load
from unbatch.types import Status

Stored = Callable[..., StoredFinding]

NASTY = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>&{{ 7*7 }}"
VOID = {"meta", "img", "path", "rect", "circle", "br"}


class Outline(HTMLParser):
    """Tags, attributes, headings and pictures of a page; fails on tags that are not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.headings: list[tuple[str, str]] = []
        self.images: list[dict[str, str | None]] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("h1", "h2", "h3"):
            self.headings.append((tag, ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.headings[-1] = (self.headings[-1][0], self.headings[-1][1] + data)


def render(folder: Path) -> str:
    path = html.write(folder)
    assert path == folder / "report.html"
    assert sorted(item.name for item in folder.iterdir()) == ["report.html", "report.json", "tensors.safetensors"]
    return path.read_text(encoding="utf-8")


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.partition("</style>")[2]))


def picture(source: str | None) -> np.ndarray:
    assert source is not None
    kind, _, data = source.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 40, 30), (14,), (5, 6)])
@pytest.mark.parametrize(("found", "truth"), [(None, True), (None, False), (2, True), (0, True), (0, False)])
def test_every_finding_makes_a_page_on_its_own(
    stored: Stored, tmp_path: Path, status: Status, shape: tuple[int, ...], found: int | None, truth: bool
) -> None:
    told = stored(status, shape, found=found, truth=truth)
    page = render(tmp_path)
    outline = Outline(page)
    assert not re.search(r"https?://|url\(|@import|//cdn|<script|<link|<iframe", page)
    sources = [value or "" for name, value in outline.attributes if name in ("src", "href", "srcset", "data", "action")]
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert outline.headings[0] == ("h1", told.verdict)
    assert [tag for tag, _ in outline.headings].count("h1") == 1
    for fact in told.knowledge:
        assert fact.replace("'", "&#39;") in page


def test_structure_with_truth(stored: Stored, tmp_path: Path) -> None:
    stored()
    outline = Outline(render(tmp_path))
    assert [text for tag, text in outline.headings if tag == "h2"] == [
        "Headline figures",
        "On one scale",
        "Side by side",
        "Sample by sample",
        "How many of each class",
        "What would have prevented it",
        "What the adversary knew",
        "How to reproduce it",
        "How it was done",
        "Environment",
        "Responsible use",
    ]
    assert [image["alt"] for image in outline.images[:3]] == ["Original of sample 1", "Restored of sample 1", "Diff. × 1,000 of sample 1"]
    assert len(outline.images) == 12


def test_pictures_are_what_they_say(stored: Stored, tmp_path: Path) -> None:
    stored()
    images = Outline(render(tmp_path)).images
    _, tensors = load(tmp_path)
    raw = (tensors["truth_inputs"] * 0.25 + 0.5).clamp(0, 1)
    for i in range(4):
        expected = (raw[i] * 255).round().permute(1, 2, 0).numpy()
        assert np.array_equal(picture(images[3 * i]["src"]), expected)
        assert np.abs(picture(images[3 * i + 1]["src"]) - expected).max() <= 1
        assert picture(images[3 * i + 2]["src"]).max() == 0, "equal means black"


def test_scores_are_readable(stored: Stored, tmp_path: Path) -> None:
    stored(found=3)
    text = text_of(render(tmp_path))
    assert "1 cat (0) cat (0) exact (inf) 2.5 × 10⁻¹⁹ – yes" in text
    assert "2 dog (1) dog (1) 150.2 dB 2.5 × 10⁻¹⁹ – yes" in text
    assert "4 dog (1) – – – – not found" in text
    assert "LPIPS has no value (–): images under 32 × 32" in text
    assert "1,000 times stronger" in text


def test_without_truth_nothing_is_said_of_it(stored: Stored, tmp_path: Path) -> None:
    stored(truth=False)
    page = render(tmp_path)
    text = text_of(page)
    assert "What was reconstructed" in text
    assert "Original" not in text
    assert "True label" not in text
    assert len(Outline(page).images) == 4


def test_the_clients_data_is_not_shown_when_nothing_was_found(stored: Stored, tmp_path: Path) -> None:
    stored(Status.BUDGET_EXHAUSTED, found=0)
    page = render(tmp_path)
    assert Outline(page).images == []
    assert "cat (0)" not in text_of(page)
    assert "left out on purpose" in page


def test_a_wrong_label_is_marked(stored: Stored, tmp_path: Path) -> None:
    told = stored()
    changed = told.model_copy(update={"labels": (1, 1, 0, 1), "labels_right": (False, True, True, True)})
    (tmp_path / "report.json").write_text(changed.model_dump_json())
    text = text_of(render(tmp_path))
    assert text.count("(wrong)") == 1
    assert "cat (0) dog (1) (wrong)" in text


def test_vectors_show_values(stored: Stored, tmp_path: Path) -> None:
    stored(shape=(104,))
    text = text_of(render(tmp_path))
    _, tensors = load(tmp_path)
    assert "The first 12 of 104 values a sample" in text
    row = " ".join(f"{value:.4g}" for value in tensors["truth_inputs"][1, :12].tolist())
    assert text.count(row) == 2, "the truth, and the same restored"


def test_strangers_cannot_write_markup(stored: Stored, tmp_path: Path) -> None:
    stored(text=NASTY)
    page = render(tmp_path)
    outline = Outline(page)
    assert "script" not in outline.tags
    assert not any(name.startswith("on") for name, _ in outline.attributes)
    assert len(outline.images) == 12
    assert "49" not in text_of(page).split(), "templates in data are not evaluated"
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 8
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


def test_a_breakdown_keeps_its_traceback(stored: Stored, tmp_path: Path) -> None:
    told = stored(Status.BROKE_DOWN, found=0)
    changed = told.model_copy(update={"error": "Traceback (most recent call last):\n  <b>line 1\x1b[2J"})
    (tmp_path / "report.json").write_text(changed.model_dump_json())
    page = render(tmp_path)
    assert "The attack broke down" in text_of(page)
    assert "Traceback (most recent call last):\n  &lt;b&gt;line 1\\x1b[2J" in page


def test_many_large_pictures_stay_small_and_folded(stored: Stored, tmp_path: Path) -> None:
    stored(shape=(3, 80, 80), size=128)
    page = render(tmp_path)
    outline = Outline(page)
    assert len(page) < 10_000_000
    assert len(outline.images) == 3 * 128
    assert picture(outline.images[0]["src"]).shape == (75, 75, 3)
    assert page.count("<details>") == 2
    assert page.count("<summary>104 more samples</summary>") == 2
    assert "scaled down to 75 pixels" in page


@pytest.mark.parametrize("pictures", [1, 3 * 8, 3 * 20, 3 * 128])
def test_the_worst_pictures_stay_below_ten_megabytes(pictures: int) -> None:
    noise = torch.rand((3, 240, 240), generator=torch.Generator().manual_seed(0))
    assert pictures * len(data_uri(noise, side(pictures))) < 9_500_000


def test_unknown_normalization_is_stretched_and_said(stored: Stored, tmp_path: Path) -> None:
    told = stored(normalized=False, truth=False)
    assert told.input_schema.mean == ()
    assert "black to white" not in render(tmp_path)
    values = torch.cat([torch.full((2000,), -2.0), torch.full((2000,), 2.0), torch.tensor([1e6, float("nan"), float("inf")])])
    scale = Scale.fit(values, raw=False)
    assert (scale.low, scale.high, scale.stretched) == (-2.0, 2.0, True)
    assert scale(torch.tensor([-9.0, 0.0, 2.0, float("nan")])).tolist() == [0.0, 0.5, 1.0, 0.0]
    assert Scale.fit(values, raw=True) == Scale()
    assert Scale.fit(torch.full((9,), 3.0), raw=False) == Scale(3.0, 4.0)


def test_extra_reconstructions_are_shown_after_the_true_samples(stored: Stored, tmp_path: Path) -> None:
    told = stored()
    changed = told.model_copy(update={"order": (1, 0, 3, -1), "exact": (False,) * 4})
    (tmp_path / "report.json").write_text(changed.model_dump_json())
    text = text_of(render(tmp_path))
    assert "extra 3" in text
    assert text.count("none") == 4, "sample 4 lacks a reconstruction and a difference, the extra one an original and a difference"


def test_what_is_not_proved_is_shown_beside_and_marked(stored: Stored, tmp_path: Path) -> None:
    """Two samples proved and two that came out with them: all four pictures, and no label for those that nothing proves."""
    told, page = stored(Status.PARTIAL, beside=2), render(tmp_path)
    assert (told.reconstructed, told.approximate, load(tmp_path)[1]["approximate"].shape[0]) == (2, 2, 2)
    assert page.count(">Restored</span>") == page.count(">Not proved</span>") == 2
    assert "(wrong)" not in page
    assert "2 samples beside them came out without proof" in told.verdict
    assert "2 more came out without proof" in page
    assert "Labels right" not in page


def test_errors(tmp_path: Path, stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadFile):
        html.write(tmp_path / "nothing")
    stored()
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OutputFailed):
        html.write(tmp_path)
    (tmp_path / "report.html").rmdir()
    html.write(tmp_path)
    before = (tmp_path / "report.html").read_bytes()

    def fail(*args: object, **kwargs: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OutputFailed, match="No space left"):
        html.write(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before
    assert sorted(item.name for item in tmp_path.iterdir()) == ["report.html", "report.json", "tensors.safetensors"]
