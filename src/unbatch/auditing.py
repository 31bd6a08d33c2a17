"""Protocol, attack, match, score: one page. The only place where a reconstruction meets the truth."""

from __future__ import annotations

import platform
import sys
import time
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import torch
from torch import Tensor

from unbatch import choosing, plugins
from unbatch.chains import Polishing
from unbatch.choosing import Auto
from unbatch.contracts import Attack, Metric, Polisher
from unbatch.errors import Misuse
from unbatch.evidence import lookups
from unbatch.realism import upper_bounds
from unbatch.restoring import counts_of
from unbatch.scoring import labels_right, score
from unbatch.types import Batch, Candidate, Finding, Lookup, Observation, Progress, Reconstruction, Schema, silent

__all__ = ["audit", "environment", "invert", "polish", "tokens"]


def invert(observation: Observation, attack: str | Attack | Auto = "spear", seed: int = 0, progress: Progress = silent) -> Reconstruction:
    """Attack an observation.

    Args:
        observation: what the server saw.
        attack: ``"name"``, ``"name:field=value,field=value"``, two of these joined by + (the second polishes what the first found), or an
            attack; ``"auto"`` tries them in a stated order: see ``choosing``.
        seed: of all randomness.
        progress: told what goes on.

    Raises:
        Misuse: there is no such attack or setting.
    """
    return choosing.built(attack)(observation, seed=seed, progress=progress)


def polish(
    observation: Observation,
    guess: Tensor,
    labels: Tensor | None = None,
    *,
    layer: str | None = None,
    attack: str | Polisher = "span:search=false",
    seed: int = 0,
    progress: Progress = silent,
) -> Reconstruction:
    """Make approximate samples exact, where they are near enough to the true ones, and have the evidence judge what comes out.

    Args:
        observation: what the server saw.
        guess: (k, *input_shape) approximate samples, for example pictures of another attack; or (k, n) what a layer sees.
        labels: (k,) int64 theirs, where they are known; used only to judge a guess that leads to nothing.
        layer: name of the weight of the layer whose features the guess is; None for inputs.
        attack: that polishes. With ``span`` as it comes, what the guess does not lead to is searched for without it.
        seed: of all randomness.
        progress: told what goes on.

    Raises:
        Misuse: the attack cannot start from a guess, or the guess has not the shape of what the layer is fed.
    """
    built: Attack = plugins.build("attacks", attack) if isinstance(attack, str) else attack
    if not isinstance(built, Polisher):
        raise Misuse("an attack that starts from a guess, such as span", repr(built.spec), "use invert, or chain it: ATTACK+span")
    given = Candidate(guess, labels) if layer is None else Candidate(features=guess, labels=labels, layer=layer)
    return Polishing(given, built)(observation, seed=seed, progress=progress)


def audit(
    observation: Observation, truth: Batch | None = None, attack: str | Attack | Auto = "spear", seed: int = 0, progress: Progress = silent
) -> Finding:
    """Attack an observation and score what comes out, where the truth is known.

    Args:
        observation: what the server saw.
        truth: the client's batch. The attack never sees it.
        attack: as for ``invert``.
        seed: of all randomness.
        progress: told what goes on.

    Raises:
        Misuse: there is no such attack, or the truth is not what the adversary was told of it.
    """
    if truth is not None:
        _check_truth(observation, truth)
    # Before the attack: a metric that cannot be built (a bad weights file) must not waste a long search.
    metrics = {name: plugins.load("metrics", name)() for name in plugins.names("metrics")} if truth is not None else {}
    start = time.perf_counter()
    built = choosing.built(attack)
    made = invert(observation, built, seed, progress)
    seconds = time.perf_counter() - start
    finding = Finding(
        made,
        replace(observation.knowledge, auxiliary_data=isinstance(built, Attack) and bool(built.needed.auxiliary)),
        (truth.schema if truth else observation.schema) or Schema.guess(observation.input_shape),
        observation.input_shape,
        seed,
        seconds,
        truth,
        counts=counts_of(observation, made, seed),
        lookups=tokens(observation),
        environment=environment(),
        upper_bounds=upper_bounds(observation),
    )
    return finding if truth is None or made.shown is None else _scored(finding, truth, made.shown, metrics)


def tokens(observation: Observation) -> tuple[Lookup, ...]:
    """Which tokens the batch of an update held, by the rows of an embedding that have a gradient: no attack, no search.

    Args:
        observation: what the server saw: a gradient, the difference after any number of local steps, of SGD or of Adam.

    Returns:
        an answer a table that the model looks something up in; none for a model that takes numbers.

    Example:
        >>> from torch import nn
        >>> from unbatch.gradients import capture
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch...>
        >>> net = nn.Sequential(nn.Embedding(50, 16), nn.Flatten(), nn.Linear(48, 4))
        >>> secret = torch.tensor([[7, 7, 31], [8, 2, 31]])
        >>> found = tokens(Observation(net, capture(net, secret, torch.tensor([0, 1])), (3,)))
        >>> found[0].used.tolist(), found[0].names
        ([2, 7, 8, 31], True)
    """
    return lookups(observation)


def _check_truth(observation: Observation, truth: Batch) -> None:
    """Refuse a truth that cannot be of this observation."""
    advice = "give the client's own batch, or tell of it what is true"
    if tuple(truth.inputs.shape[1:]) != observation.input_shape:
        raise Misuse(f"a truth of shape (b, {observation.input_shape})", str(tuple(truth.inputs.shape)), advice)
    told = observation.batch_size if observation.labels is None else len(observation.labels)
    if told not in (None, len(truth)):
        raise Misuse(f"a truth of {told} samples, as was told", str(len(truth)), advice)
    if observation.labels is not None and sorted(observation.labels.tolist()) != sorted(truth.labels.tolist()):
        raise Misuse("a truth with the labels that were told", "others", advice)


def _scored(finding: Finding, truth: Batch, guesses: Tensor, metrics: dict[str, Metric]) -> Finding:
    """The finding with what came of comparing its guesses with the truth."""
    scores = score(truth, guesses, metrics, finding.schema)
    right = labels_right(scores.order, finding.reconstruction.labels, truth)
    classed = bool((truth.labels >= 0).all())  # targets of several scores are no classes
    return replace(finding, **vars(scores), labels_right=right if classed else ())


def environment() -> dict[str, str]:
    """Versions and machine, for the report."""
    return {
        "unbatch": version("unbatch"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": sys.version.split()[0],
        "system": f"{platform.system()} {platform.machine()}",
        "threads": str(torch.get_num_threads()),
    }
