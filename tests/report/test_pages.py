"""What all pages have in common: one head, one style, one footer, and that nothing of strangers gets through."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from unbatch.advice import GENERAL, Advice, for_batches, for_labels, for_single, for_untested
from unbatch.exposure import expose
from unbatch.report import counts, exposure, html, pages
from unbatch.store.counts import StoredCounts, StoredLabels
from unbatch.store.findings import StoredFinding


@pytest.fixture
def three(stored: Callable[..., StoredFinding], tmp_path: Path) -> dict[str, str]:
    """The page of each kind."""
    stored()
    held = StoredLabels(counts=StoredCounts(source="anchored", counts=(2, 0), presence=(True, False)), input_shape=(4,))
    net = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.ReLU(), torch.nn.Linear(30, 3))
    written = html.write(tmp_path), counts.write(held, tmp_path / "labels"), exposure.write(expose(net, (20,)), tmp_path / "exposure")
    return {path.stem: path.read_text(encoding="utf-8") for path in written}


def between(page: str, first: str, last: str) -> str:
    assert page.count(first) == page.count(last) == 1
    return page[page.index(first) : page.index(last) + len(last)]


def test_all_pages_have_one_frame(three: dict[str, str]) -> None:
    assert set(three) == {"report", "labels", "exposure"}
    heads = {re.sub(r"<title>.*</title>", "", between(page, "<head>", "</head>")) for page in three.values()}
    assert len(heads) == 1
    (head,) = heads
    assert "default-src 'none'" in head
    assert "@media print" in head
    assert "prefers-color-scheme: dark" in head
    for page in three.values():
        assert page.lstrip().startswith("<!doctype html>")
        assert re.search(r'<main class="(disclosed|partly|not-shown)">', page)
        assert page.count("<h1>") == page.count('<svg class="icon"') == 1
        assert "<h2>Responsible use</h2>" in between(page, "<footer>", "</footer>")
        assert '<h2 id="environment">Environment</h2>' in page
        assert not re.search(r"https?://|url\(|@import|<script|<link|<iframe", page)


def test_reports_that_hold_data_say_so_and_the_one_that_holds_none_too(three: dict[str, str]) -> None:
    for name, sentence in (("report", "may show data"), ("labels", "may show data"), ("exposure", "holds no data of anyone")):
        assert sentence in between(three[name], "<footer>", "</footer>")


def test_advice_reads_the_same_on_every_page(three: dict[str, str]) -> None:
    for measure in GENERAL:
        for name in ("report", "exposure"):
            for text in (measure.title, measure.works, measure.costs):
                assert text in three[name].replace("&#39;", "'")


def test_all_advice_is_of_one_type_and_whole() -> None:
    measures = [*GENERAL, for_single("1", raw=True), for_untested("1"), for_labels(6, bias=True)]
    measures += [for_batches("1", rank, raw=raw) for rank in (30, 3000) for raw in (True, False)]
    for measure in measures:
        assert isinstance(measure, Advice)
        assert all(text and text.rstrip()[-1] in ".)" for text in (measure.works, measure.costs))
        assert measure.strength != "next step", "nothing failed"


def test_what_strangers_write_is_neither_markup_nor_control() -> None:
    template = pages._environment().from_string("{{ name }}|{{ fine|safe }}|{{ number }}")
    assert template.render(name="<b>\x1b[2J\u202e", fine="<i>", number=3) == "&lt;b&gt;\\x1b[2J\\u202e|<i>|3"
