"""The model's code and its weights. ``load_model`` runs the file that it is given: give it only a file that you would run yourself."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from torch import Tensor, nn

from unbatch.errors import BadFile, Misuse, some

__all__ = ["load_model", "load_weights"]


def load_model(reference: str) -> nn.Module:
    """Build a model with the user's own code. **This runs that code**: give it only a file that you would run yourself.

    Args:
        reference: ``FILE.py:factory`` or ``package.module:factory``; the factory is called without arguments. Modules beside the file,
            or in the working directory, can be imported by it.

    Raises:
        BadFile: there is no such file.
        Misuse: the reference, the code or what the factory returns is wrong.

    Example:
        >>> load_model("torch.nn:Identity")
        Identity()
    """
    place, _, name = reference.rpartition(":")
    if not place or not name:
        raise Misuse("a model as FILE.py:factory or package.module:factory", repr(reference), "add the name of the function after a colon")
    with _user_code(place):
        module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    factory = getattr(module, name, None)
    if not callable(factory):
        raise Misuse(f"a function {name!r} in {place}", "none" if factory is None else f"a {type(factory).__name__}", "check its name")
    with _user_code(reference):
        model = factory()
    if not isinstance(model, nn.Module):
        raise Misuse(f"a torch.nn.Module from {reference}", f"a {type(model).__name__}", "return the module that the server broadcast")
    return model


@contextmanager
def _user_code(place: str) -> Iterator[None]:
    """Whatever the user's code raises, its ``sys.exit()`` too, is a fault of that code and not of unbatch."""
    try:
        yield
    except Misuse:
        raise
    except (Exception, SystemExit) as error:
        came = f"{type(error).__name__}: {error}"
        raise Misuse(f"{place} to run without an error", f"{came!r}", "run it by itself and mend it") from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise BadFile("a readable file", f"'{path}' (No such file)", "check the path")
    spec = importlib.util.spec_from_file_location(f"_unbatch_model_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise BadFile("a Python file", f"'{path}'", "check the path")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling look their module up by name.
    sys.modules[spec.name] = module
    with _importable(path.resolve().parent):
        spec.loader.exec_module(module)
    return module


def _import_module(name: str) -> ModuleType:
    with _importable(Path.cwd()):
        return importlib.import_module(name)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Put weights into a model, which takes over their precision if they all share one.

    Args:
        model: changed in place.
        tensors: parameter and buffer name -> tensor; all of the model's and no others.

    Returns:
        the model.

    Raises:
        Misuse: tensors are missing, extra, wrongly shaped or not finite.

    Example:
        >>> import torch
        >>> load_weights(nn.Linear(2, 1), {"weight": torch.ones(1, 2), "bias": torch.ones(2)})
        Traceback (most recent call last):
        unbatch.errors.Misuse: expected weights 'bias' of shape (1,), got (2,): check that the weights are this very model's
    """
    wanted = model.state_dict()
    advice = "check that the weights are this very model's"
    if missing := [name for name in wanted if name not in tensors]:
        raise Misuse("weights for every tensor of the model", f"none for {some(missing)}", advice)
    if extra := [name for name in tensors if name not in wanted]:
        raise Misuse("weights named like tensors of the model", some(extra), advice)
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise Misuse(f"weights {name!r} of shape {tuple(wanted[name].shape)}", f"{tuple(tensor.shape)}", advice)
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise Misuse(f"finite weights in {name!r}", "NaN or infinity", "save them again: the training diverged or the file was damaged")
    dtypes = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if len(dtypes) == 1:
        model.to(dtypes.pop())
    model.load_state_dict(dict(tensors))
    return model
