"""Two layers: what is proved of single samples while others are missing, and what is not, in the setting of LT peeling."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unbatch.evidence import judge
from unbatch.evidence.accuracy import FITTED, from_conditions, from_finer_rows, from_rows
from unbatch.evidence.certificate import SPARE, Certificates, certify
from unbatch.evidence.each import directions_of, entrance_to, plainly_counted
from unbatch.evidence.others import others_of
from unbatch.evidence.regions import settled
from unbatch.gradients import capture
from unbatch.types import Candidate, Observation, Reconstruction, Status

SAMPLES, NUMBERS, WIDTH, CLASSES = 51, 64, 320, 10
SURE = 1e-5, 1e-5, 1e-5, 1e-4, 1e-4, 1e-3, 1e-6
"""1 less the probability of the label, of the last samples: of these the network is sure, and of the very last one most."""

Liar = Callable[["Setting"], tuple[Tensor, Tensor]]


class Setting:
    """A batch of smooth pictures; of the last seven the network is nearly sure, and the very last is the one that is missing."""

    def __init__(self, weight: float = 0.5) -> None:
        generator = torch.Generator().manual_seed(3)
        self.net = nn.Sequential(nn.Linear(NUMBERS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES)).double()
        with torch.no_grad():
            self.net[0].weight.normal_(0, weight, generator=generator)
            limit = (6 / (WIDTH + CLASSES)) ** 0.5
            self.net[2].weight.uniform_(-limit, limit, generator=generator)
            self.net[0].bias.zero_()
            self.net[2].bias.zero_()
        rough = torch.rand((SAMPLES, 1, 4, 4), generator=generator, dtype=torch.float64)
        noise = torch.rand((SAMPLES, NUMBERS), generator=generator, dtype=torch.float64)
        self.x = F.interpolate(rough, (8, 8), mode="bilinear").flatten(1) * 0.8 + 0.2 * noise
        self.y = torch.arange(SAMPLES) % CLASSES
        self.y[-len(SURE) :] = self.net(self.x[-len(SURE) :]).argmax(dim=1)
        with torch.no_grad():
            for index, error in zip(range(-len(SURE), 0), SURE, strict=True):
                while 1 - float(self.net(self.x[index]).softmax(dim=0)[self.y[index]]) > error:
                    self.x[index] *= 1.1
        self.known, self.labels, self.missing = self.x[:-1], self.y[:-1], self.x[-1:]

    def columns(self, inputs: Tensor, labels: Tensor) -> Tensor:
        z = (inputs @ self.net[0].weight.T).detach()
        slopes = self.net[2](z.relu()).softmax(dim=1).detach() - F.one_hot(labels, CLASSES)
        return (slopes @ self.net[2].weight.detach()) * (z > 0) / SAMPLES

    def seen(self) -> Observation:
        return Observation(self.net, capture(self.net, self.x, self.y), (NUMBERS,), batch_size=SAMPLES)

    def only_true(self, found: Reconstruction) -> bool:
        """Whether all that is disclosed is a member, to the accuracy that is stated."""
        if not found.status.disclosed or found.inputs is None or found.accuracy is None or found.labels is None:
            return True
        distance = (found.inputs[:, None] - self.x).norm(dim=2)
        partner = distance.argmin(dim=1)
        error = distance.amin(dim=1) / self.x[partner].norm(dim=1)
        return bool((error <= found.accuracy + 1e-14).all()) and torch.equal(found.labels, self.y[partner])


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting()


def test_all_are_proved_though_the_weakest_is_missing(setting: Setting) -> None:
    """It spoils half of the rows, by a millionth: once that cost all but fourteen of the others their proof, one after another."""
    found = judge(setting.seen(), Candidate(setting.known, setting.labels))
    assert found.status is Status.PARTIAL
    assert (len(found.inputs), found.missing) == (SAMPLES - 1, 1)  # type: ignore[arg-type]
    assert found.accuracy is not None
    assert float(found.accuracy.max()) < 1e-4


def test_the_directions_of_the_first_layer_are_known_without_the_layers_behind(setting: Setting) -> None:
    seen = setting.seen()
    entrance = entrance_to(seen)
    assert entrance is not None
    assert directions_of(seen) == entrance.first.rank == SAMPLES
    normed = nn.Sequential(nn.Linear(NUMBERS, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES)).double()
    coupled = directions_of(Observation(normed, capture(normed, setting.x, setting.y), (NUMBERS,)))
    assert coupled == SAMPLES - 1, "statistics of the batch take one direction away, and never add one"


def blended(share: float, among: Callable[[Setting], Tensor], every: int) -> Liar:
    def lie(setting: Setting) -> tuple[Tensor, Tensor]:
        made = setting.known.clone()
        made[::every] += share * among(setting)[::every]
        return made, setting.labels

    return lie


def nearest(setting: Setting) -> Tensor:
    return setting.known[torch.cdist(setting.known, setting.known).fill_diagonal_(torch.inf).argmin(dim=1)]


def absent(setting: Setting) -> Tensor:
    return setting.missing.expand_as(setting.known)


def fitted(size: int, spoiled: bool) -> Liar:
    """Samples mixed with the missing one so that some rows are explained to the last digit: those that it spoils, or any."""

    def lie(setting: Setting) -> tuple[Tensor, Tensor]:
        known, gone = setting.columns(setting.known, setting.labels), setting.columns(setting.missing, setting.y[-1:])
        rows = torch.randperm(WIDTH, generator=torch.Generator().manual_seed(size))
        rows = (rows[gone[0, rows] != 0] if spoiled else rows)[:size]
        return setting.known + torch.linalg.pinv(known[:, rows].T) @ gone[:, rows].T @ setting.missing, setting.labels

    return lie


def over_a_kink(setting: Setting) -> tuple[Tensor, Tensor]:
    """Every third sample moved as little as turns the neuron that is nearest to its kink."""
    made, weight = setting.known.clone(), setting.net[0].weight.detach()
    for index in range(0, len(made), 3):
        z = weight @ made[index]
        nearest = int((z.abs() / weight.norm(dim=1)).argmin())
        made[index] -= 1.01 * z[nearest] * weight[nearest] / weight[nearest].square().sum()
    return made, setting.labels


LIARS: dict[str, Liar] = {
    "convex mixtures": lambda s: (0.5 * (s.known + nearest(s)), s.labels),
    "a convex mixture": lambda s: (torch.cat([0.5 * (s.known[:1] + nearest(s)[:1]), s.known[1:]]), s.labels),
    "junk": lambda s: (torch.rand(s.known.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64), s.labels),
    "scaled": lambda s: (1.001 * s.known, s.labels),
    "wrong labels": lambda s: (s.known, (s.labels + 1) % CLASSES),
    "some wrong labels": lambda s: (s.known, torch.where(torch.arange(SAMPLES - 1) % 7 == 0, (s.labels + 1) % CLASSES, s.labels)),
    "a neuron turned": over_a_kink,
    **{f"blends {a} every {n}": blended(a, nearest, n) for a in (1e-2, 1e-5) for n in (1, 5)},
    **{f"the missing {a} every {n}": blended(a, absent, n) for a in (1e-2, 1e-4, 1e-7) for n in (1, 5)},
    **{f"fitted to {n}{' spoiled' * s} rows": fitted(n, s) for n in (20, 50) for s in (False, True)},
}


@pytest.mark.parametrize("name", LIARS)
def test_nothing_that_is_no_member_is_disclosed(setting: Setting, name: str) -> None:
    inputs, labels = LIARS[name](setting)
    assert setting.only_true(judge(setting.seen(), Candidate(inputs, labels)))


@pytest.mark.parametrize("seed", range(6))
def test_samples_fitted_to_rows_are_known_no_better_than_they_are(seed: int) -> None:
    """Some rows are spoiled by missing samples. The true ones are known from the others; whatever is fitted to spoiled rows is not."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    rows, samples, clean = 160, 20, (70, 110)[seed % 2]
    columns = drawn(rows, samples) * (drawn(rows, samples) > 0) * drawn(1, samples).exp()
    spoiled = 1e-7 * drawn(rows, 2) * (2 * drawn(rows, 1)).exp() * (torch.arange(rows) >= clean)[:, None]
    inputs, missing = drawn(samples, 30), drawn(2, 30)

    def stated(given: Tensor) -> Tensor:
        rest, parts = columns @ (inputs - given) + spoiled @ missing, columns.abs() @ given.norm(dim=1)
        return from_finer_rows(columns, given, rest, parts, 1e-15 * parts)

    usual = from_rows(columns, inputs, (spoiled @ missing).norm(dim=1), (torch.linalg.pinv(columns) @ spoiled @ missing).norm(dim=1))
    assert bool((stated(inputs) < usual / 10).all())
    order = spoiled.norm(dim=1).argsort(descending=True)[: rows - clean]
    for fitted in (order[:20], order[-20:], order[:30], order[-40:], order, torch.arange(rows), torch.arange(0, rows, 8), order[:10]):
        given = inputs + torch.linalg.pinv(columns[fitted]) @ spoiled[fitted] @ missing
        error = (given - inputs).norm(dim=1) / given.norm(dim=1)
        assert bool((stated(given) > error - 1e-14).all())


