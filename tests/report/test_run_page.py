"""The page of a run: what it counts, how sure it is, what it draws, and that it is quick and safe with thousands of trials."""

from __future__ import annotations

import csv
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from unbatch.errors import BadFile
from unbatch.report import runs
from unbatch.report.cells import gather, varying, wilson
from unbatch.report.curves import charts
from unbatch.store.trials import TRIALS, RunHeader, TrialRecord, TrialStore

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c6360000000020001e221bc330000000049454e44ae426082"
)


def record(number: int, **values: Any) -> TrialRecord:
    plain: dict[str, Any] = {"outcome": "done", "dataset": "faces", "model": "mlp", "batch_size": 4, "attack": "spear", "seed": number}
    plain |= {"status": "RECONSTRUCTED", "whole": True, "exact": 4, "scores": {"psnr_worst": 100.0}, "seconds": 0.5}
    return TrialRecord(id=f"{number:04x}", code=values.pop("code", "c"), **(plain | values))


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., Path]:
    def write(records: list[TrialRecord], *, trials: int = 0, title: str = "A run", pictures: bool = False) -> Path:
        folder = tmp_path / "run"
        with TrialStore(folder, RunHeader(name="p", title=title, digest="d", trials=trials or len(records))) as store:
            for each in records:
                store.add(each, PNG if pictures else None)
        return folder

    return write


