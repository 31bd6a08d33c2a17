"""TabLeak: rows come back far above chance, told or restored labels, local steps; pooling and certainty; and every misuse in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from unbatch import plugins, store
from unbatch.attacks.tableak import PRESETS, TabLeak
from unbatch.auditing import audit
from unbatch.cli import execute
from unbatch.errors import Misuse
from unbatch.gradients import capture
from unbatch.inversion.tables import Relaxation, aligned, certainty, hard
from unbatch.models.mlp import Mlp
from unbatch.protocols.fedavg import FedAvg
from unbatch.report import html
from unbatch.schema import Categorical, Continuous
from unbatch.scoring import score
from unbatch.types import Batch, Observation, Schema, Status

COLUMNS = (Continuous("age", 0, 99, "years", rounding=1), Categorical("sex", ("f", "m")), Categorical("town", tuple("abcdef")))
SCHEMA = Schema("table", (40.0,) + 8 * (0.3,), (15.0,) + 8 * (0.45,), ("no", "yes"), COLUMNS)
QUICK = TabLeak(steps=200, members=4)
METRICS = {"cell_accuracy": plugins.load("metrics", "cell_accuracy")()}


def people(count: int = 3) -> Batch:
    rows = [(25 + 20 * i % 70, "fm"[i % 2], "abcdef"[i * 5 % 6]) for i in range(count)]
    return Batch(SCHEMA.encode(SCHEMA.cells(rows)).float(), torch.arange(count) % 2, SCHEMA)


def seen(batch: Batch, *, told: bool = True) -> Observation:
    model = Mlp(width=60, depth=3).build((9,), 2, 0)
    update = capture(model, batch.inputs, batch.labels)
    return Observation(model, update, (9,), batch_size=len(batch), labels=batch.labels if told else None, schema=SCHEMA)


def right(batch: Batch, guess: torch.Tensor | None) -> float:
    assert guess is not None
    return score(batch, guess, METRICS).mean("cell_accuracy")


@pytest.mark.parametrize("told", [True, False])
def test_rows_come_out(told: bool) -> None:
    batch = people()
    found = QUICK(seen(batch, told=told))
    assert right(batch, found.inputs) > 0.85
    assert torch.equal(hard(SCHEMA, found.inputs), found.inputs)  # type: ignore[arg-type]
    assert found.labels is not None
    assert set(found.labels.tolist()) == {0, 1}
    assert found.status is not Status.INCONSISTENT


@pytest.mark.parametrize("attack", [replace(QUICK, pooling="mean"), replace(QUICK, pooling="none"), replace(QUICK, bounded=False)])
def test_its_ablations_run_and_find_something(attack: TabLeak) -> None:
    batch = people(2)
    assert right(batch, attack(seen(batch)).inputs) > 0.6


def test_labels_may_be_searched() -> None:
    found = replace(QUICK, labels="searched", steps=60)(seen(people(2), told=False))
    assert found.labels is not None
    assert found.stats["labels"] == "searched"


def test_local_steps_are_unrolled() -> None:
    batch = people(2)
    model = Mlp(width=60, depth=3).build((9,), 2, 0)
    observation = FedAvg(epochs=2, learning_rate=0.01).observe(model, batch)
    found = replace(QUICK, steps=120)(replace(observation, batch_size=2, labels=batch.labels))
    assert right(batch, found.inputs) > 0.6


def test_certainty_is_handed_on_and_shown_in_the_report(tmp_path: Path) -> None:
    batch = people()
    finding = audit(seen(batch), batch, TabLeak(steps=20, members=3))  # too few to prove a row, which needs no certainty then
    sure = finding.reconstruction.certainty
    assert sure is not None
    assert sure.shape == (3, 3)
    assert bool(((sure >= 0) & (sure <= 1)).all())
    store.save(finding, tmp_path, html.render)
    assert "certain cells" in (tmp_path / store.HTML).read_text()


def test_a_budget_ends_it_with_the_best_so_far() -> None:
    found = TabLeak(members=4, seconds=0.3)(seen(people()))
    assert found.inputs is not None
    assert "its time was up" in found.reason
    assert not found.interrupted


def test_an_interrupt_gives_the_best_so_far() -> None:
    def stop(message: str, _: float) -> None:
        if message.startswith("step"):
            raise KeyboardInterrupt

    found = TabLeak(members=4)(seen(people()), progress=stop)
    assert found.inputs is not None
    assert found.interrupted


def test_relaxation_keeps_groups_and_bounds_and_its_slope_is_right() -> None:
    generator = torch.Generator().manual_seed(0)
    u = torch.randn((2, 3, 9), generator=generator, dtype=torch.float64, requires_grad=True)
    raw = SCHEMA.to_raw(Relaxation(SCHEMA)(u).flatten(0, 1))
    assert torch.allclose(raw[:, 1:3].sum(dim=1), torch.ones(6, dtype=torch.float64))
    assert torch.allclose(raw[:, 3:].sum(dim=1), torch.ones(6, dtype=torch.float64))
    assert bool(((raw[:, 0] > 0) & (raw[:, 0] < 99)).all())
    assert torch.autograd.gradcheck(Relaxation(SCHEMA), u)
    assert torch.equal(Relaxation(SCHEMA, softmax=False, bounded=False)(u), u)


def test_members_are_brought_beside_the_reference_within_a_class() -> None:
    rows = people(4).inputs.double()
    labels = torch.tensor([0, 1, 0, 1])
    members = torch.stack([rows, rows[[2, 3, 0, 1]]])
    assert aligned(SCHEMA, members, labels.expand(2, 4), 0, told=True).tolist() == [[0, 1, 2, 3], [2, 3, 0, 1]]
    # A row of the other class is never taken, however well it fits.
    crossed = torch.stack([rows, rows[[1, 0, 3, 2]]])
    assert all(labels[order].equal(labels) for order in aligned(SCHEMA, crossed, labels.expand(2, 4), 0, told=True))
    assert aligned(SCHEMA, crossed, labels.expand(2, 4), 0, told=False)[1].tolist() == [1, 0, 3, 2]


def test_members_that_agree_are_certain_and_those_that_do_not_are_not() -> None:
    rows = people(2).inputs.double()
    assert torch.allclose(certainty(SCHEMA, rows.expand(3, 2, 9)), torch.ones(2, 3, dtype=torch.float64))
    mixed = certainty(SCHEMA, torch.stack([rows, rows.flip(0)]))
    assert float(mixed[:, 1].max()) < 1e-6  # f and m, half each


@pytest.mark.parametrize(
    ("attack", "observation", "why"),
    [
        (TabLeak(), lambda: replace(seen(people()), batch_size=None, labels=None), "the batch size is not known"),
        (TabLeak(), lambda: replace(seen(people()), schema=Schema("vector")), "samples are of kind 'vector'"),
        (TabLeak(), lambda: replace(seen(people(), told=False), loss="nll"), "labels cannot be restored"),
    ],
)
def test_what_it_cannot_take_is_said(attack: TabLeak, observation: Callable[[], Observation], why: str) -> None:
    found = attack(observation())
    assert found.status is Status.NOT_APPLICABLE
    assert why in found.reason


def test_a_batch_size_may_be_assumed() -> None:
    unknown = replace(seen(people()), batch_size=None, labels=None)
    assert replace(QUICK, batch_size=3, steps=20)(unknown).inputs is not None


def test_settings_that_cannot_be_are_refused_and_presets_are_attacks() -> None:
    for wrong in ({"members": 0}, {"steps": 0}, {"seconds": 0.0}, {"batch_size": 0}, {"learning_rate": 0.0}):
        with pytest.raises(Misuse):
            TabLeak(**wrong)  # type: ignore[arg-type]
    assert all(plugins.build("attacks", preset.spec) == preset for preset in PRESETS.values())


# Tables at the command line

NET = """
from torch import nn

