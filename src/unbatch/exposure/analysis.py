"""The whole: trace the model, assess every layer, measure its neurons, ask for the labels, and say it in one sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from unbatch import lookups
from unbatch.errors import Misuse, NotDeterministic
from unbatch.exposure.columns import Columns, columns_of, inputs_for
from unbatch.exposure.findings import Exposure, LabelLeak, LayerExposure, Limits
from unbatch.exposure.firing import in_chunks, measure, samples_for
from unbatch.exposure.labels import label_leak
from unbatch.exposure.layers import Assessment, assess, describe
from unbatch.exposure.limits import FAILURE, PICTURES, VECTORS
from unbatch.exposure.odds import WORK
from unbatch.exposure.reach import SMOOTH_PICTURES
from unbatch.exposure.tracing import ParameterTrace, noise, precision, trace_parameters
from unbatch.gradients import Loss, check_deterministic, loss_function
from unbatch.trace import probe

__all__ = ["expose"]


@torch.random.fork_rng(devices=[])  # a model in train mode may draw
def expose(
    model: nn.Module, input_shape: Sequence[int], *, data: Tensor | None = None, loss: Loss = "cross_entropy", seed: int = 0
) -> Exposure:
    """What one gradient of this model gives away of the batch behind it, layer by layer, before any data.

    Args:
        model: as it would be broadcast, with its weights, in the mode in which clients run it. It is not changed.
        input_shape: of one sample, without the batch.
        data: (s, *input_shape) inputs to measure on how often neurons fire; white noise of variance 1, or random tokens, if None.
        loss: of the clients.
        seed: of the noise.

    Returns:
        every module with parameters, what can be inverted of it and up to which batch size, the label leak, and the cheapest change
        against each.

    Raises:
        Misuse: no parameters, a shape that cannot be, a model that does not run on inputs of that shape, or data of another shape.

    Example:
        >>> net = nn.Sequential(nn.Linear(50, 40), nn.ReLU(), nn.Linear(40, 5))
        >>> found = expose(net, (50,))
        >>> [(layer.name, layer.exact, layer.single) for layer in found.layers]
        [('0', 'samples', 'sample'), ('2', 'none', 'features')]
        >>> 8 <= found.layers[0].limits.sure <= 15, found.labels.leaks
        (True, True)
    """
    shape = _checked(model, input_shape)
    loss_function(loss)
    trace = trace_parameters(model, shape)
    _check_data(data, shape, trace.vocabulary)
    refusal = _refusal(model, shape, trace.vocabulary)
    tables = {table.weight: table for table in (lookups.tables(model, shape, trace.vocabulary) if trace.vocabulary else ())}
    assessed = [(module, assess(module, trace, refusal, _mixed(model), tables)) for module in trace.modules]
    wanted = [each.call.weight for _, each in assessed if each.call is not None and _by_zeros(each)]
    parameters = sum(p.numel() for p in model.parameters())
    count = samples_for(trace.footprint, parameters) if data is None else len(data)
    fires = measure(model, _chunks(model, shape, data, in_chunks(count, trace.footprint), seed, trace.vocabulary), wanted)
    columns = _columns(model, trace, [each for _, each in assessed], data, loss, seed, count=count, parameters=parameters)
    work = WORK / max(1, len(wanted))
    layers = tuple(
        describe(module, trace, each, fires.get(weight), columns.get(weight), work)
        for module, each in assessed
        for weight in ["" if each.call is None else each.call.weight]
    )
    labels = label_leak(model, shape, loss, trace, refusal)
    return Exposure(
        model=type(model).__name__,
        input_shape=shape,
        mode="train" if model.training else "eval",
        measured_on=_measured_on(count, data is None, trace.vocabulary) if wanted else "nothing: no layer needs it",
        verdict=_verdict(layers, next((each.reached for _, each in assessed if each.exact == "tokens"), 1.0)),
        layers=layers,
        labels=labels,
        notes=tuple(_notes(layers, labels, trace, refusal, given=data is not None)),
    )


def _columns(
    model: nn.Module,
    trace: ParameterTrace,
    assessed: Sequence[Assessment],
    data: Tensor | None,
    loss: Loss,
    seed: int,
    *,
    count: int,
    parameters: int,
) -> dict[str, Columns]:
    """Columns of real gradients, of every layer that gives samples or features; from inputs of their own, or the given ones shuffled."""
    calls = [each.call for each in assessed if each.call is not None and each.exact in ("samples", "features")]
    shape = tuple(trace.inputs.shape[1:])
    neurons = sum(call.output.shape[-1] for call in calls)
    kept = inputs_for(count, neurons, trace.footprint, parameters, zeros=any(map(_by_zeros, assessed)))
    generator = torch.Generator().manual_seed(seed)
    shuffled = None if data is None else data[torch.randperm(len(data), generator=generator)]
    inputs = _chunks(model, shape, shuffled, in_chunks(kept, 3 * trace.footprint) if kept else [], seed, trace.vocabulary)
    draws = torch.Generator().manual_seed(seed)
    return columns_of(model, inputs, [call.weight for call in calls], loss, draws, None if data is None else len(data))


def _by_zeros(assessed: Assessment) -> bool:
    """Whether the layer's zeros give its samples, so that how often its neurons are off decides."""
    call = assessed.call
    return call is not None and call.activation == "relu" and call.bias is not None and assessed.exact in ("samples", "features")


