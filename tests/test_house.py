"""The house as it is drawn and described: the picture is current, the rooms are small, every file on the newcomer's page is there."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree as ET

import pytest

from house import ALLOWED

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "unbatch"
FILES = sorted(SOURCE.rglob("*.py"))
PAGE = (ROOT / "docs" / "house.md").read_text(encoding="utf-8")
PICTURE = ROOT / "docs" / "figures" / "house.svg"


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_house", PICTURE.with_suffix(".py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_current(script: ModuleType) -> None:
    assert PICTURE.read_text(encoding="utf-8") == script.drawn(), "run python docs/figures/house.py"


def test_the_picture_shows_every_part_once() -> None:
    texts = [node.text for node in ET.fromstring(PICTURE.read_text(encoding="utf-8")).iter("{http://www.w3.org/2000/svg}text")]  # noqa: S314  (our own)
    for part in ALLOWED:
        assert texts.count("unbatch" if part == "__init__" else part) == 1


def test_what_follows_from_others_is_left_out(script: ModuleType) -> None:
    assert script.needed({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {"a": {"b"}, "b": {"c"}, "c": set()}
    level = script.storeys(ALLOWED)
    assert all(level[part] > level[other] for part, others in ALLOWED.items() for other in others)


def test_the_plan_allows_nothing_that_is_not_done() -> None:
    """An arrow that no import needs any more is taken out of the plan, or the picture would show it."""
    done: dict[str, set[str]] = {part: set() for part in ALLOWED}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [f"{node.module}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                if name.startswith("unbatch."):
                    target = name.split(".")[1]
                    done[part_of(path)].add(target if target in ALLOWED else "__init__")
                elif name == "unbatch":
                    done[part_of(path)].add("__init__")
            if isinstance(node, ast.Import) and any(alias.name == "unbatch" for alias in node.names):
                done[part_of(path)].add("__init__")
    by_name = {"__init__"}  # its names are imported when they are first used
    stale = {part: sorted(others - done[part]) for part, others in ALLOWED.items() if part not in by_name and others - done[part]}
    assert stale == {}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_has_less_than_400_lines_and_its_functions_less_than_60(path: Path) -> None:
    assert lines(path) < 400
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            size = (node.body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert size < 60, f"{node.name} has {size} lines beside its signature and docstring"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_code_decides_by_a_key_of_stats(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        read = isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and isinstance(node.slice, ast.Constant)
        asked = isinstance(node, ast.Attribute) and node.attr == "get"
        held = node.value if (read or asked) and isinstance(node, ast.Subscript | ast.Attribute) else None
        assert not (isinstance(held, ast.Attribute) and held.attr == "stats"), f"line {held and held.lineno} reads a key of stats"


def test_rooms_are_small() -> None:
    sizes = dict.fromkeys(ALLOWED, 0)
    for path in FILES:
        sizes[part_of(path)] += lines(path)
    assert sizes["linalg"] < 1000
    large = {part: size for part, size in sizes.items() if size > 0.15 * sum(sizes.values())}
    assert large == {}


def test_every_file_on_the_page_is_there() -> None:
    named = set(re.findall(r"`([\w/]+\.py)`", PAGE))
    assert len(named) > 20
    assert [name for name in sorted(named) if not (SOURCE / name).exists() and not (ROOT / name).exists()] == []


def test_every_part_is_on_the_map() -> None:
    """Of the README, for folders and modules alike."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = {f"{part}.py" if (SOURCE / f"{part}.py").exists() else f"{part}/" for part in ALLOWED if part != "__init__"}
    assert [name for name in sorted(shown) if f"`{name}`" not in readme] == []
