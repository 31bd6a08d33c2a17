"""The updates that people have: differences, weights, Flower's arrays, wrapped names, frozen rests. A real SGD loop is the client."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unbatch
from unbatch.errors import BadFile, BadUpdate, Misuse
from unbatch.importers import load_observation, load_weights
from unbatch.importers.files import room_for
from unbatch.types import LocalTraining, Observation

SHAPE = (3, 4, 4)
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """With a BatchNorm in eval mode, whose buffers are no parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layers = nn.Flatten(), nn.Linear(48, 100), nn.ReLU(), nn.Linear(100, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 5)
        return nn.Sequential(*layers).to(dtype).eval()


def secret(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand((6, *SHAPE), generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def trained(model: nn.Module, rate: float, epochs: int = 1, momentum: float = 0.0) -> nn.Module:
    """The client, who sees all of its samples in every step."""
    client, inputs = copy.deepcopy(model), secret(next(model.parameters()).dtype)
    optimizer = torch.optim.SGD([p for p in client.parameters() if p.requires_grad], rate, momentum)
    for _ in range(epochs):
        optimizer.zero_grad()
        F.cross_entropy(client(inputs), LABELS).backward()
        optimizer.step()
    return client


def after(model: nn.Module, rate: float = 0.1, **how: Any) -> dict[str, Tensor]:
    """Its state, statistics moved too, as if a batch norm had run in train mode."""
    state = trained(model, rate, **how).state_dict()
    return {name: tensor + 1 if "num" in name or "running" in name else tensor for name, tensor in state.items()}


def difference(model: nn.Module, rate: float = 0.1, **how: Any) -> dict[str, Tensor]:
    before = model.state_dict()
    return {name: tensor - before[name] for name, tensor in after(model, rate, **how).items()}


def gradient(model: nn.Module) -> dict[str, Tensor]:
    return unbatch.capture(model, secret(next(model.parameters()).dtype), LABELS)


def same(seen: Observation, wanted: Mapping[str, Tensor], share: float = 1e-10) -> bool:
    assert seen.update.keys() == wanted.keys()
    return all(bool((seen.update[name].double() - t.double()).norm() <= share * t.double().norm()) for name, t in wanted.items())


def exact(seen: Observation, share: float = 1e-9) -> bool:
    """Whether the whole batch comes out; where the factor is not known, only a batch size says that it is whole."""
    found = unbatch.invert(seen if seen.factor_known else replace(seen, batch_size=len(secret())), "spear:seconds=20").or_raise()
    assert found.inputs is not None
    return bool((torch.cdist(secret().flatten(1), found.inputs.double().flatten(1)).amin(dim=1) < share).all())


class Record(OrderedDict[str, Any]):
    """As Flower's ``ArrayRecord``: named arrays that know how to be tensors, or a list."""

    def to_torch_state_dict(self) -> dict[str, Tensor]:
        return {name: torch.from_numpy(array) for name, array in self.items()}

    def to_numpy_ndarrays(self) -> list[np.ndarray[Any, Any]]:
        return list(self.values())


class Arrays:
    """Gives a list and no names."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = state

    def to_numpy_ndarrays(self) -> list[np.ndarray[Any, Any]]:
        return [tensor.numpy() for tensor in self.state.values()]


WAYS = ["state dict", "record", "record of a list", "arrays", "list", "npz by name", "npz by order", "safetensors", "torch"]


def sent(state: Mapping[str, Tensor], way: str, folder: Path) -> Any:
    """The same state in every way that clients send it."""
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    match way:
        case "record":
            return Record(arrays)
        case "record of a list":
            return Record({str(i): array for i, array in enumerate(arrays.values())})
        case "arrays":
            return Arrays(state)
        case "list":
            return list(arrays.values())
        case "npz by name":
            np.savez(folder / "sent.npz", **arrays)
            return folder / "sent.npz"
        case "npz by order":
            np.savez_compressed(folder / "sent.npz", *arrays.values())
            return str(folder / "sent.npz")
        case "safetensors":
            safetensors.torch.save_file(dict(state), folder / "sent")
            return folder / "sent"
        case "torch":
            torch.save({"state_dict": dict(state), "round": 3}, folder / "sent")
            return folder / "sent"
    return dict(state)


# what was sent


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["gradient", "difference", "weights"])
def test_every_kind_in_every_way_is_the_same_gradient(kind: Any, way: str, tmp_path: Path) -> None:
    model = network()
    state = {"gradient": gradient, "difference": difference, "weights": after}[kind](model)
    training = None if kind == "gradient" else LocalTraining(learning_rate=0.1)
    seen = load_observation(model, sent(state, way, tmp_path), SHAPE, kind=kind, training=training)
    assert same(seen, gradient(model))
    assert seen.factor_known
    assert seen.one_gradient


@pytest.mark.parametrize("way", WAYS)
def test_weights_come_in_every_way_too(way: str, tmp_path: Path) -> None:
    model = load_weights(network(torch.float32), sent(network().state_dict(), way, tmp_path))
    for name, tensor in network().state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
        assert model.state_dict()[name].dtype == tensor.dtype


@pytest.mark.parametrize("kind", ["difference", "weights"])
def test_without_a_learning_rate_the_factor_is_unknown_and_the_batch_comes_out(kind: Any) -> None:
    state = (difference if kind == "difference" else after)(network(), 0.37)
    seen = load_observation(network(), state, SHAPE, kind=kind)
    assert not seen.factor_known
    assert same(seen, {name: 0.37 * tensor for name, tensor in gradient(network()).items()})
    assert exact(seen)


@pytest.mark.parametrize("kind", ["difference", "weights"])
def test_single_precision_is_judged_as_such(kind: Any) -> None:
    model = network(torch.float32)
    state = (difference if kind == "difference" else after)(model)
    seen = load_observation(model, state, SHAPE, kind=kind, training=LocalTraining(learning_rate=0.1))
    assert seen.dtype == torch.float32
    assert same(seen, gradient(model), 1e-4)
    assert 0 < seen.resolution < 1e-4


def test_steps_and_momentum_make_the_factor() -> None:
    training = LocalTraining(epochs=3, batch_size=6, learning_rate=1e-7, momentum=0.5)
    seen = load_observation(
        network(), after(network(), 1e-7, epochs=3, momentum=0.5), SHAPE, kind="weights", training=training, batch_size=6
    )
    assert seen.factor_known
    assert not seen.one_gradient
    assert same(seen, gradient(network()), 1e-4)  # so small a rate hardly moves the gradient
    assert seen.protocol == "fedavg:epochs=3,batch_size=6,learning_rate=1e-07,momentum=0.5"


def test_mini_batches_of_an_unknown_number_of_samples_leave_the_factor_open() -> None:
    training = LocalTraining(batch_size=3, learning_rate=0.1)
    assert not load_observation(network(), after(network()), SHAPE, kind="weights", training=training).factor_known


def test_a_scaled_gradient_needs_no_known_factor() -> None:
    scaled = {name: 17 * tensor for name, tensor in gradient(network()).items()}
    assert exact(load_observation(network(), scaled, SHAPE, factor_known=False))


def test_an_unknown_kind_and_training_of_a_gradient_are_misuse() -> None:
    with pytest.raises(Misuse, match="'weight'"):
        load_observation(network(), after(network()), SHAPE, kind="weight")  # type: ignore[arg-type]
    with pytest.raises(Misuse, match="got a gradient"):
        load_observation(network(), gradient(network()), SHAPE, training=LocalTraining(learning_rate=0.1))


def test_nothing_that_is_given_is_changed() -> None:
    model, state = network(), after(network())
    kept_model, kept_state = copy.deepcopy(model.state_dict()), copy.deepcopy(state)
    load_observation(model, state, SHAPE, kind="weights", rest_frozen=True)
    assert all(torch.equal(tensor, kept_model[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(tensor, kept_state[name]) for name, tensor in state.items())


# types of numbers


def test_types_may_be_mixed() -> None:
    types = [torch.float16, torch.float32, torch.bfloat16, torch.float64]
    mixed = {name: tensor.to(types[i % 4]) for i, (name, tensor) in enumerate(gradient(network()).items())}
    seen = load_observation(network(), mixed, SHAPE)
    assert {name: tensor.dtype for name, tensor in seen.update.items()} == {name: tensor.dtype for name, tensor in mixed.items()}
    assert seen.rounding == torch.bfloat16


def test_a_model_of_mixed_weights_takes_over_the_precision_that_holds_them_all() -> None:
    state = {name: tensor.to((torch.float16, torch.bfloat16)[i % 2]) for i, (name, tensor) in enumerate(network().state_dict().items())}
    model = load_weights(network(), state)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(torch.equal(parameter, state[name].float()) for name, parameter in model.named_parameters())


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_other_numbers_are_refused_by_name_but_not_where_no_parameter_is(dtype: torch.dtype) -> None:
    state = gradient(network())
    with pytest.raises(BadUpdate, match=f"floating-point numbers in '3.bias', got {str(dtype).removeprefix('torch.')}"):
        load_observation(network(), {**state, "3.bias": torch.zeros(20).to(dtype)}, SHAPE)
    with pytest.raises(Misuse, match=r"floating-point numbers in weights '3.bias'|floating-point numbers in '3.bias'"):
        load_weights(network(), {**network().state_dict(), "3.bias": torch.zeros(20).to(dtype)})
    seen = load_observation(network(), {**state, "4.running_mean": torch.zeros(20).to(dtype)}, SHAPE)
    assert seen.update.keys() == state.keys()


def test_half_precision_that_a_factor_would_overflow_is_kept() -> None:
    state = {name: (-1e-9 * tensor / tensor.abs().max() * 6e4).to(torch.float16) for name, tensor in gradient(network()).items()}
    state |= {"6.bias": torch.full((5,), 30000.0, dtype=torch.float16)}
    seen = load_observation(network(), state, SHAPE, kind="difference", training=LocalTraining(learning_rate=0.01))
    assert seen.update["6.bias"].tolist() == [-3e6] * 5
    assert seen.update["6.bias"].dtype == torch.float32


# names


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "model._orig_mod.module."])
def test_prefixes_of_wrappers_are_taken_off(prefix: str) -> None:
    state = {prefix + name: tensor for name, tensor in after(network()).items()}
    seen = load_observation(network(), state, SHAPE, kind="weights", training=LocalTraining(learning_rate=0.1))
    assert same(seen, gradient(network()))
    assert load_weights(network(), state) is not None


def test_the_real_wrappers_are_unwrapped() -> None:
    state = nn.DataParallel(torch.compile(network())).state_dict()
    assert all(name.startswith("module._orig_mod.") for name in state)
    assert torch.equal(load_weights(network(), state).state_dict()["1.weight"], network().state_dict()["1.weight"])


class Nested(nn.Module):
    """Has parameters under its own ``model.`` and ``model.model.``."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 3))
        self.model = nn.Module()
        self.model.weight = nn.Parameter(torch.ones(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + x @ self.model.weight.T


def test_names_that_fit_keep_their_prefix_and_ambiguous_ones_are_not_guessed() -> None:
    assert load_observation(Nested(), {"model.weight": torch.ones(2, 3)}, (3,), rest_frozen=True).update.keys() == {"model.weight"}
    with pytest.raises(BadUpdate, match=r"got 'model\.model\.weight'"):
        load_observation(Nested(), {"model.model.weight": torch.ones(2, 3)}, (3,), rest_frozen=True)


def test_a_prefix_of_some_names_only_is_left_alone() -> None:
    state = {("module." if name.startswith("1") else "") + name: tensor for name, tensor in gradient(network()).items()}
    with pytest.raises(BadUpdate, match=r"got 'module\.1\.weight', 'module\.1\.bias'"):
        load_observation(network(), state, SHAPE)


def test_arrays_of_the_parameters_alone_are_known_by_their_number() -> None:
    arrays = [parameter.detach().numpy() for parameter in trained(network(), 0.1).parameters()]
    seen = load_observation(network(), arrays, SHAPE, kind="weights", training=LocalTraining(learning_rate=0.1))
    assert same(seen, gradient(network()))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda arrays: arrays[:-1], r"11 arrays, one for each tensor .* \(or 8, its parameters alone\), got 10"),
        (lambda _: [], "a gradient for every trained parameter"),
        (lambda arrays: [arrays[1], arrays[0], *arrays[2:]], r"array 0 to be '1\.weight' of shape \(100, 48\), got \(100,\)"),
        (lambda arrays: [arrays[0].T, *arrays[1:]], r"array 0 to be '1\.weight' .* got \(48, 100\): its axes look swapped"),
        (lambda arrays: [*arrays[:3], arrays[3][:7], *arrays[4:]], r"array 3 to be '3\.bias' of shape \(20,\), got \(7,\)"),
        (lambda arrays: [*arrays[:3], "cat", *arrays[4:]], "a str under '3'"),
        (lambda arrays: [*arrays[:3], arrays[3].astype("M8[s]"), *arrays[4:]], r"datetime64\[s\] numbers under '3'"),
        (lambda arrays: [*arrays[:3], arrays[3].astype(object), *arrays[4:]], "object numbers under '3'"),
        (lambda arrays: arrays[0], "a ndarray"),
        (lambda _: 3, "a int"),
    ],
)
def test_arrays_that_do_not_fit_are_named(change: Any, complaint: str) -> None:
    arrays = [tensor.numpy() for tensor in network().state_dict().values()]
    with pytest.raises(BadUpdate, match=complaint):
        load_observation(network(), change(arrays), SHAPE)


def test_a_record_that_cannot_be_read_is_a_bad_update() -> None:
    class Broken(Record):
        def to_torch_state_dict(self) -> dict[str, Tensor]:
            raise ValueError("no such serialization")

    with pytest.raises(BadUpdate, match="no such serialization"):
        load_observation(network(), Broken(), SHAPE)


def test_a_tied_parameter_is_taken_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    seen = load_observation(model, {name: tensor + 0.5 for name, tensor in model.state_dict().items()}, (4,), kind="weights")
    assert list(seen.update) == ["0.weight", "0.bias", "2.bias"]


# frozen rests


def _frozen_but(model: nn.Module, *kept: str) -> nn.Module:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(kept))
    return model


