"""What every network must keep, whichever there are."""

import dataclasses

import pytest
from torch import nn

from unbatch import plugins
from unbatch.errors import Misuse
from unbatch.testing import check_model

MODELS = plugins.names("models")
ACTIVATED = [name for name in MODELS if "activation" in {field.name for field in dataclasses.fields(plugins.load("models", name))}]
SMALL = {"width": 8}


def built(name: str, seed: int = 0, **settings: object) -> nn.Module:
    cls = plugins.load("models", name)
    narrow = SMALL if "width" in {field.name for field in dataclasses.fields(cls)} else {}
    model: nn.Module = cls(**narrow, **settings).build((3, 32, 32), 7, seed)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_keeps_the_contract(name: str) -> None:
    cls = plugins.load("models", name)
    check_model(cls(**(SMALL if "width" in {field.name for field in dataclasses.fields(cls)} else {})))


@pytest.mark.parametrize("name", ACTIVATED)
def test_the_activation_is_the_one_asked_for(name: str) -> None:
    for activation, kind in {
        "relu": nn.ReLU,
        "leaky_relu": nn.LeakyReLU,
        "gelu": nn.GELU,
        "silu": nn.SiLU,
        "sigmoid": nn.Sigmoid,
        "tanh": nn.Tanh,
    }.items():
        kinds = {type(module).__module__.rpartition(".")[2]: type(module) for module in built(name, activation=activation).modules()}
        assert kinds["activation"] is kind
    with pytest.raises(Misuse, match="activation"):
        built(name, activation="mish")


@pytest.mark.parametrize(("depth", "parameters"), [(18, 11_689_512), (50, 25_557_032)])
def test_a_resnet_has_the_papers_size(depth: int, parameters: int) -> None:
    model = plugins.build("models", f"resnet:depth={depth}").build((3, 224, 224), 1000)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