def _chunks(
    model: nn.Module, shape: tuple[int, ...], data: Tensor | None, sizes: list[int], seed: int, vocabulary: int
) -> Iterator[Tensor]:
    """The inputs to measure on, a chunk at a time, where and as precise as the model is."""
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    start = 0
    for size in sizes:
        made = torch.randint(vocabulary, (size, *shape), generator=generator) if vocabulary else noise(model, shape, size, generator)
        chunk = made if data is None else data[start : start + size]
        start += size
        yield chunk.to(device, precision(model)) if chunk.is_floating_point() else chunk.to(device)


def _measured_on(count: int, made_up: bool, vocabulary: int) -> str:
    kind = ("of random tokens" if vocabulary else "of white noise") if made_up else "as given"
    return f"{count:,} {'input' if count == 1 else 'inputs'} {kind}"


def _check_data(data: Tensor | None, shape: tuple[int, ...], vocabulary: int) -> None:
    if data is None:
        return
    if tuple(data.shape[1:]) != shape or not len(data) or data.is_floating_point() == bool(vocabulary):
        kind = "tokens" if vocabulary else "floats"
        raise Misuse(
            f"{kind} of shape (s, {', '.join(map(str, shape))})", f"{data.dtype} of shape {tuple(data.shape)}", "give whole inputs"
        )
    if vocabulary and not 0 <= int(data.min()) <= int(data.max()) < vocabulary:
        raise Misuse(f"tokens below {vocabulary}", f"{int(data.min())} to {int(data.max())}", "use the model's own tokenizer")


