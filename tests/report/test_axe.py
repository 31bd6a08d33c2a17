"""Every page held to axe-core's rules, at desktop and phone width, light and dark: no violation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_browser import CHROMIUM, FLAGS

from unbatch.defending import Row, Trade
from unbatch.exposure import expose
from unbatch.origin import NextStep, Origin, SourceFile
from unbatch.report import counts, defend, exposure, html, index, members
from unbatch.report.audits import of_audit
from unbatch.store import StoredFinding, load, save
from unbatch.store.counts import StoredCounts, StoredLabels
from unbatch.store.members import StoredMembers, StoredPresence
from unbatch.types import Finding, Knowledge, Reconstruction, Schema, Status

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
pytestmark = [
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM}"),
    pytest.mark.xdist_group("browser"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

ORIGIN = Origin(
    date="2026-11-28T21:00:00+00:00",
    command=("unbatch", "audit", "--model", "net.py:build", "--attack", "spear:seconds=600.0"),
    files=(SourceFile(role="update", name="client.safetensors", sha256="a" * 64, size=12345),),
    client="ward 3",
    model="net.py:build",
    next_steps=(NextStep(why="Give it longer.", command=("unbatch", "audit", "--attack", "spear:seconds=600")), NextStep(why="Read on.")),
)


def pages(folder: Path, stored: Callable[..., StoredFinding]) -> Iterator[tuple[str, Path]]:
    """Every kind of page, with all that it can show."""
    for name, status, shape, found in (
        ("pictures", Status.RECONSTRUCTED, (3, 8, 8), None),
        ("proposed", Status.INCONSISTENT, (3, 8, 8), None),
        ("values", Status.PARTIAL, (104,), 2),
        ("nothing", Status.BUDGET_EXHAUSTED, (1, 8, 8), 0),
    ):
        told = stored(status, shape, found=found).model_copy(update={"origin": ORIGIN, "upper_bounds": ("float64",)})
        path = folder / f"{name}.html"
        path.write_text(html.render(told, load(folder)[1]), encoding="utf-8")
        yield name, path
    made = Reconstruction(Status.FEATURES, features=torch.rand(3, 20), layer="fc1.weight", proved=torch.ones(3, dtype=torch.bool))
    finding = Finding(made, Knowledge(), Schema(), (3, 4, 4), seed=0, seconds=0.1)
    save(finding, folder / "features", html.render, origin=ORIGIN)
    yield "features", folder / "features" / "report.html"
    save(finding, folder / "redacted", html.render, origin=ORIGIN, redact=True)
    yield "redacted", folder / "redacted" / "report.html"
    held = StoredCounts(source="anchored", counts=(2, 0, 1), presence=(True, False, True))
    yield (
        "labels",
        counts.write(StoredLabels(counts=held, input_shape=(4,), knowledge=("not the labels",), origin=ORIGIN), folder / "labels"),
    )
    numbers = {"residual": 1e-12, "noise": 1e-9, "unrelated": 0.3, "p_value": 1e-40}
    answers = tuple(
        StoredPresence(index=place, verdict=verdict, reason="the rows of every layer hold what it is fed with", **numbers)  # type: ignore[arg-type]
        for place, verdict in enumerate(("PRESENT", "IN_SPAN", "ABSENT", "UNDECIDED"))
    )
    each = {answer.verdict: 1 for answer in answers}
    asked = StoredMembers(answers=answers, counts=each, layer="fc1.weight", rank=8, size=60, input_shape=(4,), origin=ORIGIN)
    yield "members", members.write(asked, folder / "members")
    net = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.ReLU(), torch.nn.Linear(30, 30), torch.nn.ReLU(), torch.nn.Linear(30, 3))
    yield "exposure", exposure.write(expose(net, (20,)).model_copy(update={"origin": ORIGIN}), folder / "exposure")
    rows = tuple(
        Row(defense=name, batch_size=8, attacked=8, recovered=found, proved=0, statuses=(), accuracy=0.5, error=0.1, epsilon=epsilon)
        for name, found, epsilon in (("none", 8, None), ("dp_sgd", 0, 3.0))
    )
    told = {"attack": "spear", "trained_on": 60, "tested_on": 20, "epochs": 1, "learning_rate": 0.1, "seed": 0}
    yield "defend", defend.write(Trade(model="net", rows=rows, origin=ORIGIN, **told), folder / "defend")
    results = tuple(
        index.ClientResult(client=shade, exit_code=0, badge=shade, severity=shade, verdict="A verdict.", report="a/report.html")
        for shade in ("disclosed", "partly", "not-shown")
    )
    whole = index.Index(origin=ORIGIN, clients=results)
    sheets = {"disclosed": of_audit(load(folder / "features")[0])}
    yield "index", index.write(whole, index.of_round(whole, sheets), folder / "many")


LOOKS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]


def violations(page: Any, width: int) -> list[str]:
    told = axe.Axe().run(page).response
    assert len(told["passes"]) > 10, "the rules were run"
    wide = ["too wide"] if page.evaluate("document.documentElement.scrollWidth") > width else []
    return [f"{each['id']}: {each['nodes'][0]['html'][:120]}" for each in told["violations"]] + wide


def test_no_page_has_a_violation(stored: Callable[..., StoredFinding], tmp_path: Path) -> None:
    found: dict[tuple[str, int, str], list[str]] = {}
    grounds: set[tuple[str, str]] = set()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        # The pages forbid every script, axe's too: the policy is set aside for it alone.
        page = browser.new_context(bypass_csp=True).new_page()
        for name, path in pages(tmp_path, stored):
            page.goto(path.as_uri())
            page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
            for width, scheme in LOOKS:
                page.set_viewport_size({"width": width, "height": 844})
                page.emulate_media(color_scheme=scheme)
                found[name, width, scheme] = violations(page, width)
                grounds.add((scheme, page.evaluate("getComputedStyle(document.body).backgroundColor")))
        browser.close()
    assert len({ground for _, ground in grounds}) > 1, "dark is dark"
    assert len(found) == 11 * len(LOOKS)
    assert {look: told for look, told in found.items() if told} == {}
