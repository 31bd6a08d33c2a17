"""What reaches the terminal: nothing that it would obey, and no complaint about unbatch when it is gone or full."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from spoiled import Round
from unbatch.cli import execute
from unbatch.errors import BadFile, Misuse, printable
from unbatch.report import html
from unbatch.store import load

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\u2028\r\x00"
"""A title, a cleared screen, a color in one character, text turned around, a hidden line, the line's begin, nothing."""

DANGER = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029\u2066-\u2069]")
UNBATCH = [sys.executable, "-c", "from unbatch.cli import main; main()"]

MODEL = f"""
from torch import nn

EVIL = {EVIL!r}

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleDict({{"a" + EVIL: nn.Linear(12, 60), "b": nn.Linear(60, 4)}})

    def forward(self, x):
        return self.layers["b"](self.layers["a" + EVIL](x.flatten(1)).relu())

class Broken(Net):
    def forward(self, x):
        raise ValueError("no" + EVIL)

def raising():
    raise KeyError("no" + EVIL)

Net.__name__ = Net.__qualname__ = "Net" + EVIL[:-1]
"""


@pytest.fixture
def played(tmp_path: Path) -> Round:
    """A good round, whose model may be replaced by one with names that no one would choose."""
    r = Round(tmp_path)
    (tmp_path / "net.py").write_text(MODEL, encoding="utf-8")
    rename = {"1": f"layers.a{EVIL}", "3": "layers.b"}
    for kind, tensors in (("weights", r.weights), ("update", r.update)):
        renamed = {rename[name.partition(".")[0]] + "." + name.partition(".")[2]: tensor for name, tensor in tensors.items()}
        torch.save(renamed, r.paths[kind])
    return r


def audit(r: Round, factory: str = "Net", *more: str, **changed: Any) -> int:
    options = {"model": f"{r.folder / 'net.py'}:{factory}", "input-shape": "3,2,2", "out": r.out, **r.paths, **changed}
    return execute(["audit", *(f"--{name}={value}" for name, value in options.items()), *more])


def safe(text: str) -> bool:
    return DANGER.search(text.replace("\n", "").replace("\t", "")) is None


