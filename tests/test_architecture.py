"""Who may import whom, read from the code itself: every import of every module, deferred ones too. And the attacks' blindfold."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from blindfold import peeks
from house import ALLOWED, BLINDFOLDED, PLUGIN_FOLDERS

SOURCE = Path(__file__).parents[1] / "src" / "unbatch"


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
        if name.split(".")[0] != "unbatch":
            continue
        target = [*name.split("."), "__init__"][1]
        # `from unbatch import X` imports module X where there is one, and the package's own names otherwise.
        known = target if target in ALLOWED else "__init__"
        if known != part and known not in ALLOWED.get(part, set()):
            wrong.append(f"{path.name} imports {name}")
        shared_base = name.split(".")[2:3] != [] and name.split(".")[2].startswith("_")
        if known == part and part in PLUGIN_FOLDERS and not shared_base:
            wrong.append(f"{path.name} imports another plug-in: {name}")
    if part in BLINDFOLDED:
        wrong += [f"{path.name} {told}" for told in peeks(tree)]
    return wrong


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_follow_the_plan(path: Path) -> None:
    assert violations(path, path.read_text()) == []


def test_every_part_is_in_the_plan() -> None:
    assert {part_of(path) for path in SOURCE.rglob("*.py")} <= set(ALLOWED)


def test_plan_has_no_cycle() -> None:
    order = list(TopologicalSorter(ALLOWED).static_order())
    assert order.index("errors") < order.index("cli")


DOORS = [
    # the package itself
    ("from unbatch.datasets.faces import Faces", "imports unbatch.datasets.faces.Faces"),
    ("def f():\n    import unbatch.datasets.npz", "imports unbatch.datasets.npz"),
    ("from unbatch.types import Batch", "names Batch"),
    ("from unbatch import types\nx = types.Batch", "names Batch"),
    ("from unbatch import types\nx = getattr(types, 'Batch')", "names Batch"),
    ("from unbatch.auditing import audit", "imports unbatch.auditing.audit"),
    ("from unbatch.attacks.spear import Spear", "unbatch.attacks.spear.Spear"),
    ("import unbatch\nunbatch.audit(seen)", "imports the package: unbatch"),
    ("import unbatch as u", "imports the package: unbatch"),
    ("import unbatch.types\nunbatch.audit(seen)", "imports the package: unbatch.types"),
    ("from unbatch import audit", "imports unbatch.audit"),
    ("from unbatch import *", "imports everything there is in unbatch"),
    ("from unbatch.seeds import derive", "imports unbatch.seeds.derive"),
    ("from unbatch import plugins", "imports unbatch.plugins"),
    ("from unbatch.contracts import seeds", "reads seeds"),
    # by name, and text that becomes code
    ("import importlib\nimportlib.import_module('unbatch')", "imports importlib"),
    ("from importlib import import_module as fetch", "imports importlib"),
    ("__import__('unbatch').audit", "uses __import__"),
    ("import builtins", "imports builtins"),
    ("__builtins__['open']('truth.npz')", "uses __builtins__"),
    ("from unbatch.trace import builtins", "reads builtins"),
    ("x = eval('un' + 'batch')", "uses eval"),
    ("exec('import unbatch')", "uses exec"),
    ("run = compile('1', '', 'eval')", "uses compile"),
    ("import runpy", "imports runpy"),
    ("__loader__.load_module('unbatch')", "uses __loader__"),
    ("__spec__.loader", "uses __spec__"),
    # files
    ("import numpy as np\ntruth = np.load('truth.npz')", "reads load"),
    ("from numpy import load", "reads load"),
    ("import numpy as np\nnp.lib.npyio.NpzFile('truth.npz')", "reads npyio"),
    ("import numpy as np\nnp.memmap('truth.bin')", "reads memmap"),
    ("import numpy as np\nnp.fromfile('truth.bin')", "reads fromfile"),
    ("import numpy as np\nread = np.genfromtxt", "reads genfromtxt"),
    ("open('truth.npz', 'rb')", "uses open"),
    ("from pathlib import Path\nPath('truth').read_bytes()", "imports pathlib"),
    ("from unbatch.specs import Path", "reads Path"),
    ("def f(path):\n    return path.read_text()", "reads read_text"),
    ("import torch\ntorch.load('truth.pt')", "reads load"),
    ("import torch\ntorch.jit.load('truth.pt')", "reads load"),
    ("import torch\ntorch.from_file('truth.bin', size=9)", "reads from_file"),
    ("import torch\ntorch.UntypedStorage.from_file('truth.bin')", "reads UntypedStorage"),
    ("import torch\ntorch.hub.load_state_dict_from_url('x')", "reads hub"),
    ("import torch\ntorch.ops.load_library('x.so')", "reads load_library"),
    ("from safetensors.torch import load_file", "imports safetensors"),
    ("from safetensors import safe_open", "imports safetensors"),
    ("import pickle", "imports pickle"),
    ("import os\nos.listdir('.')", "imports os"),
    ("import io", "imports io"),
    ("import scipy.io", "imports scipy.io"),
    ("from scipy import datasets", "imports scipy.datasets"),
    ("from sklearn.datasets import load_digits", "imports sklearn"),
    ("import subprocess", "imports subprocess"),
    ("import socket", "imports socket"),
    # frames, all objects, all modules
    ("import inspect\ninspect.stack()[1].frame.f_locals['truth']", "imports inspect"),
    ("import torch\ntorch.inspect.stack()", "reads inspect"),
    ("import sys\nsys._getframe(1).f_locals", "imports sys"),
    ("import sys\nsys.modules['unbatch'].audit", "imports sys"),
    ("import torch\ntorch.sys.modules['unbatch']", "reads sys"),
    ("from dataclasses import sys", "reads sys"),
    ("def f(e):\n    return e.tb_frame.f_back.f_globals", "reads f_back"),
    ("try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    t = e.__traceback__", "reads __traceback__"),
    ("x = (i for i in [1]).gi_frame", "reads gi_frame"),
    ("import gc\ngc.get_objects()", "imports gc"),
    ("import ctypes", "imports ctypes"),
    ("import numpy as np\nnp.ctypeslib.as_array(1)", "reads ctypeslib"),
    ("import torch\ntorch._C._log_api_usage_once('x')", "reads _C"),
    ("import traceback", "imports traceback"),
    ("import threading", "imports threading"),
    ("import warnings", "imports warnings"),
    # attributes by other names
    ("x = globals()['audit']", "uses globals"),
    ("x = locals()", "uses locals"),
    ("def f(m):\n    return vars(m)['audit']", "uses vars"),
    ("def f(m):\n    return m.__dict__['audit']", "reads __dict__"),
    ("def f(m):\n    return m.__globals__", "reads __globals__"),
    ("def f(progress):\n    return progress.__closure__[0].cell_contents", "reads __closure__"),
    ("x = ().__class__.__base__.__subclasses__()", "reads __subclasses__"),
    ("def f(m):\n    return getattr(m, '__globals__')", "reads __globals__"),
    ("def f(m):\n    return getattr(m, '__glo' + 'bals__')", "made up at run time"),
    ("def f(m, key):\n    return getattr(m, key)", "made up at run time"),
    ("def f(m):\n    return [getattr(m, key) for key in ('shape', '__globals__')]", "reads __globals__"),
    ("def f(m):\n    for key in ('shape',):\n        key += 's'\n        getattr(m, key)", "made up at run time"),
    ("get = getattr\nget(1, 'x')", "uses getattr as a value"),
    ("from operator import attrgetter", "imports operator.attrgetter"),
    ("import operator\noperator.attrgetter('__globals__')", "reads attrgetter"),
    ("def f(m):\n    match m:\n        case object(__globals__=g):\n            return g", "reads __globals__"),
    ("class A:\n    def __del__(self): ...\nx = A().__reduce_ex__(2)", "reads __reduce_ex__"),
    # the judge, replaced; the client's draws, repeated
    ("from unbatch import contracts\ncontracts.prove = lambda *_: True", "writes to contracts"),
    ("import torch\ntorch.equal = lambda *_: True", "writes to torch"),
    ("from unbatch import contracts\ndel contracts.prove", "writes to contracts"),
    ("setattr(f, 'x', 1)", "uses setattr"),
    ("from torch.nn.modules.module import register_module_forward_hook", "reads register_module_forward_hook"),
    ("import torch\ntorch.set_default_dtype(torch.float16)", "reads set_default_dtype"),
    ("def f(mode):\n    mode.__enter__()", "reads __enter__"),
    ("import hashlib", "imports hashlib"),
    ("import random", "imports random"),
    ("from unbatch.contracts import seeds as s", "reads seeds"),
]
"""What a cheating module writes, and what is said of it."""


@pytest.mark.parametrize("part", sorted(BLINDFOLDED))
@pytest.mark.parametrize(("text", "complaint"), DOORS, ids=[text.replace("\n", "; ") for text, _ in DOORS])
def test_an_attack_that_peeks_is_caught(text: str, complaint: str, part: str) -> None:
    wrong = violations(SOURCE / part / "peeking.py", text)
    assert any(complaint in told for told in wrong), wrong


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ndef f(m):\n    return [x for x in m.modules()], m.eval(), torch.linalg.svdvals(m.weight)",
        "from scipy.optimize import linprog\nfrom collections.abc import Callable\nimport numpy.typing as npt",
        "def f(self, other):\n    return [getattr(self, key) + getattr(other, key) for key in ('samples', 'labels')]",
        "from unbatch.types import Observation\nclass A:\n    def __post_init__(self):\n        self.rows = self.rows.clone()",
        "def f(observation, x):\n    observation.classes\n    x[0] = 1\n    x.grad = None",
    ],
)
def test_an_honest_module_is_left_alone(text: str) -> None:
    assert peeks(ast.parse(text)) == []


def test_every_blindfolded_part_is_in_the_plan() -> None:
    assert {part_of(path) for path in SOURCE.rglob("*.py")} & BLINDFOLDED <= set(ALLOWED)
