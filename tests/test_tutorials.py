"""The tutorials, done from top to bottom in an empty folder: files are saved under their titles, commands are run.

What a page shows as printed is printed. The one on federations needs Flower: ``tests/flower/test_docs.py`` does it.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from unbatch.cli import execute

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w+)(?: title=\"([\w.]+)\")?\n(.*?)^```", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"\s*# exit code (\d)$")


def steps(page: str) -> Iterator[tuple[str, str, str]]:
    """Language, title and body of every block of a page."""
    return (found.groups() for found in BLOCK.finditer((ROOT / "docs" / "tutorials" / page).read_text(encoding="utf-8")))


def done(body: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run the commands of a block; what they print."""
    for line in body.replace("\\\n", " ").splitlines():
        code = CODE.search(line)
        program, *arguments = shlex.split(CODE.sub("", line))
        if program == "python":
            assert subprocess.run([sys.executable, *arguments], check=False).returncode == 0
        else:
            assert program == "unbatch"
            assert execute(arguments) == (int(code[1]) if code else 0), capsys.readouterr().err
    return capsys.readouterr().out


def follow(page: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Do the page; what its last command printed."""
    printed = ""
    for language, title, body in steps(page):
        if title:
            Path(title).write_text(body, encoding="utf-8")
        elif language == "sh":
            printed = done(body, capsys)
        else:
            assert language == "text", f"{page} has a block that nobody runs: {body}"
            assert [line for line in body.splitlines() if line not in printed] == []
    return printed


def test_the_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    follow("audit.md", capsys)
    assert (tmp_path / "report" / "report.html").exists()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_defense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    printed = follow("defense.md", capsys)
    assert (tmp_path / "defend" / "defend.html").exists()
    assert "8 of 8" in printed
    assert "0 of 8" in printed


def test_every_tutorial_is_done() -> None:
    assert {path.name for path in (ROOT / "docs" / "tutorials").glob("*.md")} == {"audit.md", "defense.md", "federation.md"}