def test_rows_of_which_more_is_left_confirm_what_hardly_enough_rows_tell() -> None:
    """Of 60 rows next to nothing is left, 8 more than there must be; of 200 three times as much. All of them tell more."""
    generator = torch.Generator().manual_seed(0)
    samples, fine, coarse = 20, 60, 200
    columns = torch.randn((fine + coarse, samples), generator=generator, dtype=torch.float64)
    inputs = torch.randn((samples, 30), generator=generator, dtype=torch.float64)
    parts = columns.abs() @ inputs.norm(dim=1)
    share = torch.where(torch.arange(fine + coarse) < fine, 2e-9, 6e-9)
    rest = (
        torch.nn.functional.normalize(torch.randn((fine + coarse, 30), generator=generator, dtype=torch.float64)) * (share * parts)[:, None]
    )

    def stated(rows: slice) -> Tensor:
        return from_finer_rows(columns[rows], inputs, rest[rows], parts[rows], 1e-15 * parts[rows])

    fewest, coarser = stated(slice(fine)), stated(slice(fine, None))
    assert max(float(fewest.max()), float(coarser.max())) < 1e-6  # all rows of a choice are held to the least that explains them all
    assert float(stated(slice(None)).median()) < 2.5e-8 * FITTED  # 3.1e-8 by the first ones alone


