"""The model's code and its weights. ``load_model`` runs the file that it is given: give it only a file that you would run yourself."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from torch import nn

from unbatch.errors import BadFile, Misuse, some
from unbatch.gradients import Loss
from unbatch.importers.files import room_for
from unbatch.importers.names import by_name, check_tensors, state_of
from unbatch.importers.records import Sent, tensors_of
from unbatch.types import HUGE

__all__ = ["load_loss", "load_model", "load_weights"]


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
    factory = _named(reference, "a model", "factory")
    with _user_code(reference):
        model = factory()
    if not isinstance(model, nn.Module):
        raise Misuse(f"a torch.nn.Module from {reference}", f"a {type(model).__name__}", "return the module that the server broadcast")
    return model


def load_loss(reference: str) -> Loss:
    """The client's loss: a name as it is, or the user's own code, **which is run**, as in ``load_model``.

    Args:
        reference: a name, see ``losses.loss_function``; or ``FILE.py:loss`` or ``package.module:loss``, where the code has a function
            (outputs, labels) -> mean loss, a module that is one, or a class of such modules that is built without arguments.

    Raises:
        BadFile: there is no such file.
        Misuse: the reference or the code is wrong.

    Example:
        >>> load_loss("mse"), load_loss("torch.nn:CrossEntropyLoss")
        ('mse', CrossEntropyLoss())
    """
    if ":" not in reference or reference.startswith("cross_entropy:"):
        return reference
    loss = _named(reference, "a loss", "function")
    if not isinstance(loss, type):
        return loss
    with _user_code(reference):
        built = loss()
    if not callable(built):
        raise Misuse(f"a function (outputs, labels) -> mean loss from {reference}", f"a {loss.__name__}", "name the client's loss")
    return cast("Loss", built)


def _named(reference: str, what: str, kind: str) -> Callable[..., Any]:
    """Something that can be called, out of the user's own code."""
    place, _, name = reference.rpartition(":")
    if not place or not name:
        raise Misuse(f"{what} as FILE.py:{kind} or package.module:{kind}", repr(reference), "add the name of the function after a colon")
    with _user_code(place):
        module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    found = getattr(module, name, None)
    if not callable(found):
        raise Misuse(f"a function {name!r} in {place}", "none" if found is None else f"a {type(found).__name__}", "check its name")
    return cast("Callable[..., Any]", found)


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


def load_weights(model: nn.Module, sent: Sent, *, rest_given: bool = False) -> nn.Module:
    """Put weights into a model, which takes over the narrowest precision that holds all of its parameters.

    Args:
        model: changed in place.
        sent: a file, a Flower ``ArrayRecord``, a list of arrays in the order of ``state_dict()``, or parameter and buffer name -> tensor:
            all of the model's and no others. See ``names.by_name`` for how names are matched.
        rest_given: whether the model's code gives what is missing: frozen weights under adapters.

    Returns:
        the model.

    Raises:
        BadFile: see ``read_tensors``.
        Misuse: tensors are missing, extra, wrongly shaped, of another kind of number, or not finite.

    Example:
        >>> load_weights(nn.Linear(2, 1), {"weight": torch.ones(1, 2), "bias": torch.ones(2)})
        Traceback (most recent call last):
        unbatch.errors.Misuse: expected weights 'bias' of shape (1,), got (2,): check that the weights are this very model's
    """
    tensors = by_name(model, tensors_of(sent, room_for(model)))
    wanted, advice = state_of(model), "check that the weights are this very model's"
    parameters = {name for name, tensor in wanted.items() if isinstance(tensor, nn.Parameter)}
    missing = [name for name in wanted if name not in tensors]
    if missing and not (rest_given and tensors):
        raise Misuse("weights for every tensor of the model", f"none for {some(missing)}", advice)
    check_tensors(model, tensors, Misuse, "weights named like tensors of the model", advice, "weights ")
    for name, tensor in tensors.items():
        if tensor.is_complex() != wanted[name].is_complex():
            raise Misuse(f"real numbers in {name!r}", str(tensor.dtype).removeprefix("torch."), advice)
        if tensor.is_floating_point() and bool(tensor.isnan().any()):
            raise Misuse(f"finite weights in {name!r}", "NaN", "save them again: the training diverged or the file was damaged")
        # Of other tensors infinity may be meant, as in a mask.
        if name in parameters and tensor.numel() and (size := float(tensor.double().abs().max())) > HUGE:
            raise Misuse(
                f"finite weights up to {HUGE:g} in {name!r}",
                f"{size:.1e}",
                "save them again: the training diverged or the file was damaged",
            )
    if dtypes := {tensor.dtype for name, tensor in tensors.items() if name in parameters}:
        model.to(reduce(torch.promote_types, dtypes))
    model.load_state_dict(tensors, strict=not missing)
    return model
