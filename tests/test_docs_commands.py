"""Every command of README.md and docs/*.md, run as it stands there, with its exit code; and the Python between them.

A page may only hold commands that are listed here, so that a new one is run too. The files that a command names are made: one round of a
client with the model that the page speaks of. Tutorials are done from top to bottom by ``test_tutorials.py``.
"""

from __future__ import annotations

import copy
import math
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import unbatch
from unbatch.cli import execute
from unbatch.importers import load_model

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.parent.name != "tutorials")]
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
RUN = re.compile(r"- run: (?:>\n)?(.*?)(?=\n *- |\Z)", re.DOTALL)

CLIENT = """
import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(NUMBERS, 200), nn.ReLU(), nn.Linear(200, 10))


network = build


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--one-round", action="store_true")
    parser.add_argument("--public-data", action="store_true")
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    out.mkdir()
    torch.manual_seed(0)
    model, inputs, labels = build(), torch.rand(8, 3, 32, 32), torch.arange(8)
    np.savez(out / "before.npz", **{name: tensor.numpy() for name, tensor in model.state_dict().items()})
    torch.nn.functional.cross_entropy(model(inputs), labels).backward()
    torch.optim.SGD(model.parameters(), 0.01).step()
    np.savez(out / "after.npz", **{name: tensor.numpy() for name, tensor in model.state_dict().items()})
    np.savez(out / "batch.npz", inputs=inputs.numpy(), labels=labels.numpy())
"""


@dataclass(frozen=True)
class Run:
    """How a command ends.

    Attributes:
        code: its exit code, or those that it may have where only the attack's luck decides.
        samples: of the client whose files it is given.
        long: whether it takes minutes, and is left to `make test-long`.
        rate: with which it made one step of which it sends the weights; its gradient if None.
    """

    code: int | tuple[int, ...]
    samples: int = 8
    rate: float | None = None
    long: bool = False


AUDIT = "unbatch audit --model my_model.py:build --weights broadcast.safetensors --update client.safetensors --input-shape 3,32,32"
GATE = (
    "unbatch audit --model client.py:build --weights round/before.npz --update round/after.npz --update-is weights --learning-rate 0.01"
    " --input-shape 3,32,32 --truth round/batch.npz --fail-on exact,psnr:25 --out report"
)

STEP = (
    "unbatch audit --model client.py:build --weights round/before.npz --update round/after.npz --update-is weights --learning-rate 0.01"
    " --input-shape 3,32,32"
)
DEFEND = "--data public.npz --input-shape 3,32,32"

EXPECTED: dict[str, Run] = {
    f"{STEP} -o baseline.json": Run(0, rate=0.01),
    # Beside the baseline of another audit of the same model nothing is new; here there is none but an empty one.
    f"{STEP} --baseline baseline.json -o now.sarif": Run(3, rate=0.01),
    "unbatch exposure --model client.py:build --input-shape 3,32,32 --format junit": Run(0),
    "unbatch audit round --model client.py:build --weights before.npz --input-shape 3,32,32 --jobs 4 --fail-on exact --out report": Run(3),
    f"unbatch defend --model client.py:build {DEFEND} --batch-size 8,32 --out report": Run(0, long=True),
    f"unbatch defend --model my_model.py:build {DEFEND}": Run(0, long=True),
    "unbatch audit --model my_model.py:build --weights broadcast.safetensors --update client.safetensors --input-shape 9"
    " --schema people.toml --out report": Run(0, samples=4),
    f"{AUDIT} --out report": Run(0),
    f"{AUDIT.replace('audit', 'labels')} --batch-size 64": Run(0, samples=64),
    "unbatch exposure --model my_model.py:build --input-shape 3,32,32": Run(0),
    "unbatch audit ... --fail-on exact": Run(3),
    "unbatch audit ... --batch-size 4 --attack inverting_gradients:restarts=4": Run(0, samples=4, long=True),
    "unbatch demo": Run(0, long=True),
    "unbatch demo --batch-size 4 --attack cocktail_party:steps=300,seconds=20": Run((0, 1)),
    "unbatch demo --batch-size 1 --model lenet_zhu --attack dlg:batch_size=1,restarts=4,seconds=60": Run((0, 1), long=True),
    # Whether the demo's batch is found under these is the attack's affair; that it runs to its end is the page's.
    "unbatch demo --protocol fedavg:epochs=5": Run((0, 1)),
    "unbatch demo --protocol fedavg:epochs=2,batch_size=10 --defense pruning:share=0.9 --attack spear:seconds=20": Run((0, 1)),
    "unbatch demo --defense clipping:norm=0.1 --defense gaussian_noise:deviation=0.01": Run((1, 2)),
    "unbatch exposure --model net.py:build --weights w.safetensors --input-shape 3,32,32 --out report": Run(0),
    "unbatch labels --model net.py:build --weights w.safetensors --update u.safetensors --input-shape 1,28,28 --batch-size 64"
    " --class-names names.txt --out counts": Run(0, samples=64),
    "unbatch audit --model net.py:build --weights broadcast.safetensors --update client.npz --input-shape 3,32,32"
    " --update-is weights --learning-rate 0.01 --local-epochs 1 --batch-size 16": Run(0, samples=16, rate=0.01, long=True),
    "unbatch audit --model my_model.py:network --weights findings/round-1/client-ID/weights.safetensors"
    " --update findings/round-1/client-ID/reply.safetensors --update-is weights --learning-rate 0.1"
    " --batch-size 8 --input-shape 1,8,8 --out report": Run(0, rate=0.1),
    "unbatch members --model net.py:build --weights w.safetensors --update u.safetensors --input-shape 3,32,32 --batch-size 64"
    " --candidates batch.npz --fail-on present --out members": Run(3, samples=64),
    f"{AUDIT.replace('audit', 'members')} --batch-size 64 --candidates records.npz": Run(0, samples=64),
    GATE: Run(3, rate=0.01),
    "unbatch run plan.toml --dry-run": Run(0),
    "unbatch run plan.toml --out trials --reduced --executor processes --workers 2": Run(0),
    "unbatch report trials": Run(0),
    "python client.py --one-round --public-data --out round": Run(0),
    "unbatch audit --model client.py:build --input-shape 3,32,32 --weights round/before.npz --update round/after.npz --update-is weights"
    " --learning-rate 0.01 --truth round/batch.npz --fail-on exact,psnr:25 --out report --quiet": Run(3, rate=0.01),
}


