"""Which layer SPEAR inverts, and why it cannot invert another."""

from __future__ import annotations

from unbatch.linalg.blocks import nonzero
from unbatch.spear.behind import readers_of
from unbatch.trace import TRIAL, LinearCall
from unbatch.types import Observation

__all__ = ["layer_to_invert"]


def layer_to_invert(observation: Observation, name: str | None) -> tuple[LinearCall, LinearCall | None] | str:
    """The layer to invert and the Linear layer that reads its activations, if any; or why there is none.

    Args:
        observation: what the server saw.
        name: of the layer or its weight; the first one that sees the raw input and can be inverted if None.
    """
    every = observation.layers
    calls = [call for call in every if name in (None, call.weight, call.weight.removesuffix(".weight"))]
    if not calls and name is not None:
        return f"the model runs no Linear layer named {name!r}"
    obstacles = []
    for call in calls:
        obstacle = _obstacle(call, observation, inner=name is not None)
        if obstacle is None:
            return call, next(iter(readers_of(observation, call)), None)
        obstacles.append(f"{call.weight} {obstacle}")
    told = "; ".join(obstacles[:4])
    return "the model has no Linear + ReLU layer with a bias that sees its raw input: " + (told or "it runs no Linear layer at all")


def _obstacle(call: LinearCall, observation: Observation, *, inner: bool) -> str | None:
    if call.activation != "relu":
        return f"is followed by {call.activation or 'nothing'} instead of ReLU"
    if call.bias is None:
        return "has no bias, whose gradient gives the scale"
    if (rows := call.input.numel() // call.input.shape[-1]) != TRIAL or call.input.ndim != 2:
        return f"is applied {rows // TRIAL} times a sample"
    if call.weight not in observation.update or call.bias not in observation.update:
        return "is frozen: the update holds no gradient of it"
    if not nonzero(observation.update[call.weight]):
        return "has a gradient of zero: it was frozen, or none of its neurons fires"
    if not (call.raw or inner):
        return "does not see the raw input (name it with layer= to recover what it sees)"
    return None
