"""The client mod on messages made by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Generator, Tensor

pytest.importorskip("flwr", reason="Flower is not installed: run `make test-flower`")

from federation import answer, context, message, record
from flwr.app import ArrayRecord, ConfigRecord, Error, Message
from flwr.clientapp import ClientApp

from unbatch.contracts import Defense, Stage
from unbatch.errors import BadUpdate, Misuse, UnknownPlugin
from unbatch.flower import DefenseMod


@dataclass(frozen=True)
class Times(Defense):
    stage: ClassVar[Stage] = Stage.CLIENT
    factor: float = 1.0

    def __call__(self, gradients: Mapping[str, Tensor], generator: Generator) -> dict[str, Tensor]:
        return {name: self.factor * tensor for name, tensor in gradients.items()}


@dataclass(frozen=True)
class Noise(Defense):
    stage: ClassVar[Stage] = Stage.CLIENT

    def __call__(self, gradients: Mapping[str, Tensor], generator: Generator) -> dict[str, Tensor]:
        return {name: tensor + torch.randn(tensor.shape, generator=generator).to(tensor) for name, tensor in gradients.items()}


@dataclass(frozen=True)
class Example(Defense):
    stage: ClassVar[Stage] = Stage.EXAMPLE

    def __call__(self, gradients: Mapping[str, Tensor], generator: Generator) -> dict[str, Tensor]:
        raise NotImplementedError


@dataclass(frozen=True)
class Server(Example):
    stage: ClassVar[Stage] = Stage.SERVER


BEFORE = {"w": torch.tensor([[1.0, -2.0], [3.0, 1e-3]]), "count": torch.tensor(4), "b": torch.tensor([0.1], dtype=torch.float64)}
AFTER = {"w": torch.tensor([[0.9, -2.5], [3.3, 1.1e-3]]), "count": torch.tensor(5), "b": torch.tensor([0.3], dtype=torch.float64)}


def through(mod: DefenseMod, after: Any = None, kind: str = "train", node: int = 5, server_round: int | None = None) -> Message:
    asked = message(node, record(BEFORE), kind)
    if server_round is not None:
        asked.content["config"] = ConfigRecord({"server-round": server_round})
    return mod(asked, context(node), lambda msg, _: answer(msg, AFTER if after is None else after))


def arrays(reply: Message) -> dict[str, Tensor]:
    return dict(reply.content["arrays"].to_torch_state_dict())


def test_the_neutral_defense_changes_no_bit() -> None:
    reply = through(DefenseMod(Times()))
    assert {name: array.data for name, array in reply.content["arrays"].items()} == {
        name: array.data for name, array in ArrayRecord(AFTER).items()
    }


def test_known_answer_of_a_chain_in_order() -> None:
    made = arrays(through(DefenseMod(Times(0.5), Times(0.5))))
    torch.testing.assert_close(made["w"], BEFORE["w"] - 0.25 * (BEFORE["w"] - AFTER["w"]))
    torch.testing.assert_close(made["b"], torch.tensor([0.15], dtype=torch.float64))
    assert made["count"] == 5
    assert [made[name].dtype for name in made] == [AFTER[name].dtype for name in AFTER]


def test_gradients_are_defended_as_they_are() -> None:
    gradients = {"w": torch.ones(2, 2)}
    assert torch.equal(arrays(through(DefenseMod(Times(3.0), gradients=True), gradients))["w"], torch.full((2, 2), 3.0))


def test_a_defense_by_name_has_its_statistic() -> None:
    wide = {"w": torch.zeros(200, 200)}
    asked = message(5, record(wide))
    reply = DefenseMod("gaussian_noise:deviation=0.5,unit=absolute")(asked, context(5), lambda msg, _: answer(msg, wide))
    noise = arrays(reply)["w"]
    assert abs(float(noise.std()) - 0.5) < 0.01
    assert abs(float(noise.mean())) < 0.01


def test_noise_differs_from_call_to_call() -> None:
    mod = DefenseMod(Noise())
    assert not torch.equal(arrays(through(mod))["w"], arrays(through(mod))["w"])


def test_a_seed_repeats_it_for_one_client_and_round_only() -> None:
    mod = DefenseMod(Noise(), seed=3)
    first = arrays(through(mod, server_round=1))["w"]
    assert torch.equal(first, arrays(through(DefenseMod(Noise(), seed=3), server_round=1))["w"])
    others = [through(mod, server_round=2), through(mod, node=6, server_round=1), through(DefenseMod(Noise(), seed=4), server_round=1)]
    assert not any(torch.equal(first, arrays(other)["w"]) for other in others)


def test_the_global_random_state_is_untouched() -> None:
    before = torch.get_rng_state()
    through(DefenseMod(Noise()))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", ["evaluate", "query.what"])
def test_only_training_is_defended(kind: str) -> None:
    assert torch.equal(arrays(through(DefenseMod(Times(0.0)), kind=kind))["w"], AFTER["w"])


def test_training_by_another_name_is_defended() -> None:
    assert torch.equal(arrays(through(DefenseMod(Times(0.0)), kind="train.second"))["w"], BEFORE["w"])


def test_an_error_of_the_client_passes() -> None:
    reply = DefenseMod(Times())(message(5, record(BEFORE)), context(5), lambda msg, _: Message(Error(1, "no data"), reply_to=msg))
    assert reply.has_error()


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ({"w": AFTER["w"]}, "only one of them with 'b', 'count'"),
        ({**AFTER, "extra": torch.ones(1)}, "only one of them with 'extra'"),
        ({**AFTER, "w": AFTER["w"][:1]}, r"'w' of shape \(2, 2\), got \(1, 2\)"),
        (ArrayRecord(), "only one of them with"),
    ],
)
def test_where_it_cannot_defend_nothing_is_sent(after: Any, expected: str) -> None:
    with pytest.raises(BadUpdate, match=expected):
        through(DefenseMod(Times()), after)


def test_two_records_cannot_be_told_apart() -> None:
    asked = message(5, record(BEFORE))

    def double(msg: Message, _: Any) -> Message:
        reply = answer(msg, AFTER)
        reply.content["momentum"] = ArrayRecord(AFTER)
        return reply

    with pytest.raises(BadUpdate, match="one record of arrays in the answer, got 2"):
        DefenseMod(Times())(asked, context(5), double)


@pytest.mark.parametrize(
    ("defenses", "expected"),
    [
        ((), "at least one defense"),
        ((Example(),), "which works on the gradient of every sample, in every step: a mod sees only what leaves the client"),
        (("dp_sgd",), "which works on the gradient of every sample"),
        ((Times(), Server()), "which works on the aggregate of the round"),
    ],
)
def test_misuse(defenses: tuple[str | Defense, ...], expected: str) -> None:
    with pytest.raises(Misuse, match=expected):
        DefenseMod(*defenses)
    with pytest.raises(UnknownPlugin):
        DefenseMod("prayer")


def test_flower_runs_it_around_the_client() -> None:
    app = ClientApp(mods=[DefenseMod(Times(0.5))])

    @app.train()
    def train(msg: Message, context: Any) -> Message:
        return answer(msg, AFTER)

    made = arrays(app(message(5, record(BEFORE)), context(5)))
    torch.testing.assert_close(made["w"], (BEFORE["w"] + AFTER["w"]) / 2)
