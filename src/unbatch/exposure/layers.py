"""From what a trace shows to what a server can invert: one layer at a time, with a phrase for each that cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from unbatch.advice import for_batches, for_single, for_tokens, for_untested
from unbatch.exposure.columns import Columns
from unbatch.exposure.findings import Exact, LayerExposure, Reach, Sees, Single
from unbatch.exposure.firing import Firing
from unbatch.exposure.limits import limits
from unbatch.exposure.odds import WORK
from unbatch.exposure.reach import reach, traced_by_all
from unbatch.exposure.tracing import ParameterTrace, TracedModule, Use
from unbatch.lookups import Table
from unbatch.trace import LinearCall
from unbatch.types import Schema

__all__ = ["Assessment", "assess", "describe"]

ZEROS = 0.01
"""Share of exact zeros among a layer's sensitivities from which on they are no accident of rounding. Chosen."""

_WHOLE = {"raw input", "raw input, scaled", "raw input, rearranged"}
_FLAT = {"clamp", "clamp_max", "clip", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "relu6", "softshrink", "threshold"}
_SUMS = {"add", "add_", "__add__", "__radd__", "__iadd__", "cat", "concat", "concatenate", "where", "expand_as", "__setitem__"}
_PRODUCTS = {"matmul", "__matmul__", "__rmatmul__", "mm", "addmm", "bmm", "baddbmm", "einsum", "bilinear"}
_NORMS = {"batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"}
_RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"}


@dataclass(frozen=True)
class Assessment:
    """What a module gives away: see ``LayerExposure``."""

    exact: Exact = "none"
    single: Single = "none"
    why: str = ""
    call: LinearCall | None = None
    times: int | None = None
    reach: Reach | None = None
    reached: float = 1.0


def assess(
    module: TracedModule, trace: ParameterTrace, refusal: str | None, mixed: bool, tables: Mapping[str, Table] = MappingProxyType({})
) -> Assessment:
    """What inverting this module's gradients gives.

    Args:
        module: as traced.
        trace: that it comes from.
        refusal: why our attacks refuse the model as a whole, or None.
        mixed: whether statistics of the batch mix its samples.
        tables: weight -> how the model looks something up in it.
    """
    trained = [name for name, parameter in module.parameters.items() if parameter.requires_grad]
    if not trained:
        return Assessment(why="frozen: the update holds no gradient of it", times=_times(module, trace))
    if not module.uses and not module.calls:
        return Assessment(why="not used by the forward pass: its gradient is missing or zero")
    if (table := next((tables[name] for name in trained if name in tables), None)) is not None and not module.calls:
        return _assess_table(table, _times(module, trace))
    if module.calls:
        return _assess_linear(module, trace, set(trained), refusal, mixed)
    return _assess_other(module, trace)


def _assess_linear(module: TracedModule, trace: ParameterTrace, trained: set[str], refusal: str | None, mixed: bool) -> Assessment:
    call, times = module.calls[0], _times(module, trace)
    sees = trace.sees(call.input)
    raw = sees in _WHOLE
    others = sorted({use.function for use in module.uses if use.function != "linear" or use.computed})
    if call.weight not in trained:
        return Assessment(why="its weight is frozen: the update holds no gradient of it", call=call, times=times)
    if others:
        return Assessment("untested", why=f"its weight also enters by {_listed(others)}: the gradients add up", call=call, times=times)
    if times != 1:
        return Assessment(*_many(times, call, trace), call=call, times=times)
    biased = call.bias is not None and call.bias in trained
    follower = "relu" if call.activation == "relu" else trace.followers.get(id(call), "nothing").strip("_")
    pictures = sees == "raw input" and Schema.guess(trace.inputs.shape[1:]).kind == "image"
    reached = reach(call, trace, follower, pictures=pictures, biased=biased) if refusal is None else None
    single: Single = "sample" if raw else "features"
    if (mixed and call.activation == "batch_norm") or not biased:
        single = "none"  # no gradient of a bias, or one of zero: the ratio gives no scale
    looked = _batches(call, trace)
    exact, why = looked if biased else _without_bias(call, looked[0])
    by_zeros = exact == "samples"
    if reached is not None and looked[0] != "untested" and not by_zeros:
        exact, why = "samples", f"{why}, which span does not need"
    if exact == "samples" and sees != "raw input":
        attack = "spear" if by_zeros else "span"
        exact, why = (
            "samples" if raw else "features",
            f"sees {sees}: what it is fed is recovered ({attack}:layer={call.weight.removesuffix('.weight')})",
        )
    if exact in ("samples", "features") and refusal is not None:
        exact, why = "untested", f"our search refuses this model ({refusal}); the zeros of this layer do not depend on that"
    solved = exact in ("samples", "features") and looked[0] != "untested"
    return Assessment(exact, single, why, call, times, reached if solved else None)


