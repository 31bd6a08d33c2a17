import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from unbatch.advice import advise
from unbatch.errors import BadFile, OutputFailed
from unbatch.store import findings as store
from unbatch.types import Batch, Finding, Inverted, Knowledge, Reconstruction, Schema, Status

ENVIRONMENT = {"unbatch": "0.1.0", "torch": "2.13"}


def finding(status: Status = Status.RECONSTRUCTED, *, inputs: bool = True, truth: bool = True, **changes: object) -> Finding:
    """Three images of 2×2 pixels; the second true sample is not matched."""
    generator = torch.Generator().manual_seed(0)
    batch = Batch(torch.rand((3, 1, 2, 2), generator=generator, dtype=torch.float64), torch.tensor([2, 0, 1]))
    made = Reconstruction(
        status,
        batch.inputs[[2, 0]] if inputs else None,
        torch.tensor([1, 2]) if inputs else None,
        1e-14,
        "a reason",
        {"layer": "1.weight", "rank": 2, "gap": math.inf, "lost": math.nan, "counts": torch.tensor([1, 2]), "odd": {"a": (1, object)}},
        "spear:seconds=5.0",
        proved=torch.tensor([True, False]),
        accuracy=torch.tensor([1e-9, math.inf]),
        missing=1,
        layer="1.weight",
        inverted=Inverted("0.weight", 4),
        error="a\ntraceback",
    )
    scored = {
        "order": (1, -1, 0),
        "scores": {"psnr": (math.inf, math.nan, 80.5), "lpips": (math.nan,) * 3},
        "notes": {"lpips": "too small"},
        "exact": (True, False, True),
        "labels_right": (True, False, True),
    }
    fields = {
        "knowledge": Knowledge(remarks=("the loss was guessed",)),
        "schema": Schema("image", (0.5,), (0.25,), ("cat", "dog", "ship")),
        "input_shape": (1, 2, 2),
        "seed": 7,
        "seconds": 1.5,
        "truth": batch if truth else None,
        "environment": ENVIRONMENT,
        **(scored if inputs and truth else {}),
        **changes,
    }
    return Finding(made, **fields)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    saved = finding()
    store.save(saved, tmp_path / "a" / "b")
    stored, tensors = store.load(tmp_path / "a" / "b")
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["report.json", "tensors.safetensors"]
    assert (stored.status, stored.sentence, stored.verdict) == ("RECONSTRUCTED", Status.RECONSTRUCTED.value, saved.verdict)
    assert (stored.reason, stored.residual, stored.attack, stored.seed, stored.seconds) == ("a reason", 1e-14, "spear:seconds=5.0", 7, 1.5)
    assert stored.scores == {"psnr": (math.inf, None, 80.5), "lpips": (None, None, None)}
    assert stored.notes == {"lpips": "too small"}
    assert (stored.proved, stored.missing, stored.error) == (1, 1, "a\ntraceback")
    assert (stored.layer, stored.inverted) == ("1.weight", "0.weight")
    assert stored.accuracy == pytest.approx((1e-9, math.inf))
    assert (stored.order, stored.exact, stored.labels_right) == ((1, -1, 0), (True, False, True), (True, False, True))
    assert (stored.labels, stored.true_labels, stored.reconstructed) == ((1, 2), (2, 0, 1), 2)
    assert stored.knowledge == tuple(saved.knowledge.sentences())
    assert stored.input_schema.typed() == saved.schema
    assert stored.environment == ENVIRONMENT
    assert stored.advice == advise(saved) != ()
    assert stored.stats["gap"] == "inf"
    assert stored.stats["lost"] is None
    assert stored.stats["counts"] == [1, 2]
    assert set(tensors) == {"inputs", "labels", "truth_inputs", "truth_labels"}
    assert saved.truth is not None
    assert torch.equal(tensors["truth_inputs"], saved.truth.inputs)
    assert torch.equal(tensors["inputs"], saved.truth.inputs[[2, 0]])
    assert tensors["inputs"].dtype == torch.float64


def test_report_is_json_by_the_standard(tmp_path: Path) -> None:
    store.save(finding(), tmp_path)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    data = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert data["scores"]["psnr"] == ["Infinity", None, 80.5]
    assert data["format"] == store.FORMAT


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(), min_size=3, max_size=3), st.one_of(st.none(), st.floats(allow_nan=True)))
def test_every_float_survives(tmp_path_factory: pytest.TempPathFactory, values: list[float], residual: float | None) -> None:
    base = finding(scores={"mse": tuple(values)}, notes={})
    made = Reconstruction(Status.INCONSISTENT, base.reconstruction.inputs, base.reconstruction.labels, residual)
    folder = tmp_path_factory.mktemp("floats")
    store.save(Finding(**{**vars(base), "reconstruction": made}), folder)
    stored, _ = store.load(folder)
    assert stored.scores["mse"] == tuple(None if math.isnan(value) else value for value in values)
    assert stored.residual == (None if residual is None or math.isnan(residual) else residual)


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize(("inputs", "truth"), [(True, True), (True, False), (False, True), (False, False)])
def test_every_kind_of_finding_comes_back(tmp_path: Path, status: Status, inputs: bool, truth: bool) -> None:
    store.save(finding(status, inputs=inputs, truth=truth), tmp_path)
    stored, tensors = store.load(tmp_path)
    assert stored.status == status.name
    assert ("inputs" in tensors, "truth_inputs" in tensors) == (inputs, truth)
    assert (stored.true_labels is not None) == truth
    assert stored.reconstructed == (2 if inputs else 0)


