"""What real clients do to an update: PEFT's names, clipping, half precision."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import clients
import unbatch
from unbatch.errors import BadUpdate, Misuse
from unbatch.importers import EVEN_SIZES, load_observation, load_weights
from unbatch.types import LocalTraining, Status

SHAPE = (1, 12, 12)

NAMES: dict[str, Callable[[str], str]] = {
    "as saved": lambda name: f"base_model.model.{name}",
    "as in PEFT's model": lambda name: f"base_model.model.{name.replace('.weight', '.default.weight')}",
    "another adapter, wrapped": lambda name: f"module.base_model.model.{name.replace('.weight', '.mine.weight')}",
    "as parameters": lambda name: name.removesuffix(".weight"),
}


def batch() -> tuple[Tensor, Tensor]:
    return torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 4


def adapters(model: nn.Module) -> dict[str, Tensor]:
    update = unbatch.capture(model, *batch())
    return {name: update[name] for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("names", NAMES)
def test_files_of_peft_fit_models_that_are_written_without_it(names: str) -> None:
    torch.manual_seed(0)
    model, rename = clients.lora(), NAMES[names]
    update = adapters(model)
    seen = load_observation(model, {rename(name): tensor for name, tensor in update.items()}, SHAPE, rest_frozen=True)
    assert all(torch.equal(seen.update[name], tensor) for name, tensor in update.items())
    weights = {rename(name) if "lora_" in name else f"base_model.model.{name}": t for name, t in model.state_dict().items()}
    assert torch.equal(load_weights(clients.lora(), weights).state_dict()["3.lora_A.weight"], model.state_dict()["3.lora_A.weight"])


def test_adapters_without_a_place_are_told_where_they_belong() -> None:
    torch.manual_seed(0)
    update = {f"base_model.model.{name}": tensor for name, tensor in adapters(clients.lora()).items()}
    with pytest.raises(BadUpdate, match=r"the model has none: let its factory put them in .*--rest-frozen"):
        load_observation(clients.mlp(), update, SHAPE, rest_frozen=True)
    elsewhere = {name.replace(".3.", ".1."): tensor for name, tensor in update.items()}
    with pytest.raises(BadUpdate, match="sit in other layers"):
        load_observation(clients.lora(), elsewhere, SHAPE, rest_frozen=True)


def clipped(norm: float, steps: int = 1) -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = clients.mlp(activation=nn.ReLU).double()
    client, (x, y) = copy.deepcopy(model), batch()
    optimizer = torch.optim.SGD(client.parameters(), 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(client(x.double()), y).backward()
        torch.nn.utils.clip_grad_norm_(client.parameters(), norm)
        optimizer.step()
    return model, client.state_dict()


@pytest.mark.parametrize(("norm", "told", "known", "said"), [
    (0.1, None, False, "it is exactly 0.1 long"),
    (0.1, 0.1, False, "this one was longer"),
    (0.07, None, True, ""),
    (0.07, 0.07, False, "this one was longer"),
    (100.0, None, True, ""),
    (100.0, 100.0, True, "shorter, so that it was not"),
])  # fmt: skip
def test_clipping_hides_the_scale_and_nothing_else(norm: float, told: float | None, known: bool, said: str) -> None:
    model, after = clipped(norm)
    training = LocalTraining(learning_rate=0.1)
    seen = load_observation(model, after, SHAPE, kind="weights", training=training, clip_norm=told, batch_size=6)
    assert seen.factor_known is known
    assert any(said in remark for remark in seen.remarks) if said else not seen.remarks


def test_a_clipped_batch_is_reconstructed_all_the_same() -> None:
    model, after = clipped(0.1)
    seen = load_observation(model, after, SHAPE, kind="weights", training=LocalTraining(learning_rate=0.1), batch_size=6)
    assert unbatch.invert(seen).status is Status.RECONSTRUCTED


def test_steps_that_were_clipped_are_no_mean_and_norms_are_checked() -> None:
    model, after = clipped(0.1, steps=3)
    training = LocalTraining(3, None, 0.1)
    seen = load_observation(model, after, SHAPE, kind="weights", training=training, clip_norm=0.1)
    assert not seen.factor_known
    assert any("by a factor of its own" in remark for remark in seen.remarks)
    with pytest.raises(Misuse, match=r"no longer than 0\.001"):
        load_observation(*clipped(0.1), SHAPE, kind="weights", training=LocalTraining(learning_rate=0.1), clip_norm=1e-3)
    with pytest.raises(Misuse, match="a norm above zero"):
        load_observation(*clipped(0.1), SHAPE, kind="weights", training=LocalTraining(learning_rate=0.1), clip_norm=-1.0)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32])
def test_the_rounding_of_a_client_in_half_precision_is_no_training(stored: torch.dtype) -> None:
    torch.manual_seed(0)
    model = clients.mlp()
    after = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    after["5.bias"] = after["5.bias"] + 1.0
    seen = load_observation(model, {name: t.to(stored) for name, t in after.items()}, SHAPE, kind="weights")
    assert [name for name, tensor in seen.update.items() if bool(tensor.any())] == ["5.bias"]
    assert any("bfloat16" in remark for remark in seen.remarks)


def test_adamw_is_recognized_beside_neurons_that_never_fire() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 60), nn.ReLU(), nn.Linear(60, 4))
    with torch.no_grad():
        model[1].bias[:20] = -100.0  # their numbers move by the decay alone
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    inputs, labels = batch()
    F.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
    after = copy.deepcopy(model.state_dict())
    model.load_state_dict(before)
    with pytest.raises(BadUpdate, match=r"Adam or AdamW, say --optimizer adam \(or adamw\)"):
        load_observation(model, after, SHAPE, kind="weights")


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW])
def test_several_steps_of_adam_told_as_sgd_are_told_as_such(optimizer: type[torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 60), nn.ReLU(), nn.Linear(60, 4))
    before, (inputs, labels) = copy.deepcopy(model.state_dict()), batch()
    stepping = optimizer(model.parameters(), lr=1e-3)  # type: ignore[call-arg]
    after = []
    for _ in range(10):
        stepping.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        stepping.step()
        after.append(copy.deepcopy(model.state_dict()))
    model.load_state_dict(before)
    assert EVEN_SIZES in load_observation(model, after[9], SHAPE, kind="weights").remarks
    even = {name: before[name] + 3e-3 * (tensor - before[name]).sign() for name, tensor in after[2].items()}
    with pytest.raises(BadUpdate, match=r"3 times the learning rate.*if the client took 3 steps of Adam.*no gradient can be read"):
        load_observation(model, even, SHAPE, kind="weights", training=LocalTraining(learning_rate=1e-3))


def test_a_gradient_does_not_look_like_adams() -> None:
    model = nn.Linear(200, 10)
    update = unbatch.capture(model, torch.randn(64, 200, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 10)
    assert EVEN_SIZES not in load_observation(model, update, (200,)).remarks
