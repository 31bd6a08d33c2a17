"""`unbatch labels`: argv to the call that it makes, what it prints, and its exit codes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import unbatch
from unbatch.cli import execute

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


def test_a_method_that_only_finds_classes_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute([*files(tmp_path), "--batch-size=8", "--restorer=idlg"]) == 0
    out = capsys.readouterr().out
    assert "?" in out
    assert "which classes are there" in out


def test_ends_with_two_where_it_does_not_apply(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute([*files(tmp_path, bias=False), "--batch-size=8"]) == 2
    captured = capsys.readouterr()
    assert "no bias" in captured.err
    assert captured.out == ""
