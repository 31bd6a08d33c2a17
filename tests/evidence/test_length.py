"""The length of a sample: G = Σ d xᵀ leaves open which part of a product is d and which is x. What tells it is asked."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from unbatch.evidence import judge
from unbatch.evidence.completeness import completeness
from unbatch.evidence.whole import by_turning
from unbatch.gradients import capture
from unbatch.training import LocalTraining, train
from unbatch.types import Candidate, Observation, Reconstruction, Status

SIZE, SAMPLES = 40, 6


def batch(classes: int, scale: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = scale * torch.randn((SAMPLES, SIZE), generator=generator, dtype=torch.float64)
    return inputs, torch.randint(classes, (SAMPLES,), generator=generator)


def network(classes: int, *, bias: bool = True, norm: bool = False, first: nn.Module | None = None) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Linear(SIZE, 80, bias=bias and not norm), nn.ReLU(), nn.Linear(80, 60, bias=bias), nn.ReLU()]
        layers += [nn.Linear(60, classes, bias=bias)]
        if norm:
            layers.insert(1, nn.LayerNorm(80))
        return nn.Sequential(*([first] if first is not None else []), *layers).double()


def errors(found: Reconstruction, truth: Tensor) -> Tensor:
    assert found.inputs is not None
    return ((found.inputs.double()[:, None] - truth).norm(dim=2) / truth.norm(dim=1)).amin(dim=1)


def assert_true(found: Reconstruction, truth: Tensor) -> None:
    """What is disclosed is right to three times the accuracy that is stated."""
    if found.status.disclosed:
        assert found.accuracy is not None
        assert bool((errors(found, truth) <= 3 * found.accuracy + 1e-14).all()), (found.status, errors(found, truth), found.accuracy)


LENGTHS = [1 + 1e-12, 1 + 1e-9, 1 + 1e-7, 1 + 1e-5, 1.0005, 1.01, 2.0, 0.5, 8.0]


@pytest.mark.parametrize("factor_known", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("net", "classes", "scale"),
    [
        (lambda: network(2, bias=False), 2, 1.0),  # d keeps its direction: x may be longer, and count less
        (lambda: network(3, bias=False), 3, 1.0),
        (lambda: network(5, norm=True), 5, 1.0),  # d ∝ 1/‖x‖ but for the ε of the norm
        (lambda: network(5, norm=True), 5, 1e4),
        (lambda: network(5), 5, 1e4),  # biases are nothing beside such inputs
    ],
)
def test_members_of_another_length_are_not_disclosed(
    net: Callable[[], nn.Sequential], classes: int, scale: float, dtype: torch.dtype, factor_known: bool
) -> None:
    x, y = batch(classes, scale)
    x = x.to(dtype).double()
    model = net().to(dtype)
    seen = Observation(model, capture(model, x.to(dtype), y), (SIZE,), factor_known=factor_known, batch_size=SAMPLES)
    for length in LENGTHS:
        assert_true(judge(seen, Candidate(length * x, y)), x)
    apart = torch.tensor([1.0, 2.0, 1.0, 1 + 1e-6, 1.0003, 0.25], dtype=torch.float64)[:, None]
    assert_true(judge(seen, Candidate(apart * x, y)), x)


@pytest.mark.parametrize("coarse", [torch.float16, torch.bfloat16])
def test_in_few_digits_too(coarse: torch.dtype) -> None:
    model = network(5)
    model.insert(1, nn.LayerNorm(80))
    model = model.float()
    x, y = batch(5, 1e4)
    update = {name: tensor.to(coarse) for name, tensor in capture(model, x.float(), y).items()}
    for length in (0.5, 1.05, 2.0):
        assert not judge(Observation(model, update, (SIZE,)), Candidate(length * x, y)).status.disclosed


def test_where_the_column_turns_or_a_bias_tells_the_length_the_batch_is_proved() -> None:
    for model, classes, scale in ((network(3, bias=False), 3, 1.0), (network(5), 5, 1e4), (network(5, norm=True), 5, 1.0)):
        x, y = batch(classes, scale)
        found = judge(Observation(model, capture(model, x, y), (SIZE,)), Candidate(x, y))
        proved = 0 if found.inputs is None else len(found.inputs)
        assert found.status.disclosed, found.reason
        assert proved + (found.missing or 0) == SAMPLES


def test_the_noise_of_a_bias_is_its_own() -> None:
    """Large inputs make a gradient of the weight whose rounding is far larger than that of the bias."""
    x, y = batch(5, 1e5)
    model = network(5).float()
    found = judge(Observation(model, capture(model, x.float(), y), (SIZE,)), Candidate(x.float().double(), y))
    assert found.status.disclosed
    assert found.accuracy is not None
    assert float(found.accuracy.max()) < 1e-5
    assert_true(found, x.float().double())


class Front(nn.Module):
    """Something before the first layer."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(x)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.clamp(-20, 20),
        lambda x: torch.cat([x[:, :-1], 0 * x[:, -1:]], dim=1),
        lambda x: x.where(x.abs() < 20, 0 * x),
        lambda x: x.relu(),
        lambda x: x.abs(),
    ],
    ids=["clamp", "one left out", "outliers cut", "relu", "abs"],
)
def test_what_the_first_layer_sees_is_not_the_input(change: Callable[[Tensor], Tensor]) -> None:
    x, y = batch(5)
    x[0, 0] = 30.0
    model = network(5, first=Front(change))
    seen = Observation(model, capture(model, x, y), (SIZE,))
    for given in (x, change(x)):
        assert not judge(seen, Candidate(given, y)).status.disclosed


