"""A finding on disk: ``report.json`` for what can be read, ``tensors.safetensors`` for the pictures.

They appear together, whole, see ``publishing``: a folder with a ``report.json`` holds a whole finding. JSON knows neither NaN nor
infinity: NaN is written as null, infinity as "Infinity".
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import torch
from pydantic import Field, JsonValue, ValidationError, field_validator, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from unbatch.advice import Advice, advise
from unbatch.errors import BadFile
from unbatch.origin import Origin
from unbatch.records import Record
from unbatch.store.counts import StoredCounts, stored_counts
from unbatch.store.lookups import StoredLookup, stored_lookup
from unbatch.store.publishing import WHOLE, Writer, check_free, held, publish
from unbatch.types import Finding, Schema, Status

__all__ = [
    "FORMAT",
    "HTML",
    "REPORT",
    "TENSORS",
    "StoredFinding",
    "StoredSchema",
    "check_writable",
    "load",
    "load_held",
    "redacted",
    "save",
    "stored_finding",
]

FORMAT: Final = 1
"""Version of the format: raised whenever a reader of the former one would misread a file."""

REPORT, TENSORS, HTML = "report.json", "tensors.safetensors", "report.html"

COUNTED: Final = frozenset(("layer", "width", "inputs", "rank", "gap", "subsets", "directions", "agreement", "seconds"))
"""What an attack counts that holds nothing of the samples."""


class StoredSchema(Record):
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


class StoredMeasure(Record):
    """How a report calls a metric: see ``types.Measure``."""

    title: str
    unit: str = ""


class StoredFinding(Record):
    """A ``types.Finding`` without its tensors, as ``report.json`` holds it.

    Attributes:
        format: version of the format.
        status: name of the ``Status``.
        sentence: what the status advises.
        verdict: the one sentence that a reader takes away.
        reason: why it did not go further, or empty.
        residual: ‖replayed − observed‖ / ‖observed‖, or None.
        layer: name of the weight of the inner layer whose inputs were recovered, or None.
        inverted: name of the weight of the layer whose gradient was taken apart, or None.
        proved: how many samples (or rows of an inner layer's inputs) were proved.
        accuracy: of every one of them, an upper estimate of ‖error‖ / ‖sample‖; infinite where nothing bounds it.
        missing: how many more samples the batch held, where that is known.
        approximate: how many samples came out beside those that were proved, without a proof; see ``types.Reconstruction``.
        error: the traceback of a breakdown, or empty.
        attack: specification that builds the attack again.
        tried: names of all attacks that were run, where there were several; empty in reports of former versions.
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
        lookups: which tokens the batch held, an answer a table; empty for models that take numbers, and in reports of former versions.
        advice: what would have prevented it, or what to do next.
        environment: versions and machine.
        recovered: how many true samples were recovered exactly; None where the truth is not known, and in reports of former versions.
        batch: how many samples the true batch has; None likewise.
        upper_bounds: what makes the setting easier than a real client's; None where nobody looked.
        origin: date, files, command, client and next steps; None where nobody told.
        redacted: whether all that was recovered is left out.
    """

    format: Literal[1] = FORMAT
    status: str
    sentence: str
    verdict: str
    reason: str = ""
    residual: float | None = None
    layer: str | None = None
    inverted: str | None = None
    proved: int = 0
    accuracy: tuple[float | None, ...] = ()
    missing: int | None = None
    approximate: int = 0
    error: str = ""
    attack: str = ""
    tried: tuple[str, ...] = ()
    seed: int
    seconds: float
    stats: dict[str, JsonValue] = Field(default_factory=dict)
    knowledge: tuple[str, ...]
    input_schema: StoredSchema
    input_shape: tuple[int, ...]
    reconstructed: int
    labels: tuple[int, ...] | None = None
    true_labels: tuple[int, ...] | None = None
    order: tuple[int, ...] = ()
    scores: dict[str, tuple[float | None, ...]] = Field(default_factory=dict)
    notes: dict[str, str] = Field(default_factory=dict)
    measures: dict[str, StoredMeasure] = Field(default_factory=dict)
    exact: tuple[bool, ...] = ()
    labels_right: tuple[bool, ...] = ()
    counts: StoredCounts | None = None
    lookups: tuple[StoredLookup, ...] = ()
    advice: tuple[Advice, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict)
    recovered: int | None = None
    batch: int | None = None
    upper_bounds: tuple[str, ...] | None = None
    origin: Origin | None = None
    redacted: bool = False

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
        if not all(-1 <= index < self.reconstructed + self.approximate for index in self.order):
            raise ValueError("a true sample is matched to a reconstruction that is not there")
        if not self.input_shape or min(self.input_shape) < 1 or min(self.reconstructed, self.approximate) < 0:
            raise ValueError("sizes must be positive")
        self.input_schema.typed().check(self.input_shape)
        if self.input_schema.kind == "image" and (len(self.input_shape) != 3 or self.input_shape[0] not in (1, 3)):
            raise ValueError("an image must have the shape (1 or 3, height, width)")
        return self


Page = Callable[["StoredFinding", Mapping[str, Tensor]], str]
"""Draws a stored finding and its tensors."""


def save(finding: Finding, folder: Path, page: Page | None = None, *, origin: Origin | None = None, redact: bool = False) -> None:
    """Write ``report.json``, ``tensors.safetensors`` and ``report.html`` into a folder, which is made if it is missing.

    An earlier finding in the folder is replaced when all of the new one is written; other files there are left alone.

    Args:
        finding: what the audit returned.
        folder: where to.
        page: draws ``report.html``, see ``report.html.render``; an earlier one is removed if None.
        origin: where it comes from, for the report.
        redact: whether to leave out all that was recovered, and the truth.

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
    stored, tensors = stored_finding(finding, origin, redact=redact), {} if redact else _tensors(finding)
    text = stored.model_dump_json(indent=2) + "\n"
    writers: dict[str, Writer] = {TENSORS: lambda path: save_file(tensors, path), REPORT: text}
    if page is not None:
        writers[HTML] = page(stored, tensors)
    publish(folder, writers, stale=(HTML,))


def check_writable(folder: Path, names: Sequence[str] = (REPORT, TENSORS, HTML)) -> None:
    """Find out before long work whether its result can be written.

    Args:
        folder: where to.
        names: of the files.

    Raises:
        OutputFailed: it cannot.
    """
    publish(folder, {})
    check_free(folder, names)


def load(folder: Path) -> tuple[StoredFinding, dict[str, Tensor]]:
    """Read a finding back.

    Args:
        folder: where ``save`` put it.

    Returns:
        what was found, and the tensors that there are of ``inputs`` (b, *shape), ``approximate`` (j, *shape), ``labels`` (b,), ``features``
        (k, n), ``truth_inputs`` (b, *shape) and ``truth_labels`` (b,); inputs as the network sees them.

    Raises:
        BadFile: a file is missing, damaged, of another version of the format, or the two do not fit together.
    """
    try:
        with held(folder):
            return load_held(folder)
    except OSError as error:  # we may not write there: what cannot be held is read as it lies
        if (folder / WHOLE).exists():
            came = f"one of which a part is still in {str(folder / WHOLE)!r}"
            raise BadFile("a report in its place", came, "let its owner read it once, or run the audit again") from error
        return load_held(folder)


def load_held(folder: Path) -> tuple[StoredFinding, dict[str, Tensor]]:
    """The same, for one who holds the folder already: see ``publishing``."""
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
        raise BadFile(f"a report of version {FORMAT}", f"version {version!r} in {str(path)!r}", "read it with the unbatch that wrote it")
    try:
        return StoredFinding.model_validate_json(json.dumps(data))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise BadFile("a report as unbatch writes it", f"{where}: {first['msg']} in {str(path)!r}", "run the audit again") from error


def _check_tensors(stored: StoredFinding, tensors: Mapping[str, Tensor], path: Path) -> None:
    true = None if stored.true_labels is None else len(stored.true_labels)
    counts = {"inputs": stored.reconstructed or None, "approximate": stored.approximate or None, "truth_inputs": true}
    for name, count in counts.items():
        expected = None if count is None or stored.redacted else (count, *stored.input_shape)
        came = tuple(tensors[name].shape) if name in tensors else None
        if came != expected or (name in tensors and tensors[name].is_floating_point() == (stored.input_schema.kind == "tokens")):
            raise BadFile(f"{name!r} of shape {expected}", f"{came} in {str(path)!r}", f"take {REPORT!r} and {TENSORS!r} from one run")


def stored_finding(finding: Finding, origin: Origin | None = None, *, redact: bool = False) -> StoredFinding:
    """A finding as it is stored, without its tensors; ``save`` explains the rest."""
    return redacted(_stored(finding, origin)) if redact else _stored(finding, origin)


def redacted(stored: StoredFinding) -> StoredFinding:
    """The same without anything that was recovered: for those who may know that there is a leak, and not what leaked.

    What stays: the verdict, how many samples, proofs and bounds, what the adversary knew, and the advice.
    """
    broke = stored.status == Status.BROKE_DOWN.name  # what broke it down may quote what it worked on
    counts = None if stored.counts is None else stored.counts.redacted()
    numbers = {name: value for name, value in stored.stats.items() if name in COUNTED and isinstance(value, (int, float, str))}
    gone: dict[str, Any] = {"labels": None, "true_labels": None, "order": (), "scores": {}, "notes": {}, "exact": (), "labels_right": ()}
    lookups = tuple(lookup.model_copy(update={"tokens": None}) for lookup in stored.lookups)
    kept = {"lookups": lookups, "counts": counts, "stats": numbers, "error": "", "reason": "" if broke else stored.reason, "redacted": True}
    return stored.model_copy(update={**gone, **kept})


def _stored(finding: Finding, origin: Origin | None) -> StoredFinding:
    found, schema, truth = finding.reconstruction, finding.schema, finding.truth
    return StoredFinding(
        status=found.status.name,
        sentence=found.status.value,
        verdict=finding.verdict,
        reason=found.reason,
        residual=_number(found.residual),
        layer=found.layer,
        inverted=None if found.inverted is None else found.inverted.layer,
        proved=0 if found.proved is None else int(found.proved.sum()),
        accuracy=() if found.accuracy is None else tuple(map(_number, found.accuracy.tolist())),
        missing=found.missing,
        approximate=0 if found.approximate is None else len(found.approximate),
        error=found.error,
        attack=found.attack,
        tried=found.tried,
        seed=finding.seed,
        seconds=finding.seconds,
        stats={str(name): _plain(value) for name, value in found.stats.items()},
        knowledge=tuple(finding.knowledge.sentences()),
        input_schema=StoredSchema(**schema.to_dict()),
        input_shape=finding.input_shape,
        reconstructed=0 if found.inputs is None else len(found.inputs),
        labels=None if found.labels is None or found.inputs is None else tuple(found.labels.tolist()),
        true_labels=None if truth is None else tuple(truth.labels.tolist()),
        order=finding.order,
        scores={name: tuple(map(_number, values)) for name, values in finding.scores.items()},
        notes=dict(finding.notes),
        measures={name: StoredMeasure(title=measure.title, unit=measure.unit) for name, measure in finding.measures.items()},
        exact=finding.exact,
        labels_right=finding.labels_right,
        counts=None if finding.counts is None else stored_counts(finding.counts, None if truth is None else truth.labels),
        lookups=tuple(map(stored_lookup, finding.lookups)),
        advice=advise(finding),
        environment={str(name): str(value) for name, value in finding.environment.items()},
        recovered=sum(finding.exact) if finding.exact else None,
        batch=None if truth is None else len(truth),
        upper_bounds=finding.upper_bounds,
        origin=origin,
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
    reconstruction, truth = finding.reconstruction, finding.truth
    found = {
        "inputs": reconstruction.inputs,
        "approximate": reconstruction.approximate,
        "labels": None if reconstruction.inputs is None else reconstruction.labels,
        "features": reconstruction.features,
        "truth_inputs": None if truth is None else truth.inputs,
        "truth_labels": None if truth is None else truth.labels,
    }
    # Copies, because safetensors refuses tensors that share memory.
    kept = {name: tensor for name, tensor in found.items() if tensor is not None and tensor.numel()}
    return {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in kept.items()}
