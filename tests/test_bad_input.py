"""Bad input at the command line: exit code 2, one sentence that names the fault, nothing run, nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from unbatch.cli import execute
from unbatch.gradients import capture

MODEL = """
from torch import nn

def relu(width=30):
    return nn.Sequential(nn.Flatten(), nn.Linear(12, width), nn.ReLU(), nn.Linear(width, 4))

def narrow():
    return relu(8)

def tanh():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 30), nn.Tanh(), nn.Linear(30, 4))

def dropout():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 30), nn.ReLU(), nn.Dropout(0.5), nn.Linear(30, 4))

def broken():
    raise KeyError("no such width")
"""


class Payload:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


class Round:
    """A folder with the files of one round, good ones at first, and the command that audits them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        (folder / "net.py").write_text(MODEL)
        self.options = {"model": f"{folder / 'net.py'}:relu", "input-shape": "3,2,2", "out": str(self.out)}
        self.options["attack"] = "spear:seconds=60"
        self.options |= {"weights": str(folder / "w.safetensors"), "update": str(folder / "u.safetensors")}
        self.flags: list[str] = []
        self.play("relu", 3)

    def play(self, factory: str, batch: int) -> None:
        """Let a client train on a batch and save the files."""
        names: dict[str, Any] = {}
        exec(MODEL, names)  # noqa: S102  (the text above)
        self.options["model"] = f"{self.folder / 'net.py'}:{factory}"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model: nn.Module = names[factory]().double().eval()
            inputs = torch.randn((batch, 3, 2, 2), dtype=torch.float64)
        self.save("w", dict(self.model.state_dict()))
        self.save("u", capture(self.model, inputs, torch.arange(batch) % 4))
        np.savez(self.folder / "t.npz", inputs=inputs.numpy(), labels=np.arange(batch) % 4)

    def save(self, name: str, tensors: dict[str, Tensor]) -> None:
        safetensors.torch.save_file(tensors, self.folder / f"{name}.safetensors")

    def change_update(self, **changes: Tensor | None) -> None:
        """Replace, add or take away (None) tensors; an underscore stands for the dot."""
        update = safetensors.torch.load_file(self.options["update"])
        update |= {name.replace("_", ".").strip("."): tensor for name, tensor in changes.items()}
        self.save("u", {name: tensor for name, tensor in update.items() if tensor is not None})

    def audit(self) -> int:
        return execute(["audit", "--quiet", *self.flags, *(f"--{name}={value}" for name, value in self.options.items())])


@pytest.fixture
def played(tmp_path: Path) -> Round:
    return Round(tmp_path)


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}


