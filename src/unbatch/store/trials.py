"""Trials on disk: a header, and one line of JSON a trial, appended and never changed, whenever the process is killed.

    run.json        the header: version of the format, the plan, and what it was made of
    trials.jsonl    one record a line, each on the disk before the next trial counts as finished
    pictures/       reconstructed samples of some trials, by the trial's id

A line that a killed run, or a full disk, left without its end is cut off by the next run; its trial is run again. The last record of an id
is the one that counts: a crashed trial that was run again has two. In one line: ``pandas.read_json("trials.jsonl", lines=True)``,
``polars.read_ndjson("trials.jsonl")``.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

from pydantic import Field, JsonValue, ValidationError, model_validator

from unbatch.errors import BadFile, Misuse, OutputFailed
from unbatch.records import Record
from unbatch.store.publishing import check_free, publish

__all__ = ["FORMAT", "HEADER", "PICTURES", "TRIALS", "Run", "RunHeader", "Settings", "TrialRecord", "TrialStore", "load_run"]

FORMAT: Final = 1
"""Version of the format: raised whenever a reader of the former one would misread a file."""

HEADER: Final = "run.json"
TRIALS: Final = "trials.jsonl"
PICTURES: Final = "pictures"
SCORE: Final = "score_"
"""What names of scores begin with in a line."""

Kind = TypeVar("Kind", bound=Record)

Outcome = Literal["done", "refused", "crashed"]
"""How a trial ended: scored; not possible, with the reason; or with a traceback, and never scored."""


class Settings(Record):
    """What makes one trial different from another of the same plan.

    Attributes:
        dataset: specification.
        model: specification.
        protocol: specification.
        defenses: specifications, in their order.
        attack: specification, or empty.
        restorer: of labels, or empty: a trial has an attack or a restorer.
        batch_size: samples of the client.
        mix: how the batch's classes were drawn.
        trained: steps of training that the model has behind it.
        told: what the adversary was told beyond the protocol.
        dtype: in which the client computes.
        seed: of all randomness.
    """

    dataset: str
    model: str
    protocol: str = "fedsgd"
    defenses: tuple[str, ...] = ()
    attack: str = ""
    restorer: str = ""
    batch_size: int
    mix: str = "random"
    trained: int = 0
    told: str = "nothing"
    dtype: str = "float64"
    seed: int = 0


class TrialRecord(Settings):
    """One trial, as a line of ``trials.jsonl`` holds it; its scores are columns whose names begin with ``score_``.

    Attributes:
        format: version of the format.
        id: hash of all that can change the result, the version of the code included.
        code: version of the code, see ``experiments.identity``.
        outcome: done, refused (the trial is not possible) or crashed.
        status: name of the ``Status``; of a restorer DETERMINED, ESTIMATED, PRESENCE or NOT_APPLICABLE; empty where nothing was tried.
        reason: why it did not go further, or empty.
        error: the traceback of a crash, or empty.
        found: samples that were proposed.
        proved: how many of them were proved.
        exact: how many true samples were recovered exactly.
        matched: how many true samples have a partner among the proposed ones.
        labels_right: how many labels were restored rightly.
        whole: whether every sample is exact; of a restorer whether every count is right. None where nothing was scored.
        residual: ‖replayed − observed‖ / ‖observed‖, or None.
        scores: what was measured. A metric has its mean over matched samples, and its worst where all samples are matched. JSON knows no
            infinity: the largest float stands in its place.
        seconds: wall time of the attack or restorer.
        total_seconds: wall time of the whole trial.
        finished: when, ISO 8601.
        host: where.
        picture: name of the picture in ``pictures/``, or empty.
    """

    format: Literal[1] = FORMAT
    id: str
    code: str
    outcome: Outcome
    status: str = ""
    reason: str = ""
    error: str = ""
    found: int = 0
    proved: int = 0
    exact: int = 0
    matched: int = 0
    labels_right: int = 0
    whole: bool | None = None
    residual: float | None = None
    scores: dict[str, float | None] = Field(default_factory=dict)
    seconds: float = 0.0
    total_seconds: float = 0.0
    finished: str = ""
    host: str = ""
    picture: str = ""

    @model_validator(mode="before")
    @classmethod
    def _gathered(cls, data: Any) -> Any:
        """Scores, which stand beside the other columns in a line, in one place."""
        if isinstance(data, dict) and "scores" not in data:
            scores = {name.removeprefix(SCORE): value for name, value in data.items() if str(name).startswith(SCORE)}
            data = {name: value for name, value in data.items() if not str(name).startswith(SCORE)} | {"scores": scores}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> TrialRecord:
        if self.outcome != "done" and (self.scores or self.whole is not None or self.exact or self.proved):
            raise ValueError("only a trial that is done has scores")
        if (self.outcome == "crashed") != bool(self.error):
            raise ValueError("a crash has a traceback, and nothing else has")
        return self

    @property
    def settings(self) -> Settings:
        """What was tried."""
        return Settings(**{name: getattr(self, name) for name in Settings.model_fields})

    def flat(self) -> dict[str, Any]:
        """Its columns, each a plain value."""
        columns = self.model_dump(mode="json", exclude={"scores"})
        return columns | {SCORE + name: value for name, value in sorted(self.scores.items())}

    def untimed(self) -> dict[str, Any]:
        """Its columns without clocks and places: equal for two runs of the same trial.

        Example:
            >>> one = TrialRecord(id="1", code="c", outcome="done", dataset="d", model="m", batch_size=1, seconds=1)
            >>> other = one.model_copy(update={"seconds": 2.0})
            >>> one == other, one.untimed() == other.untimed()
            (False, True)
        """
        return {name: value for name, value in self.flat().items() if name not in ("seconds", "total_seconds", "finished", "host")}


class RunHeader(Record):
    """What a store's trials belong to.

    Attributes:
        format: version of the format.
        name: of the plan.
        title: of the plan, for people.
        about: what it is for.
        plan: the plan as it was run, after all overrides.
        digest: hash of all in the plan that decides which trials there are.
        trials: how many there are.
        code: version of the code of the first run.
        environment: versions and machine of the first run.
    """

    format: Literal[1] = FORMAT
    name: str
    title: str = ""
    about: str = ""
    plan: dict[str, JsonValue] = Field(default_factory=dict)
    digest: str
    trials: int
    code: str = ""
    environment: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """What a store holds.

    Attributes:
        header: the plan it belongs to.
        records: the last record of every trial, in the order of the file.
        torn: whether the last line is without its end: a run is writing it, or was killed.
    """

    header: RunHeader
    records: tuple[TrialRecord, ...]
    torn: bool = False


class TrialStore:
    """A store that is open for writing, by one run at a time.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> record = TrialRecord(id="1f", code="c", outcome="done", dataset="faces", model="mlp", batch_size=4, scores={"psnr_mean": 99.0})
        >>> with TrialStore(folder, RunHeader(name="p", digest="0", trials=1)) as trials:
        ...     trials.add(record)
        >>> load_run(folder).records == (record,)
        True
    """

    def __init__(self, folder: Path, header: RunHeader) -> None:
        """Open a store, or make it.

        Args:
            folder: where.
            header: of the plan whose trials will be added.

        Raises:
            BadFile: what lies there is damaged, or of a newer version.
            Misuse: what lies there belongs to another plan, or another run is writing there.
            OutputFailed: the folder cannot be written.
        """
        self.folder, self.records = folder, {}
        check_free(folder, (HEADER, TRIALS))
        if (folder / HEADER).exists():
            _check_same(_header(folder), header, folder)
        elif (folder / TRIALS).exists():
            raise BadFile(f"a {HEADER} beside {TRIALS}", f"none in {str(folder)!r}", "put it back, or name another folder")
        else:
            text = header.model_dump_json(indent=2) + "\n"
            publish(folder, {HEADER: text})
        try:
            self._file = os.open(folder / TRIALS, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise _failed(folder, error) from error
        try:
            _lock(self._file, folder)
            self._repair()
        except BaseException:
            os.close(self._file)
            raise

    records: dict[str, TrialRecord]
    """Id -> the record that counts."""

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the file, which lets other runs in."""
        os.close(self._file)

    def _repair(self) -> None:
        """Read what is there, and cut off a line without its end."""
        content = _content(self.folder)
        whole = content.rfind(b"\n") + 1
        self.records = {record.id: record for record in _records(content[:whole], self.folder)}
        if whole < len(content):
            os.ftruncate(self._file, whole)
        os.fsync(self._file)

    def add(self, record: TrialRecord, picture: bytes | None = None) -> None:
        """Append a record; when this returns it is on the disk.

        Args:
            record: of a trial that ended.
            picture: PNG, written before the record under the name in it.

        Raises:
            OutputFailed: it cannot be written; the store is as it was before.
        """
        line = (json.dumps(record.flat(), allow_nan=False, ensure_ascii=False) + "\n").encode()
        size = os.fstat(self._file).st_size
        try:
            if picture is not None and record.picture:
                self._draw(record.picture, picture)
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:])
            os.fsync(self._file)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file, size)
            raise _failed(self.folder, error, f"; the {len(self.records)} trials before are kept: go on when there is room") from error
        self.records[record.id] = record

    def _draw(self, name: str, picture: bytes) -> None:
        folder = self.folder / PICTURES
        folder.mkdir(mode=0o700, exist_ok=True)
        scratch = folder / f".{name}"
        with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123 -- for its owner alone
            file.write(picture)
        scratch.replace(folder / name)


