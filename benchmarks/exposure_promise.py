"""Whether ``expose`` keeps what it promises: batches of exactly the size that it calls determined with 99 %, and of those with 90 % and 50 %,
in places of many kinds. Whether a batch is determined is decided by linear algebra on its true factors, not by a search.

A place is a model, inputs like those that it was measured on, and a way to label them. Every layer that has limits is asked. One kind is
one case of ``results/exposure_promise.json``; the table is printed.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import harness
import torch
from exposure_page import NOT_PROMISED
from scipy.stats import beta
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from unbatch import plugins
from unbatch.exposure import Limits, expose
from unbatch.models.mlp import Mlp
from unbatch.trace import run

RELATIVE = 1e-11
"""Singular values below this share of the largest count as zero; columns have length one. Float64 rounds to 1e-16."""

Draw = Callable[[int, Generator], Tensor]


@dataclass
class Place:
    """A model and its clients.

    Attributes:
        model: float32, eval mode.
        shape: of one input.
        draw: that many new inputs, of which no one is in ``data``.
        classes: scored by the model.
        data: what ``expose`` is given; None for white noise.
        labels: "random", "one" class a batch, or the model's "own" answer.
    """

    model: nn.Module
    shape: tuple[int, ...]
    draw: Draw
    classes: int
    data: Tensor | None = None
    labels: str = "random"


KINDS: dict[str, Callable[[Generator], Place]] = {}


def kind(make: Callable[[Generator], Place]) -> Callable[[Generator], Place]:
    KINDS[make.__name__.replace("_", " ")] = make
    return make


def pick(generator: Generator, *choices: int) -> int:
    return choices[int(torch.randint(len(choices), (1,), generator=generator))]


def white(*shape: int) -> Draw:
    return lambda count, generator: torch.randn((count, *shape), generator=generator)


def stack(*sizes: int, bias: bool = True) -> nn.Sequential:
    """Linear layers of these sizes with ReLU between them; the first always has a bias."""
    pairs = list(zip(sizes, sizes[1:], strict=False))
    layers = [part for i, (n, m) in enumerate(pairs) for part in (nn.Linear(n, m, bias=bias or not i), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def noisy(model: nn.Module, inputs: int, classes: int, labels: str = "random") -> Place:
    return Place(model, (inputs,), white(inputs), classes, labels=labels)


@kind
def plain(g: Generator) -> Place:
    n, m, depth, c = pick(g, 20, 60, 150, 300), pick(g, 40, 60, 100, 150), pick(g, 1, 2, 3, 5), pick(g, 5, 10, 30)
    return noisy(stack(n, *[m] * depth, c), n, c)


@kind
def narrow(g: Generator) -> Place:
    n, m, depth, c = pick(g, 10, 30, 60), pick(g, 8, 12, 16, 24, 30), pick(g, 1, 2, 3, 5), pick(g, 3, 10)
    return noisy(stack(n, *[m] * depth, c), n, c)


@kind
def wide(g: Generator) -> Place:
    return noisy(stack(400, pick(g, 150, 200, 300), 10), 400, 10)


@kind
def two_classes(g: Generator) -> Place:
    n, m = pick(g, 20, 60), pick(g, 16, 30, 60, 100)
    return noisy(stack(n, *[m] * pick(g, 1, 2, 3), 2), n, 2)


@kind
def a_hundred_classes(g: Generator) -> Place:
    n, m = pick(g, 20, 60, 150), pick(g, 30, 60, 100)
    return noisy(stack(n, *[m] * pick(g, 1, 2, 3), 100), n, 100)


@kind
def one_class_batches(g: Generator) -> Place:
    n, m = pick(g, 20, 60), pick(g, 16, 30, 60, 100)
    return noisy(stack(n, *[m] * pick(g, 1, 2, 4), 10), n, 10, "one")


@kind
def few_inputs(g: Generator) -> Place:
    n, m = pick(g, 3, 5, 8, 12), pick(g, 30, 60, 150)
    return noisy(stack(n, *[m] * pick(g, 1, 2, 3), 5), n, 5)


@kind
def bottleneck_behind(g: Generator) -> Place:
    n, m, k, c = pick(g, 20, 60), pick(g, 24, 60, 100), pick(g, 2, 3, 4, 6, 10), pick(g, 2, 5, 10)
    return noisy(stack(n, m, k, *[m] * pick(g, 0, 1), c), n, c)


@kind
def bottleneck_before(g: Generator) -> Place:
    n, m, k = pick(g, 20, 60), pick(g, 24, 60, 100), pick(g, 3, 5, 8, 12)
    return noisy(stack(n, k, m, m, 6), n, 6)


def doubled(g: Generator, rows: bool, columns: bool, sign: float) -> Place:
    """The second half of the first layer's neurons are, wholly or in part, those of the first half, or their opposites."""
    n, m, c = pick(g, 20, 60), pick(g, 24, 60, 100), pick(g, 3, 10)
    model = stack(n, m, *[pick(g, 16, 40)] * pick(g, 0, 1, 2), c)
    part = pick(g, m // 4, m // 2)
    with torch.no_grad():
        first, second = model[0], model[2]
        if rows:
            first.weight[m - part :], first.bias[m - part :] = sign * first.weight[:part], sign * first.bias[:part]
        if columns:
            second.weight[:, m - part :] = sign * second.weight[:, :part]
    return noisy(model, n, c)


for doubling, (of_rows, of_columns) in {"neurons": (True, False), "columns": (False, True), "neurons and columns": (True, True)}.items():
    for likeness, of_sign in {"alike": 1, "opposite": -1}.items():
        KINDS[f"{doubling} {likeness}"] = functools.partial(doubled, rows=of_rows, columns=of_columns, sign=of_sign)


@kind
def dead_neurons(g: Generator) -> Place:
    n, m = pick(g, 20, 60), pick(g, 30, 60, 100)
    model = stack(n, m, m, 5)
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.bias[torch.rand(m, generator=g) < pick(g, 2, 5, 8) / 10] = -1e3
    return noisy(model, n, 5)


@kind
def rarely_on(g: Generator) -> Place:
    n, m = pick(g, 20, 60), pick(g, 30, 60, 100)
    model = stack(n, m, *[m] * pick(g, 0, 1, 2), 5)
    with torch.no_grad():
        model[0].bias -= pick(g, 5, 10, 15) / 10
    return noisy(model, n, 5)


@kind
def mostly_on(g: Generator) -> Place:
    n, m = pick(g, 20, 60), pick(g, 30, 60, 100)
    model = stack(n, m, *[m] * pick(g, 0, 1, 2), 5)
    with torch.no_grad():
        model[0].bias += pick(g, 3, 5, 8) / 10
    return noisy(model, n, 5)


@kind
def pruned_weights(g: Generator) -> Place:
    n, m = pick(g, 20, 60), pick(g, 30, 60, 100)
    model = stack(n, m, *[m] * pick(g, 0, 1, 2), 5)
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.weight *= torch.rand(layer.weight.shape, generator=g) < pick(g, 1, 2, 4) / 10
    return noisy(model, n, 5)


@kind
def no_biases_behind(g: Generator) -> Place:
    n, m = pick(g, 20, 60), pick(g, 16, 30, 60, 100)
    return noisy(stack(n, *[m] * pick(g, 1, 2, 4), 6, bias=False), n, 6)


@kind
def deep_and_narrow(g: Generator) -> Place:
    n, m = pick(g, 20, 60), pick(g, 6, 8, 10)
    return noisy(stack(n, pick(g, 30, 60), *[m] * 4, 5), n, 5)


@kind
def widths_of_all_sizes(g: Generator) -> Place:
    n, c = pick(g, 8, 25, 80), pick(g, 2, 4, 20)
    return noisy(stack(n, *[pick(g, 8, 16, 40, 90) for _ in range(pick(g, 2, 3, 4))], c), n, c)


@kind
def with_a_residual_and_norms(g: Generator) -> Place:
    n, m = pick(g, 20, 60), pick(g, 24, 50, 90)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.inside = nn.LayerNorm(m), nn.Sequential(nn.Linear(m, m), nn.ReLU(), nn.Linear(m, m))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.inside(self.norm(x))

    return noisy(nn.Sequential(nn.Linear(n, m), nn.ReLU(), Block(), nn.Linear(m, 6)), n, 6)


@kind
def dropout_and_batch_norm_behind(g: Generator) -> Place:
    n, m = pick(g, 20, 60), pick(g, 24, 50, 90)
    model = nn.Sequential(nn.Linear(n, m), nn.ReLU(), nn.Dropout(), nn.Linear(m, m), nn.BatchNorm1d(m), nn.ReLU(), nn.Linear(m, 6))
    return noisy(model, n, 6)


@kind
def convolutions_before(g: Generator) -> Place:
    channels, m = pick(g, 2, 4, 8), pick(g, 24, 60, 100)
    front = [nn.Conv2d(1, channels, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    model = nn.Sequential(*front, nn.Linear(9 * channels, m), nn.ReLU(), nn.Linear(m, m), nn.ReLU(), nn.Linear(m, 5))
    return Place(model, (1, 8, 8), white(1, 8, 8), 5)


def fit(model: nn.Module, inputs: Tensor, labels: Tensor, steps: int, g: Generator, rate: float = 0.05) -> nn.Module:
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
    for _ in range(steps):
        rows = torch.randint(len(inputs), (64,), generator=g)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[rows]), labels[rows]).backward()
        optimizer.step()
    return model


@kind
def trained_on_noise(g: Generator) -> Place:
    n, m = pick(g, 20, 60), pick(g, 16, 30, 60, 100)
    x, y = torch.randn((300, n), generator=g), torch.randint(6, (300,), generator=g)
    place = noisy(fit(stack(n, *[m] * pick(g, 1, 2, 3), 6), x, y, pick(g, 100, 500, 1500), g), n, 6)
    place.labels = ("random", "own")[pick(g, 0, 1)]
    return place


@kind
def sure_networks(g: Generator) -> Place:
    n, m = pick(g, 20, 60), pick(g, 30, 60, 100)
    model = stack(n, m, m, 6)
    with torch.no_grad():
        model[4].weight *= pick(g, 30, 300, 3000)
    return noisy(model, n, 6, "own")


def given(model: nn.Module, pool: Tensor, count: int, classes: int, labels: str = "random", shape: tuple[int, ...] = ()) -> Place:
    """The first ``count`` of the pool are given to ``expose``; batches are of the others."""
    rest = pool[count:]
    draw = lambda size, g: rest[torch.randperm(len(rest), generator=g)[:size]]  # noqa: E731
    return Place(model, shape or tuple(pool.shape[1:]), draw, classes, pool[:count], labels)


@functools.cache
def pictures(name: str) -> tuple[Tensor, Tensor]:
    data = harness.dataset(name)
    batch = data.take(torch.randperm(len(data), generator=torch.Generator().manual_seed(7)))
    return batch.inputs.float(), batch.labels


def table_of_levels(g: Generator, rows: int) -> Tensor:
    """Rows of one-hot columns, some levels rare."""
    levels = [pick(g, 2, 3, 5, 8) for _ in range(pick(g, 3, 6, 10))]
    parts = [F.one_hot(torch.multinomial(1 / torch.arange(1.0, k + 1), rows, True, generator=g), k) for k in levels]
    return torch.cat(parts, dim=1).float()


@kind
def one_hot_tables(g: Generator) -> Place:
    pool, m = table_of_levels(g, 3000), pick(g, 16, 40, 100)
    return given(stack(pool.shape[1], *[m] * pick(g, 1, 2, 3), 2 + pick(g, 0, 3)), pool, 1000, 2)


@kind
def adult(g: Generator) -> Place:
    data = plugins.build("datasets", f"adult:{harness.SHARED}")
    batch = data.batch(4000, pick(g, *range(1000)))
    pool, m = batch.inputs.float(), pick(g, 30, 60, 100, 200)
    model = stack(pool.shape[1], *[m] * pick(g, 1, 2, 3), 2)
    if pick(g, 0, 1):
        fit(model, pool[3000:], batch.labels[3000:], 300, g)
    return given(model, pool[:3000], 1000, 2)


@kind
def pictures_untrained(g: Generator) -> Place:
    inputs, _ = pictures(("mnist", "fashion", "cifar10")[pick(g, 0, 1, 2)])
    m = pick(g, 30, 60, 100)
    return given(Mlp(m, pick(g, 2, 3, 6)).build(tuple(inputs.shape[1:]), 10, pick(g, *range(999))), inputs[:3000], 1000, 10)


@kind
def pictures_trained(g: Generator) -> Place:
    inputs, labels = pictures(("mnist", "fashion", "cifar10")[pick(g, 0, 1, 2)])
    model = Mlp(pick(g, 30, 60, 100), pick(g, 2, 3, 5)).build(tuple(inputs.shape[1:]), 10, pick(g, *range(999)))
    fit(model, inputs[3000:], labels[3000:], pick(g, 200, 1000), g)
    return given(model, inputs[:3000], 1000, 10, ("random", "own", "one")[pick(g, 0, 1, 2)])


@kind
def pictures_memorized(g: Generator) -> Place:
    inputs, labels = pictures(("mnist", "fashion", "cifar10")[pick(g, 0, 1, 2)])
    model = Mlp(pick(g, 60, 100), 3).build(tuple(inputs.shape[1:]), 10, pick(g, *range(999)))
    fit(model, inputs[:2000], labels[:2000], 2000, g)
    return given(model, inputs[:2000], 1000, 10, "own")


@kind
def little_data(g: Generator) -> Place:
    place = pictures_trained(g) if pick(g, 0, 1) else pictures_untrained(g)
    place.data = place.data[: pick(g, 30, 100, 300)]
    return place


@kind
def fractions_from_0_to_1(g: Generator) -> Place:
    n, m = pick(g, 10, 40), pick(g, 30, 60, 100)
    return given(stack(n, *[m] * pick(g, 1, 2, 3), 5), torch.rand((5000, n), generator=g), 2000, 5)


@kind
def inputs_of_two_kinds(g: Generator) -> Place:
    """One in thirty is ten times as large, and shifted."""
    n, m = pick(g, 20, 60), pick(g, 30, 60, 100)
    pool = torch.randn((6000, n), generator=g)
    pool[torch.rand(6000, generator=g) < 1 / 30] *= 10
    pool[torch.rand(6000, generator=g) < 1 / 30] += 2
    return given(stack(n, *[m] * pick(g, 1, 2), 5), pool, 2000, 5)


@kind
def untrained_pictures_measured_on_noise(g: Generator) -> Place:
    place = pictures_untrained(g)
    place.data = None
    return place


def labels_for(place: Place, inputs: Tensor, generator: Generator) -> Tensor:
    if place.labels == "own":
        with torch.no_grad():
            return place.model(inputs).argmax(dim=1)
    if place.labels == "one":
        return torch.randint(place.classes, (1,), generator=generator).expand(len(inputs))
    return torch.randint(place.classes, (len(inputs),), generator=generator)


def factors(place: Place, inputs: Tensor, labels: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Weight -> (m, b) ∂ℓ/∂z of every sample and (b, n) what the layer sees of each, in float64."""
    ran = run(place.model, inputs)
    calls = [call for call in ran.linears if call.input.ndim == 2]
    slopes = torch.autograd.grad(F.cross_entropy(ran.outputs, labels, reduction="sum"), [call.output for call in calls])
    return {call.weight: (slope.T, call.input.detach()) for call, slope in zip(calls, slopes, strict=True)}


def rank(matrix: Tensor) -> int:
    return int(torch.linalg.matrix_rank(matrix, rtol=RELATIVE)) if min(matrix.shape) else 0


def determined(columns: Tensor, inputs: Tensor) -> Tensor:
    """(b,) which samples are given by their zeros, among those that differ: inputs that are equal are one sample, which counts for all."""
    distinct, group = inputs.unique(dim=0, return_inverse=True)
    merged = torch.zeros(len(columns), len(distinct), dtype=columns.dtype).index_add_(1, group, columns)
    sizes = merged.norm(dim=0)
    unit = merged / sizes.where(sizes > 0, 1.0)
    b = unit.shape[1]
    if rank(distinct) < b:
        return torch.zeros(len(inputs), dtype=torch.bool)
    good = sizes > 0
    for i in range(b):
        rows = (unit[:, i] == 0) & unit.any(dim=1)
        good[i] &= int(rows.sum()) >= b - 1 and full(unit[rows][:, torch.arange(b) != i])
    return good[group]


def full(matrix: Tensor) -> bool:
    """Whether the columns are independent; a quick look first."""
    if not matrix.shape[1]:
        return True
    factor, info = torch.linalg.cholesky_ex(matrix.T @ matrix)
    return (not int(info) and bool(factor.diagonal().min() > 1e-4)) or rank(matrix) == matrix.shape[1]


def sizes_of(limits: Limits) -> dict[str, tuple[int, float]]:
    """What is promised: name -> batch size, and the share of batches (of samples, for a typical one) that must be determined."""
    told = {"99": (limits.sure, 0.99)} if limits.sure else {}
    for name, share in (("90", 0.9), ("50", 0.5)):
        points = [point for point in limits.curve if point.all_determined >= share]
        if points:
            last = max(points, key=lambda point: point.batch)
            told[name] = (last.batch, last.all_determined)
    return told | ({"typical": (limits.information, 0.5)} if limits.information > 1 else {})


@dataclass
class Count:
    """Of one promise: batches (or samples), how many failed, and how many were promised to fail."""

    tried: int = 0
    failed: int = 0
    allowed: float = 0.0
    places: list[tuple[int, int, int]] = field(default_factory=list)

    def add(self, tried: int, failed: int, promised: float, size: int) -> None:
        self.tried, self.failed, self.allowed = self.tried + tried, self.failed + failed, self.allowed + tried * (1 - promised)
        self.places.append((size, tried, failed))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % of Clopper and Pearson."""
        low = float(beta.ppf(0.025, self.failed, self.tried - self.failed + 1)) if self.failed else 0.0
        high = float(beta.ppf(0.975, self.failed + 1, self.tried - self.failed)) if self.failed < self.tried else 1.0
        return low, high


def try_place(place: Place, seed: int, batches: int, counts: dict[str, Count]) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        found = expose(place.model.eval(), place.shape, data=place.data)
    weights = {layer.name: layer.limits for layer in found.layers if layer.limits is not None}
    for name, limits in weights.items():
        for promise, (size, share) in sizes_of(limits).items():
            rounds = batches if promise == "99" else max(2, batches // 10)
            outcomes = []
            for _ in range(rounds):
                inputs = place.draw(size, generator)
                if len(inputs) < size:
                    break
                outcomes.append(determined(*factors(place, inputs, labels_for(place, inputs, generator))[f"{name}.weight"]))
            if promise == "typical":
                values = [float(each.double().mean()) for each in outcomes]
                counts[promise].add(len(values), sum(value < 0.5 for value in values), share, size)
            else:
                counts[promise].add(len(outcomes), sum(not bool(each.all()) for each in outcomes), share, size)


def measure(name: str, places: int, batches: int, first: int) -> dict[str, Count]:
    counts = {promise: Count() for promise in ("99", "90", "50", "typical")}
    for number in range(first, first + places):
        seed = zlib.crc32(f"{name} {number}".encode())
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            place = KINDS[name](generator)
        try_place(place, seed + 1, batches, counts)
    return counts


def main() -> None:
    options = harness.arguments(__doc__, places=4, batches=100, first=0, kinds="", results="exposure_promise")
    results, total = harness.Results(options.results), Count()
    names = options.kinds.split(",") if options.kinds else list(KINDS)
    for name in results.missing(names):
        counts = measure(name, options.places, options.batches, options.first)
        told = {
            promise: {"tried": c.tried, "failed": c.failed, "promised": c.allowed, "interval": c.interval, "places": c.places}
            for promise, c in counts.items()
            if c.tried
        }
        results.put(name, told)
    for name in names:
        told = results.content["cases"][name]
        if "99" not in told:
            print(f"{name:40s} nothing is promised")
            continue
        low, high = told["99"]["interval"]
        each = " ".join(f"b={size}:{failed}/{tried}" for size, tried, failed in told["99"]["places"] if failed)
        rest = " ".join(
            f"{p}: {told[p]['failed']}/{told[p]['tried']} ({told[p]['promised']:.0f})" for p in ("90", "50", "typical") if p in told
        )
        print(f"{name:40s} {told['99']['failed']:4d} of {told['99']['tried']:5d} ({low:.1%} to {high:.1%}) {rest}   {each}", flush=True)
        if name not in NOT_PROMISED:
            total.add(told["99"]["tried"], told["99"]["failed"], 0.99, 0)
    low, high = total.interval
    print(f"{total.failed} of {total.tried} = {total.failed / total.tried:.2%} ({low:.2%} to {high:.2%})")


if __name__ == "__main__":
    main()
