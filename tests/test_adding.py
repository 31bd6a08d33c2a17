"""One new file adds a method: the files of docs/adding.md, in a copy of the sources, through every command. Nothing else is edited."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unbatch.specs import KINDS

ROOT = Path(__file__).parents[1]
FILES = re.findall(r"```python\n# (\w+/\w+\.py)\n(.*?)```", (ROOT / "docs" / "adding.md").read_text(encoding="utf-8"), re.DOTALL)
ADDED = {name.partition("/")[0]: name.partition("/")[2].removesuffix(".py") for name, _ in FILES}

PROGRAM = """
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

import unbatch
from unbatch import plugins, testing
from unbatch.cli import execute

added, out = {added!r}, Path({out!r})
assert Path(unbatch.__file__).is_relative_to(out), unbatch.__file__
for kind, name in added.items():
    check = "check_restorer" if kind == "labels" else f"check_{{kind.removesuffix('s')}}"
    settings = ":steps=20" if kind == "attacks" else ""
    getattr(testing, check)(plugins.build(kind, name + settings))
    assert execute(["list", kind]) == 0
    assert execute(["describe", name]) == 0

played = ["--batch-size=1", "--model=one_hidden", "--defense=shrinking:factor=0.9", "--attack=downhill:steps=40,batch_size=1", "--quiet"]
assert execute(["demo", "--dataset=stripes", *played, f"--out={{out / 'demo'}}"]) == 1

batch = plugins.build("datasets", "stripes").batch(1)
model = plugins.build("models", "one_hidden").build((1, 8, 8), 2).double()
save_file(model.state_dict(), out / "w.safetensors")
save_file(unbatch.capture(model, batch.inputs, batch.labels), out / "u.safetensors")
np.savez(out / "t.npz", inputs=batch.inputs.numpy(), labels=batch.labels.numpy())
(out / "net.py").write_text(
    "from unbatch import plugins\\ndef build():\\n    return plugins.build('models', 'one_hidden').build((1, 8, 8), 2).double()\\n"
)
files = [f"--model={{out / 'net.py'}}:build", f"--weights={{out / 'w.safetensors'}}", f"--update={{out / 'u.safetensors'}}"]
files += ["--input-shape=1,8,8", "--batch-size=1"]
attacked = [f"--truth={{out / 't.npz'}}", "--attack=downhill:steps=40,batch_size=1", "--quiet", f"--out={{out / 'audit'}}"]
assert execute(["audit", *files, *attacked]) == 0
assert execute(["labels", *files, "--restorer=negative"]) == 0
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What the program says in a copy of the sources with the new files in it, and where it ran."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "src" / "unbatch", folder / "src" / "unbatch", ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in FILES:
        path = folder / "src" / "unbatch" / name
        assert not path.exists()
        path.write_text(text, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(folder / "src"), "COLUMNS": "300", "OMP_NUM_THREADS": "1"}
    program = PROGRAM.format(added=ADDED, out=str(folder))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=folder, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, folder


def test_there_is_a_file_of_every_kind_but_protocols() -> None:
    assert set(ADDED) == set(KINDS) - {"protocols"}


def test_they_are_listed_and_described(printed: tuple[str, Path]) -> None:
    said, _ = printed
    for kind, name in ADDED.items():
        assert re.search(rf"^{name}\b", said, re.MULTILINE)
        assert f"{kind}: {name}" in said
    assert "seconds: two backward passes a step" in said
    assert "the batch size, the scale of the update, a twice differentiable model" in said
    assert "factor: float = 0.5" in said


def test_they_are_played_audited_and_reported(printed: tuple[str, Path]) -> None:
    said, folder = printed
    for run in ("demo", "audit"):
        stored = json.loads((folder / run / "report.json").read_text())
        page = (folder / run / "report.html").read_text(encoding="utf-8")
        assert stored["attack"] == "downhill:steps=40,batch_size=1"
        assert "largest_error" in json.dumps(stored)
        assert "Largest error" in page
        assert "downhill:steps=40,batch_size=1" in page
    assert "shrinking:factor=0.9" in (folder / "demo" / "report.html").read_text(encoding="utf-8")
    assert "note     which classes are there, not how often" in said