def build():
    return nn.Sequential(nn.Linear(9, 60), nn.ReLU(), nn.Linear(60, 60), nn.ReLU(), nn.Linear(60, 2))
"""
TOML = """
label = "rich"
classes = ["no", "yes"]
mean = [40, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3]
std = [15, 0.45, 0.45, 0.45, 0.45, 0.45, 0.45, 0.45, 0.45]
[[columns]]
name = "age"
range = [0, 99]
rounding = 1
[[columns]]
name = "sex"
levels = ["f", "m"]
[[columns]]
name = "town"
levels = ["a", "b", "c", "d", "e", "f"]
"""


def files(folder: Path, toml: str = TOML) -> list[str]:
    from safetensors.torch import save_file

    (folder / "net.py").write_text(NET)
    (folder / "people.toml").write_text(toml)
    names: dict[str, Callable[[], nn.Module]] = {}
    exec(NET, names)  # noqa: S102  (the text above)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = names["build"]().double()
    batch = people()
    save_file(dict(model.state_dict()), folder / "w.safetensors")
    save_file(capture(model, batch.inputs.double(), batch.labels), folder / "u.safetensors")
    parts = {"model": f"{folder / 'net.py'}:build", "weights": folder / "w.safetensors", "update": folder / "u.safetensors"}
    parts |= {"input-shape": "9", "schema": folder / "people.toml", "out": folder / "out"}
    return ["audit", "--quiet", *(f"--{name}={value}" for name, value in parts.items())]


def test_a_table_is_audited_with_its_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(files(tmp_path)) == 0, capsys.readouterr().err
    page = (tmp_path / "out" / "report.html").read_text()
    assert '<th scope="col">town</th>' in page
    assert "auto took spear" in page


BAD: dict[str, tuple[str, list[str], str]] = {
    "another width": (TOML.replace(', "f"]\n', ', "f", "g"]\n'), [], "a mean for each of the 10 numbers of a row in"),
    "contradicts the model": (
        TOML.replace("mean = [40, ", "mean = [").replace("std = [15, ", "std = [").replace('[[columns]]\nname = "age"\nrange = [0, 99]\n'
        "rounding = 1\n", ""),
        [],
        "expected samples of shape (8,) for the 2 columns of the table, got (9,)",
    ),
    "no TOML": ("[[columns", [], "a TOML or JSON file that says how to read an input"),
    "empty": ("", ["--attack=tableak"], "samples are of kind 'vector'"),
    "a misspelled key": (TOML.replace("rounding", "round"), [], "got 'round'"),
    "mean twice": (TOML, ["--mean=0", "--std=1"], "expected --schema, or --mean and --std, got both"),
    "no batch size": (TOML, ["--attack=tableak"], "the batch size is not known"),
    "no file": (TOML, ["--schema=nowhere.toml"], "nowhere.toml"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_schema_is_one_sentence_and_nothing_is_written(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toml, more, sentence = BAD[case]
    assert execute([*files(tmp_path, toml), *more]) == 2
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 1, printed.err
    assert sentence in printed.err
    assert printed.out == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("csv", "sentence"),
    [
        ("", "an empty file"),
        ("age,town,rich\n30,a,no\n", "columns named 'sex'"),
        ("age,sex,town,rich\n30,x,a,no\n", "one of the levels 'f', 'm' in column 'sex' in line 2"),
        ("age,sex,town,rich\n,f,a,no\n", "a value in column 'age' in line 2"),
    ],
)
def test_a_demo_on_a_bad_table_is_one_sentence_and_nothing_is_written(
    csv: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "people.toml").write_text(TOML)
    (tmp_path / "people.csv").write_text(csv)
    assert execute(["demo", "--quiet", f"--dataset=table:{tmp_path / 'people.csv'}", f"--out={tmp_path / 'out'}"]) == 2
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 1
    assert sentence in printed.err
    assert not (tmp_path / "out").exists()
