"""The section on counts of classes: what it says, what it leaves out, and the page of counts that stand alone."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from unbatch import store
from unbatch.errors import BadFile, OutputFailed
from unbatch.report import counts as page_of
from unbatch.report import html
from unbatch.report.counts import OPEN, chart
from unbatch.store.counts import StoredCounts, StoredLabels, stored_counts
from unbatch.store.findings import StoredFinding, load
from unbatch.types import Counts

Stored = Callable[..., StoredFinding]

NASTY = "\"'><script>alert(1)</script>{{ 7*7 }}"


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.partition("</style>")[2]))


def answer(counts: list[int], **changes: object) -> Counts:
    whole = torch.tensor(counts)
    return Counts(**{"counts": whole, "presence": whole > 0, "restorer": "anchored", **changes})  # type: ignore[arg-type]


def test_the_json_has_counts_truth_scores_and_floors(stored: Stored, tmp_path: Path) -> None:
    stored()
    told = json.loads((tmp_path / "report.json").read_text())["counts"]
    assert told["counts"] == told["true"] == [2, 2]
    assert told["source"] == "anchored"
    assert told["expected_error"] == 0.04
    assert set(told["scores"]) == {"restored", "guess", "zeros"}
    assert told["scores"]["restored"] == {"presence": 1.0, "counts": 1.0, "recall": 1.0, "exact": True}
    assert told["scores"]["zeros"]["counts"] == 0.0


def test_scores_are_those_of_the_counts() -> None:
    labels = torch.tensor([0] * 6 + [1] * 2)
    told = stored_counts(answer([4, 4, 0, 0]), labels)
    assert told.true == (6, 2, 0, 0)
    assert told.scores["restored"].model_dump() == {"presence": 1.0, "counts": 0.5, "recall": 0.75, "exact": False}
    assert told.scores["guess"].recall == 0.5
    assert told.scores["zeros"].counts == 0.5


def test_presence_alone_is_scored_alone() -> None:
    told = stored_counts(Counts(None, torch.tensor([True, False, True]), "which classes are there", restorer="rlg"), torch.tensor([0, 1]))
    assert told.counts is None
    assert told.presence == (True, False, True)
    assert told.scores["restored"].model_dump() == {"presence": 1 / 3, "counts": None, "recall": None, "exact": None}
    assert [(bar.name, bar.count, bar.true, bar.wrong) for bar in chart(told).groups[0][1]] == [
        ("0", "yes", 1, False),
        ("1", "–", 1, True),
        ("2", "yes", 0, True),
    ]


def test_without_an_answer_the_truth_is_not_stored() -> None:
    told = stored_counts(Counts(reason="no bias", restorer="anchored"), torch.tensor([0, 1]))
    assert told.true is None
    assert told.scores == {}
    assert chart(told).groups == ()
    assert "Not restored by anchored: no bias." in chart(told).lead


def test_a_truth_beyond_the_models_classes_is_not_scored() -> None:
    assert stored_counts(answer([2, 1]), torch.tensor([0, 1, 5])).true is None


def test_old_reports_without_counts_still_load(stored: Stored, tmp_path: Path) -> None:
    stored()
    path = tmp_path / "report.json"
    data = json.loads(path.read_text())
    del data["counts"]
    path.write_text(json.dumps(data))
    assert load(tmp_path)[0].counts is None
    assert "How many of each class" not in html.write(tmp_path).read_text()


@pytest.mark.parametrize(
    "change", [{"counts": [-1, 2]}, {"counts": [1]}, {"true": [1, 2, 3]}, {"proved": -1}, {"surprise": 1}, {"presence": "all"}], ids=str
)
def test_counts_that_contradict_themselves_are_refused(stored: Stored, tmp_path: Path, change: dict[str, object]) -> None:
    stored()
    path = tmp_path / "report.json"
    data = json.loads(path.read_text())
    data["counts"] |= change
    path.write_text(json.dumps(data))
    with pytest.raises(BadFile):
        load(tmp_path)


def test_the_page_names_classes_and_shows_truth_and_floors(stored: Stored, tmp_path: Path) -> None:
    stored(size=5)
    page = html.write(tmp_path).read_text()
    text = text_of(page)
    assert "cat (0) 3 3 dog (1) 2 2" in text
    assert "LnAcc, classes with the right count 1.000 1.000 0.000" in text
    assert "Determined: the update shows these counts, each to 0.04 of a sample" in text
    assert "A remark on counts." in text
    assert page.count('class="bar true"') == 3


def test_without_truth_there_is_one_bar_and_no_score(stored: Stored, tmp_path: Path) -> None:
    stored(truth=False)
    page = html.write(tmp_path).read_text()
    assert 'class="bar"' in page
    assert 'class="bar true"' not in page
    assert "LnAcc" not in page


def test_a_wrong_count_is_marked() -> None:
    shown = chart(stored_counts(answer([3, 1, 0]), torch.tensor([0, 0, 1, 1])))
    assert [(bar.count, bar.true, bar.wrong) for bar in shown.groups[0][1]] == [("3", 2, True), ("1", 2, True)]
    assert shown.absent == 1


def test_many_classes_are_sorted_and_folded() -> None:
    counts = list(range(100))
    shown = chart(stored_counts(answer(counts)))
    (_, first), (title, rest) = shown.groups
    assert [bar.count for bar in first] == [str(99 - i) for i in range(OPEN)]
    assert title == "75 more classes"
    assert len(rest) == 75
    assert shown.absent == 1
    assert first[0].share == 100
    assert first[1].share == pytest.approx(100 * 98 / 99)


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        (StoredCounts(source="told", counts=(1,), presence=(True,)), "The adversary was given the labels."),
        (StoredCounts(source="spear", counts=(3,), presence=(True,), proved=3), "the labels of the samples that spear reconstructed"),
        (
            StoredCounts(source="spear + anchored", counts=(3,), presence=(True,), proved=2),
            "2 labels are those of proved samples, found by spear; the rest was restored by anchored.",
        ),
        (StoredCounts(source="anchored", counts=(3,), presence=(True,)), "Read off the gradient of the last layer alone, by anchored"),
        (StoredCounts(source="anchored", counts=(3,), presence=(True,), trust=0.4), "an even guess bent by it"),
    ],
)
def test_the_source_is_said(told: StoredCounts, sentence: str) -> None:
    assert sentence in chart(told).lead


# --- alone ---


def labels(**changes: object) -> StoredLabels:
    counts = StoredCounts(source="anchored", counts=(5, 0, 1), presence=(True, False, True), determined=True, expected_error=0.01)
    told = {"counts": counts, "input_shape": (4,), **changes}
    return StoredLabels(**told)  # type: ignore[arg-type]


def test_the_page_alone(tmp_path: Path) -> None:
    page = page_of.write(labels(classes=("cat", "dog", NASTY), knowledge=(NASTY, "not the labels")), tmp_path / "new").read_text()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["labels.html", "labels.json"]
    text = text_of(page)
    assert "6 samples of 2 among 3 classes" in text
    assert "cat (0) 5" in text
    assert "1 other class has no sample." in text
    assert "<script" not in page
    assert "49" not in text
    assert not re.search(r"https?://|url\(|@import", page)
    assert json.loads((tmp_path / "new" / "labels.json").read_text())["counts"]["counts"] == [5, 0, 1]


def test_both_or_neither(tmp_path: Path) -> None:
    (tmp_path / "labels.json").mkdir()
    with pytest.raises(OutputFailed):
        page_of.write(labels(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["labels.json"]
    with pytest.raises(OutputFailed):
        store.check_writable(tmp_path, (page_of.HTML, page_of.JSON))


@pytest.mark.parametrize(
    ("told", "verdict"),
    [
        (StoredCounts(source="anchored", counts=(2, 1), presence=(True, True), trust=0.1), "says little of its labels"),
        (
            StoredCounts(source="rlg", presence=(True, False)),
            "are 1 of 2 classes; that they are right is not determined.",
        ),
        (StoredCounts(source="rlg", presence=(True, True), ranges=((0.3, 1.0), (0.0, 0.7))), "of which 1 surely have samples"),
        (StoredCounts(source="anchored", reason="no bias"), "The labels were not restored; this does not show that the update is safe."),
    ],
)
def test_the_verdict_promises_no_more_than_there_is(tmp_path: Path, told: StoredCounts, verdict: str) -> None:
    assert verdict in text_of(page_of.write(labels(counts=told), tmp_path).read_text())