def test_a_missing_tensor_is_taken_as_frozen_only_if_the_user_says_so() -> None:
    model, update = network(), gradient(_frozen_but(network(), "1"))
    with pytest.raises(BadUpdate, match=r"none for '3\.weight', '3\.bias', '4\.weight' and 3 more: .* --rest-frozen"):
        load_observation(model, update, SHAPE)
    seen = load_observation(model, update, SHAPE, rest_frozen=True)
    assert [name for name, parameter in seen.model.named_parameters() if parameter.requires_grad] == ["1.weight", "1.bias"]
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert exact(seen)


@pytest.mark.parametrize("kind", ["difference", "weights"])
def test_tensors_that_did_not_move_are_frozen_too(kind: Any) -> None:
    client = _frozen_but(network(), "1")
    state = trained(client, 0.1).state_dict()
    if kind == "difference":
        state = {name: tensor - network().state_dict()[name] for name, tensor in state.items()}
    said = load_observation(network(), state, SHAPE, kind=kind, rest_frozen=True)
    in_code = load_observation(client, state, SHAPE, kind=kind)
    assert said.update.keys() == in_code.update.keys() == {"1.weight", "1.bias"}
    assert exact(said)
    assert exact(in_code)
    unsaid = unbatch.invert(load_observation(network(), state, SHAPE, kind=kind), "spear:seconds=2")
    assert unsaid.status is not unbatch.Status.RECONSTRUCTED  # the layers that stood still contradict it
    assert unsaid.inputs is None or bool((torch.cdist(unsaid.inputs.flatten(1), secret().flatten(1)).amin(dim=1) < 1e-9).all())


