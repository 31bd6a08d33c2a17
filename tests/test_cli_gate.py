"""`unbatch audit` on differences and weights, and `--fail-on`: exit code 3, the reason on stderr, the report written all the same."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import unbatch
from unbatch import auditing, plugins
from unbatch.cli import execute
from unbatch.types import Counts, Finding, LocalTraining, Observation, Reconstruction, Status

MODEL = """
from torch import nn

def relu():
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 100), nn.ReLU(), nn.Linear(100, 40), nn.ReLU(), nn.Linear(40, 4))

def tanh():
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 60), nn.Tanh(), nn.Linear(60, 8))

def without_last_bias():
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 60), nn.Tanh(), nn.Linear(60, 4, bias=False))
"""

LABELS = torch.arange(5) % 4


class Round:
    """A client's step on disk: weights w, gradient u, difference d, weights after a, truth t; and the command that audits them."""

    def __init__(self, folder: Path, factory: str = "relu", rate: float = 0.2) -> None:
        self.folder, self.factory = folder, factory
        (folder / "net.py").write_text(MODEL)
        names: dict[str, Any] = {}
        exec(MODEL, names)  # noqa: S102  (the text above)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model: nn.Module = names[factory]().double()
        self.inputs = torch.rand((5, 3, 4, 4), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        client = copy.deepcopy(model)
        F.cross_entropy(client(self.inputs), LABELS).backward()
        torch.optim.SGD(client.parameters(), rate).step()
        before, after = model.state_dict(), client.state_dict()
        save_file(before, folder / "w")
        save_file(unbatch.capture(model, self.inputs, LABELS), folder / "u")
        save_file({name: after[name] - before[name] for name in after}, folder / "d")
        save_file(after, folder / "a")
        np.savez(folder / "t.npz", inputs=self.inputs.numpy(), labels=LABELS.numpy())

    def audit(self, update: str, *more: str) -> int:
        # What is asked here is what the gate says of one attack, not which one ``auto`` would take.
        named = [] if any(option.startswith("--attack") for option in more) else ["--attack=spear"]
        paths = [*named, f"--weights={self.folder / 'w'}", f"--update={self.folder / update}", f"--out={self.folder / 'out'}"]
        return execute(["audit", "--quiet", f"--model={self.folder / 'net.py'}:{self.factory}", "--input-shape=3,4,4", *paths, *more])

    @property
    def report(self) -> dict[str, Any]:
        return json.loads((self.folder / "out" / "report.json").read_text())


@pytest.fixture
def played(tmp_path: Path) -> Round:
    return Round(tmp_path)


# what the update is


@pytest.mark.parametrize(("update", "kind"), [("u", "gradient"), ("d", "difference"), ("a", "weights")])
@pytest.mark.parametrize("told", [[], ["--learning-rate=0.2"]])
def test_every_kind_is_reconstructed(played: Round, update: str, kind: str, told: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    more = [*(told if update != "u" else []), f"--truth={played.folder / 't.npz'}"]
    assert played.audit(update, f"--update-is={kind}", *more) == 0, capsys.readouterr().err
    assert "5 of 5 samples" in capsys.readouterr().out
    # Without the learning rate every sample is proved, but not that there are no more of them.
    assert played.report["status"] == ("RECONSTRUCTED" if update == "u" or told else "PARTIAL")
    facts = played.report["knowledge"]
    assert any("fedavg:epochs=1,batch_size=0" in fact for fact in facts) == (update != "u")
    assert ("not the factor by which the update was scaled" in facts) == (update != "u" and not told)


def test_what_is_said_of_the_training_arrives(played: Round, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Observation] = []

    def audit(observation: Observation, *_: Any, **__: Any) -> Finding:
        seen.append(observation)
        made = Reconstruction(Status.BUDGET_EXHAUSTED)
        return Finding(made, observation.knowledge, unbatch.Schema(), observation.input_shape, 0, 0.1)

    monkeypatch.setattr("unbatch.auditing.audit", audit)
    told = ["--learning-rate=0.2", "--local-epochs=3", "--mini-batch=2", "--momentum=0.9", "--batch-size=5"]
    assert played.audit("a", "--update-is=weights", *told) == 0
    assert played.audit("u", "--unknown-factor") == 0
    assert played.audit("u") == 0
    assert [observation.training for observation in seen] == [LocalTraining(3, 2, 0.2, 0.9), None, None]
    assert [observation.factor_known for observation in seen] == [True, False, True]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--learning-rate=0.1"], "difference or weights with --learning-rate, got a gradient"),
        (["--momentum=0"], "difference or weights with --momentum, got a gradient"),
        (["--update-is=delta"], "got 'delta'"),
        (["--update-is=weights", "--learning-rate=0"], "a finite learning rate above zero"),
        (["--update-is=weights", "--learning-rate=nan"], "a finite learning rate above zero"),
        (["--update-is=weights", "--local-epochs=0"], "at least one epoch"),
        (["--update-is=weights", "--mini-batch=0"], "at least one epoch and one sample a step"),
        (["--update-is=weights", "--momentum=1"], "a momentum from 0 to below 1"),
        (["--fail-on=everything"], "got 'everything'"),
        (["--fail-on=exact,"], "got ''"),
        (["--fail-on=psnr"], "got 'psnr'"),
        (["--fail-on=psnr:loud"], "got 'loud'"),
        (["--fail-on=psnr:inf", "--truth=t.npz"], "got 'inf'"),
        (["--fail-on=labels", "--labels=t.npz"], "--fail-on labels without --labels, got both"),
        (["--fail-on=psnr:25"], "--truth with --fail-on psnr, got none"),
        (["--inconclusive=pass"], "--fail-on with --inconclusive, got none"),
        (["--fail-on=exact", "--inconclusive=perhaps"], "--inconclusive pass or fail, got 'perhaps'"),
    ],
)
def test_what_cannot_be_is_misuse(played: Round, options: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert played.audit("a", *options) == 2
    printed = capsys.readouterr()
    assert complaint in printed.err
    assert len(printed.err.splitlines()) == 1
    assert not (played.folder / "out").exists()


# the gate


@pytest.mark.parametrize(
    ("limits", "truth", "reason"),
    [
        (["exact"], False, "unbatch: 5 samples are proved disclosed\n"),
        (["labels"], False, "unbatch: the labels of 5 samples are proved disclosed\n"),
        (["exact,labels"], False, "unbatch: 5 samples are proved disclosed; the labels of 5 samples are proved disclosed\n"),
        (["labels", "exact"], False, "unbatch: 5 samples are proved disclosed; the labels of 5 samples are proved disclosed\n"),
        (["psnr:25"], True, "dB, the limit is 25 dB\n"),
        (["psnr:9999"], True, ""),
        ([], False, ""),
    ],
)
def test_a_leak_beyond_the_limits_ends_with_three(
    played: Round, limits: list[str], truth: bool, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [f"--fail-on={limit}" for limit in limits] + ([f"--truth={played.folder / 't.npz'}"] if truth else [])
    assert played.audit("u", *options) == (3 if reason else 0)
    printed = capsys.readouterr()
    assert printed.err.endswith(reason) if reason else printed.err == ""
    assert len(printed.err.splitlines()) == bool(reason)
    assert "RECONSTRUCTED" in printed.out
    assert played.report["status"] == "RECONSTRUCTED"
    assert (played.folder / "out" / "report.html").exists()


def test_an_update_of_noise_gives_nothing_away_and_is_not_called_clean(played: Round, capsys: pytest.CaptureFixture[str]) -> None:
    generator = torch.Generator().manual_seed(2)
    noise = {name: torch.randn(t.shape, generator=generator, dtype=t.dtype) for name, t in unbatch_update(played).items()}
    save_file(noise, played.folder / "noise")
    limits = ["--fail-on=exact,labels,psnr:25", f"--truth={played.folder / 't.npz'}", "--batch-size=5", "--attack=spear:seconds=2"]
    assert played.audit("noise", *limits) in (2, 4)  # full rank may mean that the attack does not apply
    assert "disclosed" not in capsys.readouterr().err
    assert played.audit("noise", *limits, "--inconclusive=pass") == 0
    printed = capsys.readouterr()
    assert "gate     inconclusive, passed as --inconclusive says" in printed.out
    assert printed.err.startswith("unbatch: inconclusive: exact: ")
    assert played.report["status"] != "RECONSTRUCTED"


def unbatch_update(played: Round) -> dict[str, torch.Tensor]:
    from unbatch.importers import read_tensors

    return read_tensors(played.folder / "u")


def test_labels_leak_where_the_attack_does_not_apply(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    played = Round(tmp_path, "tanh")
    assert played.audit("u", "--fail-on=exact", "--batch-size=5") == 2
    assert "does not apply" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert played.audit("u", "--fail-on=labels", "--batch-size=5") == 3
    assert "label counts can be told from the last layer" in capsys.readouterr().err
    assert played.report["status"] == "NOT_APPLICABLE"


@pytest.mark.parametrize(
    ("told", "code"),
    [
        ({"determined": True, "expected_error": 0.2}, 3),
        ({"determined": True, "expected_error": 0.3}, 2),
        ({"determined": True}, 2),
        ({"expected_error": 0.2}, 2),
        ({"trust": 0.5}, 2),
        ({"determined": True, "expected_error": 1.5}, 0),
    ],
    ids=str,
)
def test_labels_are_told_or_not_or_nobody_knows(told: dict[str, Any], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack does not apply here: where the last layer does not settle the question, nothing was measured."""
    played = Round(tmp_path, "without_last_bias")
    guess = Counts(torch.tensor([2, 1, 1, 1]), torch.ones(4, dtype=torch.bool), **told)
    monkeypatch.setattr(auditing, "counts_of", lambda *_: guess)
    assert played.audit("u", "--fail-on=labels", "--batch-size=5") == code
    assert (played.folder / "out").exists() == (code != 2)
    assert played.audit("u", "--fail-on=labels", "--batch-size=5", "--inconclusive=pass") == (3 if code == 3 else 0)


def ended(monkeypatch: pytest.MonkeyPatch, status: Status, *, off: float = 1.0, found: int = 2) -> None:
    """Let the audit end like this, with so many samples of the truth, each so far off."""

    def audit(observation: Observation, truth: unbatch.Batch | None, **_: Any) -> Finding:
        samples = (torch.zeros(2, 3, 4, 4) if truth is None else truth.inputs[:2].double() + off)[:found] if found else None
        made = Reconstruction(status, samples, None)
        finding = Finding(made, observation.knowledge, unbatch.Schema(), observation.input_shape, 0, 0.1, truth)
        metrics = {"psnr": plugins.build("metrics", "psnr")}
        return finding if truth is None or samples is None else auditing._scored(finding, truth, samples, metrics)

    monkeypatch.setattr("unbatch.auditing.audit", audit)


def test_a_sample_that_is_exact_but_not_proved_counts(played: Round, monkeypatch: pytest.MonkeyPatch) -> None:
    ended(monkeypatch, Status.UNPROVEN, off=0.0)
    assert played.audit("u", "--fail-on=exact", f"--truth={played.folder / 't.npz'}") == 3


@pytest.mark.parametrize("status", [status for status in Status if not status.disclosed and status is not Status.NOT_APPLICABLE])
@pytest.mark.parametrize("limit", ["exact", "psnr:25"])
def test_what_proves_nothing_never_passes_silently(
    status: Status, limit: str, played: Round, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a truth nothing that is not proved can be judged; with it, what an attack that came to its own end has found."""
    truth = [f"--truth={played.folder / 't.npz'}"]
    ended(monkeypatch, status)
    judged = status in (Status.APPROXIMATE, Status.UNPROVEN)
    assert played.audit("u", f"--fail-on={limit}", *truth) == (0 if judged else 4)
    printed = capsys.readouterr()
    assert ("gate     clean: nothing that --fail-on names was found; this does not show" in printed.out) == judged
    assert printed.err == ("" if judged else f"unbatch: inconclusive: {limit.partition(':')[0]}: {status.value}\n")
    assert played.report["status"] == status.name
    assert played.audit("u", f"--fail-on={limit}", "--inconclusive=pass", *truth) == 0
    assert played.audit("u", f"--fail-on={limit}", "--inconclusive=fail", *truth) == (0 if judged else 4)
    capsys.readouterr()
    if limit == "exact":
        assert played.audit("u", "--fail-on=exact") == 4
        assert "gate     inconclusive\n" in capsys.readouterr().out
    ended(monkeypatch, status, found=0)
    assert played.audit("u", f"--fail-on={limit}", *truth) == 4


def test_the_part_that_was_not_found_is_not_known(played: Round, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = f"--truth={played.folder / 't.npz'}"
    ended(monkeypatch, Status.PARTIAL)
    assert played.audit("u", "--fail-on=psnr:25", truth) == 4
    assert played.audit("u", "--fail-on=exact,psnr:25", truth) == 3, "a leak is worse than a question"


# the truth


@pytest.mark.parametrize(
    ("told", "complaint"),
    [
        (["--batch-size=4"], "expected a truth of 4 samples, as was told, got 5"),
        (["--batch-size=6"], "expected a truth of 6 samples, as was told, got 5"),
        (["--labels=three.npz"], "expected a truth of 3 samples, as was told, got 5"),
        (["--labels=others.npz"], "expected a truth with the labels that were told, got others"),
        (["--input-shape=48"], "expected samples of shape (48,) in "),
    ],
)
def test_a_truth_that_is_not_what_was_told_is_refused(
    played: Round, told: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(played.folder)
    np.savez("three.npz", labels=LABELS[:3].numpy())
    np.savez("others.npz", labels=LABELS.flip(0).numpy() * 0)
    monkeypatch.setattr("unbatch.auditing.invert", lambda *_: pytest.fail("the attack began"))
    assert played.audit("u", "--truth=t.npz", *told) == 2
    printed = capsys.readouterr()
    assert complaint in printed.err
    assert len(printed.err.splitlines()) == 1
    assert not (played.folder / "out").exists()


def test_a_truth_that_is_what_was_told_is_taken(played: Round, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(played.folder)
    np.savez("l.npz", labels=LABELS.flip(0).numpy())  # in whatever order
    assert played.audit("u", "--truth=t.npz", "--labels=l.npz", "--batch-size=5") == 0


def test_help_documents_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "3 the update gives away what --fail-on names" in text
    assert "4 --fail-on found nothing, but the audit could not tell" in text
