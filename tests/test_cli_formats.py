"""What programs read: JSON, SARIF, JUnit, Markdown; baselines; redacted reports; settings in files; and commands that can be run again."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import unbatch
from unbatch.cli import execute
from unbatch.cli.configuration import defaults
from unbatch.cli.output import FORMATS
from unbatch.cli.schema import SCHEMAS
from unbatch.errors import Misuse
from unbatch.report import formats, html
from unbatch.report.audits import of_audit
from unbatch.report.claims import Sheet
from unbatch.report.formats.sarif import KINDS
from unbatch.store import load, save
from unbatch.types import Finding, Knowledge, Reconstruction, Status

STANDARD = Path(__file__).parent / "standards" / "sarif-schema-2.1.0.json"

MODEL = """
from torch import nn

def relu():
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 60), nn.ReLU(), nn.Linear(60, 4))

def cnn():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 60), nn.ReLU(), nn.Linear(60, 4))
"""

SECRET = "4815162342"  # noqa: S105 -- of nobody
"""In the name of a class and nowhere else: no format may hold what was recovered."""


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two models, a gradient of each, and the weights after a step of the first; run from there."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(MODEL)
    names: dict[str, Any] = {}
    exec(MODEL, names)  # noqa: S102  (the text above)
    inputs = torch.rand((4, 3, 4, 4), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.arange(4)
    np.savez("t.npz", inputs=inputs.numpy(), labels=labels.numpy())
    for name in ("relu", "cnn"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model: nn.Module = names[name]().double()
        update = unbatch.capture(model, inputs, labels)
        save_file(model.state_dict(), f"w_{name}")
        save_file(update, f"u_{name}")
        save_file({key: tensor - 0.1 * update[key] for key, tensor in model.state_dict().items()}, f"a_{name}")
    return tmp_path


def run(command: str, *more: str, kind: str = "relu") -> int:
    return execute([command, f"--model=net.py:{kind}", f"--weights=w_{kind}", "--input-shape=3,4,4", "--quiet", *more])


def audit(*more: str, kind: str = "relu") -> int:
    named = [] if any(option.startswith("--attack") for option in more) else ["--attack=spear:seconds=10"]
    return run("audit", f"--update=u_{kind}", *named, *more, kind=kind)


# formats


def test_what_can_be_asked_for_can_be_written() -> None:
    assert tuple(formats.FORMATS) == FORMATS


def test_what_is_proved_is_the_same_in_every_format(played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code does not hang on the format, and nothing but the result is on standard output."""
    results = {}
    for name in ("json", "sarif", "junit", "md", "text"):
        assert audit(f"--format={name}", "--out=report", "--fail-on=exact") == 3
        results[name] = capsys.readouterr().out
    sheet = Sheet.model_validate_json(results["json"])
    assert (sheet.command, sheet.severity, sheet.exit_code) == ("audit", "disclosed", 3)
    assert [(claim.rule, claim.level) for claim in sheet.claims] == [("samples", "proved"), ("labels", "proved")]
    (sarif,) = json.loads(results["sarif"])["runs"]
    assert [(result["ruleId"], result["kind"], result["level"]) for result in sarif["results"]] == [
        ("samples", "fail", "error"),
        ("labels", "fail", "error"),
    ]
    assert [result["partialFingerprints"]["unbatch/v1"] for result in sarif["results"]] == [claim.fingerprint for claim in sheet.claims]
    assert sarif["invocations"][0]["exitCode"] == 3
    assert "## Disclosed" in results["md"]
    assert results["junit"].startswith("<?xml")
    assert "gate     leaked" in results["text"]
    assert {file.role for file in sheet.origin.files} == {"model", "weights", "update"}
    assert all(len(file.sha256) == 64 for file in sheet.origin.files)