def load_run(folder: Path) -> Run:
    """What a store holds, whether or not a run is writing there.

    Raises:
        BadFile: there is no store, or it is damaged, or of a newer version.
    """
    header, content = _header(folder), _content(folder)
    whole = content.rfind(b"\n") + 1
    latest = {record.id: record for record in _records(content[:whole], folder)}
    return Run(header, tuple(latest.values()), torn=whole < len(content))


def _header(folder: Path) -> RunHeader:
    path = folder / HEADER
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BadFile(f"a run's folder with a readable {HEADER}", f"{str(folder)!r}", "name the --out of `unbatch run`") from error
    return _parsed(RunHeader, text, str(path), "put back the file as it was written")


def _content(folder: Path) -> bytes:
    try:
        return (folder / TRIALS).read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise BadFile(f"a readable {TRIALS}", f"{str(folder)!r} ({error.strerror})", "check who may read it") from error


def _records(content: bytes, folder: Path) -> list[TrialRecord]:
    advice = "delete that line, and its trial alone is run again"
    found = []
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        where = f"line {number} of {str(folder / TRIALS)!r}"
        text = line.decode("utf-8", errors="replace")
        found.append(_parsed(TrialRecord, text, where, advice))
    return found


def _parsed(kind: type[Kind], text: str, where: str, advice: str) -> Kind:
    """What the text says, or one sentence on why it says nothing."""
    try:
        values = json.loads(text)
        version = values.get("format")
        newer = isinstance(version, int) and version > FORMAT
        made = None if newer else kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the record"
        raise BadFile("a record as unbatch wrote it", f"a damaged one in {where} ({place}: {first['msg']})", advice) from error
    except (ValueError, AttributeError, TypeError) as error:
        raise BadFile("a record as unbatch wrote it", f"a damaged one in {where}", advice) from error
    if made is None:
        raise BadFile(f"format {FORMAT} or older", f"format {version} in {where}", "read it with the version of unbatch that wrote it")
    return made


def _check_same(there: RunHeader, wanted: RunHeader, folder: Path) -> None:
    if there.digest != wanted.digest:
        came = f"{str(folder)!r}, which holds {there.trials} trials of the plan {there.name!r} as it stood then"
        raise Misuse(
            f"a folder of the plan {wanted.name!r} with its {wanted.trials} trials", came, "name another --out, or undo what was changed"
        )


def _lock(file: int, folder: Path) -> None:
    """Refuse a second writer; the system takes the lock back from the dead."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            advice = "wait for that run, or name another --out"
            raise Misuse("a folder that no other run is writing to", repr(str(folder)), advice) from error


def _failed(folder: Path, error: OSError, more: str = "") -> OutputFailed:
    return OutputFailed(f"expected an output folder that can be written, got {str(folder)!r} ({error.strerror or error}){more}")