def _truncate(path: Path, share: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def _code(r: Round, option: str) -> None:
    r.options[option] = str(r.folder / "code.pt")
    torch.save({"1.weight": torch.ones(2), "x": Payload(r.folder / "it-ran")}, r.folder / "code.pt")


def _under_a_file(r: Round) -> None:
    (r.folder / "plain").write_text("a file")
    r.options["out"] = str(r.folder / "plain" / "deep" / "out")


def _truth(r: Round, **arrays: Any) -> None:
    np.savez(r.folder / "other.npz", **arrays)
    r.options["truth"] = str(r.folder / "other.npz")


CASES: dict[str, tuple[Callable[[Round], object], str]] = {
    # files
    "missing update": (lambda r: Path(r.options["update"]).unlink(), "u.safetensors' (No such file"),
    "missing weights": (lambda r: Path(r.options["weights"]).unlink(), "w.safetensors' (No such file"),
    "missing model file": (lambda r: r.options.update(model=f"{r.folder}/other.py:relu"), "other.py' (No such file"),
    "missing truth": (lambda r: r.options.update(truth=f"{r.folder}/other.npz"), "other.npz' (No such file"),
    "missing labels": (lambda r: r.options.update(labels=f"{r.folder}/other.npz"), "other.npz' (No such file"),
    "truncated update": (lambda r: _truncate(Path(r.options["update"])), "a whole safetensors file"),
    "truncated weights": (lambda r: _truncate(Path(r.options["weights"]), 0.99), "a whole safetensors file"),
    "empty update": (lambda r: _truncate(Path(r.options["update"]), 0), "begins like none of them"),
    "an update with code": (lambda r: _code(r, "update"), "could run code"),
    "weights with code": (lambda r: _code(r, "weights"), "could run code"),
    # the update
    "missing tensor": (lambda r: r.change_update(_1_bias=None), "got none for '1.bias'"),
    "extra tensor": (lambda r: r.change_update(_9_bias=torch.ones(3)), "got '9.bias'"),
    "wrongly shaped tensor": (lambda r: r.change_update(_1_weight=torch.ones(12, 30)), "'1.weight' of shape (30, 12), got (12, 30)"),
    "NaN": (lambda r: r.change_update(_1_bias=torch.full((30,), torch.nan)), "finite numbers in '1.bias', got NaN"),
    "infinity": (lambda r: r.change_update(_1_bias=torch.full((30,), torch.inf)), "finite numbers in '1.bias'"),
    "whole numbers": (lambda r: r.change_update(_1_bias=torch.ones(30, dtype=torch.int64)), "floating-point numbers in '1.bias'"),
    "all zero": (lambda r: r.save("u", {n: torch.zeros_like(p) for n, p in r.model.named_parameters()}), "got zeros in every tensor"),
    "all gone": (lambda r: r.save("u", {}), "a gradient for every trained parameter"),
    # the model
    "no Linear + ReLU": (lambda r: r.play("tanh", 3), "does not apply to this update: the model has no Linear + ReLU"),
    "batch as large as the layer is wide": (lambda r: r.play("narrow", 8), "SPEAR needs a batch smaller than min(8, 12)"),
    "batch as large as the input": (lambda r: r.play("relu", 12), "SPEAR needs a batch smaller than min(30, 12)"),
    "batch larger than both": (lambda r: r.play("narrow", 20), "SPEAR needs a batch smaller than min(8, 12)"),
    "active dropout": (lambda r: (r.play("dropout", 3), r.flags.append("--train-mode")), "an active Dropout layer"),
    "another model": (lambda r: r.options.update(model=f"{r.folder}/net.py:narrow"), "weights '1.weight' of shape (8, 12), got (30, 12)"),
    "a model that raises": (lambda r: r.options.update(model=f"{r.folder}/net.py:broken"), "KeyError: 'no such width'"),
    "a model without a factory": (lambda r: r.options.update(model=f"{r.folder}/net.py"), "FILE.py:factory"),
    "a NaN weight": (lambda r: r.save("w", {n: t * torch.nan for n, t in r.model.state_dict().items()}), "finite weights"),
    # options
    "zero in the shape": (lambda r: r.options.update({"input-shape": "3,0,2"}), "positive whole numbers, got (3, 0, 2)"),
    "negative shape": (lambda r: r.options.update({"input-shape": "3,-2,-2"}), "positive whole numbers, got (3, -2, -2)"),
    "inconsistent shape": (lambda r: r.options.update({"input-shape": "3,2,3"}), "runs on inputs of shape (3, 2, 3)"),
    "a shape in words": (lambda r: r.options.update({"input-shape": "3xtwo"}), "got '3xtwo'"),
    "no shape": (lambda r: r.options.update({"input-shape": ""}), "an input shape like 3,32,32"),
    "a batch size beyond all numbers": (lambda r: r.options.update({"batch-size": "9" * 20}), "a batch size up to 1,000,000,000,000"),
    "a negative batch size": (lambda r: r.options.update({"batch-size": "-3"}), "a batch size above zero, got -3"),
    "an unknown loss": (lambda r: r.options.update(loss="hinge"), "got 'hinge'"),
    "an unknown attack": (lambda r: r.options.update(attack="speer"), "got 'speer'"),
    "an unknown field": (lambda r: r.options.update(attack="spear:depth=3"), "got 'depth'"),
    "a bad value": (lambda r: r.options.update(attack="spear:seconds=soon"), "got 'soon'"),
    "an unknown device": (lambda r: r.options.update(device="abacus"), "got 'abacus'"),
    "a mean without a deviation": (lambda r: r.options.update(mean="0.5,0.5,0.5"), "a deviation for each channel"),
    "too few means": (lambda r: r.options.update(mean="0.5", std="0.5"), "3 numbers each"),
    "a truth of another shape": (lambda r: _truth(r, inputs=np.ones((3, 12)), labels=np.zeros(3, int)), "samples of shape (3, 2, 2)"),
    "a truth without labels": (lambda r: _truth(r, inputs=np.ones((3, 3, 2, 2))), "'labels'"),
    # output
    "an output folder under a file": (_under_a_file, "expected an output folder"),
    "an output folder that is a file": (lambda r: r.out.write_text("a file"), "expected an output folder"),
}


def test_the_round_that_all_cases_spoil_is_good(played: Round, capsys: pytest.CaptureFixture[str]) -> None:
    played.options["truth"] = str(played.folder / "t.npz")
    assert played.audit() == 0, capsys.readouterr().err
    assert "3 of 3 right" in capsys.readouterr().out


@pytest.mark.parametrize("case", CASES)
def test_bad_input_ends_with_one_sentence(case: str, played: Round, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, complaint = CASES[case]
    spoil(played)
    before = _files(played.folder)
    assert played.audit() == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1, printed.err
    assert printed.err.startswith("unbatch: ")
    assert complaint in printed.err
    assert _files(played.folder) == before


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("--batch-size=0", "a batch size from 1 to 100, got 0"),
        ("--batch-size=1000", "a batch size from 1 to 100, got 1000"),
        ("--dataset=cats", "got 'cats'"),
        ("--dataset=npz:nowhere.npz", "nowhere.npz"),
        ("--model=mlp:width=0", "width 0"),
        ("--model=lstm", "got 'lstm'"),
        ("--attack=none", "got 'none'"),
        ("--model=mlp:width=4,depth=2", "auto does not apply"),
        ("--device=abacus", "got 'abacus'"),
    ],
)
def test_a_demo_that_cannot_be_ends_with_one_sentence(
    option: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["demo", "--quiet", option, f"--out={tmp_path / 'out'}"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1, printed.err
    assert complaint in printed.err
    assert not list(tmp_path.iterdir())


def test_the_output_folder_is_tried_before_the_work(played: Round, monkeypatch: pytest.MonkeyPatch) -> None:
    _under_a_file(played)
    monkeypatch.setattr("unbatch.importers.load_model", lambda _: pytest.fail("the work began"))
    assert played.audit() == 2


def test_an_earlier_report_survives_a_misuse(played: Round) -> None:
    assert played.audit() == 0
    before = {path: path.read_bytes() for path in played.out.iterdir()}
    played.change_update(_1_bias=None)
    assert played.audit() == 2
    assert {path: path.read_bytes() for path in played.out.iterdir()} == before
