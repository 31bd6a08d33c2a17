"""Tables and tokens through the whole house: batch, protocol, attack, labels, scores, files, page. And nothing secret is printed."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from unbatch import auditing, plugins, store
from unbatch.contracts import Protocol
from unbatch.gradients import capture, per_example, replay
from unbatch.models.mlp import Mlp
from unbatch.report import html
from unbatch.schema import Categorical, Continuous, Schema
from unbatch.trace import LooksUp, linear_layers, run, trial
from unbatch.types import Batch, Counts, Finding, Knowledge, Reconstruction, Status

VOCABULARY = 50
PROTOCOLS = plugins.names("protocols")


def reader() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Embedding(VOCABULARY, 8), nn.Flatten(), nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 5)).double()


def texts(count: int = 12) -> Batch:
    tokens = torch.randint(VOCABULARY, (count, 3), generator=torch.Generator().manual_seed(1))
    return Batch(tokens, torch.arange(count) % 3, Schema("tokens", vocabulary=VOCABULARY, classes=tuple("abcde")))


def people(count: int = 6) -> Batch:
    days, towns = tuple("mtwrfsu"), ("a", "b", "c", "d")
    columns = (Continuous("age", 17, 90, "years", rounding=1), Categorical("sex", ("f", "m")), Continuous("grade", 1, 5, rounding=0.1))
    schema = Schema("table", classes=("no", "yes"), columns=(*columns, Categorical("day", days), Categorical("town", towns)))
    numbers = torch.linspace(0.3, 0.6, schema.width)
    scaled = replace(schema, mean=(40.0, *numbers[1:].tolist()), std=(10.0, *numbers[1:].tolist()))
    rows = [(20 + 7 * i, "fm"[i % 2], 1 + (i * 7 % 40) / 10, days[i * 3 % 7], towns[i * i % 4]) for i in range(count)]
    return Batch(scaled.encode(scaled.cells(rows)), torch.arange(count) % 2, scaled)


def test_the_tracer_feeds_tokens_to_a_model_that_looks_its_inputs_up() -> None:
    model = reader()
    seen = trial(model, (3,))
    assert (seen.vocabulary, seen.outputs.shape) == (VOCABULARY, (2, 5))
    assert [(call.weight, call.activation, call.raw) for call in linear_layers(model, (3,))] == [
        ("2.weight", "relu", False),
        ("4.weight", None, False),
    ]
    assert trial(Mlp(width=8).build((3,), 2), (3,)).vocabulary == 0
    with pytest.raises(LooksUp, match="an embedding of 50 rows"):
        run(model, torch.zeros(2, 3))


def test_an_embedding_of_one_number_does_not_see_the_raw_input() -> None:
    # As many numbers as tokens, and the same ones: but what the layer is fed are weights.
    model = nn.Sequential(nn.Embedding(4, 1), nn.Flatten(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.arange(4.0)[:, None])
    assert not linear_layers(model, (3,))[0].raw


def test_gradients_of_tokens_are_those_of_backward() -> None:
    model, batch = reader(), texts()
    model.zero_grad()
    nn.functional.cross_entropy(model(batch.inputs), batch.labels).backward()
    update = capture(model, batch.inputs, batch.labels)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(update[name], parameter.grad)
    singles = per_example(model, batch.inputs, batch.labels)
    torch.testing.assert_close({name: tensor.mean(dim=0) for name, tensor in singles.items()}, update)
    assert replay(model, update, batch.inputs, batch.labels).residual < 1e-12
    wrong = batch.inputs.clone()
    wrong[0, 0] = (wrong[0, 0] + 1) % VOCABULARY
    assert replay(model, update, wrong, batch.labels).residual > 1e-3


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_observes_tokens(name: str) -> None:
    protocol: Protocol = plugins.load("protocols", name)()
    observation = protocol.observe(reader(), texts())
    assert (observation.classes, observation.input_shape, observation.schema) == (5, (3,), texts().schema)


@pytest.mark.parametrize("name", plugins.names("attacks"))
def test_an_attack_on_tokens_ends_in_a_status_and_a_page(name: str, tmp_path: Path) -> None:
    batch = texts()
    observation = plugins.build("protocols", "fedsgd").observe(reader(), batch)
    finding = auditing.audit(observation, batch, plugins.load("attacks", name)())
    assert finding.reconstruction.status is Status.NOT_APPLICABLE or finding.reconstruction.inputs is not None
    assert finding.counts is not None
    store.save(finding, tmp_path)
    stored, _ = store.load(tmp_path)
    assert stored.input_schema.typed() == batch.schema
    assert html.write(tmp_path).is_file()


@pytest.mark.parametrize("name", plugins.names("labels"))
def test_labels_are_restored_from_a_model_that_reads_tokens(name: str) -> None:
    counts = plugins.load("labels", name)()(plugins.build("protocols", "fedsgd").observe(reader(), texts(1)))
    assert counts.applicable or counts.reason


def test_recovered_texts_are_stored_and_shown(tmp_path: Path) -> None:
    batch = texts(4)
    guess = batch.inputs.clone()
    guess[2, 1] = (guess[2, 1] + 1) % VOCABULARY
    finding = Finding(Reconstruction(Status.APPROXIMATE, guess, batch.labels), Knowledge(), batch.schema, (3,), 0, 1.0, batch)
    metrics = {name: plugins.load("metrics", name)() for name in plugins.names("metrics")}
    finding = auditing._scored(finding, batch, guess, metrics)
    assert finding.exact == (True, True, False, True)
    store.save(finding, tmp_path)
    _, tensors = store.load(tmp_path)
    assert torch.equal(tensors["inputs"], guess)
    page = html.write(tmp_path).read_text()
    assert page.count('class="wrong"') == 1
    assert "Tokens right" in page


def test_rows_of_a_table_are_found_scored_stored_and_shown(tmp_path: Path) -> None:
    few = people(4)
    model = Mlp(width=100, depth=3).build(tuple(few.inputs.shape[1:]), 2).double()
    finding = auditing.audit(plugins.build("protocols", "fedsgd").observe(model, few), few, "spear:seconds=20")
    assert finding.exact == (True,) * 4
    assert finding.scores == {"cell_accuracy": (1.0,) * 4, "cell_mae": (0.0,) * 4, "exact_row": (1.0,) * 4}
    store.save(finding, tmp_path)
    stored, _ = store.load(tmp_path)
    assert stored.input_schema.typed() == few.schema
    page = html.write(tmp_path).read_text()
    for text in ('<th scope="col">age</th>', "<td>34</td>", "<td>f</td>", "Cells right", "MAE of numbers"):
        assert text in page
    assert 'class="wrong"' not in page


def test_cells_that_differ_are_struck_out(tmp_path: Path) -> None:
    truth = people(2)
    guess = truth.schema.encode(truth.schema.cells([(20, "m", 1.0, "m", "a"), (27, "m", 1.8, "r", "b")]))
    finding = Finding(
        Reconstruction(Status.APPROXIMATE, guess, truth.labels), Knowledge(), truth.schema, tuple(truth.inputs.shape[1:]), 0, 1.0, truth
    )
    store.save(auditing._scored(finding, truth, guess, {}), tmp_path)
    assert re.findall(r'<td class="wrong">([^<]*)</td>', html.write(tmp_path).read_text()) == ["m", "1.8"]


@pytest.mark.parametrize("batch", [people(), texts()])
def test_nothing_secret_is_printed(batch: Batch) -> None:
    batch.inputs[:] = 7  # easy to find in a text
    counts = Counts(torch.tensor([7777, 0]), torch.tensor([True, False]), restorer="some", estimate=torch.tensor([7777.0, 0.0]))
    made = Reconstruction(Status.NOT_APPLICABLE, reason="no ReLU", attack="some")
    finding = Finding(made, Knowledge(), batch.schema, tuple(batch.inputs.shape[1:]), 0, 1.0, batch, counts=counts)
    for text in (repr(batch), repr(finding), str(finding), finding.summary()):
        assert "tensor" not in text
        assert "7777" not in text
        assert len(text) < 200
    assert "tensor" not in repr(counts)


def test_a_finding_and_counts_are_plain_for_json() -> None:
    batch = people(3)
    counts = Counts(torch.tensor([2, 1]), torch.tensor([True, True]), estimate=torch.tensor([2.1, 0.9]), stats={"where": Path("x")})
    made = Reconstruction(Status.APPROXIMATE, batch.inputs, batch.labels)
    metrics = {name: plugins.load("metrics", name)() for name in plugins.names("metrics")}
    finding = Finding(made, Knowledge(), batch.schema, (15,), 0, 1.0, batch, counts=counts)
    finding = auditing._scored(finding, batch, batch.inputs[:2], metrics)
    plain = json.loads(json.dumps(finding.to_dict(), allow_nan=False))
    assert plain["scores"]["exact_row"] == [1.0, 1.0, None]
    assert plain["counts"]["counts"] == [2, 1]
    assert plain["reconstructed"] == 3
    assert Schema.from_dict(plain["schema"]) == batch.schema
