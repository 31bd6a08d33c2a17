"""What holds for every data set, whichever there are: shapes, types, normalization, indices; and the embedded ones against their sources.

One that reads a file needs a line in ``FILES``, which writes a small one; without it, the test of its name says so.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import lfw_subset
from sklearn.datasets import load_digits

from unbatch import plugins
from unbatch.contracts import Dataset
from unbatch.datasets import _pictures
from unbatch.datasets.digits import Digits
from unbatch.datasets.faces import Faces
from unbatch.datasets.folder import Folder
from unbatch.datasets.npz import Npz
from unbatch.errors import Misuse
from unbatch.schema import Categorical, Column
from unbatch.testing import check_dataset


def write_npz(folder: Path) -> Dataset:
    rng = np.random.default_rng(0)
    np.savez(folder / "some.npz", images=rng.integers(0, 256, (30, 12, 9, 3), dtype=np.uint8), labels=np.arange(30) % 7)
    return Npz(str(folder / "some.npz"))


def write_folder(folder: Path) -> Dataset:
    rng = np.random.default_rng(0)
    for index in range(12):
        target = folder / "pictures" / f"class {index % 3}"
        target.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(target / f"{index}.png")
    return Folder(str(folder / "pictures"), size=10)


def write_rows(name: str, folder: Path, separator: str, *, head: bool = False) -> Dataset:
    """A file of rows that the data set's own layout allows."""
    layout = importlib.import_module(f"unbatch.datasets.{name}").LAYOUT
    rng = np.random.default_rng(0)
    lines = [[*(cell(column, rng) for column in layout.columns), layout.classes[index % 2]] for index in range(20)]
    lines = [[*(column.name for column in layout.columns), layout.label], *lines] if head else lines
    (folder / "rows.txt").write_text("\n".join(map(separator.join, lines)))
    built: Dataset = plugins.build("datasets", f'{name}:"{folder / "rows.txt"}"')
    return built


def cell(column: Column, rng: np.random.Generator) -> str:
    if isinstance(column, Categorical):
        return column.levels[rng.integers(len(column.levels))]
    value = rng.uniform(column.low, column.high)
    return f"{column.nearest(torch.tensor(value, dtype=torch.float64)).item():.6g}" if column.rounding < 1 else str(int(value))


def write_table(folder: Path) -> Dataset:
    (folder / "some.csv").write_text("a,b,c\n" + "".join(f"{i / 2},{'xy'[i % 3 % 2]},{'no' if i % 4 else 'yes'}\n" for i in range(30)))
    (folder / "some.toml").write_text(
        'label = "c"\nclasses = ["no", "yes"]\n[[columns]]\nname = "a"\n[[columns]]\nname = "b"\nlevels = ["x", "y"]'
    )
    return plugins.build("datasets", f'table:"{folder / "some.csv"}"')  # type: ignore[no-any-return]


FILES: dict[str, Callable[[Path], Dataset]] = {
    "adult": lambda folder: write_rows("adult", folder, ", "),
    "folder": write_folder,
    "german": lambda folder: write_rows("german", folder, " "),
    "law_school": lambda folder: write_rows("law_school", folder, ",", head=True),
    "npz": write_npz,
    "table": write_table,
}


@pytest.fixture(params=plugins.names("datasets"))
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    if request.param in FILES:
        return FILES[request.param](tmp_path)
    needed = [field.name for field in dataclasses.fields(plugins.load("datasets", request.param)) if field.default is dataclasses.MISSING]
    assert not needed, f"{request.param} needs {needed}: write a small file of its kind in FILES"
    built: Dataset = plugins.load("datasets", request.param)()
    return built


def test_it_keeps_the_contract(dataset: Dataset) -> None:
    check_dataset(dataset)


def test_the_whole_set_is_normalized_by_channel(dataset: Dataset) -> None:
    everything = dataset.take(torch.arange(len(dataset))).inputs.transpose(0, 1).flatten(1)
    torch.testing.assert_close(everything.mean(1), torch.zeros(len(everything), dtype=torch.float64), atol=1e-12, rtol=0)
    # What never varies stays what it is: a level that no row has.
    deviations = everything.std(1, correction=0)
    varied = deviations > 1e-9
    assert bool(varied.all()) or dataset.schema.kind == "table"
    torch.testing.assert_close(deviations[varied], torch.ones(int(varied.sum()), dtype=torch.float64))