def test_a_second_finding_replaces_the_first_and_its_page(tmp_path: Path) -> None:
    store.save(finding(), tmp_path)
    (tmp_path / "report.html").write_text("of the first")
    (tmp_path / "mine.txt").write_text("mine")
    store.save(finding(Status.PARTIAL, truth=False), tmp_path)
    stored, tensors = store.load(tmp_path)
    assert stored.status == "PARTIAL"
    assert "truth_inputs" not in tensors
    assert sorted(contents(tmp_path)) == ["mine.txt", "report.json", "tensors.safetensors"]


@pytest.mark.parametrize("stage", ["save_file", "write_text"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failing_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, error: BaseException) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        Path(args[1] if stage == "save_file" else args[0]).write_bytes(b"half")  # type: ignore[arg-type]
        raise error

    expected = OutputFailed if isinstance(error, OSError) else KeyboardInterrupt
    with monkeypatch.context() as patch:
        if stage == "save_file":
            patch.setattr(store, "save_file", fail)
        else:
            patch.setattr(Path, "write_text", fail)
        with pytest.raises(expected) as caught:
            store.save(finding(), tmp_path / "new" / "deep")
    assert list(tmp_path.iterdir()) == []
    if expected is OutputFailed:
        assert "No space left on device" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_failing_write_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save(finding(), tmp_path)
    (tmp_path / "report.html").write_text("page")
    before = contents(tmp_path)

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "save_file", fail)
    with pytest.raises(OutputFailed):
        store.save(finding(Status.PARTIAL), tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("check", [lambda folder: store.save(finding(), folder), store.check_writable], ids=["save", "check"])
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, check: object) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "taken" / "report.json").mkdir(parents=True)
    for folder in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "taken", Path("/proc/unbatch"), tmp_path / ("x" * 300)):
        with pytest.raises(OutputFailed, match=r"expected .* got .*: name another"):
            check(folder)  # type: ignore[operator]
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken"]
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["report.json"]


def test_checking_leaves_no_trace(tmp_path: Path) -> None:
    store.check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\ufffe", "[" * 100_000, '{"format": "1"}', '{"format": 2}', '{"format": 1}'])
def test_a_malformed_report_is_refused(tmp_path: Path, text: str) -> None:
    store.save(finding(), tmp_path)
    (tmp_path / "report.json").write_text(text, encoding="utf-8")
    with pytest.raises(BadFile):
        store.load(tmp_path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    store.save(finding(), tmp_path)
    (tmp_path / "report.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadFile, match="a report in JSON"):
        store.load(tmp_path)


def test_another_version_is_named(tmp_path: Path) -> None:
    store.save(finding(), tmp_path)
    data = json.loads((tmp_path / "report.json").read_text())
    (tmp_path / "report.json").write_text(json.dumps({**data, "format": 99}))
    with pytest.raises(BadFile, match="version 99"):
        store.load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"status": "SAFE"},
        {"order": [0, 1, 2]},
        {"order": [0, -2, 1]},
        {"order": [0]},
        {"exact": [True]},
        {"labels": [1]},
        {"scores": {"psnr": [1.0]}},
        {"reconstructed": 3, "labels": None},
        {"input_shape": [2, 2]},
        {"input_shape": []},
        {"input_schema": {"kind": "image", "mean": [0.0], "std": []}},
        {"surprise": 1},
    ],
    ids=str,
)
def test_a_report_that_contradicts_itself_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    store.save(finding(), tmp_path)
    data = json.loads((tmp_path / "report.json").read_text())
    (tmp_path / "report.json").write_text(json.dumps({**data, **change}))
    with pytest.raises(BadFile) as caught:
        store.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_tensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"report\.json"):
        store.load(tmp_path)
    store.save(finding(), tmp_path)
    path = tmp_path / "tensors.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadFile, match="a whole safetensors file"):
        store.load(tmp_path)
    save_file({"inputs": torch.zeros(5, 1, 2, 2), "truth_inputs": torch.zeros(3, 1, 2, 2)}, path)
    with pytest.raises(BadFile, match="from one run"):
        store.load(tmp_path)
    path.unlink()
    with pytest.raises(BadFile, match=r"tensors\.safetensors"):
        store.load(tmp_path)


@pytest.mark.parametrize("status", Status)
def test_advice_never_ends_at_safe(status: Status) -> None:
    advice = advise(finding(status))
    assert {"guarantee", "hides"} <= {measure.strength for measure in advice}
    assert (advice[0].strength == "next step") == (not status.disclosed)
    assert all(measure.works.endswith(".") and measure.costs.endswith(".") for measure in advice)


def test_advice_names_the_limits_of_the_layer() -> None:
    base = finding()
    made = Reconstruction(Status.RECONSTRUCTED, torch.zeros(2, 3, 32, 32), inverted=Inverted("1.weight", 200))
    advice = advise(Finding(**{**vars(base), "reconstruction": made, "input_shape": (3, 32, 32)}))
    text = next(measure.works for measure in advice if measure.title.startswith("Average"))
    assert "min(200 neurons, 3,072 inputs) = 200" in text
    assert "about 100, half of the 200 neurons" in text