def test_a_parameter_that_is_frozen_in_the_code_and_moved_is_an_error() -> None:
    with pytest.raises(BadUpdate, match=r"no change of '3\.weight', '3\.bias', '4\.weight' and 3 more, frozen in the model, got one"):
        load_observation(_frozen_but(network(), "1"), after(network()), SHAPE, kind="weights")


def test_adapters_alone_are_enough_where_the_model_says_what_is_frozen() -> None:
    def adapted() -> nn.Module:
        model = network()
        model.insert(7, nn.Linear(5, 5, dtype=torch.float64))
        with torch.no_grad():
            model[7].weight.copy_(torch.eye(5))
            model[7].bias.zero_()
        return _frozen_but(model, "7")

    sent_alone = {name: tensor for name, tensor in after(adapted()).items() if name.startswith("7")}
    seen = load_observation(adapted(), sent_alone, SHAPE, kind="weights", training=LocalTraining(learning_rate=0.1))
    assert same(seen, gradient(adapted()))
    weights = {name: tensor for name, tensor in adapted().state_dict().items() if name.startswith("7")}
    with pytest.raises(Misuse, match=r"none for '1\.weight'"):
        load_weights(adapted(), weights)
    assert load_weights(adapted(), weights, rest_given=True) is not None


def test_an_update_without_any_parameter_is_refused_whatever_is_said() -> None:
    with pytest.raises(BadUpdate, match="a gradient for every trained parameter"):
        load_observation(network(), {"4.running_mean": torch.ones(20)}, SHAPE, rest_frozen=True)
    with pytest.raises(BadUpdate, match="not zero"):
        load_observation(network(), network().state_dict(), SHAPE, kind="weights", rest_frozen=True)


