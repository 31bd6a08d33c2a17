"""What to run now: after every result that is not the last word, the exact command of the next step."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Final

from unbatch.cli.again import Told, options_of, words

if TYPE_CHECKING:
    from unbatch.choosing import Auto
    from unbatch.contracts import Attack
    from unbatch.origin import NextStep
    from unbatch.types import Counts, Finding, Observation, Reconstruction

__all__ = ["after_audit", "after_exposure", "after_labels", "after_members"]

LONGER: Final = 10
"""By how much a budget is raised that was spent."""

LAYERS: Final = 3
"""How many layers are named at most."""


def after_audit(told: Told, finding: Finding, observation: Observation) -> tuple[NextStep, ...]:
    """What to do after an audit.

    Args:
        told: the options of its command.
        finding: how it ended.
        observation: what it saw; used to find out which attacks apply, never to attack.
    """
    from unbatch import choosing

    status = finding.reconstruction.status.name
    attack = choosing.built(str(told.get("attack", choosing.NAME)))  # as it was asked for: `auto` is no attack of its own
    steps = [] if status in ("RECONSTRUCTED", "PARTIAL", "FEATURES") else _of_adam(observation)
    if observation.unreadable:
        return (_step("See what the model gives away layer by layer, and the cheapest change that closes it.", "exposure", told),)
    if (status == "BUDGET_EXHAUSTED" or (status == "PARTIAL" and not finding.reconstruction.explained)) and (longer := _longer(attack)):
        steps.append(_step("Give the same attack ten times as long.", "audit", {**told, "attack": longer}))
    if status == "PARTIAL" and finding.reconstruction.explained and observation.batch_size is None:
        steps.append(_number("it may show that none is missing"))
    if status in ("UNPROVEN", "INCONSISTENT", "CONVERGED") or (status == "PARTIAL" and not finding.reconstruction.explained):
        steps += _tell_more(told, observation, status)
    if status in ("UNPROVEN", "APPROXIMATE", "INCONSISTENT", "CONVERGED"):
        steps += _untold(told, observation, finding.reconstruction)
    if status == "NOT_APPLICABLE":
        steps += _others(told, observation, attack, without=_alike(attack, observation))
    if status in ("BUDGET_EXHAUSTED", "BROKE_DOWN", "INCONSISTENT", "CONVERGED"):
        steps += _others(told, observation, attack, most=1)
    if status in ("BUDGET_EXHAUSTED", "NOT_APPLICABLE", "FEATURES") and observation.batch_size is None and observation.labels is None:
        steps.append(_number())
    countable = observation.classified and (finding.counts is None or finding.counts.applicable)
    if status not in ("RECONSTRUCTED", "PARTIAL") and countable:
        steps.append(_step("See which labels the update gives away by itself.", "labels", told))
    steps.append(_step("See what the model gives away layer by layer, and the cheapest change that closes it.", "exposure", told))
    return tuple(steps)


def after_labels(told: Told, found: Counts, observation: Observation) -> tuple[NextStep, ...]:
    """What to do after labels were restored, or were not.

    Args:
        told: the options of its command.
        found: the answer.
        observation: what it was made of.
    """
    sized = [_number("the counts follow from it")] if found.counts is None and found.applicable and observation.batch_size is None else []
    return (
        *_of_adam(observation),
        *sized,
        _step("See whether the samples themselves can be recovered.", "audit", told),
        _step("See what the model gives away layer by layer.", "exposure", told),
    )


def after_members(told: Told) -> tuple[NextStep, ...]:
    """What to do after records were asked for."""
    return (
        _step("See whether the samples themselves can be recovered, without any record to ask for.", "audit", told),
        _step("See what the model gives away layer by layer, and up to which batch size.", "exposure", told),
    )


def after_exposure(told: Told) -> tuple[NextStep, ...]:
    """What to do after an exposure: it says what can leak, an audit what does."""
    shape = {"model": told.get("model", "FILE.py:FACTORY"), "input-shape": told.get("input-shape", "3,32,32")}
    weights = told.get("weights", "WEIGHTS")
    return (_step("Audit an update of a client of yours.", "audit", {**shape, "weights": weights, "update": "UPDATE"}),)


def _step(why: str, command: str, told: Told) -> NextStep:
    """The command with those of the options that it has too; what is written to a place of its own is not overwritten."""
    known = options_of(command) - {"out", "format", "baseline", "exit-zero", "fail-on", "inconclusive"}
    kept = {name: value for name, value in told.items() if name in known or (command == "audit" and name == "updates")}
    if command == "labels":
        kept.pop("attack", None)
    if command != "audit" and "updates" in told:
        kept |= {"update": told["updates"]} if command == "labels" else {}
    from unbatch.origin import NextStep

    return NextStep(why=why, command=words(command, kept))


def _longer(attack: Attack | Auto) -> str | None:
    """The attack with a larger budget, as a specification; None where it has none."""
    for name, kind in (("seconds", float), ("restarts", int)):
        value = getattr(attack, name, None)
        if isinstance(value, kind) and name in {one.name for one in fields(attack)}:
            more: dict[str, Any] = {name: LONGER * value}
            return replace(attack, **more).spec
    return None


def _number(for_what: str = "attacks that give pictures need it") -> NextStep:
    return _hint(f"Say how many samples there were with --batch-size, if you know it: {for_what}.")


def _of_adam(observation: Observation) -> list[NextStep]:
    """That an update that looks like steps of Adam tells nothing exact."""
    from unbatch import importers

    if importers.EVEN_SIZES not in observation.remarks:
        return []
    why = (
        "If the client trained with Adam or AdamW, as the even sizes of the update's numbers suggest, only its first step can be read (say"
        " --optimizer, --update-is and --learning-rate): after several nothing exact is known of the gradients, which is no sign of safety."
    )
    return [_hint(why)]


def _hint(why: str) -> NextStep:
    """A step that is no command."""
    from unbatch.origin import NextStep

    return NextStep(why=why)


def _alike(tried: Attack | Auto, observation: Observation) -> frozenset[str]:
    """Attacks that an update has no room for where this one, whose needs are met, found only by its work that it has none for it."""
    from unbatch.choosing import Auto

    worked = not isinstance(tried, Auto) and tried.obstacle(observation) is None
    return frozenset(("spear", "span")) if worked and tried.spec.partition(":")[0] in ("spear", "span") else frozenset()


def _others(
    told: Told, observation: Observation, tried: Attack | Auto, most: int = LAYERS, without: frozenset[str] = frozenset()
) -> list[NextStep]:
    """Attacks that say that they apply here, and that were not tried: pointed at an inner layer, or of another kind."""
    from unbatch import plugins
    from unbatch.choosing import Auto
    from unbatch.errors import UnbatchError

    specs: list[tuple[str, str]] = []
    try:
        layers = [call.weight.removesuffix(".weight") for call in observation.layers if not call.raw]
    except UnbatchError:
        layers = []
    everything = isinstance(tried, Auto)  # which has tried all attacks that apply, and the first of these layers
    for name in layers[1:] if everything else layers:
        spec = f"spear:layer={name}"
        if "," not in name and tried.spec != spec and _applies(spec, observation):
            specs.append((spec, f"Point the attack at the inner layer {name}: it recovers what that layer sees of every sample."))
    specs = specs[:most]
    for name in () if everything else ("spear", "span", "one_sample", "inverting_gradients", "dlg"):
        if name in plugins.names("attacks") and name not in without and not tried.spec.startswith(name) and _applies(name, observation):
            specs.append((name, f"Try the attack {name}, which applies here."))
    return [_step(why, "audit", {**told, "attack": spec}) for spec, why in specs[: most + 1]]


def _applies(spec: str, observation: Observation) -> bool:
    from unbatch import plugins
    from unbatch.errors import Misuse

    try:
        attack: Attack = plugins.build("attacks", spec)
    except Misuse:
        return False
    return attack.obstacle(observation) is None


def _tell_more(told: Told, observation: Observation, status: str) -> list[NextStep]:
    """What the audit was not told that may decide it."""
    steps, refuted = [], status in ("INCONSISTENT", "CONVERGED")
    if refuted and "update-is" not in told and observation.training is None:
        why = "If it is what the client's weights moved by, after less before, and no gradient, say so."
        steps.append(_step(why, "audit", {**told, "update-is": "difference"}))
    if status == "INCONSISTENT":
        steps.append(_hint("Look at what was found: it may be the client's data all the same; --truth holds it against the client's own."))
    if refuted:
        steps.append(_hint("Check that --weights are what the server sent in this very round."))
        if observation.training is not None and not {"local-epochs", "mini-batch"} & told.keys():
            steps.append(_hint("If the client took several steps, say so with --local-epochs, and --mini-batch."))
    if observation.factor_known:
        steps.append(
            _step(
                "If the update was clipped or scaled by a number that you do not know, say so.", "audit", {**told, "unknown-factor": True}
            )
        )
    if "train-mode" not in told and refuted:
        steps.append(_step("If the client ran the model in train mode, say so.", "audit", {**told, "train-mode": True}))
    return steps


def _untold(told: Told, observation: Observation, found: Reconstruction) -> list[NextStep]:
    """What was not told of the client's training, and would leave what was found short of a proof."""
    status, steps = found.status.name, []
    if "loss" not in told and status != "UNPROVEN":
        why = (
            "If the client's loss was another, say so: label smoothing (as shown) or class weights leave samples that explain most, and not"
            " all; yes or no for every score is --loss bce, numbers are --loss mse."
        )
        steps.append(_step(why, "audit", {**told, "loss": "cross_entropy:label_smoothing=0.1"}))
    if observation.loss in ("mse", "bce"):  # of one score they are others, see unbatch.scores
        why = (
            f"--loss {observation.loss} takes targets for one-hot classes. Where they are other numbers, of several scores, no batch of"
            " several samples can be replayed; whether given records were in it can be told."
        )
        steps.append(_step(why, "members", {**told, "candidates": "RECORDS.npz"}))
    if observation.training is not None and not {"weight-decay", "optimizer"} & told.keys():
        why = (
            "If the client used weight decay, say how much (a usual one is shown); with Adam or AdamW, say --optimizer and --learning-rate."
        )
        steps.append(_step(why, "audit", {**told, "weight-decay": 0.01}))
    if status == "UNPROVEN" and observation.batch_size is None and observation.labels is None:
        only = found.inputs is not None and len(found.inputs) == 1
        one = [_step("If the batch held this one sample, say so: it may be proved then.", "audit", {**told, "batch-size": 1})]
        steps += one if only else [_number("samples may be proved with it that are not without")]
    return steps
