"""Models of one score, and models that return more than a tensor: as people write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unbatch import Misuse, Observation, capture, choosing, expose, invert
from unbatch.cli import execute
from unbatch.evidence import judge
from unbatch.types import Candidate, Status


class Wrapped(nn.Module):
    """One that returns what ``pack`` makes of its scores."""

    def __init__(self, pack: Callable[[Tensor], Any], outputs: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.pack = pack
        self.net = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs)).double()

    def forward(self, x: Tensor) -> Any:
        return self.pack(self.net(x))


def sent(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def secret(samples: int) -> Tensor:
    return torch.randn(samples, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def distances(found: Tensor, x: Tensor) -> Tensor:
    return torch.cdist(found, x).amin(dim=1)


@pytest.mark.parametrize("pack", [lambda s: SimpleNamespace(loss=None, logits=s), lambda s: {"logits": s}], ids=["attribute", "key"])
def test_logits_are_taken_by_attribute_and_by_key(pack: Callable[[Tensor], Any]) -> None:
    model, x, labels = Wrapped(pack), secret(4), torch.tensor([0, 1, 2, 0])
    seen = Observation(model, sent(model, F.cross_entropy(model.net(x), labels)), (20,))
    found = invert(seen).or_raise()
    assert found.inputs is not None
    assert float(distances(found.inputs, x).max()) < 1e-8
    assert not isinstance(model(x), Tensor), "the client's model is left as it was"
    again = capture(model, x, labels)
    assert all(torch.allclose(again[name], tensor) for name, tensor in seen.update.items())


def test_other_outputs_are_refused_with_where_to_read() -> None:
    model = Wrapped(lambda s: (s, s))
    with pytest.raises(Misuse, match=r"got tuple: wrap the model .* docs/updates.md"):
        Observation(model, {name: torch.ones_like(p) for name, p in model.named_parameters()}, (20,))


def test_one_score_of_binary_cross_entropy_is_read_whole_with_its_labels() -> None:
    model, x, labels = Wrapped(lambda s: s, 1), secret(5), torch.tensor([0, 1, 1, 0, 1])
    update = sent(model, F.binary_cross_entropy_with_logits(model(x)[:, 0], labels.double()))
    mine = capture(model, x, labels, loss="bce")
    assert all(torch.allclose(mine[name], tensor) for name, tensor in update.items())
    found = invert(Observation(model, update, (20,), loss="bce")).or_raise()
    assert found.inputs is not None
    assert found.labels is not None
    order = torch.cdist(found.inputs, x).argmin(dim=1)
    assert torch.equal(found.labels, labels[order])
    assert model(x).shape == (5, 1)


@pytest.mark.parametrize("pack", [lambda s: s, lambda s: s.squeeze(-1)], ids=["column", "numbers"])
def test_the_samples_of_a_regression_are_proved_and_its_targets_are_not_told(pack: Callable[[Tensor], Any]) -> None:
    model, x = Wrapped(pack, 1), secret(6)
    y = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    seen = Observation(model, sent(model, F.mse_loss(model.net(x)[:, 0], y)), (20,), loss="mse", batch_size=6)
    found = invert(seen)
    assert found.status is Status.PARTIAL
    assert found.proved is not None
    assert found.inputs is not None
    assert int(found.proved.sum()) == 6
    assert float(distances(found.inputs, x).max()) < 1e-6
    assert found.labels is None
    assert any("not the targets" in fact for fact in seen.knowledge.sentences())


def test_what_is_near_the_samples_of_a_regression_or_between_them_is_not_proved() -> None:
    model, x = Wrapped(lambda s: s, 1), secret(6)
    y = torch.randn(6, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    seen = Observation(model, sent(model, F.mse_loss(model(x), y)), (20,), loss="mse", batch_size=6)
    sides = (y > model(x)).long()[:, 0]
    for liar in (x + 1e-3 * x.roll(1, 0), (x + x.roll(1, 0)) / 2, 1.01 * x):
        assert not judge(seen, Candidate(inputs=liar, labels=sides)).status.disclosed


def test_labels_of_a_regression_are_refused() -> None:
    model, x = Wrapped(lambda s: s, 1), secret(2)
    update = sent(model, F.mse_loss(model(x), torch.zeros(2, 1, dtype=torch.float64)))
    with pytest.raises(Misuse, match="targets are no class indices"):
        Observation(model, update, (20,), loss="mse", labels=torch.tensor([0, 1]))


def test_nothing_more_is_tried_once_the_whole_update_is_explained() -> None:
    model, x = Wrapped(lambda s: s, 1), secret(6)
    y = torch.randn(6, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    seen = Observation(model, sent(model, F.mse_loss(model(x), y)), (20,), loss="mse", batch_size=6)
    found = choosing.Auto()(seen)
    assert found.explained
    assert found.tried == ("spear",)


class OfTwo(Wrapped):
    """One that takes two inputs."""

    def __init__(self) -> None:
        super().__init__(lambda s: s)

    def forward(self, x: Tensor, z: Tensor) -> Any:  # type: ignore[override]
        return self.net(x) + z


def test_a_model_of_two_inputs_is_told_to_take_one() -> None:
    model = OfTwo()
    update = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    for ask in (lambda: Observation(model, update, (20,)), lambda: expose(model, (20,))):
        with pytest.raises(Misuse, match=r"takes one tensor, .*missing 1 required .*'z'.*a subclass, as docs/updates.md shows"):
            ask()


def regression() -> nn.Module:
    return Wrapped(lambda s: s, 1)


@pytest.fixture
def files(tmp_path: Path) -> str:
    """The files of a regression, and the options that name them."""
    model, x = regression(), secret(3)
    y = torch.randn(3, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.save(model.state_dict(), tmp_path / "w.pt")
    torch.save(sent(model, F.mse_loss(model(x), y)), tmp_path / "u.pt")
    np.savez(tmp_path / "t.npz", inputs=x.numpy(), labels=y.numpy())
    return f"--model {__file__}:regression --weights {tmp_path}/w.pt --update {tmp_path}/u.pt --input-shape 20"


def test_the_commands_take_a_regression_with_its_targets(files: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = f"{tmp_path}/t.npz"
    assert execute(f"audit {files} --loss mse --batch-size 3 --attack spear --truth {truth} --out {tmp_path}/r".split()) == 0
    out = capsys.readouterr().out
    assert "exact    3 of 3 samples" in out
    assert "the targets of a regression are not known" in out
    assert "unbatch labels" not in out
    assert execute(f"members {files} --loss mse --candidates {truth}".split()) == 0
    assert "PRESENT" in capsys.readouterr().out
    assert execute(f"labels {files} --loss mse".split()) == 2
    err = capsys.readouterr().err
    assert "no classes to count" in err
    assert "unbatch audit --model" in err, "what to run instead"


def several() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3)).double()


def test_what_is_read_of_a_regression_of_several_scores_is_held_against_the_truth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing replays it, and the samples are right all the same: said, and ended on."""
    model, x, y = several(), secret(3), torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.save(model.state_dict(), tmp_path / "w.pt")
    torch.save(sent(model, F.mse_loss(model(x), y)), tmp_path / "u.pt")
    np.savez(tmp_path / "t.npz", inputs=x.numpy(), labels=y.numpy())
    files = f"--model {__file__}:several --weights {tmp_path}/w.pt --update {tmp_path}/u.pt --truth {tmp_path}/t.npz --input-shape 20"
    assert execute(f"audit {files} --loss mse --attack spear --fail-on exact --out {tmp_path}/r".split()) == 3
    out = capsys.readouterr().out
    assert "INCONSISTENT" in out
    assert "exact    3 of 3 samples" in out
    assert "labels   " not in out, "targets are no classes"
    assert "unbatch labels" not in out
    assert "Labels right" not in (tmp_path / "r" / "report.html").read_text()


