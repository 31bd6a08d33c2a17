"""Files in, tensors out: what is read is what was written, and what cannot be read is refused in one sentence, never run."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from unbatch.errors import BadFile, BadUpdate, Misuse
from unbatch.gradients import capture, replay
from unbatch.importers import load_model, load_observation, load_weights, read_labels, read_tensors, read_truth
from unbatch.types import Schema


def _tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "a.weight": torch.randn(3, 4, generator=generator, dtype=torch.float64),
        "a.bias": torch.randn(3, generator=generator),
        "steps": torch.tensor(7),
    }


def _write(path: Path, tensors: dict[str, Tensor], how: str) -> Path:
    if how == "safetensors":
        safetensors.torch.save_file(tensors, path)
    elif how == "npz":
        with path.open("wb") as file:
            np.savez(file, **{name: tensor.numpy() for name, tensor in tensors.items()})
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=how == "torch")
    return path


class Payload:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("how", ["safetensors", "npz", "torch", "torch before 1.6"])
@pytest.mark.parametrize("suffix", ["right", "none", ".pt", ".npz"])
def test_what_is_read_is_what_was_written(tmp_path: Path, how: str, suffix: str) -> None:
    ending = {"right": f".{how[:5]}", "none": ""}.get(suffix, suffix)
    read = read_tensors(_write(tmp_path / f"w{ending}", _tensors(), how))
    assert read.keys() == _tensors().keys()
    for name, tensor in _tensors().items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


def test_half_precision_survives(tmp_path: Path) -> None:
    tensors = {"w": torch.randn(5, generator=torch.Generator().manual_seed(0)).bfloat16()}
    for how in ("safetensors", "torch"):
        assert torch.equal(read_tensors(_write(tmp_path / how, tensors, how))["w"], tensors["w"])


def test_arrays_of_the_other_byte_order_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", w=np.arange(4, dtype=">f8").reshape(2, 2), one=np.array(2.5, ">f4"))
    read = read_tensors(tmp_path / "w.npz")
    assert read["w"].tolist() == [[0, 1], [2, 3]]
    assert read["one"].shape == ()
    assert read["one"].item() == 2.5


@pytest.mark.parametrize("nest", ["state_dict", "model", "gradients", "update"])
def test_a_nest_is_opened(tmp_path: Path, nest: str) -> None:
    torch.save({nest: _tensors(), "epoch": 3}, tmp_path / "w.pt")
    assert read_tensors(tmp_path / "w.pt").keys() == _tensors().keys()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"model": {"w": torch.ones(1)}, "state_dict": {"w": torch.ones(1)}}, "several, state_dict and model"),
        ({"w": torch.ones(1), "epoch": 3}, "a int under 'epoch'"),
        ({0: torch.ones(1)}, "a Tensor under 0"),
        ([torch.ones(1), 3], "a list"),
        (torch.ones(1), "a Tensor"),
        ({"w": torch.ones(2, 2).to_sparse()}, "a sparse_coo one in 'w'"),
        ({"w": torch.ones(2, device="meta")}, "a meta one in 'w'"),
    ],
)
def test_other_contents_are_named(tmp_path: Path, content: object, complaint: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(BadFile, match=complaint):
        read_tensors(tmp_path / "w.pt")


def test_arrays_of_text_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", w=np.ones(2), names=np.array(["cat"]))
    with pytest.raises(BadFile, match="<U3 in 'names'"):
        read_tensors(tmp_path / "w.npz")


@pytest.mark.parametrize("how", ["torch", "torch before 1.6", "plain pickle", "pickle in text", "object array"])
@pytest.mark.parametrize("suffix", [".pt", ".npz", ".safetensors", ".bin"])
def test_code_is_refused_and_not_run(tmp_path: Path, how: str, suffix: str) -> None:
    mark, path = tmp_path / "it-ran", tmp_path / f"w{suffix}"
    content = {"w": torch.ones(2), "x": Payload(mark)}
    if how.startswith("torch"):
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
    elif how == "object array":
        with path.open("wb") as file:
            np.savez(file, w=np.array([Payload(mark)], dtype=object))
    else:
        path.write_bytes(pickle.dumps({"x": Payload(mark)}, protocol=0 if "text" in how else 4))
    with pytest.raises(BadFile, match="begins like none" if "text" in how else "could run code"):
        read_tensors(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Payload(mark)))  # noqa: S301  (the payload is live: it does run where pickle is trusted)
    assert mark.exists()


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(BadFile, match=r"could run code.*state_dict"):
        read_tensors(tmp_path / "w.pt")


@pytest.mark.parametrize("how", ["safetensors", "npz", "torch", "torch before 1.6"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, how: str, data: st.DataObject
) -> None:
    path = _write(tmp_path_factory.mktemp("damage") / "w", _tensors(), how)
    content = bytearray(path.read_bytes())
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=4)):
        content[place] = value
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        read_tensors(path)
    except BadFile as error:
        assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80", b"PK\x03\x04", b"12345678{", b"a text file of some length"])
def test_foreign_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.npz").write_bytes(content)
    with pytest.raises(BadFile):
        read_tensors(tmp_path / "w.npz")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="Is a directory"):
        read_tensors(tmp_path)


MODEL = """
from dataclasses import dataclass
from torch import nn
import layers_beside

