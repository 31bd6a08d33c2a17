"""How a client trained, as options of every command that reads an update, and what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from unbatch.errors import Misuse

if TYPE_CHECKING:
    from unbatch.types import LocalTraining

__all__ = ["ClipNorm", "Nesterov", "Optimizer", "WeightDecay", "optimized"]

WeightDecay = Annotated[float | None, typer.Option(help="λ of the client's weight decay, which is taken out; looked for if not given.")]
Nesterov = Annotated[bool, typer.Option("--nesterov", help="The momentum is Nesterov's.")]
ClipNorm = Annotated[
    float | None, typer.Option(help="Norm to which the client clips its gradient before each step; a usual one is recognized if not given.")
]
Optimizer = Annotated[str, typer.Option(help="sgd; or adam or adamw, of which the first step can be read where rounding lets it.")]


def optimized(
    training: LocalTraining | None, optimizer: str, weight_decay: float | None, nesterov: bool, clip_norm: float | None
) -> dict[str, Any]:
    """The arguments of ``importers.load_observation`` that say how the client trained."""
    from dataclasses import replace
    from typing import get_args

    from unbatch import importers

    if optimizer not in get_args(importers.Optimizer):
        raise Misuse(f"--optimizer {', '.join(get_args(importers.Optimizer))}", repr(optimizer), "name one of them")
    if nesterov:
        if training is None:
            raise Misuse("--update-is difference or weights with --nesterov", "a gradient", "say what the update is, or leave it out")
        training = replace(training, nesterov=True)
    told = {"weight_decay": weight_decay, "clip_norm": clip_norm}
    return {"training": training, "optimizer": cast("importers.Optimizer", optimizer), **told}