def test_a_loss_that_one_score_cannot_have_is_refused(files: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(f"audit {files}".split()) == 2
    assert "--loss bce (yes or no) or --loss mse" in capsys.readouterr().err


def absolute(outputs: Tensor, targets: Tensor) -> Tensor:
    """A regression's loss as its user wrote it."""
    return (outputs - targets).abs().mean()


def test_the_commands_take_a_loss_of_the_users_own(files: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = f"{files} --candidates {files.split()[3].replace('w.pt', 't.npz')}"
    assert execute(f"members {asked} --loss {__file__}:absolute".split()) == 0
    assert "PRESENT" in capsys.readouterr().out
    for loss, told in {
        f"{__file__}:none": "a function 'none' in",
        "torch.nn:": "a loss as FILE.py:function",
        "focal": "a loss among",
    }.items():
        assert execute(f"members {asked} --loss {loss}".split()) == 2
        assert told in capsys.readouterr().err


def test_a_report_names_the_loss_as_it_was_told() -> None:
    model = regression()
    update = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    assert "the loss: bce" in Observation(model, update, (20,), loss="bce").knowledge.sentences()
    assert (
        "the loss: BCEWithLogitsLoss"
        in Observation(
            nn.Linear(20, 2), dict(nn.Linear(20, 2).named_parameters()), (20,), loss=nn.BCEWithLogitsLoss()
        ).knowledge.sentences()
    )
