"""One grid of a plan: lists that multiply, and what stands beside them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, StrictStr

from unbatch.store.trials import Settings

__all__ = ["Grid"]


def _listed(value: Any) -> Any:
    """One value may stand without brackets."""
    return value if isinstance(value, (list, tuple)) else [value]


def _unlike(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))


def _seeds(value: Any) -> Any:
    """A number n stands for the seeds 0 … n − 1."""
    if isinstance(value, int) and not isinstance(value, bool):
        return tuple(range(value)) if 0 < value <= 1_000_000 else value
    return value


Whole = Annotated[StrictInt, Field(ge=1)]
Seed = Annotated[StrictInt, Field(ge=0, le=2**63 - 1)]
Names = Annotated[tuple[StrictStr, ...], BeforeValidator(_listed), AfterValidator(_unlike), Field(min_length=1)]
MIX = r"^(random|repeated|unique|one|imbalanced|dirichlet:\d*\.?\d+)$"
Mix = Annotated[StrictStr, Field(pattern=MIX)]
Told = Literal["nothing", "batch_size", "labels", "restored_labels"]
Dtype = Literal["float64", "float32"]

LISTS = (
    "datasets",
    "models",
    "protocols",
    "defenses",
    "attacks",
    "restorers",
    "batch_sizes",
    "mixes",
    "trained",
    "told",
    "dtypes",
    "seeds",
)
"""What multiplies; attacks and restorers are added up first, for a trial has one of either."""


class Grid(BaseModel):
    """Lists that multiply to trials.

    Attributes:
        datasets: from which clients draw.
        models: victims.
        protocols: what the server sees.
        defenses: of the client: "none", a specification, or a list of them in their order.
        attacks: each makes a trial.
        restorers: of labels; each makes a trial too.
        batch_sizes: samples of the client.
        mixes: how the classes of a batch are drawn: random (without replacement), repeated (with it), unique (one of every class), one
            (class), imbalanced (all but two of one class), dirichlet:A (shares from a Dirichlet distribution of parameter A).
        trained: steps of training before the attack, on the half of the data that is not attacked.
        told: nothing beyond the protocol, the batch_size, the labels, or restored_labels (as the default restorer gives them).
        dtypes: in which the client computes.
        seeds: a list, or a number n for 0 … n − 1.
        metrics: computed in every trial that proposes samples; they do not multiply.
        device: where the attack runs.
        threads: of every trial; results depend on it to rounding, so every executor takes the same.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    datasets: Names
    models: Names
    protocols: Names = ("fedsgd",)
    defenses: Annotated[tuple[StrictStr | tuple[StrictStr, ...], ...], BeforeValidator(_listed), AfterValidator(_unlike)] = ("none",)
    attacks: Annotated[tuple[StrictStr, ...], BeforeValidator(_listed), AfterValidator(_unlike)] = ()
    restorers: Annotated[tuple[StrictStr, ...], BeforeValidator(_listed), AfterValidator(_unlike)] = ()
    batch_sizes: Annotated[tuple[Whole, ...], BeforeValidator(_listed), AfterValidator(_unlike), Field(min_length=1)]
    mixes: Annotated[tuple[Mix, ...], BeforeValidator(_listed), AfterValidator(_unlike), Field(min_length=1)] = ("random",)
    trained: Annotated[
        tuple[Annotated[StrictInt, Field(ge=0)], ...], BeforeValidator(_listed), AfterValidator(_unlike), Field(min_length=1)
    ] = (0,)
    told: Annotated[tuple[Told, ...], BeforeValidator(_listed), AfterValidator(_unlike), Field(min_length=1)] = ("nothing",)
    dtypes: Annotated[tuple[Dtype, ...], BeforeValidator(_listed), AfterValidator(_unlike), Field(min_length=1)] = ("float64",)
    seeds: Annotated[tuple[Seed, ...], BeforeValidator(_seeds), AfterValidator(_unlike), Field(min_length=1)] = (0,)
    metrics: Annotated[tuple[StrictStr, ...], BeforeValidator(_listed), AfterValidator(_unlike)] = ("psnr",)
    device: StrictStr = "cpu"
    threads: Whole = 1

    @property
    def size(self) -> int:
        """How many trials it multiplies to."""
        return math.prod(count for name, count in self.counts.items() if name not in ("attacks", "restorers")) * (
            len(self.attacks) + len(self.restorers)
        )

    @property
    def counts(self) -> dict[str, int]:
        """How long its lists are."""
        return {name: len(getattr(self, name)) for name in LISTS}

    def chains(self) -> tuple[tuple[str, ...], ...]:
        """Its defenses, each as a chain."""
        return tuple(() if chain == "none" else (chain,) if isinstance(chain, str) else tuple(chain) for chain in self.defenses)

    def settings(self) -> Iterator[Settings]:
        """All trials, one seed of all settings after the other, so that a run shows something of everything early."""
        methods = [(spec, "") for spec in self.attacks] + [("", spec) for spec in self.restorers]
        for seed, dataset, model, protocol, chain, (attack, restorer) in itertools.product(
            self.seeds, self.datasets, self.models, self.protocols, self.chains(), methods
        ):
            for size, mix, steps, told, dtype in itertools.product(self.batch_sizes, self.mixes, self.trained, self.told, self.dtypes):
                yield Settings(
                    dataset=dataset,
                    model=model,
                    protocol=protocol,
                    defenses=chain,
                    attack=attack,
                    restorer=restorer,
                    batch_size=size,
                    mix=mix,
                    trained=steps,
                    told=told,
                    dtype=dtype,
                    seed=seed,
                )