@pytest.mark.parametrize(("off", "fixed"), [(1e-3, [True, True, True, False]), (1e-9, [False] * 4)])
def test_what_a_weak_sample_counts_says_nothing_of_the_others_where_noise_leaves_it_open(off: float, fixed: list[bool]) -> None:
    """Three count 1/256 to many digits, the fourth 1/256.1: up to the noise, or to as many digits, and then weights were tuned."""
    noise = torch.tensor([1e-9, 1e-9, 1e-9, off], dtype=torch.float64)
    count = torch.tensor([256.0, 256.0, 256.0, 256.1], dtype=torch.float64)
    met = torch.ones(4, dtype=torch.bool)
    shown = Certificates(noise, noise, count, noise, noise, noise, 40, met, noise)
    assert plainly_counted(shown, met, rounding=0.0).tolist() == fixed


def test_other_members_fix_what_one_layer_of_relu_leaves_open() -> None:
    """A member lies at right angles to G⁺d of every other one: with a few missing, the softmax has the rest to say."""
    setting = Setting(weight=0.05)  # of no sample is this network sure: every column turns with its sample
    seen = setting.seen()
    entrance = entrance_to(seen)
    assert entrance is not None
    known, labels = setting.known[:-3], setting.labels[:-3]
    coordinates = known @ entrance.first.right
    shown = certify(entrance, coordinates, torch.zeros(len(known), dtype=torch.float64), labels)
    which = torch.arange(len(known))
    others = others_of(entrance, coordinates, labels, shown.misfit, which)
    assert others is not None
    assert float(others.off(entrance, coordinates, which).max()) < 1e-7
    moved = coordinates + 1e-3 * coordinates.roll(1, 0)
    assert float(others.off(entrance, moved, which)[:40].min()) > 1e-5
    few = which[:3]
    alone = from_conditions(entrance, coordinates[few], labels[few], shown.misfit[few])
    beside = from_conditions(entrance, coordinates[few], labels[few], shown.misfit[few], others, few)
    assert bool(alone.isinf().all())
    assert float(beside.max()) < 1e-6
    false = from_conditions(entrance, moved[few], labels[few], shown.misfit[few], others, few)
    assert float(false.min()) > 5e-4  # it is told how far it is off


def test_equations_that_random_samples_of_one_kind_hide_are_counted(setting: Setting) -> None:
    """Pictures that are much alike: as many random ones of their span as there are unknowns, and 32, show 30 of the equations, not all."""
    noise = torch.rand((40, NUMBERS), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs, labels = 0.22 + 0.1 * noise, torch.arange(40) % CLASSES
    entrance = entrance_to(Observation(setting.net, capture(setting.net, inputs, labels), (NUMBERS,), batch_size=40))
    assert entrance is not None
    shown = certify(entrance, inputs @ entrance.first.right, torch.zeros(40, dtype=torch.float64), labels)
    assert entrance.first.rank == 40
    assert 40 < shown.equations <= 40 + SPARE


def test_more_random_samples_show_no_equations_that_are_not_there() -> None:
    """Of 60 neurons 40 columns leave 20 equations, however often they are asked."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(NUMBERS, 60), nn.ReLU(), nn.Linear(60, CLASSES)).double()
    inputs, labels = torch.randn((40, NUMBERS), generator=generator, dtype=torch.float64), torch.arange(40) % CLASSES
    entrance = entrance_to(Observation(net, capture(net, inputs, labels), (NUMBERS,), batch_size=40))
    assert entrance is not None
    shown = certify(entrance, inputs @ entrance.first.right, torch.zeros(40, dtype=torch.float64), labels)
    assert shown.equations == 20


def test_the_bias_gradient_says_what_one_sample_counts_though_not_what_a_weak_one_does() -> None:
    """Columns that say nothing outside of the proposed ones: only the bias gradient settles a sample, and for each its own equation."""
    columns = torch.eye(6, 2, dtype=torch.float64)
    pulled = torch.tensor([[[1.0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]], [[1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]]]).double()
    assert settled(pulled, columns, bias=torch.tensor([True, False]), free=False).tolist() == [True, False]
    assert settled(pulled, columns, bias=torch.tensor([True, False]), free=torch.tensor([True, False])).tolist() == [False, False]
    assert settled(pulled, columns, bias=True, free=False).tolist() == [True, True]
    assert settled(pulled, columns, bias=False, free=False).tolist() == [False, False]
