"""The papers' claims: every figure of ours comes from a file of results, and every plan that is named can be run."""

from __future__ import annotations

import importlib.util
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unbatch.experiments import load_plan, run_trial

ROOT = Path(__file__).parents[2]
PLANS = sorted((ROOT / "plans").glob("*/*.toml"))
CLAIMS: list[dict[str, Any]] = tomllib.loads((Path(__file__).parent / "claims.toml").read_text(encoding="utf-8"))["claim"]


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("claims", ROOT / "benchmarks" / "claims.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files_are_what_the_results_give(script: Any) -> None:
    claims, page = script.written()
    assert (Path(__file__).parent / "claims.toml").read_text(encoding="utf-8") == claims, "run python benchmarks/claims.py"
    assert (ROOT / "docs" / "claims.md").read_text(encoding="utf-8") == page, "run python benchmarks/claims.py"


def test_a_row_has_a_figure_with_its_source_or_the_reason_why_not() -> None:
    for claim in CLAIMS:
        ran = isinstance(claim["measured"], float)
        assert ran == (claim["verdict"] in ("agreed", "better", "worse")), claim
        assert ran or (claim["measured"], claim["verdict"]) == ("not run", "not run"), claim
        assert (claim["source"] and claim["environment"] and claim["scale"]) if ran else claim["why"], claim


def test_verdicts(script: Any) -> None:
    assert script.verdict("exact batches", 0.99, 0.995) == "agreed"
    assert script.verdict("exact batches", 0.99, 0.9) == "worse"
    assert script.verdict("minutes per batch", 2.6, 0.1) == "better"


def test_every_command_names_a_plan_and_every_plan_a_paper() -> None:
    named = {claim["command"].split()[2] for claim in CLAIMS if claim["command"]}
    assert all((ROOT / name).exists() for name in named)
    assert {path.parent.name for path in PLANS} == {"spear", "ilrg"}


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize("path", PLANS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_plan_can_be_run(path: Path, reduced: bool, shared_data: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNBATCH_SHARED", str(shared_data("mnist_test.npz").parents[1]))
    plan = load_plan(path, reduced=reduced)
    assert plan.title
    assert 0 < plan.size <= (80 if reduced else 10_000)
    if reduced and path.stem in ("images", "classes"):
        record = run_trial(plan.trials()[0]).record
        assert record.outcome == "done", record.error
