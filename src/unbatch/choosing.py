"""``auto``: the strongest attack that applies, in a stated order, and the next one where it fails.

    1. exact, on a layer that is fed the raw input      one_sample, spear, span
    2. exact, on the first layer that is not             the same, for what that layer sees
    3. approximate, only where 1 and 2 found nothing     tableak for rows of a table, dlg and inverting_gradients for all others

Within a step the order is that of the attacks' declared ``rank``. It is no attack: it sees what they end with, not what they see, and the
evidence judges every attempt as if that were the only one. What is kept is the end that says most (``ORDER``); where nothing is proved and
nothing explains the update, what an exact attack read off it before the pictures of an approximate one. Attacks of other packages are not
tried, so that a result does not depend on what else is installed; nor are those that need data like the client's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

from unbatch import plugins, specs
from unbatch.clock import Clock
from unbatch.contracts import Attack, Yield
from unbatch.errors import UnknownPlugin
from unbatch.types import Observation, Progress, Reconstruction, Status, silent

__all__ = ["NAME", "ORDER", "Auto", "built"]

NAME = "auto"

ORDER = (
    Status.RECONSTRUCTED,
    Status.PARTIAL,
    Status.FEATURES,
    Status.UNPROVEN,
    Status.APPROXIMATE,
    Status.BUDGET_EXHAUSTED,
    Status.CONVERGED,
    Status.INCONSISTENT,
    Status.DIVERGED,
    Status.BROKE_DOWN,
    Status.NOT_APPLICABLE,
)
"""Which end says most of an update: proofs first, of samples before those of what an inner layer sees."""

PROVED = (Status.RECONSTRUCTED, Status.PARTIAL, Status.FEATURES)

EXPLAINED = (Status.UNPROVEN, Status.APPROXIMATE)
"""Ends of an exact attack after which an approximate one has nothing to add: a batch that explains the update, and is not proved."""

LEAST = 0.5
"""Seconds below which no further attempt is begun. Chosen."""

DOUBTED, AT_LEAST = 0.2, 20.0
"""Share of what is left, and seconds at least, for all further attempts once an exact attack has read a batch off the update that does not
give it: the model, the loss or the training is then another than was told, or noise is in the way, and no search is long enough for that.
Chosen. Measured: of 82 trials of ``tests/honesty``, seeds 0 to 82, SPEAR ended 19 so; of these others proved something in two, in 0.5 and
1.4 s."""


def built(attack: str | Attack | Auto) -> Attack | Auto:
    """An attack from its specification; ``auto`` and ``auto:seconds=60`` too.

    Raises:
        Misuse: there is no such attack or setting.

    Example:
        >>> built("auto:seconds=60"), built("span").spec
        (Auto(seconds=60.0), 'span')
    """
    if not isinstance(attack, str):
        return attack
    name, alone = specs.parse(attack)[0], len(specs.stages(attack)) == 1
    if alone and name == NAME:
        return cast("Auto", plugins.configured(Auto, attack))
    if alone and name not in specs.built_in("attacks") and name not in (known := plugins.names("attacks")):
        raise UnknownPlugin(f"{NAME}, or one of the attacks {', '.join(known)}", repr(name), "see `unbatch list attacks`")
    return cast("Attack", plugins.build("attacks", attack))


@dataclass(frozen=True)
class Auto:
    """Tries attacks in a stated order: exact ones first, approximations only where nothing was proved. See ``unbatch.choosing``.

    Attributes:
        seconds: budget of all attempts together, wall time. Of attacks that have a budget of their own none gets more than half of what
            is left, but for the last; and once a batch was found that does not give the update, a fifth of what is left is for all
            others together, and 20 seconds at least.

    Raises:
        Misuse: the budget is no positive, finite number.

    Example:
        >>> import torch, unbatch
        >>> net = torch.nn.Sequential(torch.nn.Linear(30, 40), torch.nn.GELU(), torch.nn.Linear(40, 5)).double()
        >>> secret, labels = torch.rand(6, 30, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 4, 0])
        >>> found = Auto()(unbatch.Observation(net, unbatch.capture(net, secret, labels), (30,))).or_raise()
        >>> found.attack, found.reason
        ('span', 'auto took span: one_sample and spear do not apply')
    """

    seconds: float = 150.0

    def __post_init__(self) -> None:
        """Refuse a budget that cannot be."""
        Clock.of(self.seconds)

    @property
    def spec(self) -> str:
        """The text that builds it again."""
        return specs.write(NAME, {} if self == Auto() else {"seconds": self.seconds})

    def __call__(self, observation: Observation, *, seed: int = 0, progress: Progress = silent) -> Reconstruction:
        """Try until samples are proved that explain the whole update, nothing is left to try, the time is up, or the user interrupts.

        Args:
            observation: what the server saw.
            seed: of each attempt's randomness.
            progress: told what goes on.
        """
        if observation.unreadable:
            return Reconstruction(Status.NOT_APPLICABLE, reason=observation.unreadable, attack=self.spec)
        waiting, ends, late, explained = list(_in_order(observation)), list[Reconstruction](), "", False
        read, doubted = list[Reconstruction](), ""  # what exact attacks made of the update, whether or not it is proved
        clock = Clock.of(self.seconds)  # what was imported for the first time is no work on the update
        for attack in waiting:
            best = _best(ends, read)
            if best is not None and (best.status is Status.RECONSTRUCTED or best.explained or ends[-1].interrupted):
                break
            if clock.left < LEAST:
                late = f"{self.seconds:g} seconds were spent before {attack.spec} could be tried"
                break
            if best is not None and best.status in PROVED and not (_exact(attack) and best.status is Status.PARTIAL):
                continue
            if explained and not _at_raw_input(attack):
                continue
            timed = _timed(attack, clock, last=attack is waiting[-1])
            ends.append(timed(observation, seed=seed, progress=_named(timed, progress)))
            explained |= _at_raw_input(attack) and ends[-1].status in EXPLAINED
            if _at_raw_input(attack) and ends[-1].inputs is not None:
                read.append(ends[-1])
                if ends[-1].status is Status.INCONSISTENT and not doubted:
                    clock = clock.part(min(1.0, max(DOUBTED, AT_LEAST / max(clock.left, LEAST))))
                    wrong = "something was told wrongly, or noise or rounding is in the way"
                    doubted = f"what {_name(ends[-1])} found does not give the update ({wrong}): others were given {clock.left:.0f} s"
        best = _best(ends, read)
        if best is None or best.status is Status.NOT_APPLICABLE:
            status = Status.BUDGET_EXHAUSTED if late else Status.NOT_APPLICABLE
            told = late or "; ".join(dict.fromkeys(f"{_name(end)}: {end.reason}" for end in ends)) or "there is no attack to try"
            return Reconstruction(status, reason=told, attack=self.spec)
        noted = {end.attack: end.status.name for end in ends}
        tried = tuple(dict.fromkeys(_name(end) for end in ends if end.status is not Status.NOT_APPLICABLE))
        said = "; ".join(part for part in (_sentence(best, ends), best.reason, doubted if best.status not in PROVED else "", late) if part)
        return replace(best, reason=said, tried=tried, stats={**best.stats, "tried by auto": noted})


def _exact(attack: Attack) -> bool:
    """Whether it ends with a proof or with nothing."""
    return Yield.PROOF in attack.yields and Yield.PICTURE not in attack.yields


def _at_raw_input(attack: Attack) -> bool:
    """Whether it is exact, and finds what the model is fed."""
    return _exact(attack) and vars(attack).get("layer") is None


def _in_order(observation: Observation) -> Iterator[Attack]:
    """All that may be tried; whether they apply they say themselves."""
    classes: list[type[Attack]] = [plugins.load("attacks", name) for name in specs.built_in("attacks")]
    attacks = sorted((cls() for cls in classes if not cls.needs.auxiliary), key=lambda attack: (attack.rank, attack.spec))
    exact = [attack for attack in attacks if _exact(attack)]
    yield from exact
    inner = next((call.weight for call in observation.layers if not call.raw), None)
    if inner is not None:
        for attack in exact:
            if "layer" in _settings(attack):
                yield _set(attack, layer=inner.removesuffix(".weight"))
    table = observation.schema is not None and observation.schema.kind == "table"
    yield from (attack for attack in attacks if not _exact(attack) and (Yield.ROWS in attack.yields) == table)


def _settings(attack: Attack) -> set[str]:
    return {field.name for field in fields(attack)}


def _set(attack: Attack, **settings: Any) -> Attack:
    return replace(attack, **settings)


def _timed(attack: Attack, clock: Clock, *, last: bool) -> Attack:
    """The attack with the time that it may take."""
    if "seconds" not in _settings(attack):
        return attack
    own = vars(attack)["seconds"]
    most = round(max(LEAST, clock.left if last else clock.left / 2), 1)
    return attack if own is not None and own <= most else _set(attack, seconds=most)


def _best(ends: Sequence[Reconstruction], read: Sequence[Reconstruction]) -> Reconstruction | None:
    """The end that says most: proofs, then samples that explain the update before features, then what was read off it exactly, a whole
    batch before a part; of equal ones more, then the nearer replay.
    """

    def worth(end: Reconstruction) -> tuple[int, bool, int, int, float]:
        rows = end.inputs if end.inputs is not None else end.features
        counted = 0 if rows is None else len(rows) if end.status in PROVED else 1
        place, far = ORDER.index(end.status), float("inf") if end.residual is None else end.residual
        if end.status in (*PROVED, *EXPLAINED):
            return min(place, len(PROVED)), end.status in EXPLAINED and end.inputs is None, place, -counted, far
        if any(end is one for one in read):
            return len(PROVED) + 1, end.status is not Status.INCONSISTENT, place, -counted, far
        return len(PROVED) + 2 + place, False, place, -counted, far

    return min(ends, key=worth, default=None)


def _named(attack: Attack, progress: Progress) -> Progress:
    return lambda message, done: progress(f"{specs.parse(attack.spec)[0]}: {message}", done)


def _sentence(best: Reconstruction, ends: Sequence[Reconstruction]) -> str:
    """Why this one."""
    away = list(dict.fromkeys(_name(end) for end in ends if end.status is Status.NOT_APPLICABLE))
    others = [end for end in ends if end is not best and end.status is not Status.NOT_APPLICABLE]
    away = [name for name in away if name not in {_name(best), *map(_name, others)}]
    parts = [f"{_name(end)} ended with {end.status.name}" for end in others]
    if away:
        listed = ", ".join(away[:-1]) + f" and {away[-1]}" if len(away) > 1 else away[0]
        parts.insert(0, f"{listed} {'do' if len(away) > 1 else 'does'} not apply")
    return f"auto took {_name(best)}" + (f": {', '.join(parts)}" if parts else "")


def _name(end: Reconstruction) -> str:
    return specs.parse(end.attack)[0]
