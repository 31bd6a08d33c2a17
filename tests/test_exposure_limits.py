"""The figures of an exposure are held against the algebra, plain counting, and the benchmarks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from scipy.stats import binom
from torch import Tensor, nn

from exposed import answers, by_name, same_weights  # noqa: F401 -- a fixture for every test
from unbatch.exposure import Exposure, expose
from unbatch.exposure.columns import Columns, _tolerated
from unbatch.exposure.firing import Firing, measure
from unbatch.exposure.limits import PICTURES, VECTORS, limits, searched
from unbatch.models.mlp import Mlp
from unbatch.trace import LARGE

# figures


def test_the_bound_is_the_binomial_tail_for_half_firing_neurons() -> None:
    fires = Firing(torch.rand((4000, 100), generator=torch.Generator().manual_seed(0)) < 0.5)
    for batch in (20, 30, 34, 40):
        told = 1 - (1 - binom.cdf(batch - 2, 100, 0.5)) ** batch
        assert fires.failure(batch) == pytest.approx(told, rel=0.25, abs=1e-6)
    exact = max(batch for batch in range(1, 100) if 1 - (1 - binom.cdf(batch - 2, 100, 0.5)) ** batch < 0.01)
    assert abs(limits(fires, 500).sure - exact) <= 1


def test_the_bound_is_what_counting_gives() -> None:
    """Draw whole batches of unequal, independent neurons and count those in which every sample has b − 1 zeros."""
    generator = torch.Generator().manual_seed(0)
    off = torch.linspace(0.1, 0.9, 60)
    draw = lambda *shape: torch.rand((*shape, 60), generator=generator) > off  # noqa: E731
    fires = Firing(draw(4000))
    for batch in (20, 24, 26):
        zeros = (~draw(4000, batch)).sum(dim=2).amin(dim=1)
        counted = float((zeros < batch - 1).double().mean())
        assert fires.failure(batch) == pytest.approx(counted, rel=0.2, abs=0.01)


def test_neurons_that_fall_silent_together_are_not_taken_for_independent() -> None:
    """Each sample has its own rate: counts spread far more than independent neurons allow."""
    generator = torch.Generator().manual_seed(0)
    rate = torch.rand((3000, 1), generator=generator) * 0.6 + 0.2
    fires = Firing(torch.rand((3000, 100), generator=generator) > rate)
    independent = binom.cdf(28, 100, 0.5)
    seen = float((fires.zeros < 29).mean())
    assert fires.undetermined(30) >= seen > 100 * independent
    assert fires.undetermined(30) == pytest.approx(seen, rel=0.5)


def test_dead_and_always_on_neurons_do_not_count() -> None:
    model = nn.Sequential(nn.Linear(50, 60), nn.ReLU(), nn.Linear(60, 3))
    with torch.no_grad():
        model[0].bias[:10] = -1e4
        model[0].bias[10:25] = 10
    layer = by_name(expose(model, (50,)))["0"]
    assert layer.firing is not None
    assert layer.limits is not None
    assert (layer.firing.dead, layer.firing.always_on, layer.firing.switching) == (10, 15, 35)
    assert layer.limits.rank == 49
    alone = by_name(expose(nn.Sequential(nn.Linear(50, 35), nn.ReLU(), nn.Linear(35, 3)), (50,)))["0"]
    assert alone.limits is not None
    assert abs(layer.limits.sure - alone.limits.sure) <= 2, "only the neurons that switch tell samples apart"


def test_a_layer_whose_neurons_are_all_dead() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        model[0].bias.fill_(-1e4)
    found = expose(model, (5,))
    layer = by_name(found)["0"]
    assert layer.firing is not None
    assert layer.limits is not None
    assert (layer.firing.dead, layer.limits.rank, layer.limits.sure) == (8, 0, 0)
    assert Exposure.from_json(found.to_json()) == found


def made(on: Tensor, directions: int = 0, seed: int = 1) -> Columns:
    """Columns of Gaussian entries where neurons are on, or of mixtures of a few vectors there; inputs are independent."""
    generator = torch.Generator().manual_seed(seed)
    rank = directions or on.shape[1]
    mixed = torch.randn((1, len(on), rank), generator=generator, dtype=torch.float64)
    values = mixed @ torch.randn((rank, on.shape[1]), generator=generator, dtype=torch.float64) if directions else mixed
    slopes = values * on
    seen = torch.randn((len(on), on.shape[1]), generator=generator, dtype=torch.float64)
    return Columns(slopes / slopes.norm(dim=2, keepdim=True).clamp_min(1e-300), seen, torch.float64)


def test_zeros_of_low_rank_lower_the_limit() -> None:
    """Each neuron fires for one sample in fifty: plenty of zeros, but too few rows with something in them."""
    rare = torch.rand((600, 80), generator=torch.Generator().manual_seed(0)) < 0.02
    fires = Firing(rare[rare.any(dim=1)])
    assert limits(fires, 500).sure > 60
    told = limits(fires, 500, columns=made(fires.on))
    assert told.sure < 5
    assert "depend on each other" in told.remark


def test_independent_columns_lower_nothing() -> None:
    fires = Firing(torch.rand((3000, 60), generator=torch.Generator().manual_seed(0)) < 0.5)
    counted, tried = limits(fires, 500), limits(fires, 500, columns=made(fires.on))
    assert (tried.sure, tried.information, tried.rank, tried.remark) == (counted.sure, counted.information, counted.rank, "")
    assert tried.rank_checks > 300 * tried.sure, "enough to see one batch in a hundred fail"


def test_how_many_others_a_sample_bears_is_what_plain_ranks_say() -> None:
    """Against the definition, one rank at a time, where samples are fed the same, and where a few directions are all there is."""
    on = torch.rand((40, 14), generator=torch.Generator().manual_seed(0)) < 0.5
    for directions in (0, 3):
        columns = made(on, directions)
        columns = Columns(columns.slopes, columns.seen[torch.arange(40) // 2 * 2], torch.float64)  # in pairs
        drawn = torch.stack([torch.randperm(40, generator=torch.Generator().manual_seed(i))[:13] for i in range(30)])
        zeros, tolerated = _tolerated(columns, columns.slopes[0], drawn)
        for row, count, found in zip(drawn.tolist(), zeros.tolist(), tolerated.tolist(), strict=True):
            off = columns.slopes[0, row[0]] == 0
            assert count == int(off.sum())
            borne = 0
            for last in range(1, len(row)):
                different = [j for k, j in enumerate(row) if k and k <= last and j // 2 not in {i // 2 for i in row[:k]}]
                if different and int(torch.linalg.matrix_rank(columns.slopes[0, different][:, off])) < len(different):
                    break
                borne = last
            assert found == borne


def test_what_leaves_no_trace_and_what_it_is_fed_lower_the_limit() -> None:
    on = torch.rand((2000, 60), generator=torch.Generator().manual_seed(0)) < 0.5
    whole = made(on)
    slopes = whole.slopes.clone()
    slopes[0, ::250] = 0
    told = limits(Firing(on), 500, columns=Columns(slopes, whole.seen, torch.float64))
    assert (told.sure, told.remark) == (2, "0.4% of the samples leave no trace in it")
    flat = torch.randn((2000, 7), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    told = limits(Firing(on), 500, columns=Columns(whole.slopes, flat, torch.float64))
    assert (told.sure, told.remark) == (7, "what it is fed depends linearly in larger batches")
    few = Columns(whole.slopes[:, :45], whole.seen[:45], torch.float64, most=45)
    told = limits(Firing(on[:45]), 500, columns=few)
    assert (told.sure, told.remark) == (9, "larger batches are more than a fifth of the 45 inputs that were given")


def test_given_data_decides() -> None:
    model = nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 3))
    data = torch.randn((50, 30), generator=torch.Generator().manual_seed(5))
    layer = by_name(expose(model, (30,), data=data))["0"]
    assert layer.firing is not None
    off = model[0](data).detach() <= 0
    assert (layer.firing.inputs, layer.firing.dead) == (50, int(off.all(dim=0).sum()))
    assert layer.firing.zeros == pytest.approx(float(off[:, ~off.all(dim=0)].sum(dim=1).double().mean()))
    assert "1 input as given" in expose(model, (30,), data=data[:1]).measured_on


def test_chunks_do_not_matter() -> None:
    model, inputs = Mlp(16).build((9,), 3), torch.randn((37, 9), generator=torch.Generator().manual_seed(0))
    whole, pieces = (measure(model, inputs.split(size), ["1.weight"])["1.weight"].on for size in (37, 5))
    assert torch.equal(whole, pieces)


def test_a_layer_that_is_read_in_blocks() -> None:
    wide = nn.Sequential(nn.Flatten(), nn.Linear(150 * 150, 750), nn.ReLU(), nn.Linear(750, 3))
    assert wide[1].weight.numel() >= LARGE
    found = expose(wide, (150, 150))
    layer = by_name(found)["1"]
    assert (layer.exact, layer.single, layer.sees, layer.why) == ("samples", "sample", "raw input", "")
    assert layer.limits is not None
    assert abs(layer.limits.information - 376) < 15


def test_probabilities_fall_with_the_batch_and_meet_at_the_limits() -> None:
    told = by_name(expose(Mlp(100).build((64,), 5), (64,)))["1"].limits
    assert told is not None
    every = [point.all_determined for point in told.curve]
    assert every == sorted(every, reverse=True)
    assert every[0] == 1.0
    at = {point.batch: point for point in told.curve}
    assert at[told.sure].all_determined > 0.99
    assert 0.3 < at[told.information].share_determined < 0.7
    assert told.searched <= told.sure <= told.information <= told.rank == 63


def test_what_our_search_reaches_was_measured() -> None:
    """The constants hold no more than the benchmarks show; widths and batches between follow them."""
    folder = Path(__file__).parents[1] / "benchmarks" / "results"
    cases = [case for name in ("frontier", "exposure") for case in json.loads((folder / f"{name}.json").read_text())["cases"].values()]
    for kind, measured in (("cifar10", PICTURES), ("gaussian", VECTORS)):
        for width, batch in measured.items():
            proof = [case for case in cases if (case["set"], case["width"], case.get("size")) == (kind, width, batch)]
            assert proof, (kind, width, batch)
            assert all(case["batches"] >= 10 and case["exact"] >= 0.9 * case["batches"] for case in proof)
            assert searched(width, measured) == (batch, True)
        reach = [searched(width, measured)[0] for width in range(1, 5000)]
        assert reach == sorted(reach)


def test_prediction_and_measurement_agree() -> None:
    """The largest batch of pictures with nine of ten recovered is the one that was predicted; of a trained network, on data."""
    cases = json.loads((Path(__file__).parents[1] / "benchmarks" / "results" / "exposure.json").read_text())["cases"].values()
    summaries = [case for case in cases if "measured" in case and case["set"] == "cifar10"]
    assert {summary["width"] for summary in summaries} >= {60, 100, 200}
    for summary in summaries:
        told = summary["predicted"]["noise"]
        assert abs(summary["measured"] / told["likely"] - 1) < 0.15, summary
        assert summary["measured"] < told["information"]
    (trained,) = (case for case in cases if "measured" in case and case["set"] == "trained")
    assert abs(trained["measured"] / trained["predicted"]["data"]["sure"] - 1) < 0.15
    assert trained["predicted"]["noise"]["sure"] > 2 * trained["measured"], "what the page warns of"


def test_same_seed_same_answer_and_nothing_is_touched() -> None:
    model = Mlp(30).build((20,), 3)
    before, state = {name: tensor.clone() for name, tensor in model.state_dict().items()}, torch.get_rng_state()
    assert expose(model, (20,)) == expose(model, (20,))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_type(dtype: torch.dtype) -> None:
    assert answers(expose(Mlp(30).build((20,), 3).to(dtype), (20,)))["1"] == ("samples", "sample")
