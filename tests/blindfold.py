"""What a module that plays the attacker may not do, read from its code: look at anything but what it is handed.

An attack is handed an observation, a generator and a function to tell its progress. Everything else in the process is behind the
blindfold: the secret batch lies in some frame, in some module, in some file. Each way there starts with a name, so names are what is
looked at: what is imported, what is called, which attributes are read, and what is written to.

What an attack leaves behind in the process could also turn the head of its judge, so that is looked at too. It is a fence against
mistakes and against tricks that one sees when reading, not a prison: Python has none.
"""

from __future__ import annotations

import ast
from collections import Counter

LIBRARIES = {
    "__future__": set[str](),
    "abc": set[str](),
    "bisect": set[str](),
    "collections": set[str](),
    "contextlib": set[str](),
    "copy": {"copy", "deepcopy", "replace"},
    "dataclasses": set[str](),
    "enum": set[str](),
    "fractions": set[str](),
    "functools": set[str](),
    "heapq": set[str](),
    "itertools": set[str](),
    "jaxtyping": set[str](),
    "math": set[str](),
    "numbers": set[str](),
    "numpy": set[str](),
    "operator": {"add", "index", "itemgetter", "mul", "neg", "or_", "sub", "truediv"},
    "scipy": {"fft", "linalg", "ndimage", "optimize", "sparse", "spatial", "special", "stats"},
    "statistics": set[str](),
    "string": set[str](),
    "time": set[str](),
    "torch": set[str](),
    "typing": set[str](),
}
"""What may be imported from outside, and which names of it if not all. No file, no process, no hash (which a seed is derived by)."""

CALLS = {
    "__build_class__",
    "__builtins__",
    "__debug__",
    "__import__",
    "__loader__",
    "__spec__",
    "breakpoint",
    "builtins",
    "compile",
    "delattr",
    "dir",
    "eval",
    "exec",
    "globals",
    "input",
    "locals",
    "memoryview",
    "open",
    "setattr",
    "vars",
}
"""Names of Python's own that open what is closed."""

ATTRIBUTES = {
    # files
    "DataSource", "from_file", "from_buffer", "frombuffer", "fromfile", "fromregex", "genfromtxt", "get_file_path", "load", "load_file",
    "load_library", "load_safetensors", "load_url", "loadmat", "loadtxt", "memmap", "mmap", "npyio", "open_code", "open_memmap",
    "read_bytes", "read_text", "safe_open", "serialization", "load_state_dict_from_url", "Path", "storage", "UntypedStorage",
    "TypedStorage", "PyTorchFileReader", "datasets", "ctypeslib", "as_ctypes",
    # frames, generators, tracebacks, closures
    "ag_frame", "cell_contents", "cr_frame", "f_back", "f_builtins", "f_code", "f_globals", "f_locals", "gi_code", "gi_frame", "tb_frame",
    "tb_next", "with_traceback", "currentframe", "extract_stack", "format_stack", "walk_stack",
    # all objects, all modules, code made of text
    "_current_frames", "_getframe", "_getframemodulename", "get_objects", "get_referents", "get_referrers", "import_module", "attrgetter",
    "methodcaller", "compile_source", "load_inline", "script_source", "CompilationUnit", "_C", "_dynamo", "_inductor", "hub",
    "package", "multiprocessing", "distributed", "f2py", "testing", "get_global_opts",
    # what stays behind in torch when the attack is over, and meets whoever judges it
    "register_module_backward_hook", "register_module_forward_hook", "register_module_forward_pre_hook",
    "register_module_full_backward_hook", "set_default_device", "set_default_dtype", "set_default_tensor_type",
    # modules that modules of theirs have imported
    "builtins", "ctypes", "gc", "importlib", "inspect", "io", "os", "pathlib", "pickle", "runpy", "shutil", "socket", "subprocess", "sys",
    "tempfile", "threading", "traceback", "tracemalloc", "types", "warnings", "weakref", "zipfile", "marshal", "pydoc", "linecache",
    "atexit", "hashlib", "hmac", "secrets", "seeds", "safetensors", "glob", "tarfile", "shelve", "sqlite3", "urllib", "codecs", "fileinput",
}  # fmt: skip
"""Attributes, and imported names, that lead to files, frames, all objects there are, or modules that may not be imported; or that last."""

