"""A liar that solves the certificate's equations: it looks for a sample that was never there and that all gradients agree with.

A member's column d lies in the column space of every layer's gradient, its input a in the row space, and aᵀG⁺d is the batch size. For a
sample x = pᵀR in the row space of the first layer these are equations on the b numbers of p, and where they are fewer than b they have
solutions that are no members.
"""

from __future__ import annotations

import copy

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from scenes import Scene
from unbatch.types import Candidate
from verdicts import layer_inputs

SMALL = 1e-9
"""Singular values below this share of the largest are zero."""


def lie_of_solved_equations(scene: Scene, generator: Generator) -> Candidate:
    """The batch with its last member replaced by a solution, found by Levenberg and Marquardt's method from a mixture of members."""
    solved, label, rest = solve(scene, generator)
    made = scene.with_last(solved, label)
    return Candidate(made.inputs, made.labels, stats={"rest": rest})


def solve(scene: Scene, generator: Generator, starts: int = 3, rounds: int = 60) -> tuple[Tensor, int, float]:
    """The best of some starts.

    Returns:
        (*shape) the sample, its label, and the largest share of a column or a row outside the spaces that it must be in.
    """
    best = scene.inputs[0], 0, float("inf")
    for _ in range(starts):
        label = int(torch.randint(scene.classes, (1,), generator=generator))
        equations = Equations(scene, label)
        mixture = torch.rand(len(scene.inputs), generator=generator, dtype=torch.float64)
        start = (mixture / mixture.sum()) @ scene.inputs.flatten(1) + 0.3 * scene.like(generator, 1).flatten()
        p = equations.rows @ start
        damping, rest = 1e-2, equations(p)
        for _ in range(rounds):
            left, sizes, right = torch.linalg.svd(torch.func.jacfwd(equations)(p), full_matrices=False)
            step = right.T @ (sizes / (sizes.square() + damping * sizes[0] ** 2) * (left.T @ rest))
            tried = equations(p - step)
            if tried.norm() < rest.norm():
                p, rest, damping = p - step, tried, max(1e-16, damping / 10)
            else:
                damping = min(1e3, damping * 5)
            if rest.abs().max() < 1e-14:
                break
        if float(rest.abs().max()) < best[2]:
            best = (p @ equations.rows).reshape(scene.inputs.shape[1:]), label, float(rest.abs().max())
    return best


class Equations:
    """p -> what of every layer's column and input lies outside the spaces that they must be in."""

    def __init__(self, scene: Scene, label: int) -> None:
        self.model, self.label = copy.deepcopy(scene.observation.model).requires_grad_(requires_grad=False), label
        self.layers = [module for module in self.model if isinstance(module, nn.Linear)]  # type: ignore[union-attr]
        self.activations = [module for module in self.model if not isinstance(module, (nn.Linear, nn.Flatten))]  # type: ignore[union-attr]
        self.spaces: list[tuple[Tensor, Tensor, Tensor]] = []
        self.batch = len(scene.inputs)
        for name in scene.layers:
            left, sizes, right = torch.linalg.svd(scene.observation.update[name].double(), full_matrices=False)
            rank = int((sizes > SMALL * sizes[0]).sum())
            self.spaces.append((left[:, :rank], right[:rank], sizes[:rank]))
        self.rows = self.spaces[0][1]
        assert layer_inputs(self.model, scene.inputs[:1], scene.layers[0]).shape[1] == self.rows.shape[1]

    def __call__(self, p: Tensor) -> Tensor:
        noted = [p.new_zeros(layer.out_features) for layer in self.layers]

        def loss(shifts: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
            x, fed = p @ self.rows, []
            for i, (layer, shift) in enumerate(zip(self.layers, shifts, strict=True)):
                fed.append(x)
                x = layer(x) + shift
                if i < len(self.activations):
                    x = self.activations[i](x)
            return F.cross_entropy(x[None], torch.tensor([self.label])), fed

        columns, fed = torch.func.grad(loss, has_aux=True)(noted)
        outside = []
        for column, row, (left, right, sizes) in zip(columns, fed, self.spaces, strict=True):
            if len(right) < len(p):  # fewer classes than samples: the layer's gradient holds no space of the samples' own
                continue
            inverse_weight = (right @ row) @ ((left.T @ column) / sizes)
            outside += [
                (column - left @ (left.T @ column)) / column.norm(),
                (row - (row @ right.T) @ right) / row.norm(),
                1 - inverse_weight[None] / self.batch,
            ]
        return torch.cat(outside)
