"""Guesses from the inputs alone: independent component analysis against scikit-learn's and against planted sources."""

import torch
from skimage.data import lfw_subset
from sklearn.decomposition import FastICA

from unbatch.linalg.ica import fast_ica, views_of
from unbatch.spear.ica import guesses

GENERATOR = torch.Generator().manual_seed(0)


def laplace(*shape: int) -> torch.Tensor:
    uniform = torch.rand(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64) - 0.5
    return -uniform.sign() * torch.log1p(-2 * uniform.abs())


def cosines(rows: torch.Tensor, sources: torch.Tensor) -> torch.Tensor:
    rows, sources = rows - rows.mean(1, keepdim=True), sources - sources.mean(1, keepdim=True)
    return ((rows / rows.norm(dim=1, keepdim=True)) @ (sources / sources.norm(dim=1, keepdim=True)).T).abs().amax(dim=0)


def test_unmixes_as_well_as_scikit_learn() -> None:
    sources = laplace(6, 4000)
    mixed = torch.randn((6, 6), generator=GENERATOR, dtype=torch.float64) @ sources
    squares, vectors = torch.linalg.eigh(mixed @ mixed.T / 4000)
    white = (vectors / squares.sqrt()).T @ mixed
    ours = fast_ica(white, torch.Generator().manual_seed(1)) @ white
    theirs = FastICA(6, random_state=0, whiten="unit-variance").fit_transform(mixed.numpy().T).T
    assert float(cosines(ours, sources).min()) > 0.97
    assert float(cosines(ours, sources).mean()) > float(cosines(torch.from_numpy(theirs.copy()), sources).mean()) - 0.02


def test_guesses_look_like_single_pictures() -> None:
    faces = torch.from_numpy(lfw_subset()[:20]).double().flatten(1)
    mixed = torch.randn((20, 20), generator=torch.Generator().manual_seed(3), dtype=torch.float64) @ faces
    views = views_of(mixed, (1, 25, 25), GENERATOR)
    found = guesses(views, torch.Generator().manual_seed(3), contrast=0.1) @ views
    true = views_of(faces, (1, 25, 25), GENERATOR)
    # Chance: the best of 20 random mixtures of 20 orthogonal pictures.
    assert float(cosines(found, true).median()) > 0.75
    assert float(cosines(mixed @ torch.eye(625, dtype=torch.float64), faces).median()) < 0.75


def test_rows_are_orthogonal() -> None:
    white = laplace(5, 1000).float()
    rows = fast_ica(white / white.std(), torch.Generator().manual_seed(0))
    assert torch.allclose(rows @ rows.T, torch.eye(5), atol=1e-4)


def test_views_are_linear_in_the_inputs() -> None:
    inputs = torch.randn((4, 3 * 16 * 16), generator=GENERATOR, dtype=torch.float64)
    mixing = torch.randn((4, 4), generator=GENERATOR, dtype=torch.float64)
    one, other = (views_of(x, (3, 16, 16), torch.Generator().manual_seed(2)) for x in (inputs, mixing @ inputs))
    assert one.shape == (4, 1000), "the same ones are picked of more than there need be"
    assert torch.allclose(mixing @ one, other)


def test_large_pictures_and_vectors_have_views_too() -> None:
    assert views_of(torch.rand(2, 3 * 150 * 150, dtype=torch.float64), (3, 150, 150), GENERATOR).shape[1] <= 9000
    assert views_of(torch.rand(2, 14, dtype=torch.float64), (14,), GENERATOR).shape == (2, 14)


def test_guesses_do_not_depend_on_the_scale_of_the_views() -> None:
    views = torch.rand((4, 300), generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 8
    usual, tiny = (guesses(size * views, torch.Generator().manual_seed(1), 0.1) for size in (1.0, 2.0**-700))
    assert torch.allclose(usual, tiny)
    nothing = guesses(torch.zeros_like(views), torch.Generator().manual_seed(1), 0.1)
    assert bool(nothing.isfinite().all())
