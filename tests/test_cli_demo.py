"""The demo's protocol and defenses: what is written on the command line is what the observation went through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from unbatch import plugins, seeds
from unbatch.cli import execute
from unbatch.types import Batch, Finding, Observation, Reconstruction, Status

SMALL = ["demo", "--batch-size=4", "--model=mlp:width=20,depth=2", "--dataset=digits"]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Observation]:
    """Every observation that reaches the audit, which finds nothing in it."""
    observations: list[Observation] = []

    def audit(observation: Observation, truth: Batch | None, **rest: Any) -> Finding:
        observations.append(observation)
        made = Reconstruction(Status.INCONSISTENT)
        return Finding(made, observation.knowledge, plugins.build("datasets", "digits").schema, observation.input_shape, 0, 0.1)

    monkeypatch.setattr("unbatch.auditing.audit", audit)
    monkeypatch.setattr("unbatch.store.save", lambda *_, **__: None)
    return observations


def test_protocol_and_defenses_are_applied_in_their_order_with_the_seed(seen: list[Observation], tmp_path: Path) -> None:
    specs = ["dp_sgd:clip=0.5,noise_multiplier=0.1", "clipping:norm=0.2", "gaussian_noise:deviation=0.1"]
    protocol = "fedavg:epochs=2,batch_size=2"
    options = [f"--protocol={protocol}", *(f"--defense={spec}" for spec in specs), "--seed=7", f"--out={tmp_path}"]
    assert execute([*SMALL, *options]) == 1
    (observation,) = seen
    data = plugins.build("datasets", "digits")
    model = plugins.build("models", "mlp:width=20,depth=2").build(data.input_shape, 10, seeds.derive(7, "weights")).double()
    defenses = [plugins.build("defenses", spec) for spec in specs]
    expected = plugins.build("protocols", protocol).observe(model, data.batch(4, seeds.derive(7, "data")), defenses=defenses, seed=7)
    assert observation.update.keys() == expected.update.keys()
    assert all(torch.equal(observation.update[name], expected.update[name]) for name in expected.update)
    assert observation.knowledge == expected.knowledge
    assert observation.knowledge.remarks[:3] == tuple(f"that the update was defended by {spec}" for spec in specs)


def test_without_options_there_is_no_defense(seen: list[Observation], tmp_path: Path) -> None:
    assert execute([*SMALL, f"--out={tmp_path}"]) == 1
    (observation,) = seen
    assert (observation.protocol, observation.remarks) == ("fedsgd", ())


@pytest.mark.parametrize("status", [Status.PARTIAL, Status.APPROXIMATE])
@pytest.mark.parametrize(("exact", "code"), [((True, True, True, True), 0), ((True, True, True, False), 1)])
def test_a_batch_with_a_sample_missing_is_not_reconstructed(
    exact: tuple[bool, ...], code: int, status: Status, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def audit(observation: Observation, truth: Batch, **_: Any) -> Finding:
        made = Reconstruction(status, truth.inputs[list(exact)], truth.labels[list(exact)])
        return Finding(made, observation.knowledge, truth.schema, observation.input_shape, 0, 0.1, truth, exact=exact, labels_right=exact)

    monkeypatch.setattr("unbatch.auditing.audit", audit)
    monkeypatch.setattr("unbatch.store.save", lambda *_, **__: None)
    assert execute([*SMALL, f"--out={tmp_path}"]) == code


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--defense=no_such", "no_such"),
        ("--defense=pruning:share=2", "share"),
        ("--protocol=no_such", "no_such"),
        ("--protocol=secure_aggregation:clients=9", "clients"),
    ],
)
def test_a_wrong_one_is_one_sentence_and_exit_code_2(
    seen: list[Observation], tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, named: str
) -> None:
    assert execute([*SMALL, option, f"--out={tmp_path / 'out'}", "--quiet"]) == 2
    told = capsys.readouterr().err
    assert named in told
    assert told.count("\n") == 1
    assert seen == []
    assert not (tmp_path / "out").exists()


def test_a_defended_round_for_real(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["demo", "--batch-size=4", "--model=mlp:width=80,depth=3", "--quiet"]
    assert execute([*small, "--defense=clipping:norm=0.01", f"--out={tmp_path / 'clipped'}"]) == 0
    assert "4 of 4 samples" in capsys.readouterr().out
    assert "clipping:norm=0.01" in (tmp_path / "clipped" / "report.html").read_text()
    noisy = [*small, "--attack=spear:seconds=2", "--defense=gaussian_noise:deviation=10", f"--out={tmp_path / 'noisy'}"]
    assert execute(noisy) in (1, 2)
    assert "RECONSTRUCTED:" not in capsys.readouterr().out