def _checked(model: nn.Module, input_shape: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(model, nn.Module):
        raise Misuse("a torch.nn.Module", type(model).__name__, "give the module that the server broadcasts")
    shape = tuple(input_shape)
    if not shape or not all(isinstance(size, int) and size > 0 for size in shape):
        raise Misuse(
            "an input shape of positive whole numbers", repr(shape), "give the shape of one sample, without the batch: (3, 32, 32)"
        )
    if next(model.parameters(), None) is None:
        raise Misuse(
            "a model with parameters", f"a {type(model).__name__} without any", "nothing would be sent: give the model that is trained"
        )
    if odd := next((name for name, p in model.named_parameters() if not p.is_floating_point() or p.is_meta), None):
        raise Misuse("parameters of real floating-point numbers", f"another kind in {odd!r}", "load the weights, and give them as floats")
    return shape


def _refusal(model: nn.Module, shape: tuple[int, ...], vocabulary: int) -> str | None:
    """Why our attacks refuse the model as a whole: a gradient that is no function of the batch alone."""
    try:
        check_deterministic(model, probe(model, shape, vocabulary))
    except NotDeterministic as error:
        return error.came
    return "BatchNorm without running statistics" if _mixed(model) else None


def _mixed(model: nn.Module) -> bool:
    """Whether statistics of the batch mix its samples."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    return any(norm.training or norm.running_mean is None for norm in norms)


def _verdict(layers: tuple[LayerExposure, ...], reached: float) -> str:
    """The one sentence, from the worst that is known; ``reached`` is the share of tokens that have a gradient."""
    if not any(layer.trained for layer in layers):
        return "Every parameter is frozen: the client sends no gradient, and nothing can be read from it."
    which = "The tokens" if reached == 1 else f"About {reached:.0%} of the tokens"
    names = "".join(f"{which} of a batch of any size can be read off the gradient of {one.name}. " for one in _tables(layers)[:1])
    return names + _verdict_on_samples(layers)


def _tables(layers: tuple[LayerExposure, ...]) -> list[LayerExposure]:
    return [layer for layer in layers if layer.exact == "tokens"]


def _verdict_on_samples(layers: tuple[LayerExposure, ...]) -> str:
    name, within = _widest(layers, "samples")
    solved = max((layer for layer in layers if layer.exact == "samples" and layer.reach is not None), key=_reached, default=None)
    if solved is not None and _reached(solved) > max(1, within.sure if within else 1):
        return (
            f"Every sample of a batch of up to {_reached(solved):,} can be recovered exactly from layer {solved.name}, whatever activation"
            f" follows it: as far as our search {'is expected to reach' if solved.reach and solved.reach.extrapolated else 'was measured'}."
        )
    if within is not None:
        return (
            f"Every sample of a batch of up to {within.sure:,} can be recovered exactly from layer {name} alone, with a probability of at"
            f" least 99 %; our own search is expected to do it up to {within.searched:,}."
        )
    deep = max((layer for layer in layers if layer.exact == "features" and layer.largest > 1), key=lambda one: one.largest, default=None)
    inner = "" if deep is None else f"what layer {deep.name} sees of each is recovered exactly from batches of up to {deep.largest:,}"
    rest = f"of larger batches {inner}" if inner else "for larger batches no exact route is known here"
    if one := max((layer for layer in layers if layer.single == "sample"), key=_alone, default=None):
        likely = "" if _alone(one) >= 1 - FAILURE else f" with a probability of {_alone(one):.0%}: others leave no trace in it"
        return f"One sample alone is recovered exactly from layer {one.name}{likely}; {rest}."
    if inner:
        return f"No layer is known to give the samples exactly, but {inner}."
    if one := next((layer for layer in layers if layer.single == "features"), None):
        return f"Of one sample alone, what layer {one.name} sees is recovered exactly; {rest}."
    if any(layer.exact == "untested" for layer in layers):
        return "Our search takes none of these layers, but for some of them the algebra may reach further: do not call this model safe."
    return "No exact route is known for this model, which is no proof: optimization attacks need none of what is missing here."


def _alone(layer: LayerExposure) -> float:
    """Probability that a sample that is a batch by itself leaves a trace, where it was measured."""
    return 1.0 if layer.limits is None else layer.limits.curve[0].share_determined


def _reached(layer: LayerExposure) -> int:
    return 0 if layer.reach is None else layer.reach.searched


def _widest(layers: tuple[LayerExposure, ...], exact: str) -> tuple[str, Limits | None]:
    """The layer that gives this of the largest batches, and its limits; none where it is of single samples only."""
    wide = [(layer.name, layer.limits) for layer in layers if layer.exact == exact and layer.limits is not None and layer.limits.sure > 1]
    return max(wide, key=lambda pair: pair[1].sure, default=("", None))


def _notes(layers: tuple[LayerExposure, ...], labels: LabelLeak, trace: ParameterTrace, refusal: str | None, *, given: bool) -> list[str]:
    notes = []
    if tables := _tables(layers):
        length = math.prod(trace.inputs.shape[1:])
        notes.append(
            f"A sample is {length:,} tokens: a batch of b names up to {length:,} × b of {trace.vocabulary:,}, by the rows of"
            f" {tables[0].name} that have a gradient, through any number of local steps of SGD or Adam. Order and number are not named."
        )
    if refusal is not None:
        notes.append(f"The model has {refusal}: our attacks refuse it as it is, because its gradient is no function of the batch alone.")
    if any(layer.limits is not None for layer in layers):
        notes.append(
            "Probabilities are those of the inputs that neurons were measured on."
            + ("" if given else " Real inputs may leave more or fewer neurons off, trained weights surely do: give data like the clients'.")
        )
        notes.append(
            "The probability is of what zeros alone give (SPEAR): a sample counts as lost when the neurons that it leaves off do not have"
            " rank b − 1 in the others. A search that uses more (ours: the next layer, the signs) can find it all the same: no protection."
        )
    if any(layer.limits is not None and layer.limits.extrapolated for layer in layers):
        notes.append(
            f"What our search reaches was measured at widths {min(PICTURES)} to {max(PICTURES):,} on pictures and {min(VECTORS)} to"
            f" {max(VECTORS):,} on other inputs, untrained, with half of the neurons off; elsewhere it is extrapolated."
        )
    if any(layer.reach is not None and layer.reach.extrapolated for layer in layers):
        notes.append(
            "How far span reaches was measured on untrained networks of six layers, on pictures at widths"
            f" {min(SMOOTH_PICTURES)} to {max(SMOOTH_PICTURES)}, on other inputs at one width alone; elsewhere it is extrapolated."
        )
    if len(trace.ran.linears) == 2 and any(layer.exact == "samples" for layer in layers):
        notes.append(
            "In a network of two Linear layers our search also uses the second, and reaches further than told here: docs/measurements.md."
        )
    if not isinstance(trace.ran.outputs, Tensor):
        notes.append("The model returns no single tensor: what its loss reads of it is not known here.")
    if labels.leaks:
        notes.append("Labels are restored from the last layer's gradient alone, whatever the batch; see docs/labels.md for how well.")
    notes.append(
        "That no exact route is known for a layer says nothing of its safety: until span, none was known through smooth activations either."
    )
    notes.append(
        "Meant is the gradient of one batch (FedSGD) without defenses. Attacks by optimization are not judged here; they need none of this."
    )
    return notes
