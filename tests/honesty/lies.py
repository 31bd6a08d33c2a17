"""The gallery of liars: attacks that know the truth, or make it up, and hand in something that is not so.

A lie is a function of a scene. It reads the truth through the scene, which no attack can; that is how it can be nearly right.
"""

from __future__ import annotations

import torch
from torch import Generator, nn

from scenes import Lie, Scene, losses, outputs
from unbatch.gradients import capture
from unbatch.types import Candidate
from verdicts import layer_inputs


def junk(scene: Scene, generator: Generator) -> Candidate:
    return Candidate(scene.like(generator), torch.randint(scene.classes, scene.labels.shape, generator=generator))


def junk_called_certified(scene: Scene, generator: Generator) -> Candidate:
    made = junk(scene, generator)
    boast = {"certificates": True, "certified": True, "agreement": 1.0, "residual": 0.0, "proved": [True] * len(scene.inputs)}
    return Candidate(made.inputs, made.labels, stats=boast)


def junk_of_an_ended_search(scene: Scene, generator: Generator) -> Candidate:
    made = junk(scene, generator)
    return Candidate(made.inputs, made.labels, exhausted=True, reason="the budget was spent")


def junk_without_labels(scene: Scene, generator: Generator) -> Candidate:
    return Candidate(scene.like(generator))


def junk_in_the_span(scene: Scene, generator: Generator) -> Candidate:
    """Combinations of the members: every one of them in the gradient's row space."""
    mixing = torch.randn((len(scene.inputs),) * 2, generator=generator, dtype=torch.float64)
    return Candidate(torch.einsum("ij,j...->i...", mixing, scene.inputs), scene.labels)


def convex_mixtures(scene: Scene, generator: Generator) -> Candidate:
    share = 0.1 + 0.8 * torch.rand((len(scene.inputs), *[1] * (scene.inputs.ndim - 1)), generator=generator, dtype=torch.float64)
    return Candidate(share * scene.inputs + (1 - share) * scene.inputs.roll(1, 0), scene.labels)


def truth_and_junk(scene: Scene, generator: Generator) -> Candidate:
    return scene.with_last(scene.like(generator, 1))


def truth_and_a_stranger(scene: Scene, generator: Generator) -> Candidate:
    return scene.with_last(scene.strangers[0], scene.stranger_labels[0])


def truth_and_a_mixture(scene: Scene, generator: Generator) -> Candidate:
    return scene.with_last(0.7 * scene.inputs[-1] + 0.3 * scene.inputs[0])


def truth_and_more_junk(scene: Scene, generator: Generator) -> Candidate:
    extra = scene.like(generator, 1)
    return Candidate(torch.cat([scene.inputs, extra]), torch.cat([scene.labels, scene.labels[:1]]))


def truth_and_zeros(scene: Scene, generator: Generator) -> Candidate:
    """Samples of zeros, of which the first layer's weights see nothing."""
    return Candidate(torch.cat([scene.inputs, torch.zeros_like(scene.inputs[:2])]), torch.cat([scene.labels, scene.labels[:1].repeat(2)]))


