"""Draws ``house.svg``: who may import whom, from the very list that ``tests/test_architecture.py`` holds the sources to.

    python docs/figures/house.py

A part stands on what it imports. An arrow that follows from others (a imports b, b imports c, so a may well import c) is left out.
"""

from __future__ import annotations

import html
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from house import ALLOWED, BLINDFOLDED, PLUGIN_FOLDERS  # noqa: E402

TARGET = Path(__file__).with_suffix(".svg")
HEIGHT, GAP, STOREY, LETTER, MARGIN = 30, 14, 74, 7.4, 24
"""Of a box, between boxes, between two storeys, of a letter, around all; in pixels."""
SWEEPS = 24
COLORS = {"plug-ins": "#f5d7a1", "blindfolded engines": "#b9d6f2", "program": "#cfe8c6", "ground": "#e4e4e4"}
PROGRAM = {
    "auditing",
    "restoring",
    "scoring",
    "store",
    "report",
    "cli",
    "flower",
    "exposure",
    "importers",
    "testing",
    "plugins",
    "__init__",
}

Graph = Mapping[str, set[str]]


def needed(graph: Graph) -> dict[str, set[str]]:
    """The arrows that do not follow from others."""
    below: dict[str, set[str]] = {}
    for part in TopologicalSorter(graph).static_order():
        below[part] = set(graph.get(part, ())).union(*(below[other] for other in graph.get(part, ())))
    return {part: {other for other in others if not any(other in below[third] for third in others)} for part, others in graph.items()}


def storeys(graph: Graph) -> dict[str, int]:
    """How high each part stands: one above the highest that it imports."""
    level: dict[str, int] = {}
    for part in TopologicalSorter(graph).static_order():
        level[part] = 1 + max((level[other] for other in graph.get(part, ())), default=-1)
    return level


@dataclass
class Drawing:
    """Parts and the bends of long arrows, in rows.

    Attributes:
        rows: names by storey, from the ground up, in order from the left.
        links: (upper, lower) between neighboring storeys.
        middle: where each stands, its middle in pixels from the left.
    """

    rows: list[list[str]]
    links: list[tuple[str, str]]
    paths: list[list[str]]
    middle: dict[str, float] = field(default_factory=dict)

    def width(self, name: str) -> float:
        """Of a box; of a bend next to nothing."""
        return LETTER * len(shown(name)) + 22 if name in ALLOWED else 2.0

    def settle(self) -> None:
        """Order each row by where its neighbors stand, then move each name as near to them as its own neighbors in the row allow."""
        beside: dict[str, list[str]] = {name: [] for row in self.rows for name in row}
        for upper, lower in self.links:
            beside[upper].append(lower)
            beside[lower].append(upper)
        for row in self.rows:
            self._spread(row, dict.fromkeys(row, 0.0))
        for sweep in range(SWEEPS):
            for row in self.rows if sweep % 2 else self.rows[::-1]:
                wanted = {name: self._mean(beside[name], name) for name in row}
                row.sort(key=lambda name: (round(wanted[name], 3), name))
                self._spread(row, wanted)

    def _mean(self, others: list[str], name: str) -> float:
        return sum(self.middle[other] for other in others) / len(others) if others else self.middle[name]

    def _spread(self, row: list[str], wanted: dict[str, float]) -> None:
        """As wanted, but apart: pushed to the right where they overlap, then all back by what that moved them on average."""
        end, placed = float("-inf"), {}
        for name in row:
            placed[name] = max(wanted[name], end + GAP + self.width(name) / 2)
            end = placed[name] + self.width(name) / 2
        off = sum(placed[name] - wanted[name] for name in row) / len(row)
        self.middle |= {name: place - off for name, place in placed.items()}


def shown(name: str) -> str:
    """The name in the picture."""
    return "unbatch" if name == "__init__" else name


def planned(graph: Graph) -> Drawing:
    """Rows and links; an arrow over several storeys bends once on each."""
    level, rows, links, paths = storeys(graph), [], [], []
    rows = [sorted(name for name in level if level[name] == storey) for storey in range(max(level.values()) + 1)]
    for part, others in sorted(needed(graph).items()):
        for other in sorted(others):
            bends = [f"{part}>{other}@{storey}" for storey in range(level[part] - 1, level[other], -1)]
            for bend in bends:
                rows[int(bend.rpartition("@")[2])].append(bend)
            path = [part, *bends, other]
            paths.append(path)
            links += list(pairwise(path))
    return Drawing(rows, links, paths)


def group(name: str) -> str:
    """What a part is, for its color."""
    if name in PLUGIN_FOLDERS:
        return "plug-ins"
    if name in BLINDFOLDED:
        return "blindfolded engines"
    return "program" if name in PROGRAM else "ground"


def drawn(graph: Graph = ALLOWED) -> str:
    """The picture, as SVG."""
    plan = planned(graph)
    plan.settle()
    left = min(plan.middle[name] - plan.width(name) / 2 for name in plan.middle) - MARGIN
    wide = max(plan.middle[name] + plan.width(name) / 2 for name in plan.middle) + MARGIN - left
    high = len(plan.rows) * STOREY + 2 * MARGIN
    top = {name: high - MARGIN - HEIGHT - STOREY * storey for storey, row in enumerate(plan.rows) for name in row}
    spot = {name: plan.middle[name] - left for name in plan.middle}
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.0f} {high:.0f}" font-family="sans-serif" font-size="13">',
        "<title>Who may import whom: a part stands on what it imports</title>",
        f'<rect width="{wide:.0f}" height="{high:.0f}" fill="white"/>',
    ]
    for path in plan.paths:
        points = [(spot[name], top[name] + (HEIGHT if name == path[0] else 0 if name == path[-1] else HEIGHT / 2)) for name in path]
        curve = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
        for (x0, y0), (x1, y1) in pairwise(points):
            half = (y0 + y1) / 2
            curve += f" C{x0:.1f} {half:.1f} {x1:.1f} {half:.1f} {x1:.1f} {y1:.1f}"
        lines.append(f'<path d="{curve}" fill="none" stroke="#888" stroke-width="1"/>')
    for name in sorted(graph):
        x, wide_box = spot[name], plan.width(name)
        box = f'x="{x - wide_box / 2:.1f}" y="{top[name]:.1f}" width="{wide_box:.1f}" height="{HEIGHT}"'
        lines.append(f'<rect {box} rx="5" fill="{COLORS[group(name)]}" stroke="#555"/>')
        lines.append(f'<text x="{x:.1f}" y="{top[name] + 20:.1f}" text-anchor="middle">{html.escape(shown(name))}</text>')
    for place, (name, color) in enumerate(COLORS.items()):
        y = MARGIN + 24 * place
        lines.append(f'<rect x="{MARGIN}" y="{y}" width="16" height="16" rx="3" fill="{color}" stroke="#555"/>')
        lines.append(f'<text x="{MARGIN + 24}" y="{y + 13}">{name}</text>')
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    TARGET.write_text(drawn(), encoding="utf-8")
