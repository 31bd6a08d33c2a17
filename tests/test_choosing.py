"""``auto``: which attack it takes, what it keeps, that one clock holds for all; and the kinds of model that users bring, end to end."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from unbatch import auditing, choosing, plugins, store
from unbatch.attacks.spear import Spear
from unbatch.choosing import ORDER, Auto, built
from unbatch.cli import execute
from unbatch.contracts import Attack, Needs, Yield
from unbatch.errors import Misuse
from unbatch.gradients import capture
from unbatch.models.lenet5 import LeNet5
from unbatch.models.mlp import Mlp
from unbatch.models.resnet import ResNet
from unbatch.report import html
from unbatch.schema import Categorical, Continuous
from unbatch.types import Batch, Candidate, Observation, Reconstruction, Schema, Status

PROVED = (Status.RECONSTRUCTED, Status.PARTIAL, Status.FEATURES)


def rows(count: int = 8) -> Batch:
    """Rows of a table with many levels, so that few of them depend on each other."""
    towns = tuple(f"town {i}" for i in range(12))
    columns = (Continuous("age", 0, 99, "years", rounding=1), Categorical("sex", ("f", "m")), Categorical("town", towns))
    schema = Schema("table", (40.0,) + 14 * (0.3,), (15.0,) + 14 * (0.5,), ("no", "yes"), columns)
    cells = schema.cells([(20 + 7 * i, "fm"[i % 2], towns[i * 5 % 12]) for i in range(count)])
    return Batch(schema.encode(cells), torch.arange(count) % 2, schema)


def pictures(count: int, shape: tuple[int, ...]) -> Batch:
    inputs = torch.rand((count, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Batch(inputs, torch.arange(count) % 4, Schema("image", classes=tuple("abcd")))


def plain(activation: type[nn.Module], width: int = 60) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(48, width), activation(), nn.Linear(width, width), activation(), nn.Linear(width, 4))


def seen(model: nn.Module, batch: Batch, told: int | None = None) -> Observation:
    model, inputs = model.double(), batch.inputs.double()
    update = capture(model, inputs, batch.labels)
    return Observation(model, update, tuple(inputs.shape[1:]), batch_size=told, schema=batch.schema)


MODELS: dict[str, tuple[Callable[[], nn.Module], Batch, int | None, str, Status]] = {
    "MLP": (lambda: plain(nn.ReLU), pictures(5, (3, 4, 4)), None, "spear", Status.RECONSTRUCTED),
    "one sample": (lambda: plain(nn.ReLU), pictures(1, (3, 4, 4)), None, "one_sample", Status.RECONSTRUCTED),
    "GELU": (lambda: plain(nn.GELU), pictures(5, (3, 4, 4)), None, "span", Status.RECONSTRUCTED),
    "table": (lambda: Mlp(width=60, depth=3).build((15,), 2, 0), rows(), None, "spear", Status.RECONSTRUCTED),
    "LeNet": (lambda: LeNet5().build((1, 16, 16), 4, 0), pictures(3, (1, 16, 16)), 3, "spear span", Status.FEATURES),
    "ResNet": (lambda: ResNet(width=4).build((3, 8, 8), 4, 0).eval(), pictures(2, (3, 8, 8)), 2, "", Status.BUDGET_EXHAUSTED),
}


@pytest.mark.parametrize("kind", MODELS)
def test_it_chooses_well_on_the_models_that_users_bring_and_the_report_is_right(kind: str, tmp_path: Path) -> None:
    build, batch, told, name, status = MODELS[kind]
    seconds = 5 if kind == "ResNet" else 60
    finding = auditing.audit(seen(build(), batch, told), batch, f"auto:seconds={seconds}")
    made = finding.reconstruction
    assert made.reason.startswith("auto took ")
    assert "\n" not in made.reason
    if name:
        assert made.attack.partition(":")[0] in name.split()
        assert made.status is status
    else:  # nothing exact applies to a whole network of convolutions: a proof there would be wrong
        assert made.status is not Status.RECONSTRUCTED or all(finding.exact)
        assert made.status in ORDER[: ORDER.index(Status.NOT_APPLICABLE)]
    if made.status is Status.RECONSTRUCTED:
        assert all(finding.exact)
        assert all(finding.labels_right)
    store.save(finding, tmp_path, html.render)
    page = re.sub(r"\s+", " ", (tmp_path / store.HTML).read_text())
    assert finding.verdict in page
    assert "auto took " in page
    assert made.attack in page


@dataclass(frozen=True)
class Scripted(Attack):
    """Ends as it is told, and notes the time that it is given."""

    yields: ClassVar[frozenset[Yield]] = frozenset({Yield.PROOF})
    seconds: float | None = 100.0
    given: ClassVar[list[float | None]] = []
    proposal: ClassVar[Candidate] = Candidate(reason="nothing found")

    def reconstruct(self, *_: Any) -> Candidate:
        self.given.append(self.seconds)
        return self.proposal


def script(monkeypatch: pytest.MonkeyPatch, **attacks: type[Attack]) -> None:
    """Let these be all the attacks that there are."""
    monkeypatch.setattr(choosing.specs, "built_in", lambda _: list(attacks))
    monkeypatch.setattr(choosing.plugins, "load", lambda _, name: attacks[name])


def kind(name: str, **fields: Any) -> type[Attack]:
    made: type[Attack] = dataclass(frozen=True)(type(name, (Scripted,), {"__annotations__": {}, **fields}))
    return made


def test_attempts_share_one_clock_and_the_last_gets_all_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    Scripted.given.clear()
    script(monkeypatch, a=kind("A", rank=1), b=kind("B", rank=2), c=kind("C", rank=3))
    Auto(seconds=40.0)(seen(plain(nn.ReLU), pictures(3, (3, 4, 4))))
    assert Scripted.given == [pytest.approx(20, abs=2), pytest.approx(20, abs=2), pytest.approx(40, abs=4)]


def test_approximations_are_tried_only_where_nothing_was_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = pictures(3, (3, 4, 4))
    observation, Scripted.given[:] = seen(plain(nn.ReLU), batch), []
    two = Candidate(batch.inputs[:2], batch.labels[:2])
    picture = kind("Picture", rank=9, yields=frozenset({Yield.PICTURE}))
    script(monkeypatch, exact=kind("Exact", rank=1, proposal=two), picture=picture)
    found = Auto()(observation)
    assert (found.status, len(Scripted.given)) == (Status.PARTIAL, 1)
    script(monkeypatch, exact=kind("Exact", rank=1), picture=picture)
    Auto()(observation)
    assert len(Scripted.given) == 3


def test_the_end_that_says_most_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = pictures(3, (3, 4, 4))
    near = Candidate(batch.inputs + 1e-3, batch.labels, reason="near")
    yields = frozenset({Yield.PICTURE})
    script(monkeypatch, a=kind("A", rank=1, yields=yields, proposal=near), b=kind("B", rank=2, yields=yields))
    found = Auto()(seen(plain(nn.ReLU), batch))
    assert found.status is Status.APPROXIMATE
    assert "ended with INCONSISTENT" in found.reason
    assert found.stats["tried by auto"][found.attack] == "APPROXIMATE"
    assert set(ORDER) == set(Status)


def test_what_an_exact_attack_read_is_kept_before_pictures_and_leaves_others_a_fifth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels of several yes and no, told as classes: no replay gives the update, and the samples are right all the same."""
    batch, picture = pictures(3, (3, 4, 4)), Candidate(torch.zeros(3, 3, 4, 4).double(), torch.zeros(3).long(), exhausted=True)
    model, Scripted.given[:] = plain(nn.ReLU).double(), []
    marked = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 1], [1, 0, 1, 1]]).double()
    nn.functional.binary_cross_entropy_with_logits(model(batch.inputs), marked).backward()
    update = {name: tensor.grad for name, tensor in model.named_parameters() if tensor.grad is not None}
    drawn = kind("Drawn", rank=9, yields=frozenset({Yield.PICTURE}), proposal=picture)
    script(monkeypatch, spear=Spear, drawn=drawn)
    found = Auto(seconds=150)(Observation(model, update, (3, 4, 4)))
    assert found.status is Status.INCONSISTENT
    assert found.inputs is not None
    assert float(torch.cdist(batch.inputs.flatten(1), found.inputs.flatten(1)).amin(dim=1).max()) < 1e-6
    assert "what spear found does not give the update (something was told wrongly" in found.reason
    assert Scripted.given == [pytest.approx(30, abs=3)]


