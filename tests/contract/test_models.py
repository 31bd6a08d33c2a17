"""What every network must keep, whichever there are."""

import dataclasses

import pytest
import torch
from torch import nn

from unbatch import plugins
from unbatch.errors import Misuse
from unbatch.gradients import check_deterministic
from unbatch.trace import probe

MODELS = plugins.names("models")
ACTIVATED = [name for name in MODELS if "activation" in {field.name for field in dataclasses.fields(plugins.load("models", name))}]
SMALL = {"width": 8}


def built(name: str, seed: int = 0, **settings: object) -> nn.Module:
    cls = plugins.load("models", name)
    narrow = SMALL if "width" in {field.name for field in dataclasses.fields(cls)} else {}
    model: nn.Module = cls(**narrow, **settings).build((3, 32, 32), 7, seed)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_scores_every_class_without_touching_the_global_state(name: str) -> None:
    state = torch.get_rng_state()
    model = built(name)
    assert torch.equal(torch.get_rng_state(), state)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    check_deterministic(model, probe(model, (3, 32, 32)))


@pytest.mark.parametrize("name", MODELS)
def test_the_seed_makes_the_weights(name: str) -> None:
    first, same, other = (nn.utils.parameters_to_vector(built(name, seed).parameters()) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", ACTIVATED)
def test_the_activation_is_the_one_asked_for(name: str) -> None:
    for activation, kind in {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "silu": nn.SiLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}.items():
        kinds = {type(module).__module__.rpartition(".")[2]: type(module) for module in built(name, activation=activation).modules()}
        assert kinds["activation"] is kind
    with pytest.raises(Misuse, match="activation"):
        built(name, activation="gelu")


@pytest.mark.parametrize(("depth", "parameters"), [(18, 11_689_512), (50, 25_557_032)])
def test_a_resnet_has_the_papers_size(depth: int, parameters: int) -> None:
    model = plugins.build("models", f"resnet:depth={depth}").build((3, 224, 224), 1000)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