def commands(page: Path) -> list[str]:
    """The commands of a page's blocks, and those in its text that are whole."""
    text, found = page.read_text(encoding="utf-8"), []
    for _, language, body in BLOCK.findall(text):
        if language in ("sh", "bash", "console", ""):
            lines = body.replace("\\\n", " ").splitlines()
            found += [line for line in lines if re.match(r"\s*(\$ )?(unbatch|make|pip|python)\b", line)]
        elif language == "yaml":
            found += RUN.findall(body)
    inline = re.findall(r"`((?:unbatch|make) [^`]+)`", BLOCK.sub("", text))
    found += [each for each in inline if len(each.split()) > 2 and "…" not in each and not each.endswith(("--fail-on", "--json"))]
    return [" ".join(re.sub(r"\s#.*", "", each).removeprefix("$ ").split()) for each in found]


def expected(command: str) -> Run | str | None:
    """How a command ends, or why it is not run, or None where nobody has said."""
    if command.startswith("pip "):
        return "installs packages"
    if command.startswith("make "):
        return "make builds an environment of its own first; that it knows the target is tested below"
    if command.startswith("unbatch run plans/"):
        return "takes hours; that every plan can be read is tested in tests/paper/test_claims.py"
    if command.startswith("python benchmarks/"):
        return "takes hours; that the script is there is tested below"
    return Run(0) if re.match(r"unbatch (list|describe|schema|version)\b", command) else EXPECTED.get(command)


ALL = [(page, command) for page in PAGES for command in commands(page)]


def make_settings(folder: Path, options: dict[str, str], shape: list[int]) -> None:
    """Public data, and a baseline that knows nothing yet."""
    if "data" in options:
        public = torch.rand((80, *shape), generator=torch.Generator().manual_seed(2)).numpy()
        np.savez(folder / options["data"], inputs=public, labels=np.arange(80) % 10)
    if "baseline" in options:
        (folder / options["baseline"]).write_text('{"claims": []}')


def make_files(folder: Path, command: str, run: Run) -> None:
    """One round of a client, under the names that the command has for its files."""
    options = dict(re.findall(r"--([\w-]+)[ =](\S+)", command))
    shape = [int(size) for size in options.get("input-shape", "3,32,32").split(",")]
    for name in ("client.py", "my_model.py", "net.py"):
        (folder / name).write_text(CLIENT.replace("NUMBERS", str(math.prod(shape))))
    make_settings(folder, options, shape)
    if command.startswith(("unbatch run", "unbatch report")):
        make_run(folder, command)
    if not (weights := options.get("weights")):
        return
    model = load_model(f"{folder / 'client.py'}:build")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for layer in model.modules():
            getattr(layer, "reset_parameters", lambda: None)()
    inputs, labels = torch.rand((run.samples, *shape), generator=torch.Generator().manual_seed(1)), torch.arange(run.samples) % 10
    sent: dict[str, torch.Tensor] = unbatch.capture(model, inputs, labels)
    if run.rate is not None:
        client = copy.deepcopy(model)
        F.cross_entropy(client(inputs), labels).backward()
        torch.optim.SGD(client.parameters(), run.rate).step()
        sent = client.state_dict()
    written: list[tuple[str | None, dict[str, Any]]] = [(weights, model.state_dict()), (options.get("update"), sent)]
    if "audit round " in command:
        written.append(("round/ward.safetensors", sent))
    written.append((options.get("truth", options.get("candidates")), {"inputs": inputs, "labels": labels}))
    for name, tensors in written:
        if name is None:
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("npz"):
            np.savez(folder / name, **{key: tensor.detach().numpy() for key, tensor in tensors.items()})
        else:
            save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, folder / name)
    (folder / "people.toml").write_text("".join(f'[[columns]]\nname = "number {i}"\n' for i in range(9)))
    (folder / "names.txt").write_text("".join(f"class {i}\n" for i in range(10)))


