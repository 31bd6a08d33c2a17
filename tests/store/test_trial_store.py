"""The store of trials: append-only, repaired after a kill, and honest about what it cannot read."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unbatch.errors import BadFile, Misuse, OutputFailed
from unbatch.store import trials
from unbatch.store.trials import HEADER, PICTURES, TRIALS, RunHeader, TrialRecord, TrialStore, load_run

HEAD = RunHeader(name="p", digest="d", trials=3)


def record(name: str, **values: Any) -> TrialRecord:
    plain: dict[str, Any] = {"outcome": "done", "dataset": "faces", "model": "mlp", "batch_size": 4, "attack": "spear"}
    return TrialRecord(id=name, code="c", **(plain | values))


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    with TrialStore(folder, HEAD) as store:
        store.add(record("a", scores={"psnr_mean": 12.5, "psnr_worst": None}, whole=True, exact=4))
        store.add(record("b", outcome="crashed", error="Traceback\nValueError: x", reason="ValueError: x"))
        store.add(record("c", status="PARTIAL", reason="ä line\nwith a break", picture="c.png"), b"PNG")
    return folder


def lines(folder: Path) -> list[bytes]:
    return (folder / TRIALS).read_bytes().split(b"\n")


def test_records_come_back_as_they_went(filled: Path) -> None:
    run = load_run(filled)
    assert [each.id for each in run.records] == ["a", "b", "c"]
    assert run.records[0].scores == {"psnr_mean": 12.5, "psnr_worst": None}
    assert run.header == HEAD
    assert (filled / PICTURES / "c.png").read_bytes() == b"PNG"


def test_every_line_is_flat_json_for_its_owner_alone(filled: Path) -> None:
    rows = [json.loads(line) for line in lines(filled)[:-1]]
    assert all(not isinstance(value, dict) for row in rows for value in row.values())
    assert rows[0]["score_psnr_mean"] == 12.5
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in (filled / HEADER, filled / TRIALS, filled / PICTURES / "c.png")} == {
        HEADER: "0o600",
        TRIALS: "0o600",
        "c.png": "0o600",
    }


def test_the_last_record_of_an_id_counts(filled: Path) -> None:
    with TrialStore(filled, HEAD) as store:
        assert store.records["b"].outcome == "crashed"
        store.add(record("b", whole=False))
    assert {each.id: each.outcome for each in load_run(filled).records} == {"a": "done", "b": "done", "c": "done"}
    assert len(lines(filled)) == 5, "nothing that was written is changed"


def test_a_line_cut_anywhere_costs_that_line_alone(filled: Path) -> None:
    content = (filled / TRIALS).read_bytes()
    start = content[:-1].rfind(b"\n") + 1
    for cut in [*range(start, len(content), 29), len(content) - 1]:
        (filled / TRIALS).write_bytes(content[:cut])
        read = load_run(filled)
        assert ([each.id for each in read.records], read.torn) == (["a", "b"], cut > start)
        with TrialStore(filled, HEAD) as store:
            assert list(store.records) == ["a", "b"]
        assert (filled / TRIALS).read_bytes() == content[:start]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda line: line[: len(line) // 2], "a damaged one in line 2 of"),
        (lambda line: b"\x00" * len(line), "a damaged one in line 2 of"),
        (lambda _: b"", "a damaged one in line 2 of"),
        (lambda _: b"[1, 2]", "a damaged one in line 2 of"),
        (lambda line: line.replace(b'"crashed"', b'"done"'), "only a trial that is done|a crash has a traceback"),
        (lambda line: line.replace(b'"batch_size": 4', b'"batch_size": "x"'), r"\(batch_size: "),
        (lambda line: line.replace(b'"format": 1', b'"format": 2'), "expected format 1 or older, got format 2 in line 2 of"),
    ],
)
def test_a_damaged_line_in_the_middle_is_named_and_nothing_is_changed(filled: Path, damage: Callable[[bytes], bytes], said: str) -> None:
    parts = lines(filled)
    parts[1] = damage(parts[1])
    (filled / TRIALS).write_bytes(b"\n".join(parts))
    before = (filled / TRIALS).read_bytes()
    with pytest.raises(BadFile, match=said):
        load_run(filled)
    with pytest.raises(BadFile, match=said):
        TrialStore(filled, HEAD)
    assert (filled / TRIALS).read_bytes() == before
    del parts[1]  # what the sentence advises
    (filled / TRIALS).write_bytes(b"\n".join(parts))
    assert [each.id for each in load_run(filled).records] == ["a", "c"]


def test_another_plan_is_refused(filled: Path) -> None:
    with pytest.raises(Misuse, match=r"expected a folder of the plan 'q' with its 9 trials, got .* 3 trials of the plan 'p'"):
        TrialStore(filled, RunHeader(name="q", digest="e", trials=9))


def test_a_newer_header_is_refused(filled: Path) -> None:
    header = json.loads((filled / HEADER).read_text()) | {"format": 2, "more": 1}
    (filled / HEADER).write_text(json.dumps(header))
    with pytest.raises(BadFile, match="expected format 1 or older, got format 2"):
        TrialStore(filled, HEAD)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}'])
def test_a_damaged_header_is_refused(filled: Path, text: str) -> None:
    (filled / HEADER).write_text(text)
    with pytest.raises(BadFile, match=HEADER):
        load_run(filled)


def test_trials_without_a_header_are_refused(filled: Path) -> None:
    (filled / HEADER).unlink()
    with pytest.raises(BadFile, match=f"expected a {HEADER} beside {TRIALS}"):
        TrialStore(filled, HEAD)


def test_no_second_run_writes_to_the_same_folder(filled: Path) -> None:
    with TrialStore(filled, HEAD), pytest.raises(Misuse, match="no other run is writing"):
        TrialStore(filled, HEAD)
    with TrialStore(filled, HEAD):
        assert len(load_run(filled).records) == 3, "but reading is free"


@pytest.mark.parametrize("written", [0, 30])
def test_a_full_disk_is_one_sentence_and_loses_nothing(filled: Path, monkeypatch: pytest.MonkeyPatch, written: int) -> None:
    before = (filled / TRIALS).read_bytes()
    real = os.write

    with TrialStore(filled, HEAD) as store:
        calls = iter([written])

        def once(file: int, data: bytes) -> int:
            if written and next(calls, None) is not None:
                return real(file, data[:written])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(trials.os, "write", once)
        with pytest.raises(OutputFailed, match=r"No space left on device\); the 3 trials before are kept"):
            store.add(record("d"))
        monkeypatch.undo()
        assert (filled / TRIALS).read_bytes() == before
        store.add(record("d"))
    assert [each.id for each in load_run(filled).records] == ["a", "b", "c", "d"]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputFailed, match="got the file"):
        TrialStore(tmp_path / "file", HEAD)
    (tmp_path / "taken" / TRIALS).mkdir(parents=True)
    with pytest.raises(OutputFailed, match="a folder of that name"):
        TrialStore(tmp_path / "taken", HEAD)


def test_only_what_is_done_has_scores() -> None:
    with pytest.raises(ValueError, match="only a trial that is done has scores"):
        record("a", outcome="crashed", error="x", whole=True)
    with pytest.raises(ValueError, match="a crash has a traceback"):
        record("a", outcome="crashed")


def test_one_line_reads_it_into_a_data_frame(filled: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.read_json(filled / TRIALS, lines=True)
    assert frame["score_psnr_mean"].tolist()[0] == 12.5
    assert len(frame) == 3