def truth_and_what_leaves_no_trace(scene: Scene, generator: Generator) -> Candidate:
    """The weakest half of the batch replaced by strangers whose gradients are as faint: those that the network is sure of."""
    loss = losses(scene, scene.inputs, scene.labels)
    weak = loss.argsort()[: max(1, len(loss) // 2)]
    labels = outputs(scene, scene.strangers).argmax(dim=1)
    faint = losses(scene, scene.strangers, labels).argsort()[: len(weak)]
    inputs, named = scene.inputs.clone(), scene.labels.clone()
    inputs[weak[: len(faint)]], named[weak[: len(faint)]] = scene.strangers[faint], labels[faint]
    return Candidate(inputs, named)


def another_clients_members(scene: Scene, generator: Generator) -> Candidate:
    count = len(scene.inputs)
    return Candidate(scene.strangers[:count], scene.stranger_labels[:count])


def yesterdays_batch(scene: Scene, generator: Generator) -> Candidate:
    """Half of today's members, half others: a client draws from the same data every day."""
    half = max(1, len(scene.inputs) // 2)
    inputs = torch.cat([scene.inputs[:half], scene.strangers[: len(scene.inputs) - half]])
    return Candidate(inputs, torch.cat([scene.labels[:half], scene.stranger_labels[: len(scene.inputs) - half]]))


def wrong_labels(scene: Scene, generator: Generator) -> Candidate:
    return Candidate(scene.inputs, (scene.labels + 1) % scene.classes)


def one_wrong_label(scene: Scene, generator: Generator) -> Candidate:
    return scene.with_last(scene.inputs[-1], (scene.labels[-1] + 1) % scene.classes)


def shuffled_labels(scene: Scene, generator: Generator) -> Candidate:
    return Candidate(scene.inputs, scene.labels.roll(1))


def scaled(factor: float) -> Lie:
    def lie(scene: Scene, generator: Generator) -> Candidate:
        return Candidate(factor * scene.inputs, scene.labels)

    return lie


def one_scaled(scene: Scene, generator: Generator) -> Candidate:
    return scene.with_last(1.01 * scene.inputs[-1])


def moved(size: float) -> Lie:
    """Every member moved a little in every direction."""

    def lie(scene: Scene, generator: Generator) -> Candidate:
        return Candidate(scene.inputs + size * scene.like(generator), scene.labels)

    return lie


def moved_in_the_span(scene: Scene, generator: Generator) -> Candidate:
    mixing = 0.003 * torch.randn((len(scene.inputs),) * 2, generator=generator, dtype=torch.float64)
    return Candidate(scene.inputs + torch.einsum("ij,j...->i...", mixing, scene.inputs), scene.labels)


def the_weakest_moved(scene: Scene, generator: Generator) -> Candidate:
    """The member with the smallest loss moved by a percent: what a residual of the whole does not see."""
    weakest = int(losses(scene, scene.inputs, scene.labels).argmin())
    inputs = scene.inputs.clone()
    inputs[weakest] += 0.01 * scene.like(generator, 1)[0]
    return Candidate(inputs, scene.labels)


def the_weakest_junk(scene: Scene, generator: Generator) -> Candidate:
    weakest = int(losses(scene, scene.inputs, scene.labels).argmin())
    inputs = scene.inputs.clone()
    inputs[weakest] = scene.like(generator, 1)[0]
    return Candidate(inputs, scene.labels)


def one_left_out(scene: Scene, generator: Generator) -> Candidate:
    return Candidate(scene.inputs[:-1], scene.labels[:-1])


def the_weakest_left_out(scene: Scene, generator: Generator) -> Candidate:
    kept = losses(scene, scene.inputs, scene.labels).argsort()[1:].sort().values
    return Candidate(scene.inputs[kept], scene.labels[kept])


def one_twice(scene: Scene, generator: Generator) -> Candidate:
    """One member twice, as copies that share its weight."""
    return Candidate(torch.cat([scene.inputs, scene.inputs[:1]]), torch.cat([scene.labels, scene.labels[:1]]))


def one_twice_for_another(scene: Scene, generator: Generator) -> Candidate:
    return scene.with_last(scene.inputs[0], scene.labels[0])


def all_twice(scene: Scene, generator: Generator) -> Candidate:
    return Candidate(scene.inputs.repeat_interleave(2, 0), scene.labels.repeat_interleave(2))


def random_features(scene: Scene, generator: Generator) -> Candidate:
    layer = _inner(scene)
    width = scene.observation.update[layer].shape[1]
    return Candidate(features=torch.rand((len(scene.inputs), width), generator=generator, dtype=torch.float64), layer=layer)


def features_of_another_layer(scene: Scene, generator: Generator) -> Candidate:
    """What the first layer sees, said to be what an inner one is fed."""
    return Candidate(features=layer_inputs(scene.observation.model, scene.inputs, scene.layers[0]), layer=_inner(scene))


def scaled_features(scene: Scene, generator: Generator) -> Candidate:
    layer = _inner(scene)
    return Candidate(features=1.05 * layer_inputs(scene.observation.model, scene.inputs, layer), layer=layer)


def strangers_features(scene: Scene, generator: Generator) -> Candidate:
    layer = _inner(scene)
    return Candidate(features=layer_inputs(scene.observation.model, scene.strangers[: len(scene.inputs)], layer), layer=layer)


def features_with_a_junk_row(scene: Scene, generator: Generator) -> Candidate:
    layer = _inner(scene)
    rows = layer_inputs(scene.observation.model, scene.inputs, layer)
    rows[-1] = rows.std() * torch.rand(rows.shape[1], generator=generator, dtype=torch.float64)
    return Candidate(features=rows, layer=layer)


def features_in_the_span(scene: Scene, generator: Generator) -> Candidate:
    layer = _inner(scene)
    rows = layer_inputs(scene.observation.model, scene.inputs, layer)
    return Candidate(features=0.6 * rows + 0.4 * rows.roll(1, 0), layer=layer)


def features_of_no_layer(scene: Scene, generator: Generator) -> Candidate:
    return Candidate(features=scene.inputs.flatten(1), layer="no.such.weight")


def features_beside_the_truth(scene: Scene, generator: Generator) -> Candidate:
    layer = _inner(scene)
    junk_rows = torch.rand((len(scene.inputs), scene.observation.update[layer].shape[1]), generator=generator, dtype=torch.float64)
    return Candidate(scene.inputs, scene.labels, features=junk_rows, layer=layer)


def not_a_number(scene: Scene, generator: Generator) -> Candidate:
    inputs = scene.inputs.clone()
    inputs[-1].view(-1)[0] = torch.nan
    return Candidate(inputs, scene.labels)


def infinite(scene: Scene, generator: Generator) -> Candidate:
    return Candidate(torch.full_like(scene.inputs, torch.inf), scene.labels)


def not_a_number_among_features(scene: Scene, generator: Generator) -> Candidate:
    layer = _inner(scene)
    rows = layer_inputs(scene.observation.model, scene.inputs, layer)
    rows[0, 0] = torch.nan
    return Candidate(features=rows, layer=layer)


def of_another_shape(scene: Scene, generator: Generator) -> Candidate:
    return Candidate(scene.inputs.flatten(1)[:, :-1], scene.labels)


def too_few_labels(scene: Scene, generator: Generator) -> Candidate:
    return Candidate(scene.inputs, scene.labels[:-1])


def labels_out_of_range(scene: Scene, generator: Generator) -> Candidate:
    return scene.with_last(scene.inputs[-1], scene.classes)


def negative_labels(scene: Scene, generator: Generator) -> Candidate:
    return scene.with_last(scene.inputs[-1], -100)


def labels_of_another_type(scene: Scene, generator: Generator) -> Candidate:
    return Candidate(scene.inputs, scene.labels.double())


def order_of_another_shape(scene: Scene, generator: Generator) -> Candidate:
    return Candidate(scene.inputs, scene.labels, order=torch.zeros((1, len(scene.inputs) + 2), dtype=torch.int64))


def order_that_takes_one_twice(scene: Scene, generator: Generator) -> Candidate:
    made = scene.with_last(scene.like(generator, 1))
    training = scene.observation.training
    order = torch.arange(len(scene.inputs)).repeat(1 if training is None else training.epochs, 1)
    order[:, -1] = 0
    return Candidate(made.inputs, made.labels, order=order)


def nothing(scene: Scene, generator: Generator) -> Candidate:
    return Candidate(scene.inputs[:0], scene.labels[:0])


def nothing_of_a_layer(scene: Scene, generator: Generator) -> Candidate:
    layer = _inner(scene)
    return Candidate(features=torch.zeros((0, scene.observation.update[layer].shape[1]), dtype=torch.float64), layer=layer)


def forged_update(scene: Scene, generator: Generator) -> Candidate:
    """Overwrites the observed update with that of its junk."""
    made = junk(scene, generator)
    assert made.inputs is not None
    assert made.labels is not None
    model = scene.observation.model
    forged = capture(model, made.inputs.to(next(model.parameters()).dtype), made.labels, scene.observation.loss)
    for name, tensor in scene.observation.update.items():
        tensor.copy_(forged[name])
    return made


def forged_weights(scene: Scene, generator: Generator) -> Candidate:
    """Makes the network sure of everything, so that nothing would leave a trace."""
    *_, last = (module for module in scene.observation.model.modules() if isinstance(module, nn.Linear))
    with torch.no_grad():
        for tensor in last.parameters():
            tensor.mul_(1e6)
    return truth_and_what_leaves_no_trace(scene, generator)


def in_half_precision(scene: Scene, generator: Generator) -> Candidate:
    """The truth, in three digits."""
    return Candidate(scene.inputs.half() if scene.inputs.abs().max() < 6e4 else scene.inputs.bfloat16(), scene.labels)


def the_truth(scene: Scene, generator: Generator) -> Candidate:
    """No lie: what the others are measured against."""
    return Candidate(scene.inputs, scene.labels)


def the_true_features(scene: Scene, generator: Generator) -> Candidate:
    layer = _inner(scene)
    return Candidate(features=layer_inputs(scene.observation.model, scene.inputs, layer), layer=layer)


LIES: dict[str, Lie] = {
    lie.__name__.replace("_", " "): lie
    for lie in (
        junk,
        junk_called_certified,
        junk_of_an_ended_search,
        junk_without_labels,
        junk_in_the_span,
        convex_mixtures,
        truth_and_junk,
        truth_and_a_stranger,
        truth_and_a_mixture,
        truth_and_more_junk,
        truth_and_zeros,
        truth_and_what_leaves_no_trace,
        another_clients_members,
        yesterdays_batch,
        wrong_labels,
        one_wrong_label,
        shuffled_labels,
        one_scaled,
        moved_in_the_span,
        the_weakest_moved,
        the_weakest_junk,
        one_left_out,
        the_weakest_left_out,
        one_twice,
        one_twice_for_another,
        all_twice,
        random_features,
        features_of_another_layer,
        scaled_features,
        strangers_features,
        features_with_a_junk_row,
        features_in_the_span,
        features_of_no_layer,
        features_beside_the_truth,
        not_a_number,
        infinite,
        not_a_number_among_features,
        of_another_shape,
        too_few_labels,
        labels_out_of_range,
        negative_labels,
        labels_of_another_type,
        order_of_another_shape,
        order_that_takes_one_twice,
        nothing,
        nothing_of_a_layer,
        in_half_precision,
        forged_update,
        forged_weights,
    )
} | {
    "all scaled by 1.05": scaled(1.05),
    "all scaled by 1.001": scaled(1.001),
    "all mirrored": scaled(-1.0),
    "moved by a percent": moved(1e-2),
    "moved by 1e-4": moved(1e-4),
    "moved by 1e-7": moved(1e-7),
}


def _inner(scene: Scene) -> str:
    return scene.layers[min(1, len(scene.layers) - 1)]
