"""unbatch shows what a model update gives away of the data behind it, exactly where exactness is possible.

The public names are imported when they are first used, so that ``import unbatch`` and ``unbatch --help`` do not wait for torch.

Example:
    >>> import unbatch
    >>> unbatch.Status.RECONSTRUCTED.disclosed
    True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unbatch.auditing import audit, invert, polish, tokens
    from unbatch.errors import (
        BadFile,
        BadUpdate,
        Misuse,
        NotDeterministic,
        OutputFailed,
        ReconstructionFailed,
        UnbatchError,
        UnknownPlugin,
    )
    from unbatch.exposure import Exposure, expose
    from unbatch.gradients import capture, per_example
    from unbatch.membership import members
    from unbatch.restoring import restore_labels
    from unbatch.training import LocalTraining
    from unbatch.types import (
        Batch,
        Counts,
        Finding,
        Knowledge,
        Lookup,
        Membership,
        Observation,
        Presence,
        Reconstruction,
        Schema,
        Status,
        Verdict,
    )

    __version__: str

__all__ = [
    "BadFile",
    "BadUpdate",
    "Batch",
    "Counts",
    "Exposure",
    "Finding",
    "Knowledge",
    "LocalTraining",
    "Lookup",
    "Membership",
    "Misuse",
    "NotDeterministic",
    "Observation",
    "OutputFailed",
    "Presence",
    "Reconstruction",
    "ReconstructionFailed",
    "Schema",
    "Status",
    "UnbatchError",
    "UnknownPlugin",
    "Verdict",
    "__version__",
    "audit",
    "capture",
    "expose",
    "invert",
    "members",
    "per_example",
    "polish",
    "restore_labels",
    "tokens",
]

_MODULES = {
    "auditing": ("audit", "invert", "polish", "tokens"),
    "restoring": ("restore_labels",),
    "exposure": ("Exposure", "expose"),
    "gradients": ("capture", "per_example"),
    "membership": ("members",),
    "training": ("LocalTraining",),
    "types": (
        "Batch",
        "Counts",
        "Finding",
        "Knowledge",
        "Lookup",
        "Membership",
        "Observation",
        "Presence",
        "Reconstruction",
        "Schema",
        "Status",
        "Verdict",
    ),
    "errors": (
        "BadFile",
        "BadUpdate",
        "Misuse",
        "NotDeterministic",
        "OutputFailed",
        "ReconstructionFailed",
        "UnbatchError",
        "UnknownPlugin",
    ),
}
"""Where each public name lives. No public name may also be the name of a module: importing that module would hide it."""

_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("unbatch")
    elif name in _HOME:
        value = getattr(importlib.import_module(f"unbatch.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module 'unbatch' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """What there is, imported or not."""
    return sorted({*globals(), *__all__})
