"""The command line as a translation, argv to the calls that it makes; its exit codes; and the main job run for real."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import unbatch
from unbatch import plugins, seeds
from unbatch.cli import execute
from unbatch.errors import OutputFailed, ReconstructionFailed
from unbatch.report import html
from unbatch.types import Finding, Observation, Reconstruction, Status

UNBATCH = [sys.executable, "-c", "from unbatch.cli import main; main()"]


class Calls:
    """Stands in for the audit, the store and the report, and keeps what it was called with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, status: Status = Status.RECONSTRUCTED) -> None:
        self.status, self.audits, self.written = status, list[dict[str, Any]](), list[tuple[Path, object]]()
        monkeypatch.setattr("unbatch.auditing.audit", self.audit)
        monkeypatch.setattr("unbatch.store.save", lambda _, folder, page, **_rest: self.written.append((folder, page)))

    def audit(self, observation: Observation, truth: unbatch.Batch | None, **rest: Any) -> Finding:
        self.audits.append({"observation": observation, "truth": truth, **rest})
        rest["progress"]("searching", 0.5)
        found = None if truth is None else truth.inputs
        made = Reconstruction(self.status, found, None if truth is None else truth.labels, 1e-16, "a reason")
        right = () if truth is None else (True,) * len(truth)
        schema = unbatch.Schema.guess(observation.input_shape)
        return Finding(made, observation.knowledge, schema, observation.input_shape, 0, 0.1, truth, exact=right, labels_right=right)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A round on disk: net.py, weights w.*, update u.*, truth t.npz; six samples of shape (3, 2, 2)."""
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(12, 60), nn.ReLU(), nn.Dropout(0.0), nn.Linear(60, 4))\n"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = unbatch_model(tmp_path).double().eval()
        inputs = torch.randn(6, 3, 2, 2, dtype=torch.float64)
    labels = torch.arange(6) % 4
    save_everywhere(tmp_path / "w", dict(model.state_dict()))
    save_everywhere(tmp_path / "u", unbatch.capture(model, inputs, labels))
    np.savez(tmp_path / "t.npz", inputs=inputs.numpy(), labels=labels.numpy())
    return tmp_path


def unbatch_model(folder: Path) -> torch.nn.Module:
    from unbatch.importers import load_model

    return load_model(f"{folder / 'net.py'}:make")


def save_everywhere(stem: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    save_file(tensors, stem.with_suffix(".safetensors"))
    np.savez(stem.with_suffix(".npz"), **{name: tensor.numpy() for name, tensor in tensors.items()})
    torch.save({"state_dict": tensors}, stem.with_suffix(".pt"))


def _audit(files: Path, *more: str, kind: str = "safetensors") -> list[str]:
    options = {"model": f"{files / 'net.py'}:make", "weights": files / f"w.{kind}", "update": files / f"u.{kind}", "input-shape": "3,2,2"}
    return ["audit", *(f"--{name}={value}" for name, value in options.items()), *more]


# translation


def test_demo_plays_a_round_with_its_defaults(calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert execute(["demo"]) == 0
    (call,) = calls.audits
    seen, truth = call["observation"], call["truth"]
    faces = plugins.build("datasets", "faces")
    assert torch.equal(truth.inputs, faces.batch(16, seeds.derive(0, "data")).inputs)
    expected = plugins.build("models", "mlp").build(faces.input_shape, 100, seeds.derive(0, "weights")).double()
    assert all(torch.equal(a, b) for a, b in zip(seen.model.parameters(), expected.parameters(), strict=True))
    assert {tensor.dtype for tensor in seen.update.values()} == {torch.float64}
    assert (seen.knowledge.batch_size, seen.knowledge.labels) == (False, False)
    assert (call["attack"], call["seed"]) == ("auto", 0)
    assert calls.written == [(Path("unbatch-report"), html.render)]


def test_demo_passes_on_what_it_is_told(calls: Calls, tmp_path: Path) -> None:
    options = ["--dataset=digits", "--batch-size=3", "--model=mlp:width=20,depth=2", "--attack=spear:seconds=9", "--seed=5", "--float32"]
    assert execute(["demo", "--out", str(tmp_path / "a" / "b"), *options]) == 0
    (call,) = calls.audits
    assert torch.equal(call["truth"].inputs, plugins.build("datasets", "digits").batch(3, seeds.derive(5, "data")).inputs)
    assert [tuple(p.shape) for p in call["observation"].model.parameters()] == [(20, 64), (20,), (10, 20), (10,)]
    assert call["observation"].dtype == torch.float32
    assert (call["attack"], call["seed"]) == ("spear:seconds=9", 5)
    assert calls.written[0][0] == tmp_path / "a" / "b"


def test_audit_knows_no_more_than_it_is_told(calls: Calls, files: Path) -> None:
    assert execute(_audit(files, f"--out={files / 'out'}")) == 0
    (call,) = calls.audits
    seen = call["observation"]
    assert (call["truth"], call["attack"], call["seed"]) == (None, "auto", 0)
    assert (seen.input_shape, seen.loss, seen.batch_size, seen.labels) == ((3, 2, 2), "cross_entropy", None, None)
    assert seen.schema == unbatch.Schema("image")
    assert not any(module.training for module in seen.model.modules())
    assert seen.dtype == next(seen.model.parameters()).dtype == torch.float64


def test_audit_passes_on_what_it_is_told(calls: Calls, files: Path) -> None:
    told = ["--attack=spear:seconds=9", "--loss=nll", "--batch-size=6", "--mean=0,0.1,0.2", "--std=1,2,3", "--train-mode", "--seed=4"]
    assert execute(_audit(files, f"--out={files / 'out'}", f"--truth={files / 't.npz'}", f"--labels={files / 't.npz'}", *told)) == 0
    (call,) = calls.audits
    seen = call["observation"]
    assert (call["attack"], call["seed"]) == ("spear:seconds=9", 4)
    assert (seen.loss, seen.batch_size, seen.labels.tolist()) == ("nll", 6, [0, 1, 2, 3, 0, 1])
    assert seen.schema == unbatch.Schema("image", (0.0, 0.1, 0.2), (1.0, 2.0, 3.0))
    assert all(module.training for module in seen.model.modules())
    assert np.array_equal(call["truth"].inputs.numpy(), np.load(files / "t.npz")["inputs"])


# exit codes


@pytest.mark.parametrize("status", Status)
def test_the_exit_code_says_how_it_ended(
    status: Status, files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = Calls(monkeypatch, status)
    applies = status is not Status.NOT_APPLICABLE
    assert execute(_audit(files, f"--out={files / 'out'}")) == {Status.NOT_APPLICABLE: 2, Status.BROKE_DOWN: 1}.get(status, 0)
    printed = capsys.readouterr()
    assert bool(calls.written) == applies
    assert (f"{status.name}: {status.value}" in printed.out) == applies
    assert "a reason" in (printed.out if applies else printed.err)
    code = execute(["demo", "--quiet", "--model=mlp:width=20,depth=2", f"--out={files / 'out'}"])
    # Every sample is there, whatever can be proved of it: the demo knows the batch.
    assert code == (0 if applies else 2)


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (unbatch.BadUpdate("this", "that", "mend it"), 2, "unbatch: expected this, got that: mend it"),
        (OutputFailed("the disk\nis full"), 2, "unbatch: the disk is full"),
        (ReconstructionFailed("PARTIAL"), 1, "unbatch: PARTIAL"),
        (KeyboardInterrupt(), 130, "unbatch: interrupted"),
        (ZeroDivisionError("a\nb"), 1, "unbatch: this is a bug in unbatch, please report it (--debug shows more): ZeroDivisionError: a b"),
        (RuntimeError("can't allocate memory: 9"), 1, "unbatch: the memory is not enough for this: can't allocate memory: 9"),
        (RuntimeError("CUDA out of memory. Tried"), 1, "unbatch: the memory is not enough for this: CUDA out of memory. Tried"),
    ],
)
def test_every_error_is_one_sentence(
    error: BaseException, code: int, sentence: str, files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("unbatch.auditing.audit", fail)
    assert execute(_audit(files, "--quiet", f"--out={files / 'out'}")) == code
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", sentence + "\n")
    assert not (files / "out").exists()
    if code != 130:
        assert execute(["--debug", *_audit(files, "--quiet", f"--out={files / 'out'}")]) == code
        assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["audit"], ["demo", "--no-such-option"], ["demo", "--seed=x"], ["no-such-command"]])
def test_a_wrong_command_line_is_misuse(arguments: list[str]) -> None:
    assert execute(arguments) == 2


def test_help_documents_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for code in ("0 done", "1 controlled failure", "2 misuse", "130 interrupted"):
        assert code in text


# the small commands


@pytest.mark.parametrize("kind", plugins.KINDS)
def test_list_and_describe_cover_every_plugin(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["list", kind]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert sorted(set(names) - {"attack", "auto"}) == plugins.names(kind)
    names = plugins.names(kind)
    for name in names:
        assert execute(["describe", name]) == 0
        assert f"{kind}: {name}" in capsys.readouterr().out


def test_attacks_are_listed_with_what_they_need_yield_and_cost(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert execute(["list", "attacks"]) == 0
    head, auto, *rows = capsys.readouterr().out.splitlines()
    assert auto.split()[0] == "auto"
    assert head.split() == ["attack", "needs", "yields", "cost"]
    assert rows[0].split()[0] == "one_sample"
    assert "a Linear layer fed the raw input, a batch of 1" in rows[0]
    for row in rows:
        cls = plugins.load("attacks", row.split()[0])
        assert cls.cost in row
        assert all(each.name.lower() in row for each in cls.yields)
    assert execute(["describe", "dlg"]) == 0
    described = capsys.readouterr().out
    assert "Needs:\n    the batch size" in described
    assert "samples that the update itself proves" in described
    assert "Cost: minutes" in described


def test_describe_gives_types_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["describe", "mlp"]) == 0
    printed = capsys.readouterr().out
    assert "width: int = 200" in printed
    assert "of every hidden layer" in printed
    assert ">>>" not in printed
    assert execute(["describe", "npz"]) == 0
    assert "path: str required" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["list", "cats"], ["describe", "cats"]])
def test_unknown_names_are_misuse(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(arguments) == 2
    assert "got 'cats'" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["--version"]) == execute(["version"]) == 0
    assert capsys.readouterr().out == f"unbatch {unbatch.__version__}\n" * 2


# the public API


def test_every_public_name_resolves_and_none_is_a_module_s() -> None:
    for name in unbatch.__all__:
        assert getattr(unbatch, name) is not None
        # Importing such a module would put it in the name's place.
        assert name == "__version__" or importlib.util.find_spec(f"unbatch.{name}") is None
    assert set(unbatch.__all__) <= set(dir(unbatch))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = unbatch.nothing


def _loaded(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('loaded', *sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return set(result.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import unbatch, unbatch.cli",
        "from unbatch.cli import execute; execute(['--help'])",
        "from unbatch.cli import execute; execute(['demo', '--help'])",
        "from unbatch.cli import execute; execute(['list', 'labels'])",
        "from unbatch.cli import execute; execute(['--version'])",
    ],
)
def test_what_needs_no_torch_does_not_import_it(code: str) -> None:
    assert not {"torch", "numpy", "scipy", "sklearn", "skimage"} & _loaded(code)


def test_a_public_name_imports_what_it_needs() -> None:
    assert "torch" in _loaded("import unbatch; unbatch.Status")
    assert "torch" not in _loaded("import unbatch; unbatch.Misuse")


# for real


@pytest.mark.parametrize("kind", ["safetensors", "npz", "pt"])
def test_audit_reconstructs_from_files(kind: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(_audit(files, f"--truth={files / 't.npz'}", f"--out={files / 'out'}", kind=kind)) == 0
    printed = capsys.readouterr().out
    assert "RECONSTRUCTED" in printed
    assert "6 of 6 samples" in printed
    assert "6 of 6 right" in printed
    assert str(files / "out" / "report.html") in printed
    assert json.loads((files / "out" / "report.json").read_text())["status"] == "RECONSTRUCTED"
    assert (files / "out" / "report.html").stat().st_size > 1000


def test_audit_without_a_truth_reconstructs_too(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(_audit(files, f"--out={files / 'out'}")) == 0
    printed = capsys.readouterr().out
    assert "RECONSTRUCTED" in printed
    assert "right" not in printed


def test_an_audit_that_finds_nothing_is_done_and_says_so(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(_audit(files, "--attack=spear:search=sampling,subsets=1", f"--out={files / 'out'}")) == 0
    assert "status   BUDGET_EXHAUSTED" in capsys.readouterr().out
    assert json.loads((files / "out" / "report.json").read_text())["status"] == "BUDGET_EXHAUSTED"


def test_demo_runs(tmp_path: Path) -> None:
    command = [*UNBATCH, "demo", "--batch-size=4", "--model=mlp:width=80,depth=3", "--out", str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert result.returncode == 0, result.stderr
    assert "4 of 4 right" in result.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.html", "report.json", "tensors.safetensors"}


def _interrupt(command: Sequence[str], sign: bytes, folder: Path) -> tuple[int, bytes]:
    """Start a command with a terminal for its stderr, press Ctrl-C when it has written the sign, and return how it ended.

    Ctrl-C is pressed again, as a person would, if nothing has happened for a while: Python drops one that falls into a destructor.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as under a shell's `&`: the process would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, cwd=folder, env=environment)
    os.close(theirs)
    written, sent, end = b"", -math.inf, time.monotonic() + 200
    while time.monotonic() < end:
        if select.select([ours], [], [], 0.2)[0]:
            try:
                written += os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
        if sign in written and time.monotonic() > sent + 5 and process.poll() is None:
            process.send_signal(signal.SIGINT)
            sent = time.monotonic()
    process.kill() if process.poll() is None and sent == -math.inf else None
    os.close(ours)
    return process.wait(60), written


def test_ctrl_c_ends_the_search_cleanly(tmp_path: Path) -> None:
    command = [*UNBATCH, "demo", "--batch-size=60", "--attack=spear:search=sampling,parallel=64", "--out=out"]
    code, written = _interrupt(command, b" subsets", tmp_path)
    assert code == 130, written
    assert written.rstrip().endswith(b"unbatch: interrupted")
    assert b"Traceback" not in written
    assert not list(tmp_path.iterdir())
