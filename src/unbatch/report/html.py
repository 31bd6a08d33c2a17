"""A stored finding as one self-contained page: no script, nothing loaded from elsewhere, everything from strangers escaped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unbatch.report import pages, summary
from unbatch.report.audits import of_audit
from unbatch.report.counts import chart
from unbatch.report.pictures import Scale, amplification, data_uri, side
from unbatch.store.findings import HTML, TENSORS, StoredFinding, load, load_held
from unbatch.store.publishing import publish
from unbatch.types import Schema, Status

__all__ = ["render", "write"]

OPEN = 24
"""Samples that are shown at once; the rest is folded away."""

COLUMNS = 12
"""Values of a vector that are shown."""


@dataclass
class _Sample:
    """One row of the report: a true sample with its reconstruction, or a reconstruction without a true sample."""

    name: str
    true: int | None = None
    restored: int | None = None
    true_label: str = pages.DASH
    label: str = pages.DASH
    label_right: bool | None = None
    exact: bool | None = None
    scores: list[str] = field(default_factory=list)
    pictures: list[dict[str, str]] = field(default_factory=list)
    values: list[tuple[str, list[tuple[str, bool]]]] = field(default_factory=list)


def write(folder: Path) -> Path:
    """Render ``report.html`` beside the stored finding.

    Args:
        folder: where ``store.save`` put the finding.

    Returns:
        the page's path.

    Raises:
        BadFile: the folder holds no readable finding.
        OutputFailed: the page cannot be written.

    Example:
        >>> import tempfile
        >>> from unbatch.store.findings import save
        >>> from unbatch.types import Finding, Knowledge, Reconstruction, Status
        >>> finding = Finding(Reconstruction(Status.NOT_APPLICABLE, reason="no <ReLU>"), Knowledge(), Schema(), (4,), seed=0, seconds=0.1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(finding, Path(folder))
        ...     page = write(Path(folder)).read_text(encoding="utf-8")
        >>> "no &lt;ReLU&gt;" in page, "<script" in page
        (True, False)
    """
    load(folder)  # so that a folder without a finding is not written to
    # Drawn from what lies there when the page is put beside it, and not from what another writer has replaced since.
    publish(folder, {HTML: lambda path: path.write_text(render(*load_held(folder)), encoding="utf-8")})
    return folder / HTML


def render(stored: StoredFinding, tensors: Mapping[str, Tensor]) -> str:
    """The page as text.

    Args:
        stored: the finding.
        tensors: see ``store.load``.
    """
    samples = _samples(stored)
    shown = _shown(stored, tensors, samples)
    return pages.render(
        "audit.html",
        stored=stored,
        sheet=of_audit(stored),
        badge=summary.badge(stored),
        severity=summary.severity(stored).value.replace(" ", "-"),
        verdict=stored.verdict,
        counts=None if stored.counts is None else chart(stored.counts, stored.input_schema.classes),
        summary=summary,
        samples=samples,
        groups=[("", samples[:OPEN]), (f"{len(samples) - OPEN} more samples", samples[OPEN:])][: 1 + (len(samples) > OPEN)],
        metrics=summary.metric_names(stored),
        notes=[(name, stored.notes[key]) for key, name, _ in summary.metric_names(stored) if key in stored.notes],
        known=stored.true_labels is not None,
        **shown,
    )


def _shown(stored: StoredFinding, tensors: Mapping[str, Tensor], samples: list[_Sample]) -> dict[str, Any]:
    if stored.status == Status.FEATURES.name and "features" in tensors:
        return _with_features(stored, tensors["features"], samples)
    return _with_pictures(stored, tensors, samples) if stored.input_schema.kind == "image" else _with_values(stored, tensors, samples)


def _with_features(stored: StoredFinding, features: Tensor, samples: list[_Sample]) -> dict[str, Any]:
    """One row a vector; the true samples have no place here, since nothing tells which vector is whose."""
    samples[:] = [
        _Sample(str(i + 1), values=[("Recovered", [(summary.number(value), False) for value in row[:COLUMNS].tolist()])])
        for i, row in enumerate(features)
    ]
    width = features.shape[1]
    lead = f"Inputs of {stored.layer}, one vector a sample, each proved."
    lead += f" The first {COLUMNS} of {width:,} values each; all are in {TENSORS}." if width > COLUMNS else ""
    return {"kind": "values", "head": [str(i + 1) for i in range(min(width, COLUMNS))], "lead": lead}


def _samples(stored: StoredFinding) -> list[_Sample]:
    """True samples in their order, then what was reconstructed beyond them."""
    units = {key: unit for key, _, unit in summary.metric_names(stored)}
    labels, samples = stored.labels or (), []
    for i in range(len(stored.true_labels or ())):
        sample = _Sample(str(i + 1), true=i)
        if stored.order and stored.order[i] >= 0:
            sample.restored = stored.order[i]
        sample.exact = stored.exact[i] if stored.exact else None
        sample.scores = [summary.score(stored.scores[key][i] if stored.scores[key] else None, unit) for key, unit in units.items()]
        samples.append(sample)
    for index in sorted(set(range(stored.reconstructed + stored.approximate)) - set(stored.order)):
        name = f"extra {index + 1}" if stored.order else str(index + 1)
        samples.append(_Sample(name, restored=index, scores=[pages.DASH] * len(units)))
    for sample in samples:
        if sample.true is not None and stored.true_labels and stored.true_labels[sample.true] >= 0:
            sample.true_label = _label(stored, stored.true_labels[sample.true])
        if sample.restored is not None and sample.restored < len(labels):
            sample.label = _label(stored, labels[sample.restored])
            if sample.true is not None and stored.labels_right:
                sample.label_right = stored.labels_right[sample.true]
    return samples


def _beside(stored: StoredFinding, sample: _Sample) -> bool:
    """Whether what the attack made of it came out beside what was proved."""
    return sample.restored is not None and sample.restored >= stored.reconstructed


def _label(stored: StoredFinding, index: int) -> str:
    classes = stored.input_schema.classes
    return f"{classes[index]} ({index})" if 0 <= index < len(classes) else str(index)


def _raw(stored: StoredFinding, tensors: Mapping[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
    """The samples as people read them: see ``Schema.decode``."""
    schema = stored.input_schema.typed()
    names = ("truth_inputs", "inputs", "approximate")
    truth, restored, beside = (schema.decode(tensors[name].double()) if name in tensors else None for name in names)
    return truth, restored if restored is None or beside is None else torch.cat([restored, beside])


def _with_pictures(stored: StoredFinding, tensors: Mapping[str, Tensor], samples: list[_Sample]) -> dict[str, Any]:
    truth, restored = _raw(stored, tensors)
    if restored is None:  # and the client's own pictures are nobody's business then
        return {"kind": "none"}
    scale = Scale.fit(restored if truth is None else truth, raw=bool(stored.input_schema.mean))
    pairs = [(sample.true, sample.restored) for sample in samples if sample.true is not None and sample.restored is not None]
    differences = {}
    if truth is not None:
        differences = {true: (scale(truth[true]) - scale(restored[guess])).abs() for true, guess in pairs}
    factor = amplification(torch.stack(list(differences.values()))) if differences else 1
    longest = side(len(samples) * (3 if differences else 1 if truth is None else 2))
    for sample in samples:
        if truth is not None:
            sample.pictures.append(_picture(sample, "Original", truth[sample.true] if sample.true is not None else None, scale, longest))
        guess = restored[sample.restored] if sample.restored is not None else None
        sample.pictures.append(_picture(sample, _caption(stored, sample), guess, scale, longest))
        if differences:
            gap = differences.get(sample.true) if sample.true is not None else None
            caption = f"Diff. × {factor:,}" if factor > 1 else "Difference"
            sample.pictures.append(_picture(sample, caption, None if gap is None else gap * factor, Scale(), longest))
    largest = max(stored.input_shape[1:])
    return {
        "kind": "pictures",
        "columns": len(samples[0].pictures),
        "cell": 9.5 if largest > 64 or len(samples) <= 8 else 6.9,
        "pixelated": largest <= longest,
        "lead": _about_pictures(truth is not None, factor if differences else None, longest if largest > longest else None, scale),
    }


def _caption(stored: StoredFinding, sample: _Sample) -> str:
    """The word for what the attack made of a sample."""
    return "Not proved" if _beside(stored, sample) else summary.caption(stored)


def _about_pictures(known: bool, factor: int | None, longest: int | None, scale: Scale) -> str:
    parts = ["Left the client's picture, then what the attack made of the update" if known else "What the attack made of the update."]
    if known:
        parts[0] += ", then their difference" if factor else ""
        parts[0] += f", made {factor:,} times stronger so that it can be seen: black means equal." if factor and factor > 1 else "."
    else:
        parts.append("The truth was not given.")
    if longest:
        parts.append(f"Pictures are scaled down to {longest} pixels here; the full ones are in {TENSORS}.")
    if scale.stretched:
        low, high = summary.number(scale.low), summary.number(scale.high)
        parts.append(f"How the inputs were normalized is not known: values from {low} to {high} are shown as black to white.")
    return " ".join(parts)


def _picture(sample: _Sample, caption: str, tensor: Tensor | None, scale: Scale, longest: int) -> dict[str, str]:
    source = "" if tensor is None else data_uri(scale(tensor), longest)
    return {"caption": caption, "source": source, "alt": f"{caption} of sample {sample.name}"}


def _with_values(stored: StoredFinding, tensors: Mapping[str, Tensor], samples: list[_Sample]) -> dict[str, Any]:
    truth, restored = _raw(stored, tensors)
    if restored is None:
        return {"kind": "none"}
    schema = stored.input_schema.typed()
    head = [column.name for column in schema.columns] or [str(i + 1) for i in range(min(math.prod(stored.input_shape), COLUMNS))]
    for sample in samples:
        original = None if truth is None or sample.true is None else _values(schema, truth[sample.true])
        guessed = None if sample.restored is None else _values(schema, restored[sample.restored])
        if original is not None:
            sample.values.append(("Original", [(value, False) for value in original]))
        if guessed is not None:
            marked = original if schema.kind in ("table", "tokens") and original is not None else guessed
            sample.values.append((_caption(stored, sample), [(value, value != true) for value, true in zip(guessed, marked, strict=True)]))
    lead = "What the attack made of the update. The truth was not given."
    if truth is not None:
        lead = "The client's values, and under them what the attack made of the update."
        lead += " Cells that differ are struck out." if schema.kind in ("table", "tokens") else ""
    if not schema.columns and (total := math.prod(stored.input_shape)) > COLUMNS:
        lead += f" The first {COLUMNS} of {total:,} values a sample; all are in {TENSORS}."
    return {"kind": "values", "head": head, "lead": lead}


def _values(schema: Schema, sample: Tensor) -> list[str]:
    if schema.kind == "table":
        return [f"{cell:.6g}" if isinstance(cell, float) else str(cell) for cell in schema.rows(sample[None])[0]]
    return [summary.number(value) for value in sample.flatten()[:COLUMNS].tolist()]
