"""One trial: data set, protocol, attack or restorer, scores, record."""

from __future__ import annotations

import datetime as dt
import math
import platform
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from unbatch.auditing import invert
from unbatch.contracts import Attack, Dataset, LabelRestorer, Metric
from unbatch.errors import Misuse, OutputFailed
from unbatch.experiments.identity import built, code_version
from unbatch.experiments.pictures import drawing
from unbatch.experiments.scene import drawn, victim
from unbatch.label_scores import floors, score_counts, score_presence
from unbatch.restoring import restore_labels
from unbatch.scoring import Scores, labels_right, score
from unbatch.store.trials import Settings, TrialRecord
from unbatch.threads import threads
from unbatch.types import Batch, Counts, Observation, Reconstruction, Status

__all__ = ["Trial", "TrialResult", "crashed", "run_trial"]


@dataclass(frozen=True)
class Trial:
    """What one trial is.

    Attributes:
        settings: what makes it different from others of its plan.
        id: see ``store.trials``.
        code: version of the code that its id is made of.
        metrics: specifications.
        device: where the attack runs.
        threads: that it computes with.
        picture: whether a picture is kept of it.
    """

    settings: Settings
    id: str
    code: str
    metrics: tuple[str, ...] = ("psnr",)
    device: str = "cpu"
    threads: int = 1
    picture: bool = False

    def record(self, **values: Any) -> TrialRecord:
        """A record of it."""
        return TrialRecord(**self.settings.model_dump(), id=self.id, code=self.code, **values)


@dataclass(frozen=True)
class TrialResult:
    """How a trial ended.

    Attributes:
        record: for the store.
        picture: PNG, or None.
    """

    record: TrialRecord
    picture: bytes | None = None


def run_trial(trial: Trial) -> TrialResult:
    """Run a trial. Whatever goes wrong in it is in the record: misuse as a sentence, a crash with its traceback.

    Raises:
        Misuse: this is not the code that the trial's id is made of.

    Example:
        >>> settings = Settings(dataset="faces", model="mlp:width=60,depth=3", attack="spear", batch_size=3)
        >>> record = run_trial(Trial(settings, "0", code_version())).record
        >>> record.status, record.exact, record.scores["psnr_worst"] > 100
        ('RECONSTRUCTED', 3, True)
    """
    if trial.code != code_version():
        host, advice = platform.node(), "install the same version of unbatch, torch, numpy and scipy everywhere"
        raise Misuse(f"a worker that runs the code {trial.code}", f"{code_version()} on {host}", advice)
    start = time.perf_counter()
    try:
        with threads(trial.threads):
            result = _played(trial)
    except (Misuse, OutputFailed) as error:
        result = TrialResult(trial.record(outcome="refused", reason=str(error)))
    except Exception:  # noqa: BLE001 -- a crash of a trial is a result of its own kind, and must not end the run
        result = TrialResult(crashed(trial, traceback.format_exc()))
    ended = {
        "total_seconds": time.perf_counter() - start,
        "finished": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
    }
    return replace(result, record=result.record.model_copy(update=ended))


def crashed(trial: Trial, trace: str) -> TrialRecord:
    """The record of a trial that ended with a traceback."""
    last = trace.strip().splitlines()[-1] if trace.strip() else "no traceback"
    return trial.record(outcome="crashed", reason=last[:300], error=trace or last)


def _played(trial: Trial) -> TrialResult:
    settings = trial.settings
    # Everything that can be misused is built first: a bad setting must not waste a search.
    metrics = {spec.partition(":")[0]: built("metrics", spec) for spec in trial.metrics}
    data: Dataset = built("datasets", settings.dataset)
    defenses = [built("defenses", spec) for spec in settings.defenses]
    protocol = built("protocols", settings.protocol)
    batch = drawn(data, settings)
    batch = replace(batch, inputs=batch.inputs.to(trial.device), labels=batch.labels.to(trial.device))
    seen = protocol.observe(victim(data, settings, trial.device), batch, defenses=defenses, seed=settings.seed)
    seen = _told(seen, batch, settings)
    if settings.restorer:
        return _restored(trial, seen, batch, built("labels", settings.restorer))
    return _attacked(trial, seen, batch, built("attacks", settings.attack), metrics)