DUNDERS = {"__add__", "__all__", "__annotations__", "__call__", "__doc__", "__eq__", "__getitem__", "__hash__", "__init__", "__iter__"} | {
    "__len__", "__matmul__", "__mul__", "__name__", "__post_init__", "__repr__", "__rmul__", "__sub__", "__torch_function__",
    "__setitem__", "__contains__", "__neg__", "__str__", "__bool__", "__radd__",
}  # fmt: skip
"""Names with two underscores that a class may define and a module may use; none of them leads out of the object."""

SECRETS = {"Batch"}
"""The type of what is hidden, under its own name."""


def peeks(tree: ast.Module) -> list[str]:
    """What a module does to look past its blindfold; nothing for an honest one."""
    spelled = _spelled_out(tree)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [told for alias in node.names for told in _import(alias.name)]
        elif isinstance(node, ast.ImportFrom):
            found += [told for alias in node.names for told in _import_from(node.module or "", alias.name)]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            found += _getattr(node.args[1], spelled)
        else:
            found += _names(node)
    return found + _writes(tree)


def _names(node: ast.AST) -> list[str]:
    match node:
        case ast.Name(id=name) if name in SECRETS:
            return [f"names {name}"]
        case ast.Name(id=name) if name in CALLS or _opens(name):
            return [f"uses {name}"]
        case ast.Attribute(value=ast.Name(id="self"), attr="__dict__"):
            return []  # one's own
        case ast.Attribute(attr=name):
            return _attribute(name)
        case ast.MatchClass(kwd_attrs=names):
            return [told for name in names for told in _attribute(name)]
        case ast.Constant(value=str(text)) if text in SECRETS:
            return [f"names {text}"]
        case _:
            return []


def _getattr(asked: ast.expr, spelled: dict[str, list[str]]) -> list[str]:
    if isinstance(asked, ast.Constant) and isinstance(asked.value, str):
        return _attribute(asked.value)
    if isinstance(asked, ast.Name) and asked.id in spelled:
        return [told for name in spelled[asked.id] for told in _attribute(name)]
    return ["reads an attribute whose name is made up at run time"]


def _spelled_out(tree: ast.Module) -> dict[str, list[str]]:
    """Variables that only ever run over strings which stand in the code, and these strings."""
    bound = Counter(node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    bound.update(node.arg for node in ast.walk(tree) if isinstance(node, ast.arg))
    loops, texts = Counter[str](), dict[str, list[str]]()
    for node in ast.walk(tree):
        match node:
            case (
                ast.For(target=ast.Name(id=name), iter=ast.Tuple(elts=parts))
                | ast.comprehension(target=ast.Name(id=name), iter=ast.Tuple(elts=parts))
            ):
                found = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
                if len(found) == len(parts):
                    loops[name] += 1
                    texts.setdefault(name, []).extend(found)
    return {name: found for name, found in texts.items() if loops[name] == bound[name]}


def _import(name: str) -> list[str]:
    root, *rest = name.split(".")
    if root == "unbatch":
        return [f"imports the package: {name}"]  # it binds the facade, whatever part of it is named
    return _library(root, rest[:1]) + [told for part in rest for told in _attribute(part)]


def _import_from(module: str, name: str) -> list[str]:
    root, *rest = module.split(".")
    if name == "*":
        return [f"imports everything there is in {module}"]
    if root == "unbatch":
        return [] if module == "unbatch" else _attribute(name)  # what parts there are, the list of imports says
    return _library(root, [*rest, name][:1]) + [told for part in (*rest, name) for told in _attribute(part)]


def _library(root: str, parts: list[str]) -> list[str]:
    if root not in LIBRARIES:
        return [f"imports {root}"]
    return [f"imports {root}.{part}" for part in parts if LIBRARIES[root] and part not in LIBRARIES[root]]


def _attribute(name: str) -> list[str]:
    if name in SECRETS:
        return [f"names {name}"]
    return [f"reads {name}"] if name in ATTRIBUTES or _opens(name) else []


def _opens(name: str) -> bool:
    return name.startswith("__") and name.endswith("__") and name not in DUNDERS


def _writes(tree: ast.Module) -> list[str]:
    """Attributes of imported things that are set: a judge, or a function that it calls, replaced; and getattr handed on as a value."""
    imported = {
        (alias.asname or alias.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Attribute, ast.Subscript)) and isinstance(node.ctx, (ast.Store, ast.Del)) and _root(node) in imported:
            found.append(f"writes to {_root(node)}, which it imported")
        if isinstance(node, ast.Name) and node.id == "getattr" and id(node) not in called:
            found.append("uses getattr as a value")
    return found


def _root(node: ast.expr) -> str:
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""
