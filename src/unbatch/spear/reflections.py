"""From poor guesses to rough ones by the gradients of the layers behind: many walks between two sets, none of which needs a good start.

A sample's pre-activations z lie in the column space of ``made``, its activations h in the row space of the next layer's gradient, and
what that layer makes of h again in a space of b dimensions, layer after layer; and neuron by neuron h = ReLU(z). The spaces are linear,
and the nearest point in them is a projection; the others are two rays for each neuron, and the nearest point on them is a choice. Steps
that relax the reflection at both sets (as phase retrieval has them) do not come to rest where neither is met, as alternating projections
would: they wander until they are near a sample. From there ``descent`` goes on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from unbatch.clock import UNLIMITED, Clock
from unbatch.spear.behind import Link
from unbatch.spear.descent import best_of_near
from unbatch.spear.layer import Layer

__all__ = ["STEPS", "reflected", "steps_after"]

STEPS, RELAX = 200, 0.7
"""Steps of the first walks, and the share of a full one that each is. Measured: of 400 walks to MNIST at m=1000, b=400 33 had .85 of a
sample's signs right after 100 steps, 108 after 200, 295 after 400; of shares .5, .7 and 1 the second had as many there
in half the time of the first, and of Gaussian vectors the last fewer."""

SHORT, LONG, PAYING = 100, 1600, 0.1
"""Bounds on the steps of a walk, and the share of the walks that must find a sample for the next ones to be shorter. Chosen: so few
steps take less time than the guesses before them and the least squares after."""

HALF = 0.5**0.5
"""Length of the activations against that of the pre-activations, half of which are on. Derived."""

BEND = 2**0.5 - 1
"""A pair (h, z) with s = h + z > 0 is nearer to the ray h = z where z > −BEND h, and else to h = 0 ≥ z. Derived."""

TINY = 1e-30
"""Of float32, what keeps a division of zero by zero. Derived."""

ARRIVED, FEW = 0.003, 0.1
"""Squared distance of the two sets at which a walk has arrived and ends; and the share of all walks that is not worth going on alone.
Measured on CIFAR-10, b=600: of 128 walks 94 had .85 of a sample's signs right at the distance .03, but the squares after them found 13
samples; 126 and 38 at .003, for half as much time again; no more at .001."""

ABREAST, ASKED = 128, 5
"""So many walks at a time, whose numbers stay near the processor; every so many steps each is asked how near it is. Chosen."""


def reflected(
    layer: Layer,
    links: Sequence[Link],
    guesses: Float[Tensor, "k b"],
    clock: Clock = UNLIMITED,
    steps: int = STEPS,
    signs: Float[Tensor, "k m2"] | None = None,
) -> Float[Tensor, "k b"]:
    """Better guesses, each from one of those given: where its walk came nearest to both sets; up to scale.

    Args:
        layer: the layer, perhaps with known samples taken out.
        links: the layers behind, at least one, with the same samples taken out.
        guesses: (k, b) of p, of the right sign.
        clock: when to give up.
        steps: of every walk.
        signs: of what the last layer makes, where they are known.
    """
    basis, change = torch.linalg.qr(layer.made)
    points = guesses @ change.T
    spaces = _spaces(basis, links, points)
    known = (points.new_zeros((len(points), 0)) if signs is None else signs).float()
    parts = zip(torch.split(points.float(), ABREAST), torch.split(known, ABREAST), strict=True)
    best = [_walked(spaces, part, of_part, clock, steps) for part, of_part in parts]
    return torch.linalg.solve_triangular(change, torch.cat(best).T.to(change.dtype), upper=True).T


def steps_after(steps: int, found: float) -> int:
    """Steps of the next walks: where these found little, of what is sought, twice as many, else half.

    Example:
        >>> steps_after(400, 0.3), steps_after(100, 0.0), steps_after(1600, 0.0)
        (200, 200, 1600)
    """
    return max(SHORT, steps // 2) if found > PAYING else min(LONG, 2 * steps)


class _Space:
    """A linear space of (h, z'), one above the other, the length of a point in it, and how many of the rows are h."""

    def __init__(self, basis: Float[Tensor, "m b"], size: float, fed: int) -> None:
        self.basis, self.size, self.fed = basis.float().contiguous(), size, fed
        self.turned = self.basis.T.contiguous()

    def nearest(self, points: Float[Tensor, "k m"]) -> tuple[Float[Tensor, "k b"], Float[Tensor, "k m"]]:
        """The coordinates, and the point of the right length in their direction."""
        inside = points @ self.basis
        return inside, (inside * (self.size / inside.norm(dim=1, keepdim=True).clamp_min(TINY))) @ self.turned


def _spaces(basis: Float[Tensor, "m b"], links: Sequence[Link], points: Float[Tensor, "k b"]) -> list[_Space]:
    """z of this layer, then of every layer behind h and the z that it makes of it, brought to the length that z has here."""
    spaces = [_Space(basis, 1.0, 0)]
    z = points @ basis.T
    for link in links:
        h = z.relu() @ link.fed
        if link.made is None:
            spaces.append(_Space(link.fed, HALF, len(link.fed)))
            break
        z = h @ link.made.T
        share = float((z.norm(dim=1) / h.norm(dim=1).clamp_min(TINY)).median()) * HALF
        both = torch.linalg.qr(torch.cat([link.fed, link.made / share]))[0]
        spaces.append(_Space(both, (1 + HALF**2) ** 0.5, len(link.fed)))
    return spaces


def _walked(
    spaces: Sequence[_Space], points: Float[Tensor, "k b"], signs: Float[Tensor, "k _"], clock: Clock, steps: int
) -> Float[Tensor, "k b"]:
    """The coordinates in the first space where every walk was nearest to all sets."""
    states = [_scaled(points @ spaces[0].turned, 1.0)]
    for space in spaces[1:]:
        h = states[-1][:, -space.fed :].relu()
        made = len(space.basis) - space.fed
        start = torch.cat([h, signs / made**0.5 if space is spaces[-1] and signs.numel() else h.new_zeros((len(h), made))], dim=1)
        states.append(space.nearest(start)[1])
    nearest, best = torch.full_like(points[:, :1], torch.inf), points.clone()
    going = torch.arange(len(points), device=points.device)
    for step in range(steps):
        clock.check()
        inside, linear = zip(*(space.nearest(state) for space, state in zip(spaces, states, strict=True)), strict=True)
        turned = [2 * point - state for point, state in zip(linear, states, strict=True)]
        _to_rays(turned, spaces)
        if signs.numel():
            made_last = turned[-1][:, spaces[-1].fed :]
            made_last.mul_(made_last * signs[going] > 0)
        apart = [ray.sub_(point) for ray, point in zip(turned, linear, strict=True)]
        for state, part in zip(states, apart, strict=True):
            state.add_(part, alpha=RELAX)
        if step % ASKED == 0 or step == steps - 1:
            left = torch.stack([part.square().sum(dim=1, keepdim=True) for part in apart]).sum(dim=0)
            better = (left < nearest[going])[:, 0]
            best[going[better]], nearest[going[better]] = inside[0][better], left[better]
            on = (nearest[going, 0] > ARRIVED) & best_of_near(inside[0], left[:, 0])
            going, states = going[on], [state[on] for state in states]
            if len(going) < FEW * len(points):
                break
    return best


def _scaled(vectors: Float[Tensor, "k m"], length: float) -> Float[Tensor, "k m"]:
    return vectors * (length / vectors.norm(dim=1, keepdim=True).clamp_min(TINY))


def _to_rays(states: Sequence[Float[Tensor, "k _"]], spaces: Sequence[_Space]) -> None:
    """Move every pair (h, z), in place, to the nearest with h = ReLU(z): on the ray h = z ≥ 0, or on the other, h = 0 ≥ z."""
    for before, after, space, following in zip(states, states[1:], spaces, spaces[1:], strict=False):
        z, h = before[:, space.fed :], after[:, : following.fed]
        both = h + z
        on = torch.minimum(both, z + BEND * h) > 0
        h.copy_(both.mul_(0.5).mul_(on))
        z.clamp_max_(0).mul_(~on).add_(h)
