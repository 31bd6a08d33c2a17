"""A good round on disk for the tests that spoil it, and how such an audit may end: one sentence, or a correct result."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from unbatch.cli import execute
from unbatch.gradients import capture

MODEL = """
from torch import nn

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 60), nn.ReLU(), nn.Linear(60, 4))
"""

LABELS = torch.tensor([0, 1, 2])
ATTACK = "spear:seconds=0.5,subsets=20000"
Tensors = dict[str, Tensor]


class Payload:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


class Round:
    """A folder with the files of one good round, and the command that audits them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out, self.mark = folder, folder / "out", folder / "it-ran"
        (folder / "net.py").write_text(MODEL)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.model = nn.Sequential(nn.Flatten(), nn.Linear(12, 60), nn.ReLU(), nn.Linear(60, 4)).double()
        self.inputs = torch.rand((3, 3, 2, 2), generator=torch.Generator().manual_seed(6), dtype=torch.float64)
        self.weights: Tensors = dict(self.model.state_dict())
        self.update = capture(self.model, self.inputs, LABELS)
        self.paths = {"weights": folder / "w", "update": folder / "u"}
        for name, tensors in (("weights", self.weights), ("update", self.update)):
            self.paths[name].write_bytes(written(tensors, "safetensors"))
        np.savez(folder / "t.npz", inputs=self.inputs.numpy(), labels=LABELS.numpy())

    def audit(self, *more: str) -> int:
        paths = [f"--{name}={path}" for name, path in self.paths.items()]
        fixed = [f"--model={self.folder / 'net.py'}:build", "--input-shape=3,2,2", f"--out={self.out}", f"--attack={ATTACK}"]
        return execute(["audit", "--quiet", *fixed, *paths, *more])

    def judge(self, code: int, printed: tuple[str, str], before: set[Path]) -> str:
        """The status, or the sentence; anything else than these two ends is a failure."""
        out, err = printed
        assert not self.mark.exists(), "code of a file was run"
        assert "Traceback" not in err + out
        if code == 2:
            assert out == ""
            assert len(err.splitlines()) == 1, err
            assert err.startswith("unbatch: ")
            assert len(err) < 1000
            assert files(self.folder) == before, "something was written"
            return err
        assert code == 0, err
        assert {path.name for path in self.out.iterdir()} == {"report.html", "report.json", "tensors.safetensors"}
        status = json.loads((self.out / "report.json").read_text())["status"]
        if status in ("RECONSTRUCTED", "PARTIAL"):
            found = safetensors.torch.load_file(self.out / "tensors.safetensors")["inputs"].double()
            distance = torch.cdist(found.flatten(1), self.inputs.flatten(1)).amin(dim=1)
            # One damaged number is noise to the attack and bounds its accuracy: what is right to a few percent is disclosed all the same.
            assert bool((distance < 0.05).all()), f"a false verdict: off by {float(distance.max())}"
        return str(status)


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}


def written(tensors: Tensors, how: str) -> bytes:
    """The bytes of a good file."""
    file = io.BytesIO()
    match how:
        case "safetensors":
            return safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
        case "npz":
            np.savez(file, **{name: tensor.numpy() for name, tensor in tensors.items()})
        case "npz compressed":
            np.savez_compressed(file, **{name: tensor.numpy() for name, tensor in tensors.items()})
        case "torch":
            torch.save(tensors, file)
        case _:
            torch.save(tensors, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


FORMATS = ["safetensors", "npz", "npz compressed", "torch", "torch before 1.6"]