def page_of(folder: Path) -> str:
    return runs.write(folder).read_text(encoding="utf-8")


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (3, 10), (10, 10), (37, 60), (999, 1000)])
def test_wilson_is_where_the_score_test_turns(successes: int, trials: int) -> None:
    for bound in wilson(successes, trials):
        if 0 < bound < 1:
            assert abs(successes / trials - bound) / math.sqrt(bound * (1 - bound) / trials) == pytest.approx(1.959964, abs=1e-4)
    low, high = wilson(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1


def test_only_what_was_tried_is_in_a_share(stored: Callable[..., Path]) -> None:
    none: dict[str, Any] = {"whole": None, "exact": 0, "scores": {}}
    records = [
        record(0),
        record(1, status="PARTIAL", whole=False, exact=2),
        record(2, status="NOT_APPLICABLE", whole=False, exact=0, scores={}),
        record(3, outcome="crashed", status="", error="Traceback\nValueError: <b>", reason="ValueError: <b>", **none),
        record(4, outcome="refused", status="", reason="too few", **none),
    ]
    folder = stored(records)
    page = page_of(folder)
    assert "1 of 2" in page
    assert "2 of 5" not in page
    (cell,) = json.loads((folder / runs.CELLS_JSON).read_text())["cells"]
    low, high = wilson(1, 2)
    told = {"trials": 5, "tried": 2, "whole": 1, "crashed": 1, "refused": 1, "exact_share": 6 / 8, "whole_low": low, "whole_high": high}
    assert {name: cell[name] for name in told} == told
    assert "ValueError: &lt;b&gt;" in page
    assert "<b>ValueError" not in page
    assert "In 1 of 2 trials the whole batch was reconstructed and proved, in 1 more single samples." in page


def test_results_of_two_versions_of_the_code_are_not_mixed(stored: Callable[..., Path]) -> None:
    page = page_of(stored([record(0, code="old", whole=False, exact=0), record(1, code="new")]))
    assert "1 of 1" in page
    assert "1 trials of another version are left out" in page


def test_curves_are_drawn_against_every_number_that_varies() -> None:
    records = [
        record(100 * width + 10 * size + seed, model=f"mlp:width={width}", batch_size=size, seed=seed, whole=seed < 5 - size, exact=1)
        for width in (50, 100)
        for size in (1, 2, 4)
        for seed in range(4)
    ]
    cells = gather(records)
    assert varying(cells) == ["model", "batch_size"]
    drawn = charts(cells, ["psnr_worst"])
    assert [chart.title for chart in drawn] == [
        "Whole successes by batch size",
        "Median psnr worst by batch size",
        "Whole successes by mlp's width",
        "Median psnr worst by mlp's width",
    ]
    by_size = drawn[0]
    assert [line.name for line in by_size.lines] == ["mlp:width=50", "mlp:width=100"]
    assert [text for _, text in by_size.ticks] == ["1", "2", "4"]
    # 4 of 4, 3 of 4 and 1 of 4 whole: y goes down from the top.
    assert [y for _, y in by_size.lines[0].dots] == [0.0, 55.0, 165.0]
    low, high = wilson(3, 4)
    assert by_size.lines[0].bars[1][1:] == (round(220 * (1 - low), 1), round(220 * (1 - high), 1))
    assert "0.75 at 2" in by_size.said


def test_noise_is_a_number_and_none_is_not_on_the_line() -> None:
    noises = ["1e-4", "1e-3", "1e-2"]
    records = [record(i, defenses=(f"gaussian_noise:deviation={noise}",)) for i, noise in enumerate(noises)] + [record(9)]
    (chart, _) = charts(gather(records), ["psnr_worst"])
    assert chart.x == "gaussian_noise's deviation"
    assert [x for x, _ in chart.lines[0].dots] == [0.0, 280.0, 560.0], "a logarithmic axis"


def test_csv_and_json_hold_every_column(stored: Callable[..., Path]) -> None:
    folder = stored([record(i, batch_size=4 + i % 2, defenses=("a", "b")) for i in range(6)])
    page_of(folder)
    rows = list(csv.DictReader((folder / runs.TRIALS_CSV).read_text().splitlines()))
    assert len(rows) == 6
    assert rows[0]["score_psnr_worst"] == "100.0"
    assert rows[0]["defenses"] == "a + b"
    cells = list(csv.DictReader((folder / runs.CELLS_CSV).read_text().splitlines()))
    assert [cell["batch_size"] for cell in cells] == ["4", "5"]
    assert (folder / TRIALS).exists()


def test_pictures_are_in_the_page_and_lead_to_their_trials(stored: Callable[..., Path]) -> None:
    page = page_of(stored([record(i, picture=f"{i:04x}.png") for i in range(30)], pictures=True))
    sources = re.findall(r'<img src="([^"]*)"', page)
    assert len(sources) == runs.MOST_PICTURES
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    for link in re.findall(r'href="#([^"]*)"', page):
        assert f'id="{link}"' in page


def test_names_of_strangers_are_only_text(stored: Callable[..., Path]) -> None:
    evil = "</title><script>alert(1)</script>\x1b[2J"
    page = page_of(stored([record(0, model=evil, reason=evil), record(1, dataset=evil)], title=evil))
    assert "<script" not in page
    assert "\x1b" not in page


def test_a_picture_outside_of_its_folder_is_not_shown(stored: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(PNG)
    folder = stored([record(0, picture="../../secret.png")])
    assert "<img" not in page_of(folder)


def test_nothing_yet_is_a_page_too(stored: Callable[..., Path]) -> None:
    page = page_of(stored([], trials=12))
    assert "0 of 12 trials so far" in page
    assert "No trial has been scored yet." in page


def test_no_run_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"run\.json"):
        runs.write(tmp_path)


def many() -> Iterator[TrialRecord]:
    for number in range(2000):
        size, width, seed = 2 + number % 20, 50 * (1 + number // 20 % 10), number // 200
        whole = seed < 10 - size // 2
        yield record(
            number,
            dataset="npz:$UNBATCH_SHARED/data/cifar10_test.npz",
            model=f"mlp:width={width}",
            batch_size=size,
            seed=seed,
            whole=whole,
            exact=size if whole else 1,
            status="RECONSTRUCTED" if whole else "PARTIAL",
            reason="" if whole else "3 of 8 directions were found before the time was over",
            scores={"psnr_worst": 120.0 - size if whole else None, "psnr_mean": 100.0 - size},
        )


def test_two_thousand_trials_are_quick_and_small() -> None:
    run = runs.Run(RunHeader(name="p", title="Many", digest="d", trials=2000), tuple(many()))
    start = time.process_time()
    page = runs.render(run, {})
    assert time.process_time() - start < 10, "drawing must be linear in the trials"
    assert len(page) < 3_000_000
    assert page.count('<tr id="t-') == 2000