def _without_bias(call: LinearCall, with_it: Exact) -> tuple[Exact, str]:
    reason = "has no bias" if call.bias is None else "its bias is frozen, so that none is sent"
    relu = call.activation == "relu"
    scale = ": samples come out up to a factor at best" if relu else ": one sample comes out up to a factor"
    return "none" if with_it == "none" else "untested", f"{reason}, whose gradient gives the scale{scale}"


def _batches(call: LinearCall, trace: ParameterTrace) -> tuple[Exact, str]:
    """Whether batches can be inverted, as if the layer saw the raw input once a sample, and why not."""
    if call.activation == "relu":
        return "samples", ""
    after = trace.followers.get(id(call), "nothing").strip("_")
    zeros = trace.zeros.get(id(call))
    reason = f"followed by {after} instead of ReLU"
    if zeros is None:
        return "untested", f"{reason}: whether that leaves exact zeros is not known here"
    if after in _FLAT:
        return "untested", f"{reason}, which has flat parts and so makes exact zeros too: our search does not use them"
    if zeros <= ZEROS:
        return "none", f"{reason}: no exact zeros"
    return "untested", f"{reason}, yet {zeros:.0%} of its sensitivities are exact zeros: our search does not look behind {after}"


def _many(times: int | None, call: LinearCall, trace: ParameterTrace) -> tuple[Exact, Single, str]:
    reason = f"applied {times} times a sample: its rank is up to {times} × b"
    exact, why = _batches(call, trace)
    if exact == "samples":
        return "untested", "none", f"{reason}; our search refuses that, its algebra does not"
    return exact, "none", f"{reason}, and it is {why}"


def _assess_other(module: TracedModule, trace: ParameterTrace) -> Assessment:
    functions = sorted({use.function for use in module.uses})
    use, times = module.uses[0], _times(module, trace)
    if set(functions) <= _SUMS:
        return Assessment(why=f"enters by {_listed(functions)}: its gradient sums sensitivities and holds no input")
    if any(use.computed for use in module.uses):
        return Assessment("untested", why=f"enters {_listed(functions)} after a computation of its own: not analyzed", times=times)
    if len(functions) > 1:
        return Assessment("untested", why=f"enters by {_listed(functions)}: the gradients add up, not analyzed", times=times)
    name, raw = functions[0], trace.sees(use.source) in _WHOLE
    if name.startswith("conv"):
        return _assess_convolution(module, raw, times)
    if name in _RECURRENT:
        return Assessment(why=f"recurrent: sums over {times} steps a sample, and its gates leave no exact zeros", times=times)
    if name == "multi_head_attention_forward":
        reason = f"attention: its projections sum over {times} tokens a sample, no ReLU follows; the span of the tokens shows (DAGER)"
        return Assessment(why=reason, times=times)
    if name in _NORMS:
        return _assess_norm(module, raw, times)
    if name in _PRODUCTS:
        reason = f"enters by {_listed([name])}: a Linear layer in all but name, which our search does not read"
        return Assessment("untested", why=reason, times=times)
    return Assessment("untested", why=f"enters by {_listed([name])}: not analyzed", times=times)


def _assess_table(table: Table, times: int | None) -> Assessment:
    """A parameter that something is looked up in: its rows that have a gradient are those that were."""
    if not table.by_input:
        return Assessment(why="a lookup that does not depend on the input, as of positions", times=times)
    if table.other:
        others = _listed(list(table.other))
        reason = f"a lookup, but it enters by {others} as well, so that rows have a gradient that were not looked up"
        return Assessment("untested", why=reason, times=times)
    some = f"; {table.reached:.0%} of random ones had a gradient" if table.reached < 1 else ""
    if not table.named:
        reason = f"its rows that have a gradient were looked up: they are made of the tokens{some}"
    else:
        reason = f"its rows that have a gradient are the tokens of the batch; in which order is not shown{some}"
    return Assessment("tokens", why=reason, times=times, reached=table.reached)


def _assess_convolution(module: TracedModule, raw: bool, times: int | None) -> Assessment:
    if times == 1 and _has_trained_bias(module) and _groups(module) == 1:
        reason = "a convolution at one place: a Linear layer in all but name, which our search does not take"
        return Assessment("untested", "sample" if raw else "features", reason, times=times)
    return Assessment(
        why=f"convolution: sees {times} patches a sample, not exact; R-GAP for one sample and optimization attacks apply", times=times
    )