def test_a_whole_audit_of_evil_names(played: Round, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(played) == 0, capsys.readouterr().err
    printed = capsys.readouterr()
    assert "RECONSTRUCTED" in printed.out
    assert safe(printed.out + printed.err)
    page, report = (played.out / "report.html").read_text("utf-8"), (played.out / "report.json").read_text("utf-8")
    assert "\\x1b]0;owned\\x07" in page, "the layer's name, as it can be read"
    assert safe(page)
    assert safe(report)
    assert safe(str(load(played.out)[0].stats["layer"]))


CASES: dict[str, Callable[[Round], int]] = {
    "a model that raises": lambda r: audit(r, "raising"),
    "a forward that raises": lambda r: audit(r, "Broken"),
    "a factory's name": lambda r: audit(r, f"no{EVIL[:-1]}"),
    "a file's name": lambda r: audit(r, update=r.folder / f"no{EVIL[:-1]}.npz"),
    "a tensor's name": lambda r: (torch.save({f"x{EVIL}": torch.ones(2)}, r.paths["update"]), audit(r))[1],
    "a file in an archive": lambda r: (
        np.savez(r.folder / "u.npz", **{f"x{EVIL[:-1]}": np.array(["a"])}),
        audit(r, update=r.folder / "u.npz"),
    )[1],
    "a header": lambda r: (r.paths["update"].write_bytes(b"\x40\0\0\0\0\0\0\0{" + EVIL.encode() + b'"a"' * 30), audit(r))[1],
    "an attack's name": lambda r: audit(r, "Net", f"--attack=no{EVIL[:-1]}"),
    "an attack's setting": lambda r: audit(r, "Net", f"--attack=spear:seconds={EVIL[:-1]}"),
    "an option": lambda r: audit(r, "Net", f"--no{EVIL[:-1]}"),
    "an output folder": lambda r: audit(r, out=r.folder / "net.py" / EVIL[:-1]),
    "a plug-in's name": lambda _: execute(["describe", f"no{EVIL[:-1]}"]),
    "a data set's path": lambda _: execute(["demo", f"--dataset=npz:no{EVIL[:-1]}"]),
}


@pytest.mark.parametrize("debug", [[], ["--debug"]])
@pytest.mark.parametrize("case", CASES)
def test_sentences_about_evil_names(case: str, debug: list[str], played: Round, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    if debug:
        whole = execute
        monkeypatch.setitem(globals(), "execute", lambda arguments: whole([*debug, *arguments]))
    assert CASES[case](played) == 2
    printed = capsys.readouterr()
    assert safe(printed.out + printed.err), repr(printed.err)
    assert "bug in unbatch" not in printed.err


def test_class_names(played: Round, capsys: pytest.CaptureFixture[str]) -> None:
    (played.folder / "names.txt").write_text("cat\ndog" + EVIL.replace("\u2028", "").replace("\r", "") + "\nc\nd\n", encoding="utf-8")
    options = {"model": f"{played.folder / 'net.py'}:Net", "input-shape": "3,2,2", "class-names": played.folder / "names.txt"}
    options |= {**played.paths, "batch-size": 3, "out": played.folder / "labels"}
    assert execute(["labels", *(f"--{name}={value}" for name, value in options.items())]) == 0
    printed = capsys.readouterr()
    assert "dog\\x1b]0;owned" in printed.out
    assert safe(printed.out)
    for name in ("labels.html", "labels.json"):
        text = (played.folder / "labels" / name).read_text("utf-8")
        assert "owned" in text
        assert safe(text)


def test_exposure(played: Round, capsys: pytest.CaptureFixture[str]) -> None:
    for more in ([], ["--json"]):
        options = [f"--model={played.folder / 'net.py'}:Net", "--input-shape=3,2,2", f"--out={played.folder / 'exposed'}", *more]
        assert execute(["exposure", *options]) == 0
        printed = capsys.readouterr().out
        assert "owned" in printed.replace("\n", "").replace(" ", "")
        assert safe(printed)
    for name in ("exposure.html", "exposure.json"):
        assert safe((played.folder / "exposed" / name).read_text("utf-8"))


def test_a_report_that_a_stranger_wrote(played: Round) -> None:
    """Reading a report is as safe as writing one: pages are drawn anew from it."""
    assert audit(played, "Net", "--quiet") == 0
    path = played.out / "report.json"
    path.write_text(path.read_text("utf-8").replace('"reason": "', '"reason": "\\u001b[2J\\u009b1m'), encoding="utf-8")
    assert load(played.out)[0].reason.startswith("\\x1b[2J\\x9b1m")
    assert safe(html.write(played.out).read_text("utf-8"))


def test_errors_of_the_library_are_safe_to_print() -> None:
    error = BadFile(f"a file{EVIL}", EVIL, "mend it")
    assert safe(str(error))
    assert error.came == EVIL, "programs read what came"
    assert safe("".join(map(str, error.args))) or isinstance(error, Misuse)


@pytest.mark.parametrize("text", ["naïve Café 日本語 🐈‍⬛ می‌خواهم", "two\nlines\tand a tab", "≤ 10⁻⁷ – “quoted”", "no\xa0break"])
def test_text_that_people_write_stays(text: str) -> None:
    assert printable(text) == text


# streams that fail


def run(*arguments: str, stdout: Any = subprocess.DEVNULL, stderr: Any = subprocess.PIPE, **more: Any) -> tuple[int, str]:
    done = subprocess.run([*UNBATCH, *arguments], stdout=stdout, stderr=stderr, text=True, check=False, timeout=200, **more)
    return done.returncode, done.stderr or ""


def closed_pipe() -> int:
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


COMMANDS = [["list", "labels"], ["--help"], ["describe", "spear"], ["version"]]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_reader_who_has_enough_is_no_failure(arguments: list[str]) -> None:
    assert run(*arguments, stdout=closed_pipe()) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_full_disk_is_said_and_is_no_bug(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        code, said = run(*arguments, stdout=full)
    assert code == 2
    assert said == "unbatch: expected a standard output that can be written, got one that cannot (No space left on device): name another\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_where_nothing_can_be_said_the_exit_code_still_counts(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        assert run("list", "cats", stderr=full)[0] == 2
        assert run("list", "labels", stdout=full, stderr=full)[0] == 2
    assert run("list", "cats", stderr=closed_pipe())[0] == 2
    assert run("list", "labels", preexec_fn=lambda: (os.close(1), os.close(2)))[0] == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("place", ["full", "closed"])
def test_a_verdict_survives_its_printing(place: str, tmp_path: Path) -> None:
    """A gate that leaks stays a gate that leaks, and the report is written."""
    r = Round(tmp_path)
    paths = [f"--{name}={path}" for name, path in r.paths.items()]
    arguments = [
        "audit",
        "--quiet",
        f"--model={tmp_path / 'net.py'}:build",
        "--input-shape=3,2,2",
        f"--out={r.out}",
        "--fail-on=exact",
        *paths,
    ]
    full = os.open("/dev/full", os.O_WRONLY)
    code, said = run(*arguments, stdout=full if place == "full" else closed_pipe())
    assert code == 3
    assert "3 samples are proved disclosed" in said
    assert "bug" not in said
    assert {path.name for path in r.out.iterdir()} == {"report.html", "report.json", "tensors.safetensors"}
    assert len(safetensors.torch.load_file(r.out / "tensors.safetensors")["inputs"]) == 3


def test_a_terminal_of_ascii_gets_escapes(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 3))\n"
    )
    arguments = ["exposure", f"--model={tmp_path / 'net.py'}:build", "--input-shape=20"]
    with (tmp_path / "out").open("w") as out:
        code, said = run(*arguments, stdout=out, env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert (code, said) == (0, "")
    assert (tmp_path / "out").read_text().count("verdict") == 1
