"""Defenses measured against each other: known answers at both ends, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from unbatch.cli import execute
from unbatch.defending import Plan, Row, Trade, measure
from unbatch.errors import Misuse
from unbatch.report.defend import closing, points, verdict
from unbatch.types import Batch


@pytest.fixture(scope="module")
def data() -> Batch:
    """Two classes that a line separates."""
    inputs = torch.randn((80, 12), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Batch(inputs, (inputs.sum(dim=1) > 0).long())


def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 2)).double()


@pytest.fixture(scope="module")
def trade(data: Batch) -> Trade:
    plan = Plan(("none", "gaussian_noise:deviation=100.0"), (4,), "spear:seconds=2.0", trials=1, epochs=4)
    return measure(net, data, plan)


def test_without_a_defense_all_is_recovered_and_the_model_learns(trade: Trade) -> None:
    bare, noisy = trade.rows
    assert (bare.recovered, bare.proved, bare.attacked, bare.epsilon) == (4, 4, 4, None)
    assert bare.accuracy > 0.75
    assert (noisy.recovered, noisy.proved) == (0, 0)
    assert noisy.accuracy < bare.accuracy, "noise a hundred times the update leaves nothing to learn from"
    assert (trade.trained_on, trade.tested_on) == (60, 20)
    assert bare.error == pytest.approx((bare.accuracy * (1 - bare.accuracy) / 20) ** 0.5)


def test_it_repeats(trade: Trade, data: Batch) -> None:
    again = measure(net, data, Plan(("none",), (4,), "spear:seconds=2.0", trials=1, epochs=4))
    assert again.rows[0].accuracy == trade.rows[0].accuracy


def test_the_model_that_was_given_is_not_trained(data: Batch) -> None:
    model = net()
    before = [parameter.clone() for parameter in model.parameters()]
    measure(lambda: model, data, Plan(("none",), (4,), "spear:seconds=2.0", trials=1, epochs=1))
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


def test_epsilon_is_that_of_the_whole_training(data: Batch) -> None:
    pytest.importorskip("opacus")
    from unbatch.plugins import build

    row = measure(net, data, Plan(("dp_sgd:noise_multiplier=1.0",), (4,), "spear:seconds=1.0", trials=1, epochs=2)).rows[0]
    assert row.epsilon == build("defenses", "dp_sgd:noise_multiplier=1.0").epsilon(steps=2 * 15, sample_rate=4 / 60)


def row(defense: str, recovered: int, accuracy: float, epsilon: float | None = None) -> Row:
    told = {"proved": recovered, "statuses": ("PARTIAL",), "error": 0.01, "epsilon": epsilon}
    return Row(defense=defense, batch_size=8, attacked=8, recovered=recovered, accuracy=accuracy, **told)


def test_the_verdict_is_the_most_accurate_that_closes_and_says_what_is_guaranteed(trade: Trade) -> None:
    rows = (row("none", 8, 0.9), row("pruning", 0, 0.8), row("noise", 2, 0.85), row("dp_sgd", 0, 0.7, 3.0))
    told = trade.model_copy(update={"rows": rows})
    assert closing(told) == rows[1]
    assert "pruning with batches of 8" in verdict(told)
    assert "no guarantee" in verdict(told)
    assert "dp_sgd with batches of 8 (70.0 %, ε = 3)" in verdict(told)
    assert [(point.x, round(point.y)) for point in points(told)][:2] == [(560.0, 24), (0.0, 48)]
    nothing = trade.model_copy(update={"rows": rows[:1]})
    assert closing(nothing) is None
    assert "samples were recovered" in verdict(nothing)


def test_what_an_attack_that_is_too_weak_shows_closes_nothing(trade: Trade) -> None:
    """Nothing came out without a defense: the attack was out of time; and an approximation is not nothing."""
    weak = verdict(trade.model_copy(update={"rows": (row("none", 0, 0.9), row("clipping", 8, 0.8))}))
    assert "none with batches" not in weak
    assert "Of batches of 8 nothing came out without a defense either" in weak
    assert verdict(trade.model_copy(update={"rows": (row("none", 0, 0.9), row("noise", 0, 0.8))})).startswith(
        "Our attack recovered nothing."
    )
    near = row("noise", 0, 0.8).model_copy(update={"statuses": ("APPROXIMATE",)})
    assert closing(trade.model_copy(update={"rows": (row("none", 8, 0.9), near)})) is None


@pytest.mark.parametrize(
    ("accuracy", "told"),
    [(0.827, "10.0 points below"), (1.0, "7.3 points above"), (0.9271, "as accurate as")],
    ids=["loss", "gain", "same"],
)
def test_the_verdict_says_whether_accuracy_was_lost_or_gained(trade: Trade, accuracy: float, told: str) -> None:
    rows = (row("none", 8, 0.927), row("pruning", 0, accuracy))
    assert f"({100 * accuracy:.1f} %, {told} the best undefended training;" in verdict(trade.model_copy(update={"rows": rows}))


@pytest.mark.parametrize("wrong", [{"trials": 0}, {"batch_sizes": ()}, {"learning_rate": 0.0}, {"test_share": 1.0}])
def test_a_plan_that_measures_nothing_is_misuse(wrong: dict[str, object]) -> None:
    with pytest.raises(Misuse):
        Plan(**wrong)  # type: ignore[arg-type]


def test_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: Batch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 2)).double()\n"
    )
    np.savez("d.npz", inputs=data.inputs.numpy(), labels=data.labels.numpy())
    command = ["defend", "--model=net.py:build", "--data=d.npz", "--input-shape=12", "--trials=1", "--epochs=1", "--quiet"]
    assert execute([*command, "--batch-size=4", "--defense=none", "--attack=spear:seconds=2.0", "--out=out"]) == 0
    printed = capsys.readouterr().out
    assert "4 of 4" in printed
    assert "does not show that nobody can" in printed
    stored = json.loads(Path("out/defend.json").read_text())
    assert stored["origin"]["command"][:2] == ["unbatch", "defend"]
    assert "<script" not in Path("out/defend.html").read_text()
    assert execute([*command, "--batch-size=400", "--defense=none"]) == 2
    assert "expected at least 400 samples to train on" in capsys.readouterr().err
