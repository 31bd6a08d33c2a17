"""The composite action: what a workflow gives becomes the options of one command, and its exit code comes back."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


def audited(folder: Path, code: int, **given: str) -> tuple[int, list[str], str]:
    """Exit code, arguments and outputs of the action's own script, with a program that says what it was given in the place of ours."""
    stub = folder / "unbatch"
    stub.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\"\nexit {code}\n")
    stub.chmod(0o755)
    inputs = {
        "MODEL": "m.py:f",
        "INPUT_SHAPE": "3,32,32",
        "WEIGHTS": "w",
        "UPDATE": "my update.npz",
        "FAIL_ON": "exact",
        "SARIF": "u.sarif",
    }
    environment = {**os.environ, "BASELINE": "", "ARGUMENTS": "", **inputs, **given, "GITHUB_OUTPUT": str(folder / "outputs")}
    environment["PATH"] = f"{folder}:{os.environ['PATH']}"
    script = yaml.safe_load((ROOT / "action.yml").read_text())["runs"]["steps"][-1]["run"]
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]  # as GitHub runs it
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return ran.returncode, ran.stdout.splitlines(), (folder / "outputs").read_text()


@pytest.mark.parametrize("arguments", ["--update-is weights --batch-size 8", "--update-is weights\n--batch-size 8\n", "--batch-size 8"])
def test_every_line_of_the_arguments_is_taken(tmp_path: Path, arguments: str) -> None:
    code, given, outputs = audited(tmp_path, 3, ARGUMENTS=arguments, BASELINE="known.json")
    assert code == 3
    assert outputs == "exit-code=3\n"
    assert given[:3] == ["audit", "--model", "m.py:f"]
    assert "my update.npz" in given
    assert given[given.index("--quiet") + 1 :] == [*arguments.split(), "--baseline", "known.json"]


def test_without_arguments_it_passes(tmp_path: Path) -> None:
    assert audited(tmp_path, 0)[0] == 0