def test_an_interrupt_ends_all_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    Scripted.given.clear()
    script(monkeypatch, a=kind("A", rank=1, proposal=Candidate(interrupted=True)), b=kind("B", rank=2))
    Auto()(seen(plain(nn.ReLU), pictures(3, (3, 4, 4))))
    assert len(Scripted.given) == 1


def test_what_needs_data_like_the_clients_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, a=kind("A", needs=Needs(auxiliary="public pictures")))
    assert Auto()(seen(plain(nn.ReLU), pictures(3, (3, 4, 4)))).reason == "there is no attack to try"


def test_where_nothing_applies_every_reason_is_told() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten())
    batch = Batch(torch.rand(3, 1, 3, 3).double(), torch.arange(3), Schema("image"))
    found: Reconstruction = Auto()(seen(model, batch))
    assert (found.status, found.attack) == (Status.NOT_APPLICABLE, "auto")
    for name in ("one_sample", "spear", "span", "dlg", "inverting_gradients"):
        assert f"{name}: " in found.reason


def test_the_budget_holds() -> None:
    batch = pictures(2, (3, 8, 8))
    started = time.process_time()
    Auto(seconds=2.0)(seen(ResNet(width=4).build((3, 8, 8), 4, 0).eval(), batch, told=2))
    assert time.process_time() - started < 8.0


def test_a_specification_builds_it_and_a_wrong_one_is_refused_in_one_sentence() -> None:
    assert built("auto") == Auto()
    assert built(Auto(seconds=3.0).spec) == Auto(seconds=3.0)
    assert replace(Auto(), seconds=150.0).spec == "auto"
    for wrong in ("auto:seconds=soon", "auto:second=3", "auto:seconds=0", "auto:seconds=inf"):
        with pytest.raises(Misuse) as caught:
            built(wrong)
        assert "\n" not in str(caught.value)
    with pytest.raises(Misuse, match=r"expected auto, or one of the attacks ci_net, .*spear.*, got 'nonsense': see `unbatch list attacks`"):
        built("nonsense:seconds=3")


def test_the_command_line_lists_describes_and_uses_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["list", "attacks"]) == 0
    assert capsys.readouterr().out.split("\n")[1].startswith("auto")
    assert execute(["describe", "auto"]) == 0
    assert "seconds: float = 150.0" in capsys.readouterr().out
    assert "auto" not in plugins.names("attacks")
    assert execute(["demo", "--quiet", "--batch-size=4", "--dataset=digits", "--model=mlp:width=80,depth=3", f"--out={tmp_path}"]) == 0
    assert "auto took spear: one_sample does not apply" in capsys.readouterr().out
