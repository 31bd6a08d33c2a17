"""Who may import whom, read from the code itself: every import of every module, deferred ones too."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "unbatch"

ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "archives": {"errors"},
    "records": {"errors"},
    "advice": {"records", "types"},
    "trace": set(),
    "clock": {"errors"},
    "gradients": {"errors", "trace"},
    "columns": {"errors"},
    "schema": {"columns", "errors"},
    "training": {"errors", "gradients"},
    "types": {"errors", "gradients", "schema", "trace", "training"},
    "last_layer": {"errors", "trace", "types"},
    "evidence": {"gradients", "linalg", "trace", "training", "types"},
    "specs": {"errors"},
    "contracts": {"errors", "evidence", "gradients", "linalg", "schema", "specs", "types"},
    "plugins": {"contracts", "errors", "specs"},
    "linalg": {"clock", "errors"},
    "spear": {"clock", "errors", "gradients", "last_layer", "linalg", "trace", "training", "types"},
    "inversion": {"errors", "gradients", "last_layer", "linalg", "trace", "types"},
    "attacks": {"clock", "contracts", "errors", "inversion", "last_layer", "span", "spear", "trace", "types"},
    "span": {"clock", "errors", "gradients", "last_layer", "linalg", "trace", "training", "types"},
    "labels": {"contracts", "errors", "gradients", "last_layer", "linalg", "trace", "types"},
    "protocols": {"contracts", "errors", "gradients", "training", "types"},
    "defenses": {"contracts", "errors"},
    "models": {"contracts", "errors"},
    "datasets": {"archives", "contracts", "errors", "schema", "types"},
    "metrics": {"contracts", "errors", "linalg", "schema"},
    "restoring": {"contracts", "gradients", "linalg", "plugins", "types"},
    "scoring": {"contracts", "linalg", "types"},
    "auditing": {"contracts", "errors", "plugins", "restoring", "scoring", "types"},
    "label_scores": {"errors"},
    "importers": {"archives", "errors", "gradients", "types"},
    "store": {"advice", "errors", "label_scores", "records", "types"},
    "exposure": {"advice", "records", "errors", "gradients", "last_layer", "plugins", "trace", "types"},
    "report": {"advice", "errors", "store", "exposure", "types"},
    "cli": {"auditing", "restoring", "contracts", "errors", "store", "exposure", "importers", "plugins", "report", "types"},
    "flower": {"records", "auditing", "contracts", "errors", "store", "gradients", "importers", "plugins", "report", "training", "types"},
    "__init__": {"auditing", "restoring", "errors", "exposure", "gradients", "types"},
}
"""Part -> the parts that it may import. A part is a module, or a folder of them."""

PLUGIN_FOLDERS = {"attacks", "labels", "protocols", "defenses", "models", "datasets", "metrics"}
BLINDFOLDED = {"attacks", "evidence", "inversion", "labels", "linalg", "span", "spear"}


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> set[str]:
    """Dotted names of all that is imported anywhere in a module."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def violations(path: Path, text: str) -> list[str]:
    tree, part = ast.parse(text), part_of(path)
    wrong = []
    for name in imports(tree):
        if name.split(".")[0] != "unbatch" or len(name.split(".")) == 1:
            continue
        target = name.split(".")[1]
        # `from unbatch import X` imports module X where there is one, and the package's own names otherwise.
        known = target if target in ALLOWED else "__init__"
        if known != part and known not in ALLOWED[part]:
            wrong.append(f"{path.name} imports {name}")
        shared_base = name.split(".")[2:3] != [] and name.split(".")[2].startswith("_")
        if known == part and part in PLUGIN_FOLDERS and not shared_base:
            wrong.append(f"{path.name} imports another plug-in: {name}")
    if part in BLINDFOLDED:
        named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} | {
            alias.name for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names
        }
        attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        if "Batch" in named | attributes:
            wrong.append(f"{path.name} names Batch")
    return wrong


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_follow_the_plan(path: Path) -> None:
    assert violations(path, path.read_text()) == []


def test_every_part_is_in_the_plan() -> None:
    assert {part_of(path) for path in SOURCE.rglob("*.py")} <= set(ALLOWED)


def test_plan_has_no_cycle() -> None:
    order = list(TopologicalSorter(ALLOWED).static_order())
    assert order.index("errors") < order.index("cli")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("from unbatch.datasets.faces import Faces", "imports unbatch.datasets.faces.Faces"),
        ("def f():\n    import unbatch.datasets.npz", "imports unbatch.datasets.npz"),
        ("from unbatch.types import Batch", "names Batch"),
        ("from unbatch import types\nx = types.Batch", "names Batch"),
        ("from unbatch.auditing import audit", "imports unbatch.auditing.audit"),
        ("from unbatch.attacks.spear import Spear", "imports another plug-in"),
    ],
)
def test_an_attack_that_peeks_is_caught(text: str, complaint: str) -> None:
    assert any(complaint in wrong for wrong in violations(SOURCE / "attacks" / "peeking.py", text))
