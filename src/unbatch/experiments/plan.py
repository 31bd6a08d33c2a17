"""A plan: a TOML file whose lists multiply to trials.

    name = "batch-size"
    datasets = ["npz:$UNBATCH_SHARED/data/cifar10_test.npz"]
    models = ["mlp:width=200", "mlp:width=400"]
    attacks = ["spear:seconds=60"]
    batch_sizes = [20, 40, 60]
    seeds = 10

    [reduced]                     # what `unbatch run --reduced` changes, for a laptop
    seeds = 2

Where one product does not do, ``[[grid]]`` tables each multiply their own lists; what stands above them holds in all of them. ``[reduced]``
holds in all grids, and ``reduced`` inside of a grid's table in that grid alone.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from unbatch.auditing import environment
from unbatch.errors import BadFile, Misuse
from unbatch.experiments.checking import check_grid
from unbatch.experiments.grids import Grid
from unbatch.experiments.identity import code_version, digest, files_digest
from unbatch.experiments.toml_lines import Place, Source
from unbatch.experiments.trial import Trial
from unbatch.reading import read_text
from unbatch.store.trials import RunHeader, Settings

__all__ = ["MOST", "Plan", "load_plan"]

FORMAT = 1
"""Version of the format of plans."""

MOST = 100_000
"""Trials that a plan may have without being asked for."""

ABOVE = ("format", "name", "title", "about", "pictures")
"""Keys that are not of a grid."""


@dataclass(frozen=True)
class Plan:
    """A plan as it will be run.

    Attributes:
        name: short, for files and headers.
        title: for people.
        about: what it is for.
        grids: their trials are the plan's, each once.
        pictures: trials of which pictures are kept, at most.
    """

    name: str
    grids: tuple[Grid, ...]
    title: str = ""
    about: str = ""
    pictures: int = 24

    @property
    def size(self) -> int:
        """How many trials the lists multiply to."""
        return sum(grid.size for grid in self.grids)

    def trials(self) -> list[Trial]:
        """All trials, each once, with their ids."""
        code = code_version()
        found: dict[str, tuple[Settings, Grid]] = {}
        for grid in self.grids:
            for settings in grid.settings():
                name = _identify(settings, grid, code)
                found.setdefault(name, (settings, grid))
        shown = _spread(list(found), {name: settings for name, (settings, _) in found.items()}, self.pictures)
        return [
            Trial(settings, name, code, grid.metrics, grid.device, grid.threads, name in shown) for name, (settings, grid) in found.items()
        ]

    def header(self, trials: int) -> RunHeader:
        """What a store of its trials begins with."""
        grids = [grid.model_dump(mode="json") for grid in self.grids]
        plan: dict[str, Any] = {"grids": grids, "pictures": self.pictures}
        return RunHeader(
            name=self.name,
            title=self.title,
            about=self.about,
            plan=plan,
            digest=digest(plan),
            trials=trials,
            code=code_version(),
            environment=environment(),
        )


def _identify(settings: Settings, grid: Grid, code: str) -> str:
    specs = [settings.dataset, settings.model, settings.attack, settings.restorer, *settings.defenses, *grid.metrics]
    files = [files_digest(spec) for spec in specs]
    return digest([settings.model_dump(mode="json"), list(grid.metrics), grid.device, grid.threads, code, files])


def _spread(names: Sequence[str], settings: Mapping[str, Settings], most: int) -> set[str]:
    """Trials whose pictures are kept: the first of every setting, evenly thinned out."""
    firsts: dict[str, str] = {}
    for name in names:
        if settings[name].attack:
            firsts.setdefault(settings[name].model_copy(update={"seed": 0}).model_dump_json(), name)
    chosen = list(firsts.values())
    step = max(1.0, len(chosen) / most) if most else 1.0
    return {chosen[int(i * step)] for i in range(min(most, len(chosen)))}


def load_plan(path: Path, *, reduced: bool = False, overrides: Sequence[str] = (), most: int = MOST) -> Plan:
    r"""Read a plan, and check all of it that can be checked before the first trial.

    Args:
        path: of the TOML file.
        reduced: whether to take what its ``[reduced]`` says.
        overrides: ``key=value`` each, in TOML, for all grids; a value that is no TOML is taken as text.
        most: trials that it may have.

    Raises:
        BadFile: the file cannot be read, or is no TOML.
        Misuse: something in it is wrong; the sentence names the line.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "plan.toml")
        >>> _ = path.write_text('datasets = "faces"\nmodels = "mlp"\nattacks = ["spear"]\nbatch_sizes = [4, 8]\nseeds = 3\n')
        >>> plan = load_plan(path, overrides=["seeds=2"])
        >>> plan.name, plan.size
        ('plan', 4)
        >>> _ = path.write_text('datasets = "faces"\nmodel = "mlp"\n')
        >>> load_plan(path)
        Traceback (most recent call last):
        unbatch.errors.Misuse: expected a key of plans, got 'model' in line 2 of ...: did you mean 'models'?
    """
    source, content = _read(path)
    if (version := content.pop("format", FORMAT)) != FORMAT:
        raise BadFile(f"format {FORMAT}", f"format {version!r} in {source.where(Place(), 'format')}", "update unbatch")
    above = {key: content.pop(key) for key in ABOVE if key in content}
    _check_above(source, above)
    grids = []
    for values, places in _merged(source, content, reduced, _parsed(overrides)):
        grid = _grid(source, values, places)
        grids.append(grid)
        if sum(each.size for each in grids) > most:
            lists = " x ".join(f"{count} {name}" for name, count in grid.counts.items() if count > 1)
            came = f"{sum(each.size for each in grids):,} ({lists}) in {source.name!r}"
            raise Misuse(f"a plan of at most {most:,} trials", came, "shorten a list, or raise --most if you mean it")
        check_grid(grid, partial(_where, source, places))
    name = above.get("name", path.stem)
    return Plan(name, tuple(grids), above.get("title", ""), above.get("about", ""), above.get("pictures", 24))


def _where(source: Source, places: Mapping[str, Place], key: str, value: object) -> str:
    return source.where(places.get(key, Place()), key, value)


def _read(path: Path) -> tuple[Source, dict[str, Any]]:
    text = read_text(path, "a plan, a TOML file", "give its path; docs/experiments.md shows one")
    try:
        return Source(str(path), text), tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadFile("a plan in TOML", f"{str(path)!r}, which is none: {error}", "correct that line") from error


def _check_above(source: Source, above: Mapping[str, Any]) -> None:
    for key, value in above.items():
        right = isinstance(value, int) and not isinstance(value, bool) and value >= 0 if key == "pictures" else isinstance(value, str)
        if not right:
            kind = "a whole number" if key == "pictures" else "text"
            raise Misuse(f"{kind} for {key}", f"{value!r} in {source.where(Place(), key)}", "correct it")


def _parsed(overrides: Sequence[str]) -> dict[str, Any]:
    found = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise Misuse("--set KEY=VALUE", repr(text), "for instance --set seeds=2 or --set 'batch_sizes=[8, 16]'")
        try:
            found[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[key.strip()] = value
    return found


def _merged(
    source: Source, content: dict[str, Any], reduced: bool, overrides: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Any], dict[str, Place]]]:
    """Of every grid what it says, and where each of it stands."""
    less = content.pop("reduced", {})
    tables = content.pop("grid", None)
    if not isinstance(less, dict):
        raise Misuse("a table [reduced]", f"{less!r} in {source.where(Place(), 'reduced')}", "write it as a table")
    if tables is not None and not (isinstance(tables, list) and all(isinstance(table, dict) for table in tables)):
        raise Misuse("tables [[grid]]", f"something else in {source.where(Place(), 'grid')}", "write [[grid]] above each")
    for index, table in enumerate([{}] if tables is None else tables):
        own = dict(table)
        own_less = own.pop("reduced", {})
        layers: list[tuple[Mapping[str, Any], Place]] = [(content, Place()), (own, Place("grid", index))]
        layers += [(less, Place("reduced")), (own_less, Place("grid.reduced", index))] if reduced else []
        layers += [(overrides, Place(override=True))]
        values: dict[str, Any] = {}
        places: dict[str, Place] = {}
        for layer, place in layers:
            values |= dict(layer)
            places |= dict.fromkeys(layer, place)
        yield values, places
        # What is not taken is still checked: a plan is right as a whole or not at all.
        for key in {**less, **own_less}:
            if key not in Grid.model_fields:
                _refuse_key(key, source.where(Place("reduced") if key in less else Place("grid.reduced", index), key))


def _grid(source: Source, values: Mapping[str, Any], places: Mapping[str, Place]) -> Grid:
    for key in values:
        if key not in Grid.model_fields:
            _refuse_key(key, source.where(places[key], key))
    try:
        grid = Grid(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        if first["type"] == "missing":
            raise Misuse(f"a list of {key}", f"none in {source.name!r}", f"add {key} = [...]") from error
        wrong = first["input"] if len(first["loc"]) > 1 else None
        where = source.where(places.get(key, Place()), key, wrong)
        raise Misuse(f"other {key}", f"{first['input']!r:.80} in {where}", f"{first['msg'].lower()}; see docs/experiments.md") from error
    if not grid.attacks and not grid.restorers:
        raise Misuse("attacks or restorers", f"neither in {source.name!r}", 'add attacks = ["spear"], or restorers = ["anchored"]')
    return grid


def _refuse_key(key: str, where: str) -> None:
    near = difflib.get_close_matches(key, Grid.model_fields, n=1)
    advice = f"did you mean {near[0]!r}?" if near else f"known are {', '.join((*ABOVE, *Grid.model_fields))}"
    raise Misuse("a key of plans", f"{key!r} in {where}", advice)