@pytest.mark.parametrize(
    ("kind", "more", "code", "expected"),
    [
        ("cnn", [], 2, {"samples": "notApplicable", "labels": "fail"}),
        ("relu", ["--attack=spear:search=sampling,subsets=1"], 0, {"samples": "open", "labels": "fail"}),
    ],
)
def test_what_is_not_proved_is_no_failure_and_no_pass(
    kind: str, more: list[str], code: int, expected: dict[str, str], played: Path
) -> None:
    assert audit("-o", "r.sarif", *more, kind=kind) == code
    (found,) = json.loads(Path("r.sarif").read_text())["runs"]
    kinds = {result["ruleId"]: result["kind"] for result in found["results"]}
    assert kinds["samples"] == expected["samples"]
    assert "pass" not in kinds.values()
    assert found["invocations"][0]["executionSuccessful"] == (code == 0)


def test_kinds_are_those_that_sarif_has() -> None:
    assert KINDS == {"proved": "fail", "likely": "review", "unknown": "open", "not tested": "notApplicable"}


def test_sarif_is_what_its_schema_says(played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    standard = jsonschema.Draft4Validator(json.loads(STANDARD.read_text(encoding="utf-8")))
    assert audit("--format=sarif", "--out=report") == 0
    texts = [capsys.readouterr().out]
    assert audit("--format=sarif", "--out=report", kind="cnn") == 2
    texts.append(capsys.readouterr().out)
    assert run("labels", "--update=u_relu", "--batch-size=4", "--format=sarif") == 0
    texts.append(capsys.readouterr().out)
    assert run("exposure", "--format=sarif") == 0
    texts.append(capsys.readouterr().out)
    assert run("members", "--update=u_relu", "--candidates=t.npz", "--format=sarif") == 0
    texts.append(capsys.readouterr().out)
    for text in texts:
        assert [error.message for error in standard.iter_errors(json.loads(text))] == []


def test_members_speak_all_formats(played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Claims in numbers; which record it was is in the record of its own alone, and nowhere with --redact."""
    asked = ("members", "--update=u_relu", "--batch-size=4", "--candidates=t.npz")
    assert run(*asked, "--fail-on=present", "--out=page") == 3
    assert "gate     leaked" in capsys.readouterr().out
    page = Path("page/members.html").read_text()
    assert "Disclosed, proved" in page
    again = commands(page.partition('id="again"')[2])[0]
    assert execute([*again[1:], "--out", "again"]) == 3
    assert run(*asked, "-o", "r.sarif") == 0
    (found,) = json.loads(Path("r.sarif").read_text())["runs"]
    assert [(result["ruleId"], result["kind"]) for result in found["results"]] == [("members", "fail")]
    assert run(*asked, "-o", "before.json") == 0
    sheet = Sheet.model_validate_json(Path("before.json").read_text())
    assert {file.role for file in sheet.origin.files} == {"model", "weights", "update", "candidates"}
    assert sheet.upper_bounds
    capsys.readouterr()
    assert run(*asked, "--fail-on=present", "--baseline=before.json") == 0
    assert "gate     nothing new" in capsys.readouterr().out
    assert run(*asked, "--fail-on=present", "--exit-zero") == 0
    assert run(*asked, "--redact", "--out=page") == 0
    stored = json.loads(Path("page/members.json").read_text())
    assert (stored["answers"], stored["left_out"], stored["counts"]["PRESENT"]) == ([], True, 4)
    assert "left out" in Path("page/members.html").read_text()


def test_a_common_reader_reads_the_junit(played: Path) -> None:
    junitparser = pytest.importorskip("junitparser", reason="junitparser is not installed")
    assert audit("-o", "r.xml") == 0
    assert audit("-o", "n.xml", kind="cnn") == 2
    found, none = (junitparser.JUnitXml.fromfile(name) for name in ("r.xml", "n.xml"))
    assert (found.tests, found.failures, found.errors, found.skipped) == (2, 2, 0, 0)
    (suite,) = found
    assert [case.name for case in suite] == ["samples of 1.weight", "labels"]
    assert {case.classname for case in suite} == {"net.py:relu"}
    assert none.skipped >= 1
    assert none.failures < none.tests


def test_every_json_is_as_its_schema_says(played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    assert audit("--format=json", "--out=report") == 0
    texts = {"result": capsys.readouterr().out, "report": Path("report/report.json").read_text()}
    assert run("labels", "--update=u_relu", "--out=labels") == 0
    assert run("exposure", "--out=exposure") == 0
    assert run("members", "--update=u_relu", "--candidates=t.npz", "--out=members") == 0
    texts |= {name: Path(name, f"{name}.json").read_text() for name in ("labels", "exposure", "members")}
    capsys.readouterr()
    for name, text in texts.items():
        assert execute(["schema", name]) == 0
        schema = json.loads(capsys.readouterr().out)
        jsonschema.Draft202012Validator.check_schema(schema)
        assert [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(json.loads(text))] == []


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_schemas_that_are_published_are_those_of_the_code(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["schema", name]) == 0
    path = Path(__file__).parents[1] / "docs" / "schemas" / f"{name}.json"
    assert capsys.readouterr().out == path.read_text(encoding="utf-8"), f"write it again: unbatch schema {name} > {path}"


@pytest.mark.parametrize("name", ["sarif", "junit", "md", "text"])
def test_nothing_that_was_recovered_is_in_what_is_passed_on(name: str, played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not the labels by name, nor a number of a sample, on either stream; nor in anything's repr."""
    Path("names.txt").write_text("".join(f"class {SECRET}{i}\n" for i in range(4)))
    assert run("labels", "--update=u_relu", "--batch-size=4", "--class-names=names.txt", f"--format={name}", "--redact") == 0
    assert SECRET not in "".join(capsys.readouterr())
    assert audit(f"--format={name}", "--out=report", f"--truth={played / 't.npz'}") == 0
    printed = "".join(capsys.readouterr())
    stored, tensors = load(Path("report"))
    numbers = {f"{value:.6f}"[:7] for value in tensors["inputs"].flatten().tolist()}
    assert not any(number in printed for number in numbers if number.strip("0.") != "")
    assert f"{list(stored.labels or ())}" not in printed


def test_no_repr_holds_data(played: Path) -> None:
    inputs = torch.full((2, 48), 0.4815162342, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(48, 60), nn.ReLU(), nn.Linear(60, 4)).double()
    observation = unbatch.Observation(model, unbatch.capture(model, inputs, torch.tensor([1, 2])), (48,), labels=torch.tensor([1, 2]))
    batch = unbatch.Batch(inputs, torch.tensor([1, 2]))
    finding = unbatch.audit(observation, batch)
    counts = unbatch.restore_labels(observation)
    for private in (observation, batch, finding, finding.reconstruction, counts):
        assert "48151" not in repr(private)
        assert "tensor(" not in repr(private)


# files


def test_a_path_with_an_ending_is_a_file_and_nothing_else_is_written(played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit("-o", "deep/r.json") == 0
    assert [path.name for path in Path("deep").iterdir()] == ["r.json"]
    assert Path("deep/r.json").stat().st_mode & 0o777 == 0o600
    assert "RECONSTRUCTED" in capsys.readouterr().out
    assert not Path("unbatch-report").exists()


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--format=pdf"], "--format text, json, md, sarif or junit, got 'pdf'"),
        (["--format=json", "-o", "r.sarif"], "a file that ends like json, got r.sarif"),
        (["--baseline=net.py"], "a result of unbatch in JSON, got 'net.py'"),
        (["u_relu"], "one update, or one folder of them, got two"),
    ],
)
def test_misuse_is_one_sentence(more: list[str], complaint: str, played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(*more) == 2
    printed = capsys.readouterr()
    assert complaint in printed.err
    assert (printed.out, len(printed.err.splitlines())) == ("", 1)


def test_a_baseline_lets_pass_what_it_holds(played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit("-o", "before.json") == 0
    assert audit("--baseline=before.json", "-o", "now.sarif") == 0
    assert "gate     nothing new" in capsys.readouterr().out
    (found,) = json.loads(Path("now.sarif").read_text())["runs"]
    assert {result["baselineState"] for result in found["results"]} == {"unchanged"}
    plain = json.loads(Path("before.json").read_text())
    plain["claims"] = [claim for claim in plain["claims"] if claim["rule"] != "samples"]
    Path("before.json").write_text(json.dumps(plain))
    assert audit("--baseline=before.json", "-o", "now.json") == 3
    assert audit("--baseline=before.json", "-o", "now.json", "--exit-zero") == 0
    assert "passed as --exit-zero says" in capsys.readouterr().out
    assert run("exposure", "-o", "open.json") == 0
    assert run("exposure", "--baseline=open.json") == 0
    assert run("exposure", "--baseline=before.json") == 3
    assert run("labels", "--update=u_relu", "--baseline=now.json") == 0, "proved there already"


def test_exit_zero_does_not_hide_that_nothing_was_measured(played: Path) -> None:
    assert audit("--exit-zero", "-o", "r.sarif", kind="cnn") == 2


def test_a_redacted_report_holds_nothing_that_was_recovered(played: Path) -> None:
    assert audit("--redact", "--out=report", "--truth=t.npz") == 0
    stored, tensors = load(Path("report"))
    assert tensors == {}
    assert (stored.redacted, stored.labels, stored.true_labels, stored.scores, stored.exact) == (True, None, None, {}, ())
    assert (stored.reconstructed, stored.recovered, stored.batch, stored.proved) == (4, 4, 4, 4)
    page = Path("report/report.html").read_text()
    assert "left out" in page
    assert "data:image" not in page
    assert '"counts": null' in Path("report/report.json").read_text()
    assert run("labels", "--update=u_relu", "--batch-size=4", "--redact", "--out=labels") == 0
    told = json.loads(Path("labels/labels.json").read_text())["counts"]
    assert (told["counts"], told["presence"], told["ranges"], told["left_out"]) == (None, None, None, True)
    assert "Left out here on purpose" in Path("labels/labels.html").read_text()


# again, and next


def commands(text: str) -> list[list[str]]:
    """What a page or a screen says to run."""
    text = text.replace("&#39;", "'").replace("&#34;", '"').replace("\\\n", " ")
    return [shlex.split(line) for line in re.findall(r"unbatch (?:audit|labels|members|exposure) [^<\n]+", text)]


@pytest.mark.parametrize(
    "more",
    [
        ["--update=a_relu", "--update-is=weights", "--learning-rate=0.1", "--truth=t.npz", "--batch-size=4"],
        ["--update=u_relu", "--mean=-0.5,0,0.5", "--std=1,2,3", "--seed=7", "--attack=spear:seconds=20"],
    ],
)
def test_the_command_on_the_page_makes_the_same_report(more: list[str], played: Path) -> None:
    assert run("audit", *more, "--out=first") == 0
    page = Path("first/report.html").read_text()
    again = commands(page.partition('id="again"')[2])[0]
    again[again.index("--out") + 1] = "second"
    assert execute(again[1:]) == 0
    (one, first), (two, second) = load(Path("first")), load(Path("second"))
    assert first.keys() == second.keys()
    # In whatever order: a budget in seconds may have ended a part of the search elsewhere.
    assert float(torch.cdist(first["inputs"].flatten(1), second["inputs"].flatten(1)).amin(dim=1).max()) < 1e-9
    assert sorted(first["labels"].tolist()) == sorted(second["labels"].tolist())
    assert one.knowledge == two.knowledge
    assert one.input_schema == two.input_schema
    assert (one.attack, one.seed, one.status) == (two.attack, two.seed, two.status)


def test_the_command_of_the_demo_makes_the_same_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["demo", "--batch-size=3", "--model=mlp:width=60,depth=2", "--dataset=digits", "--quiet"]
    assert execute([*small, "--out=first"]) == 0
    origin = load(Path("first"))[0].origin
    assert origin is not None
    again = list(origin.command)[1:]
    again[again.index("--out") + 1] = "second"
    assert execute(again) == 0
    assert torch.equal(load(Path("first"))[1]["inputs"], load(Path("second"))[1]["inputs"])


def test_an_attack_that_does_not_apply_names_what_to_run(played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = ["--model=net.py:cnn", "--weights=w_cnn", "--update=u_cnn", "--input-shape=3,4,4", "--attack=spear:seconds=10"]
    assert execute(["audit", *told]) == 2
    said = commands(capsys.readouterr().err)
    assert [words[1] for words in said[-2:]] == ["labels", "exposure"]
    assert said[0][said[0].index("--attack") + 1] == "spear:layer=3"
    short = [word + ",seconds=2" if word == "spear:layer=3" else word for word in said[0]]  # else as long as the search may take
    for words in (short, *said[-2:]):
        assert execute(words[1:]) == 0, words


def test_a_spent_budget_names_a_longer_one(played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit("--attack=spear:search=sampling,subsets=1,seconds=2", "--out=report") == 0
    said = commands(capsys.readouterr().out)
    assert "spear:search=sampling,seconds=20.0,subsets=1" in said[0]


def test_inner_features_are_kept_and_shown(tmp_path: Path) -> None:
    features = torch.tensor([[1.25, 2.5, 0.0], [3.75, 0.5, 1.0]])
    proved = torch.tensor([True, True])
    made = Reconstruction(Status.FEATURES, features=features, layer="fc1.weight", proved=proved, accuracy=torch.zeros(2))
    finding = Finding(made, Knowledge(), unbatch.Schema(), (3, 4, 4), seed=0, seconds=0.1)
    save(finding, tmp_path, html.render)
    stored, tensors = load(tmp_path)
    assert torch.equal(tensors["features"], features)
    page = (tmp_path / "report.html").read_text()
    assert "What fc1.weight sees of the samples" in page
    assert "3.75" in page
    assert "Nothing was reconstructed" not in page
    assert [(claim.rule, claim.level) for claim in of_audit(stored).claims][:2] == [("samples", "unknown"), ("features", "proved")]


# many updates


def test_a_folder_of_updates_is_one_page_and_is_not_audited_twice(
    played: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("round").mkdir()
    Path("round/ward <1>.safetensors").write_bytes(Path("u_relu").read_bytes())
    Path("round/broken.safetensors").write_text("nothing")
    Path("round/README.md").write_text("no update")
    # Clients that were audited are played: what is to be seen is what becomes of their results.
    ran: list[list[str]] = []

    def played_by_itself(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        capsys.readouterr()
        code = execute(command[command.index("unbatch") + 1 :])
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(command, code, printed.out, printed.err)

    monkeypatch.setattr("unbatch.cli.many.subprocess.run", played_by_itself)
    assert run("audit", "round", "--out=many", "--fail-on=exact") == 3
    assert len(ran) == 2
    index = json.loads(Path("many/index.json").read_text())
    assert {client["client"]: client["exit_code"] for client in index["clients"]} == {"broken": 2, "ward <1>": 3}
    page = Path("many/index.html").read_text()
    assert 'href="ward%20%3C1%3E/report.html"' in page
    assert "ward &lt;1&gt;" in page
    assert "could not be audited" in page
    assert load(Path("many/ward <1>"))[0].origin.client == "ward <1>"  # type: ignore[union-attr]
    assert run("audit", "--update=round", "--out=many", "--fail-on=exact", "--format=junit") == 3
    assert len(ran) == 3, "only the broken one is tried again"
    Path("round/ward <1>.safetensors").write_bytes(Path("a_relu").read_bytes())
    run("audit", "round", "--out=many", "--fail-on=exact")
    assert len(ran) == 5, "what changed is audited again"


def test_a_folder_without_updates_is_misuse(played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    assert run("audit", "empty") == 2
    assert "updates in 'empty'" in capsys.readouterr().err
    for name in ("a.npz", "a.pt"):
        Path("empty", name).write_text("")
    assert run("audit", "empty") == 2
    assert "one update a client" in capsys.readouterr().err


# settings in files


def test_settings_of_the_folder_are_taken(played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("pyproject.toml").write_text(
        '[tool.unbatch]\nmodel = "net.py:relu"\nweights = "w_relu"\ninput-shape = [3, 4, 4]\n'
        '[tool.unbatch.audit]\nfail-on = ["exact", "labels"]\nquiet = true\nout = "report"\n'
    )
    assert execute(["audit", "--update=u_relu"]) == 3
    assert "settings from pyproject.toml" in capsys.readouterr().err
    origin = load(Path("report"))[0].origin
    assert origin is not None
    assert {"--model", "--weights", "--input-shape", "--fail-on"} <= set(origin.command), "what a file says is part of the command"
    assert execute(["--isolated", "audit", "--update=u_relu"]) == 2
    Path("unbatch.toml").write_text('model = "net.py:relu"\nweights = "w_relu"\ninput-shape = "3,4,4"\n')
    assert execute(["exposure", "--quiet"]) == 0, "the file of its own comes first, and options that a command has not are left out"
    assert execute(["--config=pyproject.toml", "audit", "--update=u_relu"]) == 3


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("modle = 'x'", "options of unbatch in"),
        ("[audit]\nmodle = 'x'", "options of `unbatch audit` in"),
        ("[attack]\nmodel = 'x'", "tables named like a command in"),
        ("model = 1979-05-27", "a value of 'model' in"),
        ("model = ", "settings in TOML"),
    ],
)
def test_settings_that_make_no_sense_are_refused(text: str, complaint: str, played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("unbatch.toml").write_text(text)
    assert audit() == 2
    printed = capsys.readouterr()
    assert complaint in printed.err
    assert len(printed.err.splitlines()) == 1


def test_a_table_of_a_command_has_the_last_word(tmp_path: Path) -> None:
    import typer

    from unbatch.cli import app

    path = tmp_path / "unbatch.toml"
    path.write_text("seed = 1\n[audit]\nseed = 2\n")
    found = defaults(path, typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert (found["audit"], found["labels"]["seed"]) == ({"seed": 2}, 1)
    with pytest.raises(Misuse):
        defaults(path, {})


# small things that a new user tries


def test_python_m_and_h_and_list_alone(capsys: pytest.CaptureFixture[str]) -> None:
    import runpy

    with pytest.raises(SystemExit) as end:
        runpy.run_module("unbatch", run_name="__main__", alter_sys=False)
    assert end.value.code in (0, 2)
    capsys.readouterr()
    for words in (["-h"], ["audit", "-h"], ["list", "-h"]):
        assert execute(words) == 0
    assert "--show-completion" in capsys.readouterr().out
    assert execute(["list"]) == 0
    assert "attacks: " in capsys.readouterr().out


def test_seeds_have_one_default() -> None:
    import typer

    from unbatch.cli import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    seeds = {name: parameter.default for name, one in commands.items() for parameter in one.params if parameter.name == "seed"}
    assert set(seeds.values()) == {0}
    assert {"audit", "demo", "exposure", "labels"} <= seeds.keys()


@pytest.mark.parametrize("kind", ["gradient", "difference"])
def test_weights_that_are_given_as_something_else_are_recognized(kind: str, played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("audit", "--update=a_relu", f"--update-is={kind}") == 2
    told = capsys.readouterr().err
    assert "of the broadcast weights" in told
    assert "--update-is weights" in told


@pytest.mark.parametrize("name", ["report.html", "report.pdf"])
def test_a_folder_is_not_named_like_a_file(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = f"exposure --model {tmp_path}/none.py:build --input-shape 4 -o {tmp_path}/{name}"
    assert execute(command.split()) == 2
    assert f"name the folder '{tmp_path}/report', in which the page is" in capsys.readouterr().err
    (tmp_path / name).mkdir()
    assert execute(command.split()) == 2
    assert "none.py" in capsys.readouterr().err, "a folder that is there is taken"