def _assess_norm(module: TracedModule, raw: bool, times: int | None) -> Assessment:
    """γ ⊙ x̂ + β: for one sample at one place ∂L/∂γ over ∂L/∂β is x̂, element by element."""
    reason = "scales element by element: two numbers a feature, no rank to read"
    pair = len(module.parameters) == 2 and all(parameter.requires_grad for parameter in module.parameters.values())
    if times == 1 and pair:
        single: Single = "sample" if raw else "features"
        return Assessment(single=single, why=f"{reason}; of one sample the ratio of its two gradients is the normalized input", times=times)
    return Assessment(why=reason + (f", and each sums over {times} places a sample" if times and times > 1 else ""), times=times)


def _times(module: TracedModule, trace: ParameterTrace) -> int | None:
    """How often a module is applied to one sample, over all its calls; None where it is not used."""
    samples = len(trace.inputs)
    if module.calls:
        return sum(max(1, call.input.numel() // (call.input.shape[-1] * samples)) for call in module.calls)
    return sum(_places(use, module, samples) for use in module.uses) or None


def _places(use: Use, module: TracedModule, samples: int) -> int:
    """At how many places a call is applied to each sample: patches, tokens, steps."""
    weight = _weight(module)
    if use.function.startswith("conv") and use.output is not None:
        channels = use.output.shape[1] if use.output.ndim > 1 else 1
        return max(1, use.output.numel() // (channels * samples))
    if use.function in _NORMS:
        return max(1, use.source.numel() // (weight.numel() * samples))
    return max(1, use.source.numel() // (use.source.shape[-1] * samples)) if use.source.ndim else 1


def _weight(module: TracedModule) -> Tensor:
    return max(module.parameters.values(), key=lambda parameter: parameter.ndim)


def _has_trained_bias(module: TracedModule) -> bool:
    return any(name.rpartition(".")[2] == "bias" and parameter.requires_grad for name, parameter in module.parameters.items())


def _groups(module: TracedModule) -> int:
    """Groups of a convolution, from the shapes: channels that come in over channels that a filter sees."""
    return max(1, module.uses[0].source.shape[1] // _weight(module).shape[1])


def _listed(names: list[str]) -> str:
    return " and ".join(name.strip("_") for name in names)


def describe(
    module: TracedModule,
    trace: ParameterTrace,
    assessed: Assessment,
    firing: Firing | None,
    columns: Columns | None = None,
    work: float = WORK,
) -> LayerExposure:
    """An assessment in the words of ``LayerExposure``, with its limits, on which so much work is spent, and its remedy."""
    summed = {use.function for use in module.uses} <= _SUMS  # true where there are none
    source = assessed.call.input if assessed.call else None if summed else module.uses[0].source
    sees: Sees = "nothing" if source is None else trace.sees(source)
    name, raw = module.name, sees in _WHOLE
    within = None
    if firing is not None and assessed.call is not None:
        pictures = sees == "raw input" and Schema.guess(trace.inputs.shape[1:]).kind == "image"
        within = limits(firing, assessed.call.input.shape[-1], columns=columns, pictures=pictures, work=work)
    solved = assessed.reach
    if solved is not None and columns is not None:
        solved = traced_by_all(solved, max(columns.untraced.values()))
    remedy = None
    if within is not None:
        remedy = for_batches(name, within.rank, raw=raw)
    elif assessed.reach is not None and assessed.call is not None:
        remedy = for_batches(name, min(assessed.call.output.shape[-1], assessed.call.input.shape[-1]) - 1, raw=raw)
    elif assessed.single != "none":
        remedy = for_single(name, raw=raw)
    elif assessed.exact == "tokens":
        remedy = for_tokens(name)
    elif assessed.exact == "untested":
        remedy = for_untested(name)
    call = assessed.call
    return LayerExposure(
        name=name,
        kind=module.kind,
        parameters=sum(parameter.numel() for parameter in module.parameters.values()),
        trained=any(parameter.requires_grad for parameter in module.parameters.values()),
        sees=sees,
        inputs=call.input.shape[-1] if call else None,
        neurons=call.output.shape[-1] if call else None,
        times=assessed.times,
        activation=(call.activation or trace.followers.get(id(call), "nothing")) if call else None,
        exact=assessed.exact,
        single=assessed.single,
        why=assessed.why,
        firing=None if firing is None else firing.neurons,
        limits=within,
        reach=solved,
        remedy=remedy,
    )
