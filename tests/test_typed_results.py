"""What the code needs is a field; ``stats`` are for people. And nothing private is printed."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import torch

from unbatch.contracts import Estimate
from unbatch.types import Candidate, Counts, Finding, Inverted, Knowledge, Observation, Reconstruction, Schema, Status

SOURCE = Path(__file__).parents[1] / "src" / "unbatch"
PRINTS = {SOURCE / "report" / "summary.py", SOURCE / "report" / "audits.py"}
"""Shows all of them by name, and decides nothing."""


def decisions(text: str) -> list[str]:
    """Where a module reads ``stats`` by a key."""

    def is_stats(node: ast.AST) -> bool:
        return (isinstance(node, ast.Attribute) and node.attr == "stats") or (isinstance(node, ast.Name) and node.id == "stats")

    found = []
    for node in ast.walk(ast.parse(text)):
        subscript = isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and is_stats(node.value)
        asked = isinstance(node, ast.Attribute) and node.attr in ("get", "pop", "setdefault", "keys") and is_stats(node.value)
        inside = (
            isinstance(node, ast.Compare)
            and any(isinstance(op, ast.In | ast.NotIn) for op in node.ops)
            and any(map(is_stats, node.comparators))
        )
        if subscript or asked or inside:
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("path", sorted(set(SOURCE.rglob("*.py")) - PRINTS), ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_code_decides_by_a_key_of_stats(path: Path) -> None:
    assert decisions(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("text", ["x.stats['noise']", "found.stats.get('trust', 1)", "'layer' in made.stats", "stats['rank'] > 3"])
def test_a_decision_is_seen(text: str) -> None:
    assert decisions(text) != []


@pytest.mark.parametrize("text", ["stats['ended'] = 3", "stats |= {'a': 1}", "replace(made, stats={**made.stats, 'seconds': 1})"])
def test_writing_is_no_decision(text: str) -> None:
    assert decisions(text) == []


SECRET = 0.1234567


def results() -> list[object]:
    secret, labels = torch.full((3, 4), SECRET, dtype=torch.float64), torch.tensor([7, 7, 8])
    model = torch.nn.Linear(4, 9).double()
    update = {name: torch.full_like(parameter, SECRET) for name, parameter in model.named_parameters()}
    made = Reconstruction(
        Status.PARTIAL,
        secret,
        labels,
        0.5,
        accuracy=torch.tensor([1e-9, 1e-9, torch.inf]),
        inverted=Inverted("weight", 9),
        stats={"x": labels[:1]},
    )
    counts = Counts(torch.bincount(labels), torch.bincount(labels) > 0)
    finding = Finding(made, Knowledge(), Schema(), (4,), 0, 1.0, counts=counts)
    return [
        Candidate(secret, labels, features=secret),
        made,
        Reconstruction(Status.FEATURES, features=secret, layer="1.weight", proved=torch.ones(3, dtype=torch.bool)),
        counts,
        Estimate(counts=secret[0], presence=labels > 0),
        finding,
        Observation(model, update, (4,)),
    ]


@pytest.mark.parametrize("result", results(), ids=lambda result: type(result).__name__)
def test_nothing_private_is_printed(result: object) -> None:
    for text in (repr(result), str(result), result.summary() if hasattr(result, "summary") else ""):
        assert "0.12" not in text
        assert "tensor" not in text.replace("tensors", "")
        assert len(text) < 250


@pytest.mark.parametrize("kind", [Reconstruction, Finding, Counts])
def test_a_result_is_written_as_json_without_its_samples(kind: type) -> None:
    for result in results():
        if isinstance(result, kind):
            text = json.dumps(result.to_dict(), allow_nan=False)  # type: ignore[attr-defined]
            assert str(SECRET) not in text
            assert result.summary()  # type: ignore[attr-defined]


def test_what_would_have_prevented_it_follows_from_the_layer_and_not_from_stats() -> None:
    from unbatch.advice import advise

    def told(made: Reconstruction) -> str:
        return " ".join(advice.works for advice in advise(Finding(made, Knowledge(), Schema(), (50,), 0, 1.0)))

    assert "40 neurons" in told(Reconstruction(Status.RECONSTRUCTED, torch.zeros(2, 50), inverted=Inverted("1.weight", 40)))
    assert "neurons" not in told(Reconstruction(Status.RECONSTRUCTED, torch.zeros(2, 50), stats={"layer": "1.weight", "width": 40}))
