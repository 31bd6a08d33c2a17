"""A finding on disk: ``report.json`` for what can be read, ``tensors.safetensors`` for the pictures.

Both are written beside their final place first and moved there only when they are complete; ``report.json`` is moved last, so that a
folder with a ``report.json`` holds a whole finding. JSON knows neither NaN nor infinity: NaN is written as null, infinity as "Infinity".
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

import torch
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError, field_validator, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from unbatch.errors import BadFile, OutputFailed
from unbatch.store.advice import Advice, advise
from unbatch.store.counts import StoredCounts, stored_counts
from unbatch.types import Finding, Schema, Status

__all__ = ["FORMAT", "HTML", "REPORT", "TENSORS", "StoredFinding", "StoredSchema", "check_writable", "load", "publish", "save"]

FORMAT: Final = 1
"""Version of the format: raised whenever a reader of the former one would misread a file."""

REPORT, TENSORS, HTML = "report.json", "tensors.safetensors", "report.html"


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class StoredSchema(_Stored):
    """How to read an input: see ``types.Schema``."""

    kind: Literal["image", "vector", "table", "tokens"]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    classes: tuple[str, ...] = ()
    columns: tuple[dict[str, JsonValue], ...] = ()
    vocabulary: int = 0

    @model_validator(mode="after")
    def _sound(self) -> StoredSchema:
        self.typed()
        return self

    def typed(self) -> Schema:
        """The same as a ``types.Schema``."""
        return Schema.from_dict({name: value for name, value in self.model_dump().items() if value})


class StoredMeasure(_Stored):
    """How a report calls a metric: see ``types.Measure``."""

    title: str
    unit: str = ""


class StoredFinding(_Stored):
    """A ``types.Finding`` without its tensors, as ``report.json`` holds it.

    Attributes:
        format: version of the format.
        status: name of the ``Status``.
        sentence: what the status advises.
        verdict: the one sentence that a reader takes away.
        reason: why it did not go further, or empty.
        residual: ‖replayed − observed‖ / ‖observed‖, or None.
        attack: specification that builds the attack again.
        seed: of the attack.
        seconds: wall time of the attack.
        stats: what the attack counted.
        knowledge: what the adversary was told, one fact a line.
        input_schema: how to read inputs.
        input_shape: of one sample.
        reconstructed: number of samples that the attack proposes.
        labels: their labels, or None.
        true_labels: labels of the client's batch, or None where the truth is not known.
        order: for every true sample the index of its reconstruction, −1 where there is none; empty where nothing was matched.
        scores: metric name -> one value a true sample, None where undefined.
        notes: metric name -> why it is undefined.
        measures: metric name -> how a report calls it, in the order in which it shows them; empty in reports of former versions.
        exact: for every true sample, whether it was recovered exactly.
        labels_right: for every true sample, whether its label was.
        counts: samples of each class, as restored; None in reports of former versions.
        advice: what would have prevented it, or what to do next.
        environment: versions and machine.
    """

    format: Literal[1] = FORMAT
    status: str
    sentence: str
    verdict: str
    reason: str = ""
    residual: float | None = None
    attack: str = ""
    seed: int
    seconds: float
    stats: dict[str, JsonValue] = {}
    knowledge: tuple[str, ...]
    input_schema: StoredSchema
    input_shape: tuple[int, ...]
    reconstructed: int
    labels: tuple[int, ...] | None = None
    true_labels: tuple[int, ...] | None = None
    order: tuple[int, ...] = ()
    scores: dict[str, tuple[float | None, ...]] = {}
    notes: dict[str, str] = {}
    measures: dict[str, StoredMeasure] = {}
    exact: tuple[bool, ...] = ()
    labels_right: tuple[bool, ...] = ()
    counts: StoredCounts | None = None
    advice: tuple[Advice, ...] = ()
    environment: dict[str, str] = {}

    @field_validator("status")
    @classmethod
    def _known(cls, status: str) -> str:
        if status not in Status.__members__:
            raise ValueError(f"no status is called {status!r}")
        return status

    @model_validator(mode="after")
    def _consistent(self) -> StoredFinding:
        true = len(self.true_labels or ())
        columns = (self.order, self.exact, self.labels_right, *self.scores.values())
        if any(len(column) not in {0, true} for column in columns):
            raise ValueError(f"{true} true samples, but scores for another number of them")
        if self.labels is not None and len(self.labels) != self.reconstructed:
            raise ValueError(f"{self.reconstructed} samples, but {len(self.labels)} labels")
        if not all(-1 <= index < self.reconstructed for index in self.order):
            raise ValueError("a true sample is matched to a reconstruction that is not there")
        if not self.input_shape or min(self.input_shape) < 1 or self.reconstructed < 0:
            raise ValueError("sizes must be positive")
        self.input_schema.typed().check(self.input_shape)
        if self.input_schema.kind == "image" and (len(self.input_shape) != 3 or self.input_shape[0] not in (1, 3)):
            raise ValueError("an image must have the shape (1 or 3, height, width)")
        return self


def save(finding: Finding, folder: Path) -> None:
    """Write ``report.json`` and ``tensors.safetensors`` into a folder, which is made if it is missing.

    An earlier finding in the folder is replaced, and its ``report.html`` removed; other files there are left alone.

    Args:
        finding: what the audit returned.
        folder: where to.

    Raises:
        OutputFailed: the folder cannot be written; it is left as it was.

    Example:
        >>> import tempfile
        >>> from unbatch.types import Knowledge, Reconstruction, Schema
        >>> finding = Finding(Reconstruction(Status.NOT_APPLICABLE, reason="no ReLU"), Knowledge(), Schema(), (4,), seed=0, seconds=0.1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(finding, Path(folder, "new"))
        ...     load(Path(folder, "new"))[0].reason
        'no ReLU'
    """
    text = _stored(finding).model_dump_json(indent=2) + "\n"
    tensors = _tensors(finding)
    publish(
        folder,
        {
            TENSORS: lambda path: save_file(tensors, path),
            REPORT: lambda path: path.write_text(text, encoding="utf-8"),
        },
        stale=(REPORT, HTML),
    )


def publish(folder: Path, writers: Mapping[str, Callable[[Path], object]], stale: Sequence[str] = ()) -> None:
    """Write files so that they appear all complete or not at all.

    Args:
        folder: where to; made if it is missing, and removed again on failure.
        writers: file name -> function that writes it to the path that it is given; moved into place in this order.
        stale: names to remove between writing and moving, so that old and new are never mixed.

    Raises:
        OutputFailed: something could not be written; earlier files are left alone.
    """
    made: list[Path] = []
    try:
        made += [path for path in (folder, *folder.parents) if not path.exists()]
        _refuse_occupied(folder, [*writers, *stale])
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unbatch-") as scratch:
            for name, write in writers.items():
                write(Path(scratch, name))
            for name in stale:
                (folder / name).unlink(missing_ok=True)
            for name in writers:
                Path(scratch, name).replace(folder / name)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputFailed(f"expected an output folder that can be written, got {str(folder)!r} ({reason}): name another one") from error
    finally:
        for path in made:
            with suppress(OSError):  # it is not empty: the files are in it, as they should be
                path.rmdir()


def check_writable(folder: Path, names: Sequence[str] = (REPORT, TENSORS, HTML)) -> None:
    """Find out before long work whether its result can be written.

    Args:
        folder: where to.
        names: of the files.

    Raises:
        OutputFailed: it cannot.
    """
    publish(folder, {})
    _refuse_occupied(folder, names)


def _refuse_occupied(folder: Path, names: Sequence[str]) -> None:
    if folder.exists() and not folder.is_dir():
        raise OutputFailed(f"expected an output folder, got the file {str(folder)!r}: name another one")
    for name in names:
        if (folder / name).is_dir():
            raise OutputFailed(
                f"expected a free place for {name!r}, got a folder of that name in {str(folder)!r}: name another output folder"
            )


def load(folder: Path) -> tuple[StoredFinding, dict[str, Tensor]]:
    """Read a finding back.

    Args:
        folder: where ``save`` put it.

    Returns:
        what was found, and the tensors that there are of ``inputs`` (b, *shape), ``labels`` (b,), ``truth_inputs`` (b, *shape) and
        ``truth_labels`` (b,); inputs as the network sees them.

    Raises:
        BadFile: a file is missing, damaged, of another version of the format, or the two do not fit together.
    """
    stored = _read(folder / REPORT)
    path = folder / TENSORS
    if not path.is_file():
        raise BadFile(f"the file {TENSORS!r} beside {REPORT!r}", f"none in {str(folder)!r}", "give the folder that unbatch wrote, whole")
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadFile("a whole safetensors file", f"{str(path)!r} ({error})", "run the audit again") from error
    _check_tensors(stored, tensors, path)
    return stored, tensors


def _read(path: Path) -> StoredFinding:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadFile(f"a folder with a {path.name!r} in it", repr(str(path.parent)), "give the folder that unbatch wrote") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BadFile("a report in JSON", f"{str(path)!r} ({error})", "run the audit again") from error
    version = data.get("format") if isinstance(data, dict) else None
    if version != FORMAT:
        came = f"version {version!r} in {str(path)!r}"
        raise BadFile(f"a report of version {FORMAT}", came, "read it with the version of unbatch that wrote it")
    try:
        return StoredFinding.model_validate_json(json.dumps(data))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise BadFile("a report as unbatch writes it", f"{where}: {first['msg']} in {str(path)!r}", "run the audit again") from error


def _check_tensors(stored: StoredFinding, tensors: Mapping[str, Tensor], path: Path) -> None:
    true = None if stored.true_labels is None else len(stored.true_labels)
    counts = {"inputs": stored.reconstructed or None, "truth_inputs": true}
    for name, count in counts.items():
        expected = None if count is None else (count, *stored.input_shape)
        came = tuple(tensors[name].shape) if name in tensors else None
        whole = stored.input_schema.kind == "tokens"
        if came != expected or (name in tensors and tensors[name].is_floating_point() == whole):
            raise BadFile(f"{name!r} of shape {expected}", f"{came} in {str(path)!r}", f"take {REPORT!r} and {TENSORS!r} from one run")


def _stored(finding: Finding) -> StoredFinding:
    made, schema, truth = finding.reconstruction, finding.schema, finding.truth
    return StoredFinding(
        status=made.status.name,
        sentence=made.status.value,
        verdict=finding.verdict,
        reason=made.reason,
        residual=_number(made.residual),
        attack=made.attack,
        seed=finding.seed,
        seconds=finding.seconds,
        stats={str(name): _plain(value) for name, value in made.stats.items()},
        knowledge=tuple(finding.knowledge.sentences()),
        input_schema=StoredSchema(**schema.to_dict()),
        input_shape=finding.input_shape,
        reconstructed=0 if made.inputs is None else len(made.inputs),
        labels=None if made.labels is None or made.inputs is None else tuple(made.labels.tolist()),
        true_labels=None if truth is None else tuple(truth.labels.tolist()),
        order=finding.order,
        scores={name: tuple(map(_number, values)) for name, values in finding.scores.items()},
        notes=dict(finding.notes),
        measures={name: StoredMeasure(title=measure.title, unit=measure.unit) for name, measure in finding.measures.items()},
        exact=finding.exact,
        labels_right=finding.labels_right,
        counts=None if finding.counts is None else stored_counts(finding.counts, None if truth is None else truth.labels),
        advice=advise(finding),
        environment={str(name): str(value) for name, value in finding.environment.items()},
    )


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def _plain(value: Any) -> JsonValue:
    """The nearest that JSON has: attacks may count in tensors, tuples or anything else."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None if math.isnan(value) else str(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    return str(value)


def _tensors(finding: Finding) -> dict[str, Tensor]:
    made, truth = finding.reconstruction, finding.truth
    found = {
        "inputs": made.inputs,
        "labels": None if made.inputs is None else made.labels,
        "truth_inputs": None if truth is None else truth.inputs,
        "truth_labels": None if truth is None else truth.labels,
    }
    # Copies, because safetensors refuses tensors that share memory.
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in found.items()
        if tensor is not None and tensor.numel()
    }