# files that would fill the memory


def test_an_archive_that_unfolds_beyond_the_model_is_refused_unread(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", **{"1.weight": np.zeros(1 << 25)})
    assert (tmp_path / "bomb.npz").stat().st_size < 1 << 20
    assert room_for(network()) < 1 << 26
    with pytest.raises(BadFile, match=r"would take 0\.268 GB"):
        load_observation(network(), tmp_path / "bomb.npz", SHAPE)
    with pytest.raises(BadFile, match=r"would take 0\.268 GB"):
        load_weights(network(), tmp_path / "bomb.npz")


@pytest.mark.parametrize("kind", ["gradient", "weights"])
def test_an_update_that_is_not_finite_is_refused_before_anything_is_read_off_it(kind: Any) -> None:
    # Where weight decay is looked for, eigenvalues of NaN ended the whole process.
    net = nn.Sequential(nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 3))
    update = {name: torch.randn_like(p) for name, p in net.named_parameters()}
    update["0.weight"][0, 0] = float("nan")
    with pytest.raises(BadUpdate, match=r"finite numbers in '0.weight'"):
        load_observation(net, update, (20,), kind=kind)


def test_lists_of_gradients_are_read_and_none_is_no_gradient(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    gradients = torch.autograd.grad(nn.functional.cross_entropy(net(torch.randn(2, 4)), torch.arange(2)), list(net.parameters()))
    torch.save(list(gradients), tmp_path / "list.pt")
    seen = load_observation(net, tmp_path / "list.pt", (4,))
    assert torch.equal(seen.update["2.weight"], gradients[2])
    net[0].requires_grad_(False)
    torch.save({"0.weight": None, "0.bias": None, "2.weight": gradients[2], "2.bias": gradients[3]}, tmp_path / "none.pt")
    assert load_observation(net, tmp_path / "none.pt", (4,)).update.keys() == {"2.weight", "2.bias"}
