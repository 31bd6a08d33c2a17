"""What is published: the wheel and the sdist are built, and the wheel runs in an environment that holds nothing else.

Building and installing takes minutes and the package index: these tests are ``long``, and CI runs them (``make package``).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import unbatch

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CLEAN = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
MODEL = """
from torch import nn


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 60), nn.ReLU(), nn.Linear(60, 10))
"""


def run(*command: str | Path, cwd: Path, code: int = 0) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=CLEAN, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist."""
    pytest.importorskip("build", reason="build is not installed: it comes with the dev extra")
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, ROOT], check=True, capture_output=True)
    return folder


@pytest.mark.long
def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    wheel = next(built.glob("*.whl"))
    assert wheel.name == f"unbatch-{PROJECT['version']}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(f"unbatch-{PROJECT['version']}.dist-info/METADATA").decode()
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "unbatch").rglob("*") if path.is_file()}
    assert {name for name in names if name.startswith("unbatch/")} == {name for name in sources if "__pycache__" not in name}
    assert {"unbatch/py.typed", "unbatch/report/base.html", "unbatch/report/style.css"} <= names
    assert {name.split("/")[0] for name in names} == {"unbatch", f"unbatch-{PROJECT['version']}.dist-info"}
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert len(needed) == len(PROJECT["dependencies"])


@pytest.mark.long
def test_the_sdist_can_be_built_and_tested(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "src/unbatch/py.typed", "tests/test_packaging.py"} <= names
    assert not [name for name in names if name.split("/")[0] in (".venv", "site", "out", "dist")]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_wheel_runs_where_nothing_else_is_installed(built: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "env", cwd=tmp_path)
    python, program = tmp_path / "env" / "bin" / "python", tmp_path / "env" / "bin" / "unbatch"
    wheel = next(built.glob("*.whl"))
    run(python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", "torch", wheel, cwd=tmp_path)
    assert run(program, "--version", cwd=tmp_path) == f"unbatch {PROJECT['version']}\n"
    assert run(python, "-m", "unbatch", "list", "protocols", cwd=tmp_path) == "fedavg\nfedsgd\nsecure_aggregation\n"
    assert "spear" in run(python, "-m", "unbatch", "list", cwd=tmp_path)
    (tmp_path / "net.py").write_text(MODEL)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 60), nn.ReLU(), nn.Linear(60, 10))
    inputs, labels = torch.rand(4, 1, 8, 8), torch.arange(4)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    save_file(unbatch.capture(model, inputs, labels), tmp_path / "update.safetensors")
    np.savez(tmp_path / "truth.npz", inputs=inputs.numpy(), labels=labels.numpy())
    files = ["--weights", "weights.safetensors", "--update", "update.safetensors", "--truth", "truth.npz"]
    settings = ["--model", "net.py:build", "--input-shape", "1,8,8", "--fail-on", "exact", "--out", "report"]
    assert "4 of 4 samples" in run(program, "audit", *settings, *files, cwd=tmp_path, code=3)
    assert {path.name for path in (tmp_path / "report").iterdir()} >= {"report.html", "report.json"}


def test_the_version_stands_in_one_place() -> None:
    """``pyproject.toml`` has it; the program asks what was installed, and who cites it finds the same."""
    assert unbatch.__version__ == PROJECT["version"]
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert cited is not None
    assert cited[1] == PROJECT["version"]
    sources = [path for path in (ROOT / "src").rglob("*.py") if f'"{PROJECT["version"]}"' in path.read_text(encoding="utf-8")]
    assert sources == []


def test_every_requirement_is_pinned() -> None:
    """What the tests run with is told exactly: ``constraints.txt`` has a version for every package that is asked for."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    asked = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    assert [each for each in asked if re.split(r"[\[><=]", each)[0].lower() not in pinned] == []


def test_the_container_is_not_run_as_root() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert next(line for line in reversed(lines) if line.startswith("USER ")) != "USER root"
    assert 'ENTRYPOINT ["unbatch"]' in lines
