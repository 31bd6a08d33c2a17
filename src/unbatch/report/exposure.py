"""What a model can leak, as one self-contained page: no script, nothing loaded from elsewhere, everything from strangers escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from unbatch.advice import GENERAL
from unbatch.exposure import Exposure, LayerExposure, Limits
from unbatch.origin import Origin
from unbatch.report.claims import NOWHERE, UNTESTED_ROUND, Claim, Sheet, claim_of, shade
from unbatch.report.pages import render
from unbatch.report.summary import Figure
from unbatch.store.publishing import publish

__all__ = ["HTML", "JSON", "Row", "answer", "badge", "chart", "figures", "of_exposure", "one_sample", "rows", "severity", "write"]

HTML: Final = "exposure.html"
JSON: Final = "exposure.json"

Item = TypeVar("Item")

_EXACT = {"samples": "samples", "features": "inner features", "tokens": "its tokens", "untested": "not ruled out", "none": "none known"}
_SINGLE = {"sample": "the sample", "features": "its features", "none": "none known"}
_BADGE = {"disclosed": "Batches are exposed", "partly": "Partly exposed", "not-shown": "No exact route known"}


@dataclass(frozen=True)
class Row:
    """One line of the table: a layer, or all closed layers of a kind for the same reason.

    Attributes:
        name: of the layer, or of the first and how many more.
        kind: its class.
        layer: the layer, or the first of them.
        count: how many layers it stands for.
        why: the reason; numbers that differ between the layers are left out.
    """

    name: str
    kind: str
    layer: LayerExposure
    count: int = 1
    why: str = ""


def write(exposure: Exposure, folder: Path) -> Path:
    """Write ``exposure.json`` and ``exposure.html`` into a folder, which is made if it is missing; both or neither.

    Returns:
        the page's path.

    Raises:
        OutputFailed: the folder cannot be written; it is left as it was.

    Example:
        >>> import tempfile, torch
        >>> from unbatch.exposure import expose
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = write(expose(torch.nn.Linear(4, 3), (4,)), Path(folder)).read_text(encoding="utf-8")
        >>> "One sample alone is recovered exactly" in page, "<script" in page
        (True, False)
    """
    page, text = _page(exposure), exposure.to_json()
    publish(folder, {HTML: page, JSON: text})
    return folder / HTML


def _page(exposure: Exposure) -> str:
    limited = [(layer, chart(layer.limits)) for layer in exposure.layers if layer.limits is not None and layer.limits.rank > 1]
    mended = [(layer.sees.startswith("raw"), f"layer {layer.name}", layer.remedy) for layer in exposure.layers if layer.remedy is not None]
    outer, inner = ([(name, remedy) for raw, name, remedy in mended if raw == wanted] for wanted in (True, False))
    labels = [] if exposure.labels.remedy is None else [("labels", exposure.labels.remedy)]
    return render(
        "exposure.html",
        sheet=of_exposure(exposure),
        exposure=exposure,
        badge=badge(exposure),
        severity=severity(exposure),
        verdict=exposure.verdict,
        figures=figures(exposure),
        rows=rows(exposure),
        answer=answer,
        one_sample=one_sample,
        charts=_folded(limited),
        remedies=_folded(outer + labels + inner),
        general=GENERAL,
    )


def _folded(items: list[Item], shown: int = 4) -> list[tuple[str, list[Item]]]:
    """The first few under no title, the rest under one that says how many."""
    rest = len(items) - shown
    return [("", items[:shown]), (f"{rest} more {'layer' if rest == 1 else 'layers'}", items[shown:])][: 1 + (rest > 0)] if items else []


def severity(exposure: Exposure) -> str:
    """``disclosed``, ``partly`` or ``not-shown``. There is no "safe"."""
    if any(layer.exact == "samples" and layer.largest > 1 for layer in exposure.layers):
        return "disclosed"
    touched = any(layer.remedy is not None for layer in exposure.layers)
    return "partly" if touched or exposure.labels.leaks else "not-shown"


def badge(exposure: Exposure) -> str:
    """The severity in two or three words."""
    return _BADGE[severity(exposure)]


def figures(exposure: Exposure) -> list[Figure]:
    """The few numbers that matter."""
    raw = max((layer.largest for layer in exposure.layers if layer.exact == "samples"), default=0)
    inner = max((layer.largest for layer in exposure.layers if layer.exact == "features"), default=0)
    singles = {layer.single for layer in exposure.layers}
    one = "exact" if "sample" in singles else "features only" if "features" in singles else "none known"
    applying = sum(restorer.applies for restorer in exposure.labels.restorers)
    shown = [
        Figure(
            "Samples, exactly",
            f"b ≤ {raw:,}" if raw > 1 else "none known",
            "largest batch: with 99 % probability, or as far as our search reaches",
        )
    ]
    if tables := [layer for layer in exposure.layers if layer.exact == "tokens"]:
        shown.append(Figure("Tokens of a batch", "all of them", f"rows of {tables[0].name} that have a gradient, at any batch size"))
    if inner > 1:
        shown.append(Figure("Inner features", f"b ≤ {inner:,}", "what a deeper layer sees of each sample"))
    return [
        *shown,
        Figure("One sample alone", one, "the ratio of two gradients of a layer"),
        Figure("Labels", f"{applying} of {len(exposure.labels.restorers)}", "restorers that can read the last layer"),
    ]


def rows(exposure: Exposure) -> list[Row]:
    """The layers in order; those that give nothing known are gathered by kind and reason where there are several.

    Example:
        >>> import torch
        >>> from unbatch.exposure import expose
        >>> convolutions = [torch.nn.Conv2d(3, 3, 3) for _ in range(3)]
        >>> [(row.name, row.count) for row in rows(expose(torch.nn.Sequential(*convolutions), (3, 9, 9)))]
        [('0', 1), ('1 and 1 more', 2)]
    """
    groups: dict[tuple[str, ...], list[LayerExposure]] = {}
    for layer in exposure.layers:
        reason = re.sub(r"\d[\d,]*", "…", layer.why)
        key = (layer.name,) if layer.remedy is not None else (layer.kind, layer.sees, reason)
        groups.setdefault(key, []).append(layer)
    gathered = []
    for group in groups.values():
        first, more = group[0], len(group) - 1
        same = len({layer.why for layer in group}) == 1
        why = first.why if same else re.sub(r"\d[\d,]*", "several", first.why)
        gathered.append(Row(f"{first.name} and {more} more" if more else first.name, first.kind, first, len(group), why))
    return gathered


def answer(layer: LayerExposure) -> str:
    """What inverting a whole batch gives, and up to which size, in a few words."""
    if layer.limits is not None or layer.reach is not None:
        return f"{_EXACT[layer.exact]}, b\u00a0≤\u00a0{layer.largest:,}" if layer.largest > 1 else "one sample at most"
    return _EXACT[layer.exact]


def one_sample(layer: LayerExposure) -> str:
    """What the gradient of one sample gives, in two words."""
    return _SINGLE[layer.single]


def chart(limits: Limits, width: int = 560, height: int = 160) -> dict[str, str]:
    """Points of two polylines against the batch size, from 1 to the rank's limit: ``all`` determined, and the ``share`` that is.

    Example:
        >>> from unbatch.exposure import Point
        >>> curve = Point(batch=1, all_determined=1, share_determined=1), Point(batch=3, all_determined=0, share_determined=0.5)
        >>> limits = Limits(rank=3, information=3, sure=1, searched=1, extrapolated=False, rank_checks=0, curve=curve)
        >>> chart(limits, 100, 10)
        {'all': '0.0,0.0 100.0,10.0', 'share': '0.0,0.0 100.0,5.0'}
    """
    last = max(2, limits.curve[-1].batch)

    def line(values: list[float]) -> str:
        batches = [point.batch for point in limits.curve]
        return " ".join(f"{width * (b - 1) / (last - 1):.1f},{height * (1 - value):.1f}" for b, value in zip(batches, values, strict=True))

    return {"all": line([p.all_determined for p in limits.curve]), "share": line([p.share_determined for p in limits.curve])}


ONE_GRADIENT: Final = ("one gradient of one batch: most clients take several steps before they send",)


def of_exposure(exposure: Exposure) -> Sheet:
    """The sheet of what a model can leak."""
    origin = exposure.origin or NOWHERE.model_copy(update={"model": exposure.model})
    claims = [claim for layer in exposure.layers for claim in _claims(layer, origin)]
    if exposure.labels.leaks:
        said = f"How many samples of each class a batch holds can be read off {exposure.labels.layer}."
        claims.append(claim_of("exposed-labels", "proved", said, origin, exposure.labels.layer or ""))
    return Sheet(
        command="exposure",
        badge=badge(exposure),
        severity=shade(severity(exposure)),
        verdict=exposure.verdict,
        meaning="This is what the algebra of the model allows, whatever the data; whether a given update leaks, only its audit tells.",
        claims=tuple(claims),
        untested=("updates: this is the model alone", "attacks by optimization, which need none of these layers", *UNTESTED_ROUND),
        upper_bounds=ONE_GRADIENT,
        origin=origin,
        environment=exposure.environment,
        detail=exposure.model_dump(mode="json"),
    )


def _claims(layer: LayerExposure, origin: Origin) -> Iterable[Claim]:
    if layer.exact in ("samples", "features") and layer.limits is not None and layer.limits.sure > 1:
        said = f"The {layer.exact} of batches up to {layer.limits.sure:,} are determined by its gradient, with 99 % probability."
        yield claim_of("exposed-batch", "proved", said, origin, layer.name)
    elif layer.exact == "tokens":
        said = f"Which tokens a batch of any size holds is shown: {layer.why}."
        yield claim_of("exposed-tokens", "proved", said, origin, layer.name)
    elif layer.exact == "untested":
        yield claim_of("exposed-batch", "unknown", f"Not ruled out: {layer.why}.", origin, layer.name)
    if layer.single != "none":
        what = "The sample" if layer.single == "sample" else "What it sees of the sample"
        yield claim_of(
            "exposed-sample", "proved", f"{what} is the ratio of two of its gradients, where a batch is one sample.", origin, layer.name
        )