def test_a_mixture_of_a_batch_for_which_the_network_is_linear() -> None:
    """Two classes, no neuron that tells the samples apart: d = s u for all, and one mixture of them leaves the very update."""
    model, (x, _) = network(2), batch(2)
    y = torch.tensor([1, 1, 0, 1])
    x = x[:1] + 1e-4 * (x[:4] - x[:1])
    update = capture(model, x, y)
    weight, bias = update["0.weight"], update["0.bias"]
    row = int(bias.abs().argmax())
    mixture = (weight[row] / bias[row])[None]
    assert torch.linalg.matrix_rank(weight, rtol=1e-9) == 1
    for known in (True, False):
        seen = Observation(model, update, (SIZE,), factor_known=known)
        for label in (0, 1):
            found = judge(seen, Candidate(mixture, torch.tensor([label])))
            assert not found.status.disclosed


@pytest.mark.parametrize("size", [999, 1001, 5000])
def test_one_of_a_thousand_is_missed(size: int) -> None:
    model = network(5)
    x, y = batch(5)
    seen = Observation(model, capture(model, x, y), (SIZE,))
    weights, labels = torch.full((size - 1,), 1 / size, dtype=torch.float64), torch.zeros(size - 1, dtype=torch.int64)
    found = completeness(seen, weights, labels, explained=True)
    assert (found.whole, found.missing) == (False, 1)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_after_local_steps(norm: bool, dtype: torch.dtype) -> None:
    """A layer norm behind a layer without biases hides every length from every step."""
    x, y = batch(5, 1e3 if norm else 1.0)
    x, model, local = x.to(dtype).double(), network(5, norm=norm), LocalTraining(3, None, 0.02)
    order = torch.arange(SAMPLES).expand(3, SAMPLES)
    moved = train(model, x, y, local, order)
    update = {name: (tensor / (local.factor(SAMPLES) or 1.0)).to(dtype) for name, tensor in moved.items()}
    seen = Observation(model.to(dtype), update, (SIZE,), training=local)
    for length in LENGTHS:
        assert_true(judge(seen, Candidate(length * x, y)), x)
    assert norm or dtype == torch.float32 or judge(seen, Candidate(x, y)).status.disclosed


def sure(empty: int, rate: float = 1e-10) -> tuple[Tensor, Tensor, Observation]:
    """Large inputs, of which the network is sure and wrong, and a step so small that rounded weights leave four digits of a bias."""
    x, _ = batch(5, 1e5)
    x[:, SIZE - empty :] = 0
    model, local = network(5), LocalTraining(1, None, rate)
    y = model(x).argmin(dim=1)
    moved = train(model, x, y, local, torch.arange(SAMPLES)[None])
    return x, y, Observation(model, {name: tensor / rate for name, tensor in moved.items()}, (SIZE,), training=local)


@pytest.mark.parametrize("empty", [0, 3])  # numbers that are zero in all samples look as if they were pruned
@pytest.mark.parametrize("off", [0.0, 1e-6, 1e-5])
def test_weights_that_are_tuned_do_not_hide_a_length(off: float, empty: int) -> None:
    x, y, seen = sure(empty)
    made = x * (1 + off * torch.linspace(-1, 1, SAMPLES, dtype=torch.float64)[:, None])
    found = judge(seen, Candidate(made, y))
    assert found.status.disclosed or off > 1e-6
    if found.accuracy is not None:
        assert bool((errors(found, x) <= found.accuracy + 1e-14).all())


def test_columns_too_faint_for_a_square_are_no_reason_to_doubt() -> None:
    """Of made-up labels that the network is sure of, what is left of a column may be 1e-200."""
    x, y, seen = sure(0)
    assert judge(seen, Candidate(x, y)).status is Status.RECONSTRUCTED


def test_where_no_column_leaves_anything_equations_are_none() -> None:
    """A head of zeros: the first layer's gradient is zero, and there is nothing to count."""
    model, (x, y) = network(5), batch(5)
    nn.init.zeros_(model[-1].weight)
    assert not judge(Observation(model, capture(model, x, y), (SIZE,)), Candidate(x, y)).status.disclosed


def test_a_column_that_does_not_turn_says_nothing_and_refuses_nothing() -> None:
    """Of a sample about which the network is wrong and sure the softmax is a step: its length is told by the bias gradient alone."""
    model = network(5)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.mul_("bias" not in name)  # a longer sample has the same neurons on
    x, y = batch(5)
    x[0] *= 1e5
    while float(model(x[1]).detach().softmax(dim=0).max()) < 1 - 1e-10:  # of a weak one the bias gradient does not tell it well
        x[1] *= 1.1
    scores = model(x).detach()
    y[0], y[1] = scores[0].argmin(), scores[1].argmax()
    seen = Observation(model, capture(model, x, y), (SIZE,))
    found = by_turning(seen, x, y, torch.full((SAMPLES,), 1e-14).double(), torch.zeros((SAMPLES, 80)).double())
    assert float(found[0]) == torch.inf
    assert not bool(found.isnan().any())
    made = judge(seen, Candidate(x, y))
    assert_true(made, x)
    assert made.inputs is not None
    assert bool((errors(made, x) < 1e-6).sum() >= SAMPLES - 1)
    assert bool((errors(made, x[:1]) < 1e-12).any())
