"""Curves of a run: a share or a score against a setting that is a number, as points of a drawing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import methodcaller

from unbatch import specs
from unbatch.report.cells import AXES, Cell, named, value, varying, wilson
from unbatch.store.trials import Settings

__all__ = ["Chart", "Line", "charts"]

WIDTH, HEIGHT = 560, 220
"""Of the drawing, without its labels."""

MOST_LINES, MOST_TICKS = 6, 9
"""Lines of one drawing, which can still be told apart; numbers below it."""

RANGE = 20.0
"""Largest over smallest number from which an axis is logarithmic."""


@dataclass(frozen=True)
class Line:
    """One line of a drawing.

    Attributes:
        name: what is the same along it.
        style: number of its color and dashes.
        points: of a polyline.
        dots: (x, y) of every point.
        bars: (x, low, high) of every interval, where it has them.
    """

    name: str
    style: int
    points: str
    dots: list[tuple[float, float]]
    bars: list[tuple[float, float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Chart:
    """One drawing.

    Attributes:
        title: what is drawn against what.
        x: what the axis is called.
        lines: at most a few.
        ticks: (x, text).
        levels: (y, text).
        said: the same in words, for those who do not see it.
        width: of the drawing.
        height: of the drawing.
    """

    title: str
    x: str
    lines: list[Line]
    ticks: list[tuple[float, str]]
    levels: list[tuple[float, str]]
    said: str
    width: int = WIDTH
    height: int = HEIGHT


Measure = tuple[str, Callable[[Cell], float | None], bool]
"""Its name, its value in a cell, and whether it is a share of the trials, with an interval."""


def charts(cells: Sequence[Cell], scores: Sequence[str]) -> list[Chart]:
    """All curves that a run has: every setting that is a number and varies, the share of whole successes, and the first score.

    Args:
        cells: of the run.
        scores: names of scores that may be drawn, the most telling first.
    """
    measures: list[Measure] = [("whole successes", lambda cell: cell.whole / len(cell.tried) if cell.tried else None, True)]
    measures += [(f"median {name.replace('_', ' ')}", methodcaller("score", name), False) for name in scores[:1]]
    found = []
    for axis, x in _axes(cells):
        lines = _lines(cells, axis, x)
        for measure in measures:
            for start in range(0, len(lines), MOST_LINES):
                chart = _chart(axis, lines[start : start + MOST_LINES], measure)
                found += [chart] if chart.lines else []
    return found


Number = Callable[[Settings], tuple[str, float] | None]
"""Settings -> what is the same along a line but for this number, and the number; None where it is not of this axis."""


def _axes(cells: Sequence[Cell]) -> Iterator[tuple[str, Number]]:
    """Names of numbers that vary, and how to read them."""
    for plain in ("batch_size", "trained"):
        if len({getattr(cell.settings, plain) for cell in cells}) > 1:
            yield {"batch_size": "batch size", "trained": "steps of training"}[plain], _plain(plain)
    for axis in ("dataset", "model", "protocol", "defenses", "attack", "restorer"):
        texts = {value(cell.settings, axis) for cell in cells}
        pairs = {(part.partition(":")[0], key) for text in texts for part in [text] for key, _ in _numbers(part)}
        for name, key in sorted(pairs):
            number = _inside(axis, name, key)
            if any(len(line) > 1 for _, line in _lines(cells, key, number)):
                yield f"{name}'s {key.replace('_', ' ')}", number


def _plain(axis: str) -> Number:
    return lambda settings: (_others(settings, axis, ""), float(getattr(settings, axis)))


def _inside(axis: str, name: str, key: str) -> Number:
    """A setting of a plug-in: what else the specification says is the same along a line."""

    def number(settings: Settings) -> tuple[str, float] | None:
        text = value(settings, axis)
        found = dict(_numbers(text))
        if text.partition(":")[0] != name or key not in found:
            return None
        rest = [(field, part) for field, part in specs.parse(text)[1] if field != key]
        return _others(settings, axis, f"{name}:{rest}"), found[key]

    return number


def _numbers(text: str) -> list[tuple[str, float]]:
    """The settings of a specification that are numbers; of a chain of defenses none."""
    if " + " in text:
        return []
    found = []
    for key, part in specs.parse(text)[1]:
        try:
            number = float(part)
        except ValueError:
            continue
        if key is not None and math.isfinite(number):
            found.append((key, number))
    return found


def _others(settings: Settings, axis: str, instead: str) -> str:
    """All settings but one."""
    return "\n".join([instead, *(value(settings, name) for name in AXES if name != axis)])


def _lines(cells: Sequence[Cell], axis: str, x: Number) -> list[tuple[str, list[tuple[float, Cell]]]]:
    """Cells that lie on one line, by what is the same along it; single points make no line."""
    del axis
    groups: dict[str, list[tuple[float, Cell]]] = {}
    for cell in cells:
        if (place := x(cell.settings)) is not None:
            groups.setdefault(place[0], []).append((place[1], cell))
    lines = [sorted(line, key=lambda point: point[0]) for line in groups.values() if len({number for number, _ in line}) > 1]
    names = varying([cell for line in lines for _, cell in line]) if lines else []
    alike = [name for name in names if all(len({value(cell.settings, name) for _, cell in line}) == 1 for line in lines)]
    told = [[named(text) for name in alike if (text := value(line[0][1].settings, name))] for line in lines]
    return [(", ".join(name) or "all", line) for name, line in zip(told, lines, strict=True)]


def _chart(axis: str, lines: Sequence[tuple[str, list[tuple[float, Cell]]]], measure: Measure) -> Chart:
    title, read, share = measure
    numbers = sorted({number for _, line in lines for number, _ in line})
    across = _scale(numbers, WIDTH)
    values = [(name, [(x, cell, y) for x, cell in line if (y := read(cell)) is not None]) for name, line in lines]
    heights = [y for _, line in values for _, _, y in line]
    low, high = (0.0, 1.0) if share or not heights else _range(heights)

    def up(y: float) -> float:
        return round(HEIGHT * (1 - (min(max(y, low), high) - low) / (high - low)), 1)

    drawn = []
    for style, (name, line) in enumerate(values):
        dots = [(across(x), up(y)) for x, _, y in line]
        bars = []
        if share:
            for x, cell, _ in line:
                bottom, top = wilson(cell.whole, len(cell.tried))
                bars.append((across(x), up(bottom), up(top)))
        if dots:
            drawn.append(Line(name, style, " ".join(f"{x},{y}" for x, y in dots), dots, bars))
    few = numbers if len(numbers) <= MOST_TICKS else [numbers[round(i * (len(numbers) - 1) / (MOST_TICKS - 1))] for i in range(MOST_TICKS)]
    levels = [(up(y), f"{y:.0%}" if share else f"{y:.3g}") for y in (low, (low + high) / 2, high)]
    said = "; ".join(f"{name}: " + ", ".join(f"{y:.3g} at {x:g}" for x, _, y in line) for name, line in values if line)
    return Chart(f"{title.capitalize()} by {axis}", axis, drawn, [(across(x), f"{x:g}") for x in few], levels, f"{title} by {axis}. {said}")


def _range(heights: Sequence[float]) -> tuple[float, float]:
    low, high = min(heights), max(heights)
    margin = 0.05 * (high - low) or max(1.0, abs(high)) * 0.05
    return low - margin, high + margin


def _scale(numbers: Sequence[float], width: int) -> Callable[[float], float]:
    """Where a number stands on an axis, logarithmic where numbers differ much."""
    logarithmic = bool(numbers) and numbers[0] > 0 and numbers[-1] / numbers[0] > RANGE

    def bent(x: float) -> float:
        return math.log(x) if logarithmic else x

    span = bent(numbers[-1]) - bent(numbers[0]) if numbers else 0.0
    return lambda x: round(width * (bent(x) - bent(numbers[0])) / (span or 1.0), 1)
