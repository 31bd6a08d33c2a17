"""How what the first layer leaves of a sample turns as the sample moves: it tells one from several that are much alike.

Around a sample the layer's pre-activation z moves along W of the way. So where all that follows depends on z alone, large inputs are not
made again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor
from torch.nn.functional import normalize

from unbatch.evidence.accuracy import GROWTH, NOTHING, STEP
from unbatch.evidence.mixtures import columns_of
from unbatch.evidence.regions import VISIBLE
from unbatch.evidence.replay import entrance_of
from unbatch.evidence.slopes import pulled_back, slopes_of
from unbatch.evidence.tail import Tail, tail_of
from unbatch.linalg.blocks import times_transposed
from unbatch.trace import TRIAL, LinearCall, Run, run
from unbatch.types import Observation

__all__ = ["Around", "of_one_way", "slope", "turning"]

DIRECTIONS = 4
"""Random ways in which a sample is moved; the one that turns its column least counts. Chosen, not swept."""

MOST = 1 << 22
"""More numbers of moved samples are looked at one way after the other. Chosen."""


@dataclass(frozen=True, eq=False)
class Around:
    """Samples, what the layer that sees them leaves of each, and what it would leave of others around them.

    Attributes:
        observation: what the server saw.
        inputs: (k, *shape).
        labels: (k,).
    """

    observation: Observation
    inputs: Float[Tensor, " k *shape"]
    labels: Int64[Tensor, " k"]

    @property
    def first(self) -> str | None:
        """Name of the weight of the layer that sees the samples; None where there is none."""
        return None if self._layer is None else self._layer.weight

    @property
    def bias(self) -> str | None:
        """Name of its bias; None where it has none."""
        return None if self._layer is None else self._layer.bias

    @property
    def outputs(self) -> Tensor:
        """(k, C) the class scores of the samples."""
        return self._ran.outputs.detach()

    @cached_property
    def flat(self) -> Float[Tensor, "k n"]:
        """The samples in float64."""
        return self.inputs.double().flatten(1)

    @cached_property
    def columns(self) -> Float[Tensor, "k m"] | None:
        """∂ℓ/∂z there, or None where there is no such layer."""
        return self.labelled(self.labels)

    def labelled(self, labels: Int64[Tensor, " k"]) -> Float[Tensor, "k m"] | None:
        """The same of these samples under other labels."""
        if self._call is None:
            return None
        return pulled_back(self._ran.outputs, [self._call.output], slopes_of(self.observation, self.outputs, labels), again=True)[0]

    def grown(self, step: float) -> Float[Tensor, "k m"] | None:
        """The same of samples that are longer by this share."""
        if self._tail is None or self._call is None or self._call.bias is None:  # or it has one that is no parameter
            return columns_of(self.observation, (1 + step) * self.inputs.double(), self.labels)
        z, shift = self._call.output.detach(), self.parameter(self._call.bias).double()
        return self._tail(z + step * (z - shift), self.labels)[self._tail.start].columns

    def moved(self, share: float) -> list[tuple[Float[Tensor, "k m"], Float[Tensor, "k m"]]] | None:
        """The same of samples moved by a share of their length, there and back along each of some random ways; None without a layer."""
        if self._call is None:
            return None
        count, lengths = len(self.labels), share * self.flat.norm(dim=1)
        there: list[Tensor] = []
        if self._tail is not None:
            z = self._call.output.detach()
            moved = torch.cat([z + sign * torch.outer(lengths, along) for along in self._ways_of_z for sign in (1, -1)])
            columns = self._tail(moved, self.labels.repeat(2 * DIRECTIONS))[self._tail.start].columns
            there = [] if columns is None else list(torch.split(columns, count))
        else:
            exact, lengths = self.inputs.double(), lengths.reshape(-1, *[1] * (self.inputs.ndim - 1))
            beside = [exact + sign * lengths * way for way in self._ways() for sign in (1, -1)]
            # Samples that statistics of a batch couple are looked at batch by batch, and large ones, for the memory.
            apart = self.observation.coupled or 2 * DIRECTIONS * exact.numel() > MOST
            for group in [[each] for each in beside] if apart else [beside]:
                columns = columns_of(self.observation, torch.cat(group), self.labels.repeat(len(group)))
                there += [] if columns is None else torch.split(columns, count)
        return list(zip(there[::2], there[1::2], strict=True)) if there else None

    def parameter(self, name: str) -> Tensor:
        """The model's own, by name."""
        return dict(self.observation.model.named_parameters())[name].detach()

    @cached_property
    def _layer(self) -> LinearCall | None:
        return entrance_of(self.observation.layers, self.observation, TRIAL)

    @cached_property
    def _ran(self) -> Run:
        return run(self.observation.model, self.inputs)

    @cached_property
    def _call(self) -> LinearCall | None:
        return entrance_of(self._ran.linears, self.observation, len(self.inputs))

    @cached_property
    def _tail(self) -> Tail | None:
        """What follows the layer, where that depends on z alone, and z on inputs of any size."""
        if self._call is None or self._call.weight != self.first or self.observation.coupled:
            return None
        return tail_of(self.observation, self._call.weight)

    @cached_property
    def _ways_of_z(self) -> Float[Tensor, "d m"]:
        """Where z goes along each."""
        return times_transposed(torch.stack([way.flatten() for way in self._ways()]), self.parameter(str(self.first)))

    def _ways(self) -> Iterator[Float[Tensor, " *shape"]]:
        """Random ways in which samples are moved, of length one."""
        generator = Generator(self.inputs.device).manual_seed(0)
        for _ in range(DIRECTIONS):
            way = torch.randn(self.inputs.shape[1:], generator=generator, dtype=torch.float64, device=self.inputs.device)
            yield way / way.norm()