def test_what_people_read_is_encoded_again_without_loss(dataset: Dataset) -> None:
    inputs = dataset.take(torch.arange(5)).inputs
    torch.testing.assert_close(dataset.schema.encode(dataset.schema.decode(inputs)), inputs)


def test_raw_values_lie_between_black_and_white(dataset: Dataset) -> None:
    if dataset.schema.kind != "image":
        return
    raw = dataset.schema.to_raw(dataset.take(torch.arange(len(dataset))).inputs)
    assert raw.min() >= -1e-12
    assert raw.max() <= 1 + 1e-12


@pytest.mark.parametrize("indices", [torch.tensor([-1]), torch.tensor([10**6]), torch.tensor([0.0]), torch.tensor([[0]]), torch.tensor(0)])
def test_wrong_indices_are_refused(dataset: Dataset, indices: torch.Tensor) -> None:
    with pytest.raises(Misuse, match="expected indices"):
        dataset.take(indices)


@pytest.mark.parametrize("size", [0, -2, 10**6])
def test_wrong_batch_sizes_are_refused(dataset: Dataset, size: int) -> None:
    with pytest.raises(Misuse, match="expected a batch size from 1 to"):
        dataset.batch(size)


def test_faces_are_the_first_half_of_the_subset() -> None:
    faces = Faces()
    raw = faces.schema.to_raw(faces.take(torch.arange(100)).inputs)
    np.testing.assert_allclose(raw[:, 0].numpy(), lfw_subset()[:100], atol=1e-12)
    # Faces fill their picture; what follows them in the subset is background, much of it black.
    assert raw.mean() > 1.4 * lfw_subset()[100:].mean()


def test_every_face_is_its_own_person() -> None:
    batch = Faces().batch(16)
    assert len(set(batch.labels.tolist())) == 16
    assert Faces().schema.classes[37] == "person 37"


def test_digits_are_those_of_scikit_learn() -> None:
    digits, source = Digits(), load_digits()
    batch = digits.take(torch.tensor([0, 17, 1796]))
    np.testing.assert_allclose(digits.schema.to_raw(batch.inputs)[:, 0].numpy() * 16, source.images[[0, 17, 1796]], atol=1e-12)
    assert batch.labels.tolist() == source.target[[0, 17, 1796]].tolist()


def test_a_channel_without_contrast_is_not_scaled() -> None:
    pool = _pictures.pool(lambda indices: np.full((len(indices), 1, 40, 40), 0.1), np.zeros(50), (1, 40, 40), ("one",))
    assert pool.schema.std == (1.0,)
    assert pool.schema.mean == pytest.approx((0.1,))


def test_large_sets_are_normalized_by_an_evenly_spaced_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pictures, "SAMPLE", 3)
    asked: list[int] = []

    def read(indices: np.ndarray) -> np.ndarray:
        asked.extend(indices.tolist())
        return indices.reshape(-1, 1, 1, 1) / 100.0

    pool = _pictures.pool(read, np.zeros(101), (1, 1, 1), ("one",))
    assert asked == [0, 50, 100]
    assert pool.schema.mean == pytest.approx((0.5,))


def test_statistics_do_not_depend_on_the_size_of_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = np.random.default_rng(0).random((20, 2, 5, 4))
    expected = pictures.transpose(1, 0, 2, 3).reshape(2, -1)
    for chunk in (1, 130, 10**6):
        monkeypatch.setattr(_pictures, "CHUNK", chunk)
        schema = _pictures.pool(lambda indices: pictures[indices], np.zeros(20), (2, 5, 4), ("one",)).schema
        np.testing.assert_allclose(schema.mean, expected.mean(1), rtol=1e-12)
        np.testing.assert_allclose(schema.std, expected.std(1), rtol=1e-12)
