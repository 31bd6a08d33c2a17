"""Which Linear layer's gradient is read as one row a sample: the one that is named, the first that sees the input, or the first behind."""

from __future__ import annotations

from collections.abc import Sequence

from unbatch.trace import LinearCall
from unbatch.types import Observation

__all__ = ["inner_layer", "named_layer", "raw_layer"]


def raw_layer(observation: Observation) -> LinearCall | str:
    """The first layer that sees the raw input, once a sample; or why there is none."""
    calls = observation.layers
    raw = [call for call in calls if call.raw]
    if not raw:
        return "no Linear layer of the model sees its raw input: name a deeper one with layer= to recover what that one sees"
    return _first_readable(observation, calls, raw)


def inner_layer(observation: Observation) -> LinearCall | str:
    """The first layer that sees what the model made of the input, once a sample; or why there is none."""
    calls = observation.layers
    inner = [call for call in calls if not call.raw]
    if not inner:
        return "the model runs no Linear layer that sees more than its raw input"
    return _first_readable(observation, calls, inner)


def named_layer(observation: Observation, name: str) -> LinearCall | str:
    """The layer of this name, or why it cannot be read."""
    calls = observation.layers
    asked = [call for call in calls if call.weight.removesuffix(".weight") == name.removesuffix(".weight")]
    return _first_readable(observation, calls, asked) if asked else f"the model runs no Linear layer named {name!r}"


def _first_readable(observation: Observation, calls: Sequence[LinearCall], asked: Sequence[LinearCall]) -> LinearCall | str:
    for call in asked:
        used_once = call.input.ndim == 2 and sum(other.weight == call.weight for other in calls) == 1
        if used_once and call.weight in observation.update and bool(observation.update[call.weight].any()):
            return call
    return f"{asked[0].weight} has no gradient, or is used several times a sample"