def slope(around: Around, columns: Float[Tensor, "k m"]) -> Float[Tensor, " k"]:
    """By how much each column turns along a random way, per relative length; 0 where that is nothing.

    Args:
        around: the samples.
        columns: (k, m) theirs.
    """
    pairs = around.moved(STEP)
    if pairs is None:
        return torch.zeros_like(columns[:, 0])
    # Where one of a pair meets a kink, the other does not.
    found = torch.stack([(there - columns).norm(dim=1) / STEP / columns.norm(dim=1) for pair in pairs for there in pair]).amin(dim=0)
    return found.where(found > NOTHING, 0.0)


def turning(around: Around, columns: Float[Tensor, "k m"], first: str) -> Float[Tensor, " k"]:
    """γ of every sample: what a random way shows, beside it what the layer's least weighted number has; see ``several``.

    Args:
        around: the samples.
        columns: (k, m) theirs.
        first: name of the weight of the layer that sees them.
    """
    weight = around.parameter(first).norm(dim=0).double()
    share = weight.min() / weight.square().mean().sqrt()
    return (slope(around, columns) * share).nan_to_num(0.0).minimum(_bending(around, columns))


def of_one_way(around: Around, columns: Float[Tensor, "k m"]) -> Bool[Tensor, " k"]:
    """Whether all that other labels would make of a sample's column is a multiple of it.

    Args:
        around: the samples.
        columns: (k, m) theirs.
    """
    others = [around.labelled((around.labels + step) % around.observation.classes) for step in (1, 2)]
    tiny = torch.finfo(columns.dtype).tiny  # as columns are of which the network is sure
    ways = torch.stack([normalize(way, dim=1, eps=tiny) for way in (columns, *others) if way is not None], dim=1)
    return (torch.linalg.svdvals(ways.nan_to_num(0.0)) > VISIBLE).sum(dim=1) <= 1


def _bending(around: Around, columns: Float[Tensor, "k m"]) -> Float[Tensor, " k"]:
    """γ of each sample for two that differ in length alone: half of what (1 + s) d(x + s x) bends by as s grows, and d, by the bias.

    Behind a layer norm d shrinks as x grows, and the bias alone tells them.
    """
    observation, lengths = around.observation, around.flat.norm(dim=1)
    told = 1 / lengths[:, None] if around.bias in observation.update else torch.zeros_like(lengths[:, None])

    def left(step: float) -> Tensor | None:
        """(k, 2 m) what the sample leaves of G along itself, and of the bias gradient beside it."""
        there = around.grown(step)
        return None if there is None else torch.cat([(1 + step) * there, told * there], dim=1)

    here, longer, shorter = torch.cat([columns, told * columns], dim=1), left(GROWTH), left(-GROWTH)
    if longer is None or shorter is None:
        return torch.zeros_like(lengths)
    # One sample of another length takes up a part of that, and where the factor is not known, one that counts otherwise.
    taken = torch.stack([longer - shorter, *([here] if len(around.labels) == 1 and not observation.factor_known else [])], dim=2)
    bent = (longer + shorter - 2 * here)[:, :, None]
    bent = (bent - taken @ (torch.linalg.pinv(taken) @ bent))[:, :, 0]
    found = bent.norm(dim=1) / GROWTH**2 / 2 / columns.norm(dim=1)
    return found.where(found > NOTHING, 0.0).nan_to_num(0.0)
