"""`unbatch labels`: argv to the call that it makes, what it prints, and its exit codes."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import unbatch
from unbatch import restoring
from unbatch.cli import execute
from unbatch.types import Counts

LABELS = torch.tensor([0, 0, 0, 0, 0, 3, 3, 2])

FACTORY = """
from torch import nn

def build(bias=True):
    return nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 5, bias=bias))

def without_bias():
    return build(False)
"""


def files(folder: Path, bias: bool = True) -> list[str]:
    (folder / "net.py").write_text(FACTORY)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(20, 40), torch.nn.ReLU(), torch.nn.Linear(40, 5, bias=bias))
    inputs = torch.randn((8, 20), generator=torch.Generator().manual_seed(0))
    save_file(model.state_dict(), folder / "weights.safetensors")
    save_file(unbatch.capture(model, inputs, LABELS), folder / "update.safetensors")
    factory = "build" if bias else "without_bias"
    return [
        "labels",
        f"--model={folder / 'net.py'}:{factory}",
        f"--weights={folder / 'weights.safetensors'}",
        f"--update={folder / 'update.safetensors'}",
        "--input-shape=20",
    ]


@pytest.mark.parametrize("size", [["--batch-size=8"], []])
def test_prints_the_counts_largest_first(tmp_path: Path, capsys: pytest.CaptureFixture[str], size: list[str]) -> None:
    assert execute([*files(tmp_path), *size]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines if "█" in "".join(line)] == [["0", "5"], ["3", "2"], ["2", "1"]]
    assert "8 samples of 3 among 5 classes" in " ".join(map(" ".join, lines))


def test_without_a_size_what_is_proved_is_counted_and_the_size_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = files(tmp_path)
    update = {name: 0.03 * tensor for name, tensor in load_file(tmp_path / "update.safetensors").items()}  # clipped, which nobody told
    save_file(update, tmp_path / "update.safetensors")
    assert execute(command) == 0
    out = capsys.readouterr().out
    assert ["0", "≥", "5"] in [line.split()[:3] for line in out.splitlines()]
    assert "how many more the batch held is not known" in out
    assert "Say how many samples there were with --batch-size" in out
    assert execute([*command, "--redact", "--format=json"]) == 0
    assert json.loads(capsys.readouterr().out)["detail"] is None


def test_counts_that_the_proved_samples_refute_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = unbatch.Observation(torch.nn.Linear(2, 3), {"weight": torch.ones(3, 2), "bias": torch.ones(3)}, (2,), batch_size=4)
    proved = Counts(torch.tensor([3, 0, 1]), torch.tensor([True, False, True]), "proved", proved=3, least=torch.tensor([3, 0, 0]))
    guess = Counts(torch.tensor([2, 1, 1]), torch.ones(3).bool(), deviation=0.1)
    monkeypatch.setattr(restoring, "_from_proved", lambda *_: proved)
    monkeypatch.setattr("unbatch.labels.anchored.Anchored.__call__", lambda *_, **__: guess)
    found = unbatch.restore_labels(seen)
    assert found.counts is not None
    assert found.counts.tolist() == [3, 0, 1]


def test_a_method_that_only_finds_classes_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute([*files(tmp_path), "--batch-size=8", "--restorer=idlg"]) == 0
    out = capsys.readouterr().out
    assert "?" in out
    assert "which classes are there" in out


def test_ends_with_two_where_it_does_not_apply(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert execute([*files(tmp_path, bias=False), "--batch-size=8", "--attack=none", f"--out={out}"]) == 2
    captured = capsys.readouterr()
    assert "no bias" in captured.err
    assert captured.out == ""
    assert not out.exists()


def test_without_a_bias_the_attack_tells_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute([*files(tmp_path, bias=False), "--batch-size=8"]) == 0
    out = capsys.readouterr().out
    assert "labels, by spear" in out
    assert [line.split()[:2] for line in out.splitlines() if "█" in line] == [["0", "5"], ["3", "2"], ["2", "1"]]


def test_out_writes_the_page_and_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\n[red]bird\nfish\nox\n")
    out = tmp_path / "new" / "labels"
    assert execute([*files(tmp_path), "--batch-size=8", f"--class-names={tmp_path / 'names.txt'}", f"--out={out}"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["labels.html", "labels.json"]
    stored = json.loads((out / "labels.json").read_text())
    assert stored["counts"]["counts"] == [5, 0, 1, 2, 0]
    assert stored["classes"] == ["cat", "dog", "[red]bird", "fish", "ox"]
    assert stored["input_shape"] == [20]
    assert "the batch size" in stored["knowledge"]
    assert "[red]bird (2)" in (out / "labels.html").read_text()
    printed = capsys.readouterr().out
    assert "cat (0)" in printed
    assert "[red]bird (2)" in printed
    assert str(out / "labels.html") in printed.replace("\n", "")


def test_out_is_checked_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out" / "labels.html").mkdir(parents=True)
    arguments = files(tmp_path)
    (tmp_path / "weights.safetensors").unlink()  # would be the next complaint
    assert execute([*arguments, f"--out={tmp_path / 'out'}"]) == 2
    assert "labels.html" in capsys.readouterr().err


@pytest.mark.parametrize("names", ["cat\ndog\n", None])
def test_names_that_do_not_fit_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], names: str | None) -> None:
    if names is not None:
        (tmp_path / "names.txt").write_text(names)
    out = tmp_path / "out"
    assert execute([*files(tmp_path), f"--class-names={tmp_path / 'names.txt'}", f"--out={out}"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not out.exists()


def test_local_training_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = files(tmp_path)
    gradient = load_file(tmp_path / "update.safetensors")
    save_file({name: -0.1 * tensor for name, tensor in gradient.items()}, tmp_path / "update.safetensors")
    assert execute([*arguments, "--batch-size=8", "--update-is=difference", "--learning-rate=0.1"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[:2] for line in out.splitlines() if "█" in line] == [["0", "5"], ["3", "2"], ["2", "1"]]
    assert execute([*arguments, "--batch-size=8", "--update-is=difference"]) == 0, "the learning rate is found by whole counts"
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines() if "█" in line] == [["0", "5"], ["3", "2"], ["2", "1"]]
