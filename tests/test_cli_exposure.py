"""`unbatch exposure`: argv to the call that it makes, what it prints and writes, and its exit codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from unbatch.cli import execute
from unbatch.exposure import Exposure

FACTORY = """
import torch
from torch import nn

def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()

def build():
    return seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 40), nn.ReLU(), nn.Dropout(0.5), nn.Linear(40, 5)))

def convolutions():
    return seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(36, 5)))

def bracket():
    return seeded(lambda: nn.ModuleDict({"[red]": nn.Linear(4, 3)}))
"""


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(FACTORY)
    return str(tmp_path / "net.py")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = execute(["exposure", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def words(text: str) -> str:
    return " ".join(text.split())


def test_prints_a_row_a_layer_and_what_follows(net: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = run(capsys, f"--model={net}:build", "--input-shape=3,4,4")
    assert (code, err) == (0, "")
    rows = {line.split()[0]: words(line) for line in out.splitlines() if line.strip()}
    assert rows["1"].startswith("1 Linear raw input samples, b ≤ ")
    assert "the sample" in rows["1"]
    assert "none known its features followed by nothing instead of ReLU" in rows["4"]
    assert "Every sample of a batch of up to" in rows["verdict"]
    assert "anchored" in rows["labels"]
    assert rows["closes"].startswith("closes Average at least 40 samples")
    assert "4,000 inputs of white noise" in rows["measured"]
    assert "report" not in rows


def test_train_mode_is_passed_on(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = {
        flag: Exposure.from_json(run(capsys, f"--model={net}:build", "--input-shape=3,4,4", "--json", *([flag] if flag else []))[1])
        for flag in ("", "--train-mode")
    }
    assert [(found.mode, found.layers[0].exact) for found in told.values()] == [("eval", "samples"), ("train", "untested")]


def test_json_alone_is_on_stdout_and_says_the_environment(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, f"--model={net}:convolutions", "--input-shape=3,4,4", "--json")
    assert (code, err) == (0, "")
    found = Exposure.from_json(out)
    assert [layer.name for layer in found.layers] == ["0", "3"]
    assert found.environment["torch"] == torch.__version__


def test_out_gets_both_files(net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a" / "b"
    code, printed, _ = run(capsys, f"--model={net}:build", "--input-shape=3,4,4", f"--out={out}", "--json")
    assert code == 0
    assert sorted(path.name for path in out.iterdir()) == ["exposure.html", "exposure.json"]
    assert (out / "exposure.json").read_text(encoding="utf-8") == printed
    assert "Layer by layer" in (out / "exposure.html").read_text(encoding="utf-8")


def test_weights_and_data_are_read(net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with torch.random.fork_rng(devices=[]):
        model = torch.nn.Linear(48, 40)
    dead = {
        "1.weight": model.weight.detach(),
        "1.bias": model.bias.detach().clone(),
        "4.weight": torch.zeros(5, 40),
        "4.bias": torch.zeros(5),
    }
    dead["1.bias"][:7] = -1e6
    save_file(dead, tmp_path / "w.safetensors")
    pictures = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", images=pictures, labels=np.zeros(30, dtype=np.int64))
    base = [
        f"--model={net}:build",
        "--input-shape=3,4,4",
        f"--weights={tmp_path / 'w.safetensors'}",
        f"--data={tmp_path / 'd.npz'}",
        "--json",
    ]
    firing = []
    for more in ([], ["--mean=0.5,0.5,0.5", "--std=0.2,0.2,0.2"]):
        code, out, _ = run(capsys, *base, *more)
        assert code == 0
        found = Exposure.from_json(out)
        assert found.measured_on == "30 inputs as given"
        firing.append(found.layers[0].firing)
    assert all(each is not None and each.inputs == 30 and each.dead >= 7 for each in firing)
    assert firing[0] != firing[1], "the normalization counts"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model={net}:build", "--input-shape=3,4"], "float inputs of shape (3, 4)"),
        (["--model={net}:build", "--input-shape=three"], "an input shape like"),
        (["--model={net}:build", "--input-shape=-3,4,4"], "positive whole numbers"),
        (["--model={net}:bracket", "--input-shape=4"], "float inputs"),
        (["--model={net}:build", "--input-shape=3,4,4", "--weights=nowhere.npz"], "readable file"),
        (["--model={net}:build", "--input-shape=3,4,4", "--data=nowhere.npz"], "readable file"),
        (["--model={net}:build", "--input-shape=3,4,4", "--loss=hinge"], "a loss among"),
        (["--model=torch.nn:Identity", "--input-shape=3"], "a model with parameters"),
        (["--model={net}:build", "--input-shape=3,4,4", "--out={net}"], "an output folder"),
    ],
)
def test_misuse_is_one_sentence_and_two(
    net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    code, out, err = run(
        capsys, *(argument.format(net=net) for argument in arguments), *(() if "--out" in arguments[-1] else (f"--out={tmp_path / 'o'}",))
    )
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "o").exists()


def test_nothing_is_written_where_a_file_is_in_the_way(net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "o" / "exposure.html").mkdir(parents=True)
    code, out, err = run(capsys, f"--model={net}:build", "--input-shape=3,4,4", f"--out={tmp_path / 'o'}")
    assert (code, out) == (2, "")
    assert "exposure.html" in err
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["exposure.html"]
