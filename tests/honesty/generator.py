"""One honesty trial from one seed: a client with real samples and a network, a round, what the server is told of it, and an attack.

A trial is black box: an ``Observation`` is built, an attack is called on it, and what comes back is held against the truth by
``verdicts.falsehoods``. The kind of a trial (what is told wrongly, if anything) and the state of its network go by turns; the rest is
drawn.
"""

from __future__ import annotations

import hashlib
import math
import time
import traceback
from dataclasses import asdict, dataclass, field, replace
from random import Random
from typing import Any

import torch
import torch._dynamo  # loaded before any clock runs: an operation that vmap must take apart makes torch load it, once a process
from torch import Tensor, nn

from lies import LIES, the_true_features, the_truth
from pools import NAMES, pool
from rounds import KINDS, TOLD_RIGHTLY, observed, randn
from scenes import Scene, liar
from unbatch.attacks.span import Span
from unbatch.attacks.spear import Spear
from unbatch.contracts import Attack
from unbatch.errors import UnbatchError
from unbatch.types import Batch, Observation
from verdicts import Falsehood, Truth, claimed, falsehoods, truth_of
from victims import STATES, network, sharpen, train


@dataclass(frozen=True, eq=False)
class Trial:
    """A trial before the attack.

    Attributes:
        seed: of everything.
        kind: one of ``KINDS``.
        facts: what was drawn, for people.
        observation: what the attack is given.
        truth: what it is held against.
        attack: the attack, or a liar.
        seconds: its budget; infinite for a liar.
    """

    seed: int
    kind: str
    facts: dict[str, str]
    observation: Observation
    truth: Truth
    attack: Attack
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What came of a trial. ``status`` is a status's name, or ``REFUSED`` where the observation was refused with a sentence."""

    seed: int
    kind: str
    facts: dict[str, str]
    status: str
    size: int
    claimed: int
    wall: float = 0.0
    cpu: float = 0.0
    reason: str = ""
    failures: tuple[Falsehood, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def role(seed: int, name: str) -> int:
    """A seed of its own for every role: what the attack draws tells nothing of what the client drew."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:6])


def run(seed: int, tool: type[Spear | Span] = Spear) -> Outcome:
    """Build a trial, run its attack, the tool or a liar, and judge."""
    facts: dict[str, str] = {}
    kind, size = KINDS[seed % len(KINDS)], 0
    try:
        trial = build(seed, facts, tool)
        size = len(trial.truth.inputs)
    except UnbatchError as refusal:
        return Outcome(seed, kind, facts, "REFUSED", 0, 0, reason=str(refusal))
    except Exception:  # noqa: BLE001
        return Outcome(seed, kind, facts, "EXCEPTION", 0, 0, failures=(Falsehood("exception before the attack", traceback.format_exc()),))
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        found = trial.attack(trial.observation, seed=role(seed, "attack") % 2**31)
    except Exception:  # noqa: BLE001
        failure = Falsehood("exception", traceback.format_exc())
        return Outcome(seed, kind, facts, "EXCEPTION", size, 0, time.perf_counter() - wall, time.process_time() - cpu, failures=(failure,))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    failures = falsehoods(found, trial.truth) + overruns(trial.seconds, wall, cpu)
    if found.status.name == "BROKE_DOWN" and math.isfinite(trial.seconds):  # what a liar hands in may be past reading
        failures.append(Falsehood("breakdown", getattr(found, "error", "") or found.reason))
    return Outcome(seed, kind, facts, found.status.name, size, claimed(found), wall, cpu, found.reason, tuple(failures))


def overruns(budget: float, wall: float, cpu: float) -> list[Falsehood]:
    """Beyond the budget by more than a second or a tenth: by the attack's own work, or only by the clock of a machine with other work."""
    allowed = budget + max(1.0, 0.1 * budget)
    told = f"{wall:.1f} s by the clock, {cpu:.1f} s of work, for {budget:.1f} s"
    if cpu > allowed:
        return [Falsehood("overrun", told)]
    return [Falsehood("overrun by the clock alone", told)] if wall > allowed else []


def build(seed: int, facts: dict[str, str], tool: type[Spear | Span] = Spear) -> Trial:
    """Everything of a trial but its attack's work; ``facts`` is filled on the way."""
    draw = Random(f"{seed}")  # noqa: S311
    kind, state = KINDS[seed % len(KINDS)], STATES[seed // len(KINDS) % len(STATES)]
    source = pool(draw.choices(NAMES, (16, 10, 14, 8, 5, 10, 8, 8, 8, 13))[0])
    size = draw.choices((draw.randint(1, 12), draw.randint(13, 24), draw.randint(25, 40)), (70, 20, 10))[0]
    facts |= {"kind": kind, "data": source.name, "size": str(size)}
    scale = draw.choice((1.0, 10 ** draw.uniform(-7, 5)))
    shift = draw.choice((0.0, 0.0, 0.5)) if source.inputs.dtype == torch.uint8 else 0.0

    def presented(indices: Tensor) -> Tensor:
        return scale * (source.take(indices) - shift)

    chosen = torch.randperm(len(source.inputs), generator=torch.Generator().manual_seed(role(seed, "data")))
    inputs, labels = _samples(draw, presented(chosen[:size]), source.labels[chosen[:size]], facts)
    facts |= {"scale": f"{scale:.1e}", "shift": str(shift)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(role(seed, "weights") % 2**31)
        model, facts["network"] = network(draw, tuple(inputs.shape[1:]), source.classes, scale, "norm" if kind == "mode" else None)
    if size == 1:  # a batch of one has no statistics
        model.eval()
    background = presented(chosen[size : size + 600]).float()
    facts["state"] = _lived(
        draw, model, state, background, source.labels[chosen[size : size + 600]], inputs, labels, role(seed, "training")
    )
    dtype = draw.choices((torch.float64, torch.float32), (65, 35))[0]
    model, facts["dtype"] = model.to(dtype), str(dtype)
    batch = Batch(inputs, labels)
    if kind == "mode":
        model.train(size > 1 and draw.random() < 0.5)
    seen, coarse = observed(draw, kind, model, batch, role(seed, "protocol") % 2**31, facts)
    truth = truth_of(model, inputs, labels, coarse=coarse, size_told=seen.batch_size == size, scale_told=kind in TOLD_RIGHTLY)
    if kind == "mode":
        model.train(size > 1 and not model.training)
    if kind == "foreign weights":
        seen = replace(seen, model=_foreign(draw, model, facts))
    strangers = presented(chosen[size : size + max(size, 40)])
    scene = Scene(seen, truth.inputs, labels, strangers, source.labels[chosen[size : size + len(strangers)]])
    attack, seconds = _attack(draw, scene, facts, tool)
    return Trial(seed, kind, facts, seen, truth, attack, seconds)


def _samples(draw: Random, inputs: Tensor, labels: Tensor, facts: dict[str, str]) -> tuple[Tensor, Tensor]:
    """Samples as they came, much alike, some of them twice, one of them zero."""
    how = draw.choices(("as they came", "alike", "duplicated", "one zero", "one faint"), (60, 14, 12, 9, 5))[0]
    inputs, labels, facts["samples"] = inputs.clone(), labels.clone(), how
    if how == "alike":
        share = 10 ** draw.uniform(-3, -0.3)
        facts["samples"] = f"alike to {share:.1e}"
        inputs = inputs[:1] + share * (inputs - inputs[:1])
    elif how == "duplicated":
        for _ in range(draw.randint(1, max(1, len(inputs) // 2))):
            first, second = draw.randrange(len(inputs)), draw.randrange(len(inputs))
            inputs[second] = inputs[first]
            if draw.random() < 0.8:
                labels[second] = labels[first]
    elif how == "one zero":
        inputs[draw.randrange(len(inputs))] = 0.0
    elif how == "one faint":
        inputs[draw.randrange(len(inputs))] *= 10 ** draw.uniform(-8, -1)
    return inputs, labels


def _lived(
    draw: Random, model: nn.Module, state: str, others: Tensor, other_labels: Tensor, inputs: Tensor, labels: Tensor, seed: int
) -> str:
    """Train and sharpen as the state says; what was done, in words."""
    words, rate = [], 10 ** draw.uniform(-3.5, -2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if state == "trained":
            words.append(f"{train(model, others, other_labels, draw.choice((10, 40, 150)), rate, seed)} steps on others")
        if state.startswith("memorized"):
            pooled, named = torch.cat([inputs.float(), others[:110]]), torch.cat([labels, other_labels[:110]])
            words.append(f"{train(model, pooled, named, draw.choice((25, 60, 150, 250)), rate, seed)} steps on the batch among others")
    if state.endswith("sharpened"):
        # What has been memorized and is sharpened more than that leaves an update of zeros, which is refused.
        factor = 10 ** (draw.uniform(0.2, 1.2) if words else draw.uniform(math.log10(4), math.log10(3000)))
        sharpen(model, factor)
        words.append(f"head times {factor:.0f}")
    return ", ".join(words) or "fresh"


def _foreign(draw: Random, model: nn.Module, facts: dict[str, str]) -> nn.Module:
    """Weights that are not those of the client: rounded, or off by a little noise."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    size = 10 ** draw.uniform(-8, 0)
    facts["spoiled"] = f"weights off by {size:.1e}"
    generator = torch.Generator().manual_seed(draw.getrandbits(30))
    for tensor in state.values():
        if tensor.is_floating_point():
            tensor.add_(size * tensor.abs().mean() * randn(tensor, generator))
    model.load_state_dict(state)
    return model


def _attack(draw: Random, scene: Scene, facts: dict[str, str], tool: type[Spear | Span]) -> tuple[Attack, float]:
    """The tool at the first layer or an inner one, or a liar; that rather on networks that SPEAR does not invert."""
    closed = tool is Spear and facts["network"].startswith(("other activation", "convolution"))
    if draw.random() < (0.8 if closed else 0.3):
        name = draw.choice((*LIES, "the truth", "the truth", "the true features"))
        facts["attack"] = f"liar: {name}"
        return liar(scene, {"the truth": the_truth, "the true features": the_true_features}.get(name) or LIES[name]), math.inf
    seconds = draw.choice((0.5, 0.5, 0.7, 1.0, 1.0, 2.0, 3.0))
    layer = draw.choice(scene.layers) if draw.random() < 0.1 else None
    attack = tool(seconds=seconds, layer=layer)
    facts["attack"] = attack.spec
    return attack, seconds
