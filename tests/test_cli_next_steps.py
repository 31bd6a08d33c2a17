"""The next command after an audit: it applies where it is named, and is not what was just tried."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from torch.nn import functional as F

import clients
from unbatch import Observation, capture, plugins, restore_labels
from unbatch.cli import execute, gate
from unbatch.cli.app import app
from unbatch.cli.next_steps import after_audit, after_labels
from unbatch.importers import EVEN_SIZES
from unbatch.report.audits import of_audit
from unbatch.schema import Schema
from unbatch.store.findings import stored_finding
from unbatch.types import Counts, Finding, Knowledge, LocalTraining, Reconstruction, Status


def lenet(*, told: bool) -> Observation:
    torch.manual_seed(0)
    net = clients.lenet()
    update = capture(net, torch.rand(3, 1, 12, 12), torch.arange(3))
    return Observation(net, update, (1, 12, 12), batch_size=3 if told else None)


def steps(observation: Observation, status: Status, asked: str = "auto", took: str = "feature_inversion:seconds=1.5") -> dict[str, str]:
    made = Reconstruction(status, attack=took)
    finding = Finding(made, Knowledge(), Schema("image"), observation.input_shape, seed=0, seconds=1.0)
    told = {"model": "net.py:build", "weights": "w.pt", "input-shape": "1,12,12", "update": "u.pt"}
    found = after_audit(told if asked == "auto" else told | {"attack": asked}, finding, observation)
    return {step.why: " ".join(step.command) for step in found}


def test_auto_is_given_longer_and_not_what_it_took_last() -> None:
    found = steps(lenet(told=True), Status.BUDGET_EXHAUSTED)
    assert found["Give the same attack ten times as long."].split("--attack ")[1].split()[0] == "auto:seconds=1500.0"
    assert not any("which applies here" in why for why in found)  # it tried them all


def test_an_attack_is_named_only_where_its_needs_are_met() -> None:
    unknown = lenet(told=False)
    named = [why.split()[3].rstrip(",") for why in steps(unknown, Status.NOT_APPLICABLE, "spear", "spear") if "which applies here" in why]
    assert all(plugins.build("attacks", name).obstacle(unknown) is None for name in named)
    assert "inverting_gradients" not in named
    assert any("--batch-size" in why for why in steps(unknown, Status.NOT_APPLICABLE, "spear", "spear"))
    known = steps(lenet(told=True), Status.NOT_APPLICABLE, "tableak", "tableak")
    assert any("inverting_gradients" in why for why in known)
    assert not any("--batch-size" in why for why in known)


def test_what_was_told_is_to_be_checked_before_more_time_is_spent_and_labels_only_where_they_can_be_counted() -> None:
    seen = lenet(told=True)
    found = steps(replace(seen, training=LocalTraining(learning_rate=0.1)), Status.INCONSISTENT)
    assert sum("--weights are" in why or "--local-epochs" in why or "--truth" in why for why in found) == 3
    assert any(" labels " in command for command in found.values())
    made = Finding(Reconstruction(Status.INCONSISTENT), Knowledge(), Schema("image"), (1, 12, 12), 0, 1.0, counts=Counts(reason="mse"))
    assert "may be the client's" not in made.verdict
    assert not any("labels" in step.command for step in after_audit({"model": "net.py:build"}, made, seen))


def test_what_looks_like_adam_is_told_first() -> None:
    seen = replace(lenet(told=True), remarks=(EVEN_SIZES,))
    assert "trained with Adam" in next(iter(steps(seen, Status.NOT_APPLICABLE, "spear", "spear")))
    assert "trained with Adam" in after_labels({}, Counts(), seen)[0].why
    assert not any("trained with Adam" in why for why in steps(lenet(told=True), Status.NOT_APPLICABLE, "spear", "spear"))


def test_a_layer_that_sees_the_samples_is_no_inner_layer() -> None:
    net = clients.relu_mlp()
    seen = Observation(net, capture(net, torch.rand(3, 1, 12, 12), torch.arange(3)), (1, 12, 12))
    assert not any("inner layer 1" in why for why in steps(seen, Status.INCONSISTENT, "dlg", "dlg"))


def test_a_truth_of_tokens_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    net, tokens, labels = clients.Gpt(), torch.randint(50, (4, 6)), torch.arange(4)
    torch.save(net.state_dict(), tmp_path / "w.pt")
    F.cross_entropy(net(tokens), labels).backward()
    torch.save({name: p.grad for name, p in net.named_parameters()}, tmp_path / "u.pt")
    np.savez(tmp_path / "truth.npz", inputs=tokens.numpy(), labels=labels.numpy())
    command = f"audit --model {clients.__file__}:Gpt --weights {tmp_path}/w.pt --update {tmp_path}/u.pt --input-shape 6 --attack spear"
    code = execute([*command.split(), "--truth", f"{tmp_path}/truth.npz", "--out", f"{tmp_path}/report"])
    out, err = capsys.readouterr()
    assert code == 0, err
    assert f"{len(tokens.unique())} of the 50 that there are" in out
    np.savez(tmp_path / "truth.npz", inputs=tokens.double().numpy(), labels=labels.numpy())
    assert execute([*command.split(), "--truth", f"{tmp_path}/truth.npz", "--out", f"{tmp_path}/report"]) == 2
    assert "expected tokens, whole numbers" in capsys.readouterr().err


def test_no_help_holds_brackets_which_would_be_taken_for_markup() -> None:
    group = typer.main.get_command(app)
    for command in (group, *getattr(group, "commands", {}).values()):
        for parameter in command.params:
            assert "[" not in (getattr(parameter, "help", "") or ""), f"{command.name}: {parameter.name}"


@pytest.mark.parametrize(("count", "said"), [(1, "its one sample was"), (2, "all 2 samples were")])
def test_one_sample_is_said_as_one(count: int, said: str) -> None:
    made = Reconstruction(Status.RECONSTRUCTED, inputs=torch.zeros(count, 4), labels=torch.zeros(count, dtype=torch.int64), residual=0.0)
    assert said in Finding(made, Knowledge(), Schema(), (4,), seed=0, seconds=1.0).verdict


@pytest.mark.parametrize(("decibels", "asked"), [(11.0, True), (60.0, False)])
def test_a_truth_that_is_another_batch_is_asked_about(decibels: float, asked: bool) -> None:
    made = Reconstruction(Status.RECONSTRUCTED, inputs=torch.zeros(2, 4), labels=torch.zeros(2, dtype=torch.int64), residual=0.0)
    scores = {"psnr": (decibels, float("nan"))}
    found = Finding(made, Knowledge(), Schema(), (4,), seed=0, seconds=1.0, scores=scores, exact=(False, False)).verdict
    assert "0 of 2 came out exact" in found
    assert ("is it this update's batch" in found) is asked


def test_a_model_with_one_output_has_no_classes_to_count() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 1))
    F.mse_loss(net(torch.randn(4, 8)), torch.randn(4, 1)).backward()
    found = restore_labels(Observation(net, {name: p.grad for name, p in net.named_parameters() if p.grad is not None}, (8,), batch_size=4))
    assert found.counts is None
    assert "one output" in found.reason


def test_what_may_decide_it_comes_first() -> None:
    found = list(steps(lenet(told=True), Status.INCONSISTENT, "spear", "spear"))
    assert "no gradient" in found[0]
    assert "--update-is difference" in next(iter(steps(lenet(told=True), Status.INCONSISTENT, "spear", "spear").values()))


def test_what_auto_tried_is_not_called_untested() -> None:
    made = Reconstruction(Status.UNPROVEN, attack="span", tried=("spear", "span"))
    sheet = of_audit(stored_finding(Finding(made, Knowledge(), Schema(), (4,), seed=0, seconds=1.0)))
    assert sheet.untested[0] == "attacks other than spear and span"


def test_what_a_baseline_holds_is_not_called_clean() -> None:
    limits = gate.parse(["exact"], truth_known=False, labels_told=False)
    made = Reconstruction(Status.RECONSTRUCTED, inputs=torch.zeros(2, 4), labels=torch.zeros(2, dtype=torch.int64), residual=0.0)
    finding = Finding(made, Knowledge(), Schema(), (4,), seed=0, seconds=1.0)
    claims = of_audit(stored_finding(finding)).claims
    left = gate.without(limits, claims, frozenset(claim.fingerprint for claim in claims))
    said = gate.ending(gate.judge(left, finding), True, False, False, spared=left != limits)
    assert said.row.startswith("nothing new: what was proved is in the baseline")


def test_what_was_not_told_of_the_training_is_named_as_a_possibility() -> None:
    found = steps(lenet(told=True), Status.APPROXIMATE, "spear", "spear")
    why = next(why for why in found if "label smoothing" in why)
    assert found[why].endswith("--loss cross_entropy:label_smoothing=0.1")
    assert not any("weight decay" in why for why in found), "a gradient has none"
    seen = lenet(told=True)
    moved = Observation(seen.model, seen.update, seen.input_shape, batch_size=3, training=LocalTraining(learning_rate=0.1))
    found = steps(moved, Status.INCONSISTENT, "spear", "spear")
    assert any(command.endswith("--weight-decay 0.01") for command in found.values())
    assert any("--batch-size" in why for why in steps(lenet(told=False), Status.UNPROVEN, "spear", "spear"))


def test_a_regression_of_several_scores_is_said_to_be_none_that_can_be_replayed() -> None:
    seen = lenet(told=True)
    found = steps(Observation(seen.model, seen.update, seen.input_shape, loss="mse", batch_size=3), Status.INCONSISTENT, "spear", "spear")
    why = next(why for why in found if "one-hot" in why)
    assert found[why].startswith("unbatch members")


def test_an_update_of_full_rank_is_not_handed_from_one_exact_attack_to_the_next() -> None:
    net = clients.relu_mlp()
    draw = torch.Generator().manual_seed(0)
    seen = Observation(net, {name: torch.randn(p.shape, generator=draw) for name, p in net.named_parameters()}, (1, 12, 12))
    both = ["Try the attack spear, which applies here.", "Try the attack span, which applies here."]
    for tried, left in {"spear": [], "span": [], "one_sample": both}.items():
        assert [why for why in steps(seen, Status.NOT_APPLICABLE, tried, tried) if "which applies here" in why] == left


def test_one_sample_that_is_not_proved_asks_whether_it_is_the_batch() -> None:
    made = Reconstruction(Status.UNPROVEN, inputs=torch.zeros(1, 4), attack="one_sample")
    finding = Finding(made, Knowledge(), Schema(), (1, 12, 12), seed=0, seconds=1.0)
    found = {step.why: " ".join(step.command) for step in after_audit({"model": "n.py:b"}, finding, lenet(told=False))}
    assert next(command for why, command in found.items() if "one sample" in why).endswith("--batch-size 1")


def test_samples_that_explain_the_whole_update_ask_for_no_more_time() -> None:
    made = Reconstruction(Status.PARTIAL, inputs=torch.zeros(2, 4), explained=True, attack="spear")
    finding = Finding(made, Knowledge(), Schema(), (1, 12, 12), seed=0, seconds=1.0)
    assert not any("ten times" in step.why for step in after_audit({"model": "n.py:b"}, finding, lenet(told=True)))
    found = after_audit({"model": "n.py:b"}, finding, lenet(told=False))
    assert any("none is missing" in step.why for step in found)
    assert not any("scaled" in step.why for step in found), "nothing is left that a factor could explain"
    assert "at least part of its batch: 2 samples were reconstructed, each" in finding.verdict
