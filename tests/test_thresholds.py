"""Every number that decides has a name, says where it comes from, and is swept by ``benchmarks/thresholds.py`` where it says so."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "unbatch"
ROOMS = ("evidence", "presence", "span", "spear", "inversion", "linalg", "labels", "attacks")
FILES = [path for room in ROOMS for path in sorted((SOURCE / room).rglob("*.py"))]
FILES += [SOURCE / name for name in ("last_layer.py", "restoring.py", "gradients.py", "scoring.py", "importers/optimizers.py")]
ORIGIN = re.compile(r"\b(derived|chosen|measured|published|swept|fitted)\b", re.IGNORECASE)
SWEEP = ROOT / "benchmarks" / "thresholds.py"


def constants(path: Path) -> Iterator[tuple[tuple[str, ...], ast.expr, str]]:
    """Names, value and docstring of a module's constants."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    for node, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name | ast.Tuple):
            target = node.targets[0]
            names = (target.id,) if isinstance(target, ast.Name) else tuple(ast.unparse(element) for element in target.elts)
            said = following.value if isinstance(following, ast.Expr) else None
            if names[0].isupper():
                yield names, node.value, " ".join(str(said.value).split()) if isinstance(said, ast.Constant) else ""


def has_float(value: ast.expr) -> bool:
    """Whether it is a number with a fraction, or holds one; a plug-in's settings are another matter."""
    calls = any(isinstance(node, ast.Call) for node in ast.walk(value))
    return not calls and any(isinstance(node, ast.Constant) and isinstance(node.value, float) for node in ast.walk(value))


def place(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


def swept() -> set[str]:
    """The targets of the benchmark, read without running it."""
    for node in ast.parse(SWEEP.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "SWEPT" and node.value is not None:
            return {target for targets in ast.literal_eval(node.value).values() for target in targets}
    raise AssertionError("no SWEPT")


@pytest.mark.parametrize("path", FILES, ids=place)
def test_a_constant_says_where_it_comes_from(path: Path) -> None:
    assert [names for names, value, said in constants(path) if has_float(value) and not ORIGIN.search(said)] == []


def test_what_says_that_it_is_swept_is() -> None:
    told = {}
    for path in FILES:
        for names, _, said in constants(path):
            if re.search(r"\bswept\b", said, re.IGNORECASE) and "not swept" not in said:
                told[f"{place(path)}:{names[0]}"] = {f"{place(path)}:{name}" for name in names}
    assert len(told) > 50
    assert [name for name, any_of in told.items() if not any_of & swept()] == []
    assert swept() - set().union(*told.values()) == set()


def test_the_results_are_of_these_thresholds_and_none_makes_a_false_claim_as_it_is() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "thresholds.json").read_text(encoding="utf-8"))
    assert {target for setting in result["settings"].values() for target in setting["thresholds"]} == swept()
    assert {name: setting["as it is"]["false"] for name, setting in result["settings"].items() if setting["as it is"]["false"]} == {}
