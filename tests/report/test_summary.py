import math
import shlex
from collections.abc import Callable

import pytest

from unbatch.origin import Origin
from unbatch.report import summary
from unbatch.report.audits import of_audit
from unbatch.report.summary import Severity
from unbatch.store.findings import StoredFinding
from unbatch.types import Status

Stored = Callable[..., StoredFinding]


@pytest.mark.parametrize(
    ("status", "severity"),
    [
        (Status.RECONSTRUCTED, Severity.DISCLOSED),
        (Status.PARTIAL, Severity.PARTLY),
        (Status.APPROXIMATE, Severity.PARTLY),
        (Status.UNPROVEN, Severity.PARTLY),
        (Status.INCONSISTENT, Severity.NOT_SHOWN),
        (Status.BUDGET_EXHAUSTED, Severity.NOT_SHOWN),
        (Status.NOT_APPLICABLE, Severity.NOT_SHOWN),
        (Status.BROKE_DOWN, Severity.NOT_SHOWN),
    ],
)
def test_severity(stored: Stored, status: Status, severity: Severity) -> None:
    assert summary.severity(stored(status, truth=False)) is severity


def test_every_status_has_words(stored: Stored) -> None:
    for status in Status:
        told = stored(status)
        assert summary.badge(told)
        assert summary.meaning(told).endswith(".")


@pytest.mark.parametrize("status", [Status.INCONSISTENT, Status.BUDGET_EXHAUSTED, Status.NOT_APPLICABLE, Status.BROKE_DOWN])
def test_a_failure_is_never_called_safe(stored: Stored, status: Status) -> None:
    told = stored(status, found=0)
    assert "not show that the update is safe" in summary.meaning(told)
    assert summary.measures_title(told) != "What would have prevented it"
    assert told.advice[0].strength == "next step"


def test_headline_with_truth(stored: Stored) -> None:
    figures = {figure.label: figure.value for figure in summary.headline(stored(found=3))}
    assert figures == {
        "Exact samples": "3 of 4",
        "Median PSNR": "150.2 dB",
        "Labels right": "3 of 4",
        "Replay residual": "1.0 × 10⁻¹⁴",
        "Time": "1 min 15 s",
    }


def test_headline_without_truth_claims_nothing_about_it(stored: Stored) -> None:
    figures = {figure.label: figure.value for figure in summary.headline(stored(truth=False))}
    assert figures == {"Samples found": "4", "Replay residual": "1.0 × 10⁻¹⁴", "Time": "1 min 15 s"}


def test_headline_of_what_is_proved(stored: Stored) -> None:
    told = stored().model_copy(update={"proved": 4, "accuracy": (1e-9, 3e-8, None, 2e-9), "missing": 2})
    (proved,) = (figure for figure in summary.headline(told) if figure.label == "Proved samples")
    assert (proved.value, proved.hint) == ("4", "by the update, each right to 3.0 × 10⁻⁸ of its size; 2 more not found")
    unbounded = told.model_copy(update={"accuracy": (math.inf,) * 4, "missing": None})
    assert next(figure.hint for figure in summary.headline(unbounded) if figure.label == "Proved samples") == "by the update"


def test_headline_of_nothing(stored: Stored) -> None:
    figures = {figure.label: figure.value for figure in summary.headline(stored(Status.BUDGET_EXHAUSTED, found=0))}
    assert figures == {"Samples found": "0 of 4", "Time": "1 min 15 s"}


def test_how_it_was_done_is_in_plain_words(stored: Stored) -> None:
    rows = dict(summary.how_it_was_done(stored()))
    assert rows["attack"] == "spear"
    assert rows["settings"] == "seconds=60.0"
    assert rows["one sample"] == "3 × 8 × 8 = 192 numbers"
    assert rows["subsets of neurons tried"] == "131,072"
    assert rows["other thing"] == "1, 2.5"
    assert "seconds" not in rows


def test_metrics_known_first(stored: Stored) -> None:
    assert [key for key, _, _ in summary.metric_names(stored())] == ["psnr", "mse", "lpips"]


def test_the_command_to_copy_cannot_be_poisoned(stored: Stored) -> None:
    attack = "spear; rm -rf ~ #'$(id)"
    command = ("unbatch", "audit", "--model", "a b.py:net", "--mean=-0.5", "--attack", attack, "--seed", "3")
    told = stored().model_copy(update={"attack": attack})
    nothing, snippet = summary.reproduce(told)
    assert nothing == ""
    compile(snippet, "snippet", "exec")
    assert repr(attack) in snippet
    said, nothing = summary.reproduce(told.model_copy(update={"origin": Origin(date="", command=command)}))
    assert nothing == ""
    assert shlex.split(said.replace("\\\n", " ")) == list(command)


@pytest.mark.parametrize("status", [Status.INCONSISTENT, Status.BUDGET_EXHAUSTED, Status.APPROXIMATE, Status.UNPROVEN])
def test_the_truth_enters_the_headline(stored: Stored, status: Status) -> None:
    """What is not proved but is the client's own is no calm page."""
    whole, part, none = stored(status), stored(status, found=2), stored(status, found=0)
    assert summary.severity(none) is not Severity.DISCLOSED
    assert [summary.severity(each) for each in (whole, part)] == [Severity.DISCLOSED, Severity.PARTLY]
    assert whole.verdict.startswith("All 4 samples of this batch were recovered exactly, as the truth shows")
    assert part.verdict.startswith("2 of the 4 samples")
    assert summary.badge(whole) == "Recovered, as the truth shows"
    assert "recovered exactly" not in none.verdict
    assert of_audit(whole).claims[0].level == "proved"


def test_what_is_not_proved_is_not_called_reconstructed(stored: Stored) -> None:
    for status in Status:
        told = stored(status, truth=False)
        assert (summary.samples_title(told) == "What was reconstructed") == status.disclosed
        assert summary.caption(told) == ("Restored" if status.disclosed else "Proposed")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (float("nan"), "–"),
        (float("inf"), "∞"),
        (float("-inf"), "−∞"),
        (-0.5, "−0.5"),
        (-2e-7, "−2.0 × 10⁻⁷"),
        (999.94, "999.9"),
        (1e6, "1.0 × 10⁶"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert summary.number(value) == text


def test_seconds_that_make_no_sense() -> None:
    assert [summary.seconds(value) for value in (float("nan"), -1.0, float("inf"), 59.96, 0.9996)] == ["–", "–", "–", "1 min 0 s", "1.0 s"]