@dataclass
class Sizes:
    inputs: int = 12

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(Sizes().inputs, layers_beside.WIDTH), nn.ReLU(), nn.Linear(layers_beside.WIDTH, 4))

def number():
    return 3

def broken():
    raise KeyError("the width")

def leaves():
    raise SystemExit(5)

constant = 3
"""


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    (tmp_path / "layers_beside.py").write_text("WIDTH = 9\n")
    (tmp_path / "net.py").write_text(MODEL)
    return tmp_path / "net.py"


def test_a_model_is_built_from_a_file_with_its_neighbors(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "layers_beside", raising=False)
    before = list(sys.path)
    model = load_model(f"{model_file}:make")
    assert [tuple(p.shape) for p in model.parameters()] == [(9, 12), (9,), (4, 9), (4,)]
    assert sys.path == before


def test_a_model_is_built_from_a_module_of_the_working_directory(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model_file.parent)
    monkeypatch.delitem(sys.modules, "net", raising=False)
    assert isinstance(load_model("net:make"), nn.Sequential)
    monkeypatch.delitem(sys.modules, "net")


@pytest.mark.parametrize(
    ("factory", "complaint"),
    [
        ("number", "a torch.nn.Module .* got a int"),
        ("broken", "KeyError: 'the width'"),
        ("leaves", "SystemExit: 5"),
        ("constant", "a function 'constant' .* got a int"),
        ("missing", "a function 'missing' .* got none"),
    ],
)
def test_a_factory_that_fails_is_named(model_file: Path, factory: str, complaint: str) -> None:
    with pytest.raises(Misuse, match=complaint):
        load_model(f"{model_file}:{factory}")


@pytest.mark.parametrize("reference", ["net.py", "", ":make", "net.py:", "torch.nn"])
def test_a_reference_without_its_two_halves_is_refused(reference: str) -> None:
    with pytest.raises(Misuse, match=r"FILE\.py:factory"):
        load_model(reference)


def test_a_model_that_does_not_load_is_named(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("import no_such_package_anywhere\n")
    with pytest.raises(Misuse, match="ModuleNotFoundError"):
        load_model(f"{tmp_path / 'net.py'}:make")
    with pytest.raises(Misuse, match="ModuleNotFoundError"):
        load_model("no_such_package_anywhere:make")
    with pytest.raises(BadFile, match="No such file"):
        load_model(f"{tmp_path / 'other.py'}:make")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_model_takes_over_the_precision_of_its_weights(dtype: torch.dtype) -> None:
    source, target = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).to(dtype), nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    assert load_weights(target, source.state_dict()) is target
    for name, tensor in source.state_dict().items():
        assert target.state_dict()[name].dtype == tensor.dtype
        assert torch.equal(target.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"bias": None}, "got none for 'bias'"),
        ({"module.bias": torch.ones(2)}, "got 'module.bias'"),
        ({"weight": torch.ones(3, 2)}, r"'weight' of shape \(2, 3\), got \(3, 2\)"),
        ({"bias": torch.tensor([1.0, float("nan")])}, "finite weights in 'bias'"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_change_nothing(change: dict[str, Tensor | None], complaint: str) -> None:
    model = nn.Linear(3, 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights = {name: tensor for name, tensor in {**nn.Linear(3, 2).double().state_dict(), **change}.items() if tensor is not None}
    with pytest.raises(Misuse, match=complaint):
        load_weights(model, weights)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_an_observation_from_files_is_the_client_s(model_file: Path, tmp_path: Path) -> None:
    client = load_model(f"{model_file}:make").double().eval()
    inputs = torch.rand(5, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([0, 1, 2, 3, 0])
    update = capture(client, inputs, labels)
    _write(tmp_path / "w", dict(client.state_dict()), "torch")
    _write(tmp_path / "u", update, "npz")
    server = load_weights(load_model(f"{model_file}:make"), read_tensors(tmp_path / "w")).eval()
    seen = load_observation(server, tmp_path / "u", (3, 2, 2), batch_size=5, labels=labels)
    assert all(torch.equal(seen.update[name], tensor) for name, tensor in update.items())
    assert replay(seen.model, seen.update, inputs, labels).residual < 1e-14
    assert (seen.knowledge.batch_size, seen.knowledge.labels) == (True, True)


def test_an_observation_of_another_model_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "u", {"weight": torch.ones(2, 3), "bias": torch.ones(2)}, "safetensors")
    with pytest.raises(BadUpdate, match="shape"):
        load_observation(nn.Linear(4, 2), tmp_path / "u", (4,))


def test_a_truth_as_the_network_saw_it(tmp_path: Path) -> None:
    inputs = np.random.default_rng(0).normal(size=(4, 3, 5, 5))
    np.savez(tmp_path / "t.npz", inputs=inputs, labels=np.array([3, 1, 0, 1], np.int32))
    batch = read_truth(tmp_path / "t.npz", input_shape=(3, 5, 5))
    assert torch.equal(batch.inputs, torch.from_numpy(inputs))
    assert batch.labels.dtype == torch.int64
    assert batch.labels.tolist() == read_labels(tmp_path / "t.npz").tolist() == [3, 1, 0, 1]
    assert batch.schema == Schema("image")


def test_a_truth_may_hold_a_target_for_every_score_where_the_loss_takes_such(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", inputs=np.zeros((2, 5)), labels=np.array([[0.5, -1, 2], [3, 0, 1]], np.float32))
    assert read_truth(tmp_path / "t.npz", classes=3, targets=True).labels.tolist() == [-1, -1]
    np.savez(tmp_path / "hot.npz", inputs=np.zeros((2, 5)), labels=np.eye(3)[[2, 0]])
    assert read_truth(tmp_path / "hot.npz", classes=3, targets=True).labels.tolist() == [2, 0]
    for told in ({"classes": 3}, {"classes": 4, "targets": True}):
        with pytest.raises(BadFile, match="whole numbers"):
            read_truth(tmp_path / "t.npz", **told)


@pytest.mark.parametrize("channels", [0, 1, 3])
def test_a_truth_from_pictures_is_normalized(tmp_path: Path, channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 6, 5, channels)[: 4 if channels else 3], dtype=np.uint8)
    np.savez(tmp_path / "t.npz", images=images, labels=np.arange(4))
    schema = Schema("image", mean=(0.5,) * max(channels, 1), std=(0.25,) * max(channels, 1))
    batch = read_truth(tmp_path / "t.npz", schema)
    assert tuple(batch.inputs.shape) == (4, max(channels, 1), 6, 5)
    for sample, row, column, channel in ((0, 0, 0, 0), (3, 5, 4, max(channels, 1) - 1), (2, 1, 3, 0)):
        value = images[(sample, row, column, channel)[: 4 if channels else 3]]
        assert batch.inputs[sample, channel, row, column].item() == pytest.approx((value / 255 - 0.5) / 0.25, abs=1e-12)


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"inputs": np.ones((2, 3))}, "'labels' .* got nothing"),
        ({"inputs": np.ones((2, 3)), "labels": np.ones(2)}, "'labels' .* got float64"),
        ({"inputs": np.ones((2, 3)), "labels": np.ones((2, 1), int)}, r"of shape \(2, 1\)"),
        ({"inputs": np.ones((2, 3)), "labels": np.ones(3, int)}, "3 labels for 2 samples"),
        ({"inputs": np.ones((0, 3)), "labels": np.ones(0, int)}, "0 labels for 0 samples"),
        ({"inputs": np.ones((2, 4)), "labels": np.ones(2, int)}, r"samples of shape \(3,\)"),
        ({"inputs": np.full((2, 3), np.nan), "labels": np.ones(2, int)}, "finite inputs"),
        ({"inputs": np.ones((2, 3), int), "labels": np.ones(2, int)}, "floats"),
        ({"labels": np.ones(2, int)}, "'images' .* got nothing"),
        ({"images": np.ones((2, 3, 3)), "labels": np.ones(2, int)}, "'images' .* got float64"),
    ],
)
def test_a_truth_that_cannot_be_is_named(tmp_path: Path, arrays: dict[str, Any], complaint: str) -> None:
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(BadFile, match=complaint):
        read_truth(tmp_path / "t.npz", input_shape=(3,))


def test_a_truth_in_another_format_is_named(tmp_path: Path) -> None:
    _write(tmp_path / "t", _tensors(), "safetensors")
    with pytest.raises(BadFile, match="a safetensors file"):
        read_truth(tmp_path / "t")


def test_a_truth_of_the_shared_data(tmp_path: Path, shared_data: Any) -> None:
    with np.load(shared_data("cifar10_test.npz")) as whole:
        np.savez(tmp_path / "t.npz", images=whole["images"][:3], labels=whole["labels"][:3])
        expected = whole["images"][2, 4, 5, 1] / 255
    batch = read_truth(tmp_path / "t.npz", input_shape=(3, 32, 32))
    assert batch.inputs[2, 1, 4, 5].item() == expected
