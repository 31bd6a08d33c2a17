import torch
from torch import Generator, Tensor

from unbatch.spear.shallow.likely import guessed

NUMBERS, NEURONS = 60, 400


def pictures(count: int, generator: Generator) -> Tensor:
    """Samples about a mean, which vary in ten ways far more than in the others."""
    ways = torch.randn((10, NUMBERS), generator=Generator().manual_seed(9), dtype=torch.float64)
    drawn = torch.randn((count, 10), generator=generator, dtype=torch.float64) @ ways * 0.2
    return 1 + drawn + 0.1 * torch.randn((count, NUMBERS), generator=generator, dtype=torch.float64)


def test_guesses_like_the_known_samples_have_nearly_the_masks_of_those_that_are_missing() -> None:
    generator = Generator().manual_seed(0)
    known, missing = pictures(50, generator), pictures(6, generator)
    mixed = torch.randn((6, 6), generator=generator, dtype=torch.float64)  # the space is known, the samples in it are not
    inputs, sums = mixed @ missing, mixed.sum(dim=1)
    seen = 0.5 * torch.randn((NEURONS, NUMBERS), generator=generator, dtype=torch.float64)
    found = guessed(inputs, sums, seen, known, 200, generator)
    shares = found @ torch.linalg.pinv(inputs)
    assert found.shape == (200, NUMBERS)
    assert float((shares @ inputs - found).abs().max()) < 1e-9
    assert float((shares @ sums - 1).abs().max()) < 1e-9
    agree = ((found @ seen.T > 0)[:, None] == (missing @ seen.T > 0)).double().mean(dim=2)
    blind, like = agree[:100].median(dim=0).values, agree[100:].median(dim=0).values
    assert float(blind.max()) < 0.65
    assert float(like.min()) > 0.7


def test_where_hardly_anything_is_known_all_guesses_are_blind() -> None:
    generator = Generator().manual_seed(0)
    inputs = torch.randn((3, NUMBERS), generator=generator, dtype=torch.float64)
    seen = torch.randn((NEURONS, NUMBERS), generator=generator, dtype=torch.float64)
    one = torch.ones(3, dtype=torch.float64)
    alone = [guessed(inputs, one, seen, inputs[:known], 4, Generator().manual_seed(1)) for known in (0, 1)]
    assert torch.equal(*alone)
    assert guessed(inputs[:1], one[:1], seen, inputs, 4, generator).allclose(inputs[:1])