def make_run(folder: Path, command: str) -> None:
    """The plan of the page on experiments; and for a report of it, a run of a part."""
    page = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    (folder / "plan.toml").write_text(next(body for _, language, body in BLOCK.findall(page) if language == "toml"))
    if command.startswith("unbatch report"):
        part = ["--reduced", "--set", "datasets=digits", "--set", "models=mlp:width=100"]
        assert execute(["run", str(folder / "plan.toml"), "--out", str(folder / "trials"), *part]) == 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("page", "command"),
    [
        pytest.param(
            *each, id=f"{each[0].name}: {each[1][:70]}", marks=[pytest.mark.long] if getattr(expected(each[1]), "long", False) else []
        )
        for each in ALL
    ],
)
def test_the_command_ends_as_it_should(
    page: Path, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = expected(command)
    assert run is not None, f"{page.name} has a command that no test runs: {command}"
    if isinstance(run, str):
        pytest.skip(run)
    monkeypatch.chdir(tmp_path)
    full = command.replace("unbatch audit ...", f"{AUDIT} --out report")
    make_files(tmp_path, full, run)
    program, *arguments = shlex.split(full)
    if program == "python":
        assert subprocess.run([sys.executable, *arguments], check=False).returncode == run.code
        assert {path.name for path in (tmp_path / "round").iterdir()} == {"before.npz", "after.npz", "batch.npz"}
        return
    code = execute(arguments)
    printed = capsys.readouterr()
    assert code in (run.code if isinstance(run.code, tuple) else (run.code,)), printed.err
    assert "bug in unbatch" not in printed.err
    if arguments[0] == "run":
        assert (tmp_path / "trials" / "trials.jsonl").exists() == ("--dry-run" not in arguments)
    elif "--out" in arguments and code in (0, 3, 4):
        assert any(path.suffix == ".html" for path in (tmp_path / arguments[arguments.index("--out") + 1]).iterdir())


def test_every_command_that_is_listed_is_on_a_page() -> None:
    assert set(EXPECTED) <= {command for _, command in ALL}


@pytest.mark.parametrize("target", sorted({command.split()[1] for _, command in ALL if command.startswith("make ")}))
def test_what_make_is_asked_for_is_there(target: str) -> None:
    done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr


def test_scripts_that_pages_name_are_there() -> None:
    """They run for hours and are not run here; each writes the figures of its page, with the commit and the machine."""
    named = {name for page in PAGES for name in re.findall(r"python (benchmarks/\w+\.py)", page.read_text(encoding="utf-8"))}
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


# Python


def observed() -> dict[str, Any]:
    """What pages take for granted: a model, a batch, and an observation of it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 100), nn.ReLU(), nn.Linear(100, 10)).double()
    inputs = torch.rand((16, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    batch = unbatch.Batch(inputs, torch.arange(16) % 10)
    client = copy.deepcopy(model)
    F.cross_entropy(client(inputs), batch.labels).backward()
    torch.optim.SGD(client.parameters(), 0.01).step()
    before, after = ({name: tensor.clone() for name, tensor in one.state_dict().items()} for one in (model, client))
    observation = unbatch.Observation(model, unbatch.capture(model, inputs, batch.labels), (3, 32, 32), batch_size=16)
    return {"model": model, "batch": batch, "observation": observation, "before": before, "after": after, "unbatch": unbatch}


SNIPPETS = [(page, body) for page in PAGES for _, language, body in BLOCK.findall(page.read_text(encoding="utf-8")) if language == "python"]


@pytest.mark.parametrize(("page", "body"), SNIPPETS, ids=[page.name for page, _ in SNIPPETS])
def test_the_python_runs(page: Path, body: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if page.name == "flower.md":
        pytest.skip("needs Flower: tests/flower/test_docs.py runs it")
    if "opacus" in body or "epsilon" in body:
        pytest.importorskip("opacus")
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        exec(body, observed())  # noqa: S102
    assert os.listdir(tmp_path) == []  # noqa: PTH208  (the snippets write nothing)