def _told(seen: Observation, batch: Batch, settings: Settings) -> Observation:
    """With what the adversary was told beyond the protocol."""
    if settings.told == "nothing":
        return seen
    known = replace(seen, batch_size=len(batch))
    if settings.told == "batch_size":
        return known
    if settings.told == "labels":
        return replace(known, labels=batch.labels.sort().values)
    counts = restore_labels(known, seed=settings.seed).counts
    if counts is None:
        raise Misuse("an update from which labels can be restored", "one from which they cannot", "take told = batch_size")
    labels = torch.repeat_interleave(torch.arange(len(counts)), counts.cpu()).to(batch.labels.device)
    return replace(known, labels=labels)


def _attacked(trial: Trial, seen: Observation, batch: Batch, attack: Attack, metrics: Mapping[str, Metric]) -> TrialResult:
    start = time.perf_counter()
    made = invert(seen, attack, trial.settings.seed)
    seconds = time.perf_counter() - start
    if made.status is Status.BROKE_DOWN:
        return TrialResult(crashed(trial, made.error or made.reason).model_copy(update={"status": made.status.name, "seconds": seconds}))
    proved = 0 if made.proved is None else int(made.proved.sum())
    values: dict[str, Any] = {
        "status": made.status.name,
        "reason": made.reason,
        "proved": proved,
        "residual": _plain(made.residual),
        "seconds": seconds,
        "whole": False,
    }
    if made.shown is None:
        return TrialResult(trial.record(outcome="done", **values))
    scores = score(batch, made.shown, metrics, batch.schema)
    values |= _scored(scores, made, batch, metrics)
    picture = drawing(batch, made.shown, scores.order) if trial.picture else None
    return TrialResult(trial.record(outcome="done", picture="" if picture is None else f"{trial.id}.png", **values), picture)


def _scored(scores: Scores, made: Reconstruction, batch: Batch, metrics: Mapping[str, Metric]) -> dict[str, Any]:
    matched = [partner for partner in scores.order if partner >= 0]
    measured: dict[str, float | None] = {}
    for name, column in scores.scores.items():
        there = [value for value in column if not math.isnan(value)]
        worst = min if metrics[name].higher_is_better else max
        # A metric may not be defined for such samples, as LPIPS for pictures below 32 x 32: then it scores none of them.
        measured[f"{name}_mean"] = _plain(sum(there) / len(there)) if there else None
        measured[f"{name}_worst"] = _plain(worst(there)) if len(there) == len(batch) > 0 else None
    return {
        "found": 0 if made.shown is None else len(made.shown),
        "matched": len(matched),
        "exact": sum(scores.exact),
        "labels_right": sum(labels_right(scores.order, made.labels, batch)),
        "whole": all(scores.exact),
        "scores": measured,
    }


def _restored(trial: Trial, seen: Observation, batch: Batch, restorer: LabelRestorer) -> TrialResult:
    start = time.perf_counter()
    found = restorer(seen, seed=trial.settings.seed)
    seconds = time.perf_counter() - start
    truth = torch.bincount(batch.labels.cpu(), minlength=seen.classes)
    values: dict[str, Any] = {"status": _status(found), "reason": found.reason, "seconds": seconds, "whole": False, "proved": found.proved}
    if found.presence is not None:
        values |= _counted(found, truth)
    return TrialResult(trial.record(outcome="done", **values))


def _counted(found: Counts, truth: torch.Tensor) -> dict[str, Any]:
    guess = floors(truth)["guess"]
    measured: dict[str, float | None] = {"guess_ln_acc": guess.counts, "guess_i_rec": guess.recall}
    if found.presence is not None:
        measured["le_acc"] = score_presence(truth, found.presence.cpu())
    if found.counts is None:
        return {"scores": measured}
    counts = found.counts.cpu()
    scores = score_counts(truth, counts)
    measured |= {"le_acc": scores.presence, "ln_acc": scores.counts, "i_rec": scores.recall, "exact_match": float(scores.exact)}
    return {"scores": measured, "whole": scores.exact, "labels_right": int(torch.minimum(counts, truth).sum())}


def _status(found: Counts) -> str:
    if found.presence is None:
        return Status.NOT_APPLICABLE.name
    if found.counts is None:
        return "PRESENCE"
    return "DETERMINED" if found.determined else "ESTIMATED"


def _plain(value: float | None) -> float | None:
    """A number that JSON knows: NaN is None, and the largest float stands for infinity."""
    if value is None or math.isnan(value):
        return None
    return max(-sys.float_info.max, min(sys.float_info.max, value))
