"""Tokens through the command line: named in the report, never in SARIF or JUnit, gone with --redact, and a gate of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import clients
from unbatch.cli import execute

TRUE = [4, 5, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43]
NAMED = [token for token in TRUE if token != 19]
"""19 stands at the last place alone, which has no next token to learn: it leaves no gradient, and is not called absent."""


def played(folder: Path, factory: str) -> str:
    """A language model's client: three steps of AdamW on the next token; the options that name its files."""
    torch.manual_seed(0)
    model = getattr(clients, factory)()
    torch.save(model.state_dict(), folder / "w.pt")
    x = torch.tensor(TRUE + TRUE[:6] + TRUE[::-1][:6]).reshape(4, 6)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(x)[:, :-1].flatten(0, 1), x[:, 1:].flatten()).backward()
        optimizer.step()
    torch.save(model.state_dict(), folder / "u.pt")
    files = f"--model {Path(clients.__file__)}:{factory} --weights {folder}/w.pt --update {folder}/u.pt --input-shape 6"
    return f"{files} --update-is weights --optimizer adamw --learning-rate 1e-3 --local-epochs 3 --quiet"


def test_a_language_model_names_its_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = played(tmp_path, "language_model")
    assert execute(f"audit {options} --out {tmp_path}/report".split()) == 0
    out = capsys.readouterr().out
    assert "This update names the tokens of its batch: 11 of the 50 that there are" in out
    stored = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert [(found["table"], found["tokens"], found["names"]) for found in stored["lookups"]] == [("tokens.weight", NAMED, True)]
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "Tokens disclosed" in page
    assert ", ".join(map(str, NAMED)) in page
    assert execute(f"audit {options} --out {tmp_path}/redacted --redact --fail-on tokens".split()) == 3
    assert "11 of 50 tokens are named" in capsys.readouterr().err
    for name in ("report.html", "report.json"):
        assert "11, 13, 17" not in " ".join((tmp_path / "redacted" / name).read_text(encoding="utf-8").split())
    assert json.loads((tmp_path / "redacted" / "report.json").read_text(encoding="utf-8"))["lookups"][0]["tokens"] is None


@pytest.mark.parametrize("format_", ["sarif", "junit", "md"])
def test_formats_hold_no_token(format_: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(f"audit {played(tmp_path, 'language_model')} --format {format_}".split()) == 0
    out = capsys.readouterr().out
    assert "11 of 50 tokens are named by the gradient of tokens.weight" in out
    assert "11, 13" not in " ".join(out.split())


def test_a_tied_table_names_none_and_the_gate_cannot_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(f"audit {played(tmp_path, 'tied_language_model')} --fail-on tokens".split()) in (2, 4)
    told = " ".join(capsys.readouterr().err.split())
    assert "tied output layer" in told or "one row of class scores a sample" in told


def test_exposure_and_the_other_commands_of_a_language_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = played(tmp_path, "language_model")
    network = options.split(" --update ")[0]
    assert execute(f"exposure {network} --input-shape 6 --format json".split()) == 0
    sheet = json.loads(capsys.readouterr().out)
    assert [claim["where"] for claim in sheet["claims"] if claim["rule"] == "exposed-tokens"] == ["tokens"]
    assert sheet["verdict"].startswith("The tokens of a batch of any size can be read off the gradient of tokens.")
    for command in ("labels", f"members --candidates {tmp_path}/none.npz"):
        code = execute([*command.split(), *options.replace(" --quiet", "").split()])
        assert code == 2
        assert "one row of class scores a sample" in capsys.readouterr().err
